//! Every command: its names, its arguments, a line of help, and what it comes to. Help and completion are made from this
//! table, so a command is defined once.

use super::arguments::Kind::{Flag, Number, Rest, Size, Switch, Word};
use super::arguments::{Arguments, Format, Kind, Param, may, needs};
use crate::keys::Key;
use crate::monitor::{BlockThrottle, Command, Examination, MemorySpace, MouseButtons, NetworkLink, Screenshot, Wave};

/// What a line comes to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// A command of the VM; its reply is shown.
    Run(Command),
    /// A command that reads memory, and how to show what it reads.
    Examine { command: Command, format: Format, address: u64 },
    /// An answer that needs no VM.
    Say(String),
    /// Help, about one command.
    Help(String),
    /// Help about `info`.
    HelpInfo,
    /// The session looks at another vCPU.
    SelectCpu(u32),
}

/// A command.
pub(super) struct Entry {
    /// Its names; the first is the one in the help.
    pub(super) names: &'static [&'static str],
    pub(super) params: &'static [Param],
    pub(super) help: &'static str,
    pub(super) build: fn(&Arguments) -> Result<Action, String>,
}

type Built = Result<Action, String>;

fn run(command: Command) -> Built {
    Ok(Action::Run(command))
}

const FILE: Param = needs("filename", Word);
const DEVICE: Param = needs("device", Word);
const TAG: Param = needs("tag", Word);
const FORMAT: Param = may("format", Kind::Format);
const ADDRESS: Param = needs("addr", Number);

