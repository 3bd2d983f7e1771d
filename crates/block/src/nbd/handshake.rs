//! The server's half of the handshake: options until the client has chosen an export. Nothing of the transmission phase.

use std::io::{IoSlice, Read};

use super::server::Export;
use super::socket::Socket;
use super::wire::{self, Violation, info, option, option_reply};
use crate::{Error, Result};

/// The most options that one client may send.
const MAX_OPTIONS: usize = 128;

/// What was agreed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreement<'a> {
    pub(super) export: &'a Export,
    pub(super) structured: bool,
    /// Contexts selected for block status, by the identifiers in [`CONTEXTS`].
    pub(super) base_allocation: bool,
    pub(super) allocation_depth: bool,
}

/// Identifier of `base:allocation` in block status replies.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;
/// Identifier of `qemu:allocation-depth`.
pub(super) const ALLOCATION_DEPTH_ID: u32 = 2;
/// The contexts there are.
const CONTEXTS: [(u32, &str); 2] =
    [(BASE_ALLOCATION_ID, wire::BASE_ALLOCATION), (ALLOCATION_DEPTH_ID, "qemu:allocation-depth")];

pub(super) fn broken(violation: Violation) -> Error {
    Error::Io { operation: "talk to an NBD client".into(), source: std::io::Error::other(violation) }
}

pub(super) fn lost(source: std::io::Error) -> Error {
    Error::Io { operation: "talk to an NBD client".into(), source }
}

struct Handshake<'s, 'a> {
    socket: &'s Socket,
    exports: &'a [Export],
    structured: bool,
    no_zeroes: bool,
    /// The export that contexts were selected for, and which.
    contexts: Option<(&'a Export, Vec<u32>)>,
}

/// Speaks until the client has chosen an export; `None` if it left in good order.
pub(super) fn negotiate<'a>(socket: &Socket, exports: &'a [Export]) -> Result<Option<Agreement<'a>>> {
    let mut greeting = wire::MAGIC.to_be_bytes().to_vec();
    greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend((wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES).to_be_bytes());
    send(socket, &greeting)?;
    let mut flags = [0; 4];
    receive(socket, &mut flags)?;
    let flags = u32::from_be_bytes(flags);
    if flags & !u32::from(wire::FLAG_FIXED_NEWSTYLE | wire::FLAG_NO_ZEROES) != 0 {
        return Err(broken(Violation(format!("unknown handshake flags {flags:#x}"))));
    }
    let no_zeroes = flags & u32::from(wire::FLAG_NO_ZEROES) != 0;
    let mut handshake = Handshake { socket, exports, structured: false, no_zeroes, contexts: None };
    for _ in 0..MAX_OPTIONS {
        let mut head = [0; 16];
        receive(socket, &mut head)?;
        let (number, len) = wire::parse_option(&head).map_err(broken)?;
        if len > wire::MAX_OPTION {
            return Err(broken(Violation(format!("an option carries {len} bytes"))));
        }
        let mut data = vec![0; len as usize];
        receive(socket, &mut data)?;
        match handshake.answer(number, &data)? {
            Step::Next => {}
            Step::Chosen(export) => return Ok(Some(handshake.agreed(export))),
            Step::Left => return Ok(None),
        }
    }
    Err(broken(Violation("options without end".into())))
}

enum Step<'a> {
    Next,
    Chosen(&'a Export),
    Left,
}