/// All commands but `info`'s.
pub(super) const COMMANDS: &[Entry] = &[
    Entry {
        names: &["help", "?"],
        params: &[may("command", Word)],
        help: "show the help",
        build: |a| Ok(Action::Help(a.text("command"))),
    },
    Entry {
        names: &["info"],
        params: &[may("item", Rest)],
        help: "show various information about the VM's state",
        build: |_| Ok(Action::HelpInfo),
    },
    Entry { names: &["stop", "s"], params: &[], help: "stop emulation", build: |_| run(Command::Stop) },
    Entry { names: &["cont", "c"], params: &[], help: "resume emulation", build: |_| run(Command::Continue) },
    Entry { names: &["quit", "q"], params: &[], help: "end the VM at once", build: |_| run(Command::Quit) },
    Entry { names: &["system_reset"], params: &[], help: "reset the VM", build: |_| run(Command::Reset) },
    Entry {
        names: &["system_powerdown"],
        params: &[],
        help: "press the power button",
        build: |_| run(Command::PowerDown),
    },
    Entry { names: &["nmi"], params: &[], help: "inject a non-maskable interrupt", build: |_| run(Command::Nmi) },
    Entry {
        names: &["sendkey", "sendkeys"],
        params: &[needs("keys", Word), may("hold-time", Number)],
        help: "send keys, such as sendkey ctrl-alt-f1, held for 100 ms or so many",
        build: send_keys,
    },
    Entry {
        names: &["mouse_move"],
        params: &[needs("dx", Word), needs("dy", Word), may("dz", Word)],
        help: "move the mouse",
        build: |a| {
            let step = |name: &str| match a.optional_text(name) {
                Some(text) => text.parse().map_err(|_| format!("{name}: integer expected, not '{text}'")),
                None => Ok(0),
            };
            run(Command::MouseMove { dx: step("dx")?, dy: step("dy")?, dz: step("dz")? })
        },
    },
    Entry {
        names: &["mouse_button"],
        params: &[needs("state", Number)],
        help: "set the mouse's buttons: 1 left, 2 right, 4 middle, added up",
        build: |a| {
            let state = a.number("state");
            let down = |bit| state & bit != 0;
            run(Command::MouseButtons(MouseButtons { left: down(1), right: down(2), middle: down(4) }))
        },
    },
    Entry {
        names: &["device_add", "device_del", "drive_add", "drive_del", "netdev_add", "netdev_del"],
        params: &[may("options", Word)],
        help: "(not there: the board is as the VM was started)",
        build: |_| Err("devices can't be plugged in or out of a running VM: start it with them".into()),
    },
    Entry {
        names: &["savevm"],
        params: &[may("tag", Word)],
        help: "save the whole VM into a snapshot of its disks",
        build: |a| run(Command::SaveVm { tag: a.optional_text("tag") }),
    },
    Entry {
        names: &["loadvm"],
        params: &[TAG],
        help: "go back to a snapshot of the whole VM",
        build: |a| run(Command::LoadVm { tag: a.text("tag") }),
    },
    Entry {
        names: &["delvm"],
        params: &[TAG],
        help: "delete a snapshot of the whole VM",
        build: |a| run(Command::DeleteVm { tag: a.text("tag") }),
    },
    Entry {
        names: &["wavcapture"],
        params: &[
            needs("path", Word),
            may("audiodev", Word),
            may("frequency", Number),
            may("bits", Number),
            may("channels", Number),
        ],
        help: "record what the VM plays into a WAV file (44100 Hz, 16 bits, 2 channels, or others)",
        build: wave_capture,
    },
    Entry {
        names: &["stopcapture"],
        params: &[needs("index", Number)],
        help: "end a recording",
        build: |a| run(Command::StopCapture { index: usize::try_from(a.number("index")).unwrap_or(usize::MAX) }),
    },
    Entry {
        names: &["screendump"],
        params: &[FILE, may("png", Flag('p')), may("device", Word)],
        help: "write a picture of the screen as PPM, or as PNG with -p or a name that ends in .png",
        build: |a| {
            let path = a.text("filename");
            let png = a.flag("png") || std::path::Path::new(&path).extension().is_some_and(|end| end == "png");
            run(Command::Screenshot(Screenshot { path, png }))
        },
    },
    Entry {
        names: &["eject"],
        params: &[may("force", Flag('f')), DEVICE],
        help: "take the medium out of a drive (-f: even if the guest has locked it)",
        build: |a| run(Command::Eject { device: a.text("device"), force: a.flag("force") }),
    },
    Entry {
        names: &["change"],
        params: &[DEVICE, may("force", Flag('f')), needs("target", Word), may("arg", Word)],
        help: "put a medium into a drive: change ide1-cd0 FILE [FORMAT]; or change vnc password PASSWORD",
        build: change,
    },
    Entry {
        names: &["commit"],
        params: &[DEVICE],
        help: "write a drive's overlay (or of all: all) into the image below it",
        build: |a| run(Command::Commit { device: a.text("device") }),
    },
    Entry {
        names: &["block_resize"],
        params: &[DEVICE, needs("size", Size)],
        help: "give a drive another size, in MiB or with a unit",
        build: |a| run(Command::Resize { device: a.text("device"), size: a.number("size") }),
    },
    Entry {
        names: &["block_set_io_throttle"],
        params: &[
            DEVICE,
            needs("bps", Number),
            needs("bps_rd", Number),
            needs("bps_wr", Number),
            needs("iops", Number),
            needs("iops_rd", Number),
            needs("iops_wr", Number),
        ],
        help: "limit a drive's bytes and operations a second; 0 is no limit",
        build: |a| {
            let limits = BlockThrottle {
                bytes: ["bps", "bps_rd", "bps_wr"].map(|name| a.number(name)),
                operations: ["iops", "iops_rd", "iops_wr"].map(|name| a.number(name)),
            };
            run(Command::Throttle { device: a.text("device"), limits })
        },
    },
    Entry {
        names: &["snapshot_blkdev"],
        params: &[may("reuse", Flag('n')), DEVICE, may("new-image-file", Word), may("format", Word)],
        help: "put a new overlay on a drive (-n: on a file that is there)",
        build: |a| {
            let file = a.optional_text("new-image-file").ok_or("Parameter 'snapshot-file' is missing")?;
            let format = a.optional_text("format");
            run(Command::SnapshotDrive { device: a.text("device"), file, format, reuse: a.flag("reuse") })
        },
    },
    Entry {
        names: &["balloon"],
        params: &[needs("target", Size)],
        help: "ask the guest to get along with so much memory, in MiB or with a unit",
        build: |a| run(Command::Balloon { bytes: a.number("target") }),
    },
    Entry {
        names: &["x"],
        params: &[FORMAT, ADDRESS],
        help: "dump virtual memory: x/COUNT FORMAT SIZE, as x/8xw $pc or x/10i 0xffff0",
        build: |a| examine(a, MemorySpace::Virtual { cpu: a.cpu }),
    },
    Entry {
        names: &["xp"],
        params: &[FORMAT, ADDRESS],
        help: "dump physical memory, as x does virtual memory",
        build: |a| examine(a, MemorySpace::Physical),
    },
    Entry {
        names: &["print", "p"],
        params: &[FORMAT, needs("expr", Number)],
        help: "print the value of an expression (use $reg for a register)",
        build: |a| Ok(Action::Say(super::text::number(a.number("expr"), a.format("format").letter.unwrap_or('d'), 8))),
    },
    Entry {
        names: &["i"],
        params: &[FORMAT, ADDRESS],
        help: "read a port: i/b, i/h or i/w and its number",
        build: |a| run(Command::PortRead { port: port(a)?, size: port_size(a)? }),
    },
    Entry {
        names: &["o"],
        params: &[FORMAT, ADDRESS, needs("val", Number)],
        help: "write a port: o/b, o/h or o/w, its number and a value",
        build: |a| run(Command::PortWrite { port: port(a)?, size: port_size(a)?, value: a.number("val") as u32 }),
    },
    Entry {
        names: &["cpu"],
        params: &[needs("index", Number)],
        help: "look at another vCPU",
        build: |a| Ok(Action::SelectCpu(a.number("index").try_into().unwrap_or(u32::MAX))),
    },
    Entry {
        names: &["memsave"],
        params: &[ADDRESS, needs("size", Number), FILE],
        help: "save virtual memory to a file",
        build: |a| save_memory(a, MemorySpace::Virtual { cpu: a.cpu }),
    },
    Entry {
        names: &["pmemsave"],
        params: &[ADDRESS, needs("size", Number), FILE],
        help: "save physical memory to a file",
        build: |a| save_memory(a, MemorySpace::Physical),
    },
    Entry {
        names: &["dump-guest-memory"],
        params: &[FILE],
        help: "write all memory and the vCPUs' registers to an ELF core file",
        build: |a| run(Command::DumpGuestMemory { path: a.text("filename") }),
    },
    Entry {
        names: &["gdbserver"],
        params: &[may("device", Word)],
        help: "let gdb connect (tcp::1234, or elsewhere), or no more: none",
        build: |a| {
            let address = a.optional_text("device").unwrap_or_else(|| "tcp::1234".into());
            run(Command::GdbServer { address: Some(address).filter(|address| address != "none") })
        },
    },
    Entry {
        names: &["log"],
        params: &[needs("items", Rest)],
        help: "what is logged: a filter such as debug or ferro_block=trace, or none",
        build: |a| run(Command::Log { items: Some(a.text("items")).filter(|items| items != "none") }),
    },
    Entry {
        names: &["logfile"],
        params: &[needs("filename", Rest)],
        help: "let the log go to a file",
        build: |a| run(Command::LogFile { path: a.text("filename") }),
    },
    Entry {
        names: &["set_link"],
        params: &[needs("name", Word), needs("up", Switch)],
        help: "plug a network card's cable in (on) or out (off)",
        build: |a| run(Command::SetLink(NetworkLink { name: a.text("name"), up: a.flag("up") })),
    },
];

/// What `info` shows.
pub(super) const INFO: &[Entry] = &[
    query(&["status"], "whether the VM runs", |_| run(Command::QueryStatus)),
    query(&["version"], "the version of this program", |_| {
        Ok(Action::Say(concat!(env!("CARGO_PKG_VERSION"), "\n").into()))
    }),
    query(&["name"], "the VM's name", |_| run(Command::QueryName)),
    query(&["kvm"], "whether KVM executes the guest", |_| run(Command::QueryKvm)),
    query(&["block"], "the drives", |_| run(Command::QueryBlock)),
    query(&["blockstats"], "what the drives have done", |_| run(Command::QueryBlockStats)),
    query(&["network"], "the network cards", |_| run(Command::QueryNetwork)),
    query(&["snapshots"], "the snapshots of the whole VM", |_| run(Command::QuerySnapshots)),
    query(&["cpus"], "the vCPUs", |_| run(Command::QueryCpus)),
    query(&["registers"], "the vCPU's registers", |a| run(Command::QueryRegisters { cpu: a.cpu })),
    query(&["pci"], "the PCI functions", |_| run(Command::QueryPci)),
    query(&["irq"], "the interrupt controllers", |_| run(Command::QueryInterrupts)),
    query(&["pic"], "the interrupt controllers", |_| run(Command::QueryInterrupts)),
    query(&["mtree"], "the memory map", |_| run(Command::QueryMemoryMap)),
    query(&["tlb"], "the pages that the vCPU's tables map", |a| run(Command::QueryPages { cpu: a.cpu })),
    query(&["mem"], "the stretches of memory that the vCPU's tables map", |a| run(Command::QueryPages { cpu: a.cpu })),
    query(&["vnc"], "the VNC server", |_| run(Command::QueryVnc)),
    query(&["chardev"], "the character devices", |_| run(Command::QueryChardev)),
    query(&["balloon"], "the guest's memory", |_| run(Command::QueryBalloon)),
    query(&["mice"], "what moves the guest's pointer", |_| run(Command::QueryMice)),
    query(&["capture"], "recordings that are running", |_| run(Command::QueryCaptures)),
    query(&["jobs"], "jobs", |_| run(Command::QueryJobs)),
    query(&["stats"], "what the drives have done", |_| run(Command::QueryBlockStats)),
];

const fn query(names: &'static [&'static str], help: &'static str, build: fn(&Arguments) -> Built) -> Entry {
    Entry { names, params: &[], help, build }
}