impl<'a> Handshake<'_, 'a> {
    fn agreed(self, export: &'a Export) -> Agreement<'a> {
        let chosen = match &self.contexts {
            Some((of, chosen)) if std::ptr::eq(*of, export) => chosen.as_slice(),
            _ => &[],
        };
        Agreement {
            export,
            structured: self.structured,
            base_allocation: chosen.contains(&BASE_ALLOCATION_ID),
            allocation_depth: chosen.contains(&ALLOCATION_DEPTH_ID),
        }
    }

    fn reply(&self, number: u32, kind: u32, data: &[u8]) -> Result<Step<'a>> {
        send(self.socket, &wire::encode_option_reply(number, kind, data))?;
        Ok(Step::Next)
    }

    fn refuse(&self, number: u32, kind: u32, why: &str) -> Result<Step<'a>> {
        self.reply(number, kind, why.as_bytes())
    }

    /// The export of that name; the empty name means the only one there is.
    fn find(&self, name: &str) -> Option<&'a Export> {
        let by_name = self.exports.iter().find(|export| export.name == name);
        by_name.or_else(|| self.exports.first().filter(|_| name.is_empty() && self.exports.len() == 1))
    }

    fn answer(&mut self, number: u32, data: &[u8]) -> Result<Step<'a>> {
        match number {
            option::EXPORT_NAME => self.export_name(data),
            option::ABORT => {
                // The client may be gone already.
                let _ = self.reply(number, option_reply::ACK, &[]);
                Ok(Step::Left)
            }
            option::LIST if data.is_empty() => {
                for export in self.exports {
                    let mut entry = (export.name.len() as u32).to_be_bytes().to_vec();
                    entry.extend(export.name.as_bytes());
                    entry.extend(export.description.as_bytes());
                    self.reply(number, option_reply::SERVER, &entry)?;
                }
                self.reply(number, option_reply::ACK, &[])
            }
            option::INFO | option::GO => self.info(number, data),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(number, option_reply::ACK, &[])
            }
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(number, data),
            option::LIST | option::STRUCTURED_REPLY => {
                self.refuse(number, option_reply::ERR_INVALID, "this option carries no data")
            }
            option::STARTTLS => self.refuse(number, option_reply::ERR_POLICY, "this server has no TLS"),
            _ => self.refuse(number, option_reply::ERR_UNSUP, "this option is not known"),
        }
    }

    /// The old way to choose, which has no way to refuse but to hang up.
    fn export_name(&self, data: &[u8]) -> Result<Step<'a>> {
        let name = std::str::from_utf8(data).ok();
        let Some(export) = name.and_then(|name| self.find(name)) else {
            return Err(broken(Violation("an export that is not there was chosen".into())));
        };
        let mut answer = export.storage.size().to_be_bytes().to_vec();
        answer.extend(export.flags(self.structured).to_be_bytes());
        if !self.no_zeroes {
            answer.extend([0; 124]);
        }
        send(self.socket, &answer)?;
        Ok(Step::Chosen(export))
    }

    fn info(&self, number: u32, data: &[u8]) -> Result<Step<'a>> {
        let (name, wanted) = match wire::parse_go(data) {
            Ok(parsed) => parsed,
            Err(violation) => return self.refuse(number, option_reply::ERR_INVALID, &violation.0),
        };
        let Some(export) = self.find(name) else {
            return self.refuse(number, option_reply::ERR_UNKNOWN, &format!("export '{name}' not present"));
        };
        let mut entry = info::EXPORT.to_be_bytes().to_vec();
        entry.extend(export.storage.size().to_be_bytes());
        entry.extend(export.flags(self.structured).to_be_bytes());
        self.reply(number, option_reply::INFO, &entry)?;
        if wanted.contains(&info::NAME) {
            let entry = [&info::NAME.to_be_bytes(), export.name.as_bytes()].concat();
            self.reply(number, option_reply::INFO, &entry)?;
        }
        if wanted.contains(&info::DESCRIPTION) && !export.description.is_empty() {
            let entry = [&info::DESCRIPTION.to_be_bytes(), export.description.as_bytes()].concat();
            self.reply(number, option_reply::INFO, &entry)?;
        }
        let limits = export.storage.limits();
        let preferred = limits.allocation_unit.clamp(4096, wire::MAX_TRANSFER);
        let mut entry = info::BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [1, preferred, wire::MAX_TRANSFER] {
            entry.extend(size.to_be_bytes());
        }
        self.reply(number, option_reply::INFO, &entry)?;
        self.reply(number, option_reply::ACK, &[])?;
        Ok(if number == option::GO { Step::Chosen(export) } else { Step::Next })
    }

    fn contexts(&mut self, number: u32, data: &[u8]) -> Result<Step<'a>> {
        let (name, queries) = match wire::parse_contexts(data) {
            Ok(parsed) => parsed,
            Err(violation) => return self.refuse(number, option_reply::ERR_INVALID, &violation.0),
        };
        if !self.structured {
            return self.refuse(number, option_reply::ERR_INVALID, "structured replies come first");
        }
        let Some(export) = self.find(name) else {
            return self.refuse(number, option_reply::ERR_UNKNOWN, &format!("export '{name}' not present"));
        };
        let listing = number == option::LIST_META_CONTEXT;
        let matches = |context: &str| {
            let asked = |query: &&str| {
                // A listing may ask for all of a namespace.
                *query == context
                    || listing && context.split_once(':').is_some_and(|(space, _)| *query == format!("{space}:"))
            };
            queries.iter().any(asked) || listing && queries.is_empty()
        };
        let found: Vec<_> = CONTEXTS.iter().filter(|(_, context)| matches(context)).collect();
        for (id, context) in &found {
            let entry = [&(if listing { 0 } else { *id }).to_be_bytes(), context.as_bytes()].concat();
            self.reply(number, option_reply::META_CONTEXT, &entry)?;
        }
        if !listing {
            self.contexts = Some((export, found.iter().map(|(id, _)| *id).collect()));
        }
        self.reply(number, option_reply::ACK, &[])
    }
}

fn send(socket: &Socket, bytes: &[u8]) -> Result<()> {
    socket.send(&mut [IoSlice::new(bytes)]).map_err(lost)
}

fn receive(mut socket: &Socket, bytes: &mut [u8]) -> Result<()> {
    socket.read_exact(bytes).map_err(lost)
}