fn send_keys(a: &Arguments) -> Built {
    // A key that is a hyphen stands alone or after another one.
    let text = a.text("keys");
    let mut keys = vec![];
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest[first..].find('-').map_or(rest.len(), |at| at + first);
        let word = &rest[..end];
        keys.push(key(word).ok_or_else(|| format!("invalid parameter: {word}"))?);
        rest = rest[end..].strip_prefix('-').unwrap_or("");
    }
    if keys.is_empty() || keys.len() > 16 {
        return Err("one to 16 keys are pressed together".into());
    }
    let hold = a.optional_number("hold-time").unwrap_or(100).min(60_000) as u32;
    run(Command::SendKeys { keys, hold })
}

/// A key by its name or, as `0x1e`, by its code.
fn key(word: &str) -> Option<Key> {
    let code = word.strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
    Key::named(word).or(code.filter(|code| *code != 0 && *code < 0x200).map(Key))
}

fn wave_capture(a: &Arguments) -> Built {
    let numbers = ["frequency", "bits", "channels"].map(|name| a.optional_number(name));
    // The name of an audio device may be left away: there is one.
    let numbers = match a.optional_text("audiodev").and_then(|text| text.parse().ok()) {
        Some(frequency) => [Some(frequency), numbers[0], numbers[1]],
        None => numbers,
    };
    let frequency = numbers[0].unwrap_or(44_100);
    let bits = numbers[1].unwrap_or(16);
    let channels = numbers[2].unwrap_or(2);
    if !(1000..=192_000).contains(&frequency) {
        return Err("frequency: 1000 to 192000".into());
    }
    if !matches!(bits, 8 | 16) {
        return Err("bits: 8 or 16".into());
    }
    if !matches!(channels, 1 | 2) {
        return Err("channels: 1 or 2".into());
    }
    run(Command::StartCapture(Wave {
        path: a.text("path"),
        frequency: frequency as u32,
        bits: bits as u16,
        channels: channels as u16,
    }))
}

fn change(a: &Arguments) -> Built {
    let (device, target, extra) = (a.text("device"), a.text("target"), a.optional_text("arg"));
    if device != "vnc" {
        return run(Command::ChangeMedium { device, file: target, format: extra, force: a.flag("force") });
    }
    match (target.as_str(), extra) {
        ("password" | "passwd", Some(password)) => run(Command::ChangeVncPassword { password }),
        ("password" | "passwd", None) => Err("change vnc password needs the new password".into()),
        _ => Err("of the VNC server only the password can be changed".into()),
    }
}

/// More would only fill somebody's screen.
const MAX_EXAMINED: u64 = 64 << 10;

fn examine(a: &Arguments, space: MemorySpace) -> Built {
    let (format, address) = (a.format("format"), a.number("addr"));
    let what = if format.letter == Some('i') {
        Examination::Instructions(format.count.min(10_000))
    } else {
        let size = format.size.unwrap_or(if format.letter == Some('c') { 1 } else { 4 });
        Examination::Bytes((u64::from(format.count) * u64::from(size)).min(MAX_EXAMINED))
    };
    Ok(Action::Examine { command: Command::Examine { space, address, what }, format, address })
}

fn port(a: &Arguments) -> Result<u16, String> {
    let port = a.number("addr");
    u16::try_from(port).map_err(|_| format!("there is no port {port:#x}: they end at 0xffff"))
}

fn port_size(a: &Arguments) -> Result<u8, String> {
    match a.format("format").size.unwrap_or(1) {
        8 => Err("a port is read and written in 1, 2 or 4 bytes: b, h or w".into()),
        size => Ok(size),
    }
}

fn save_memory(a: &Arguments, space: MemorySpace) -> Built {
    let (address, size) = (a.number("addr"), a.number("size"));
    run(Command::SaveMemory { space, address, size, path: a.text("filename") })
}

/// The words that a line could go on with, whole.
pub fn completions(line: &str) -> Vec<String> {
    let names = |entries: &'static [Entry]| entries.iter().map(|entry| entry.names[0]);
    let starting = |words: &mut dyn Iterator<Item = &'static str>, start: &str, before: &str| {
        let mut found: Vec<_> =
            words.filter(|word| word.starts_with(start)).map(|word| format!("{before}{word}")).collect();
        found.sort();
        found
    };
    match line.trim_start().split_once(' ') {
        None => starting(&mut names(COMMANDS), line.trim_start(), ""),
        Some(("info", word)) => starting(&mut names(INFO), word.trim_start(), "info "),
        Some(("help" | "?", word)) => starting(&mut names(COMMANDS), word.trim_start(), "help "),
        Some(("sendkey", word)) => {
            let (before, last) =
                word.rsplit_once('-').map_or(("", word), |(_, last)| (&word[..word.len() - last.len()], last));
            starting(&mut Key::names(), last, &format!("sendkey {before}"))
        }
        Some(_) => vec![],
    }
}
