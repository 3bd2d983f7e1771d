//! `ferro img amend`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::image::{Cache, KeyValues, OpenMode, Secrets};
use ferro_block::qcow2::{AmendOptions, Compat, KeySlotChange};

use super::create::{asks_for_help, joined};
use super::source::{Naming, cache, print};

/// Flags of `amend`.
#[derive(Debug, Args)]
pub(crate) struct AmendArgs {
    #[command(flatten)]
    naming: Naming,
    /// Show how far it is
    #[arg(short)]
    progress: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// How the image is written
    #[arg(short = 't', value_name = "CACHE", value_parser = cache, default_value = "writeback")]
    cache: Cache,
    /// Erase even the last key slot: the data is then lost
    #[arg(long)]
    force: bool,
    /// What to change: name=value,… (help lists the names)
    #[arg(short, value_name = "OPTIONS", required = true)]
    options: Vec<String>,
    /// The image
    filename: String,
}

const HELP: &str = "Amend options for 'qcow2':
  backing_file=<str>     - File name of a base image
  backing_fmt=<str>      - Image format of the base image
  compat=<str>           - Compatibility level (v2 [0.10] or v3 [1.1])
  data_file=<str>        - File name of an external data file
  data_file_raw=<bool (on/off)> - The external data file must stay valid as a raw image
  encrypt.iter-time=<num> - Time to spend in PBKDF in milliseconds
  encrypt.keyslot=<num>  - Select a single keyslot to modify explicitly
  encrypt.new-secret=<str> - New secret to set in the matching keyslots. Empty string to erase
  encrypt.old-secret=<str> - Select all keyslots that match this password
  encrypt.state=<str>    - Select new state of affected keyslots (active/inactive)
  lazy_refcounts=<bool (on/off)> - Postpone refcount updates
  refcount_bits=<num>    - Width of a reference count entry in bits
  size=<size>            - Virtual disk size
";

impl AmendArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if asks_for_help(&self.options) {
            return print(HELP);
        }
        let mut options = joined(&self.options)?;
        let size = options.take_size("size")?;
        let backing = (options.take("backing_file"), options.take("backing_fmt"));
        let secrets = self.naming.objects.secrets()?;
        let changes = self.changes(&mut options, &secrets)?;
        options.finish()?;
        // Only a new key slot needs an old key, and only a change of size touches data.
        let no_io = changes.key_slot.is_none() && size.is_none();
        let mode = OpenMode { cache: self.cache, no_io, ..OpenMode::WRITE };
        let image = self.naming.open(&self.filename, mode)?;
        let Some(qcow2) = image.qcow2.clone() else {
            bail!("Format driver '{}' does not support option amendment", image.format);
        };
        let failed = || format!("Error while amending options of '{}'", self.filename);
        let key = image.spec.options.get("encrypt.key-secret").map(|id| secrets.get(id)).transpose()?;
        qcow2.amend(&changes, key).with_context(failed)?;
        if backing.0.is_some() || backing.1.is_some() {
            let header = qcow2.header();
            let name = backing.0.or(header.backing_file);
            let format = backing.1.or(header.backing_format);
            qcow2
                .set_backing(name.as_deref().filter(|name| !name.is_empty()), format.as_deref())
                .with_context(failed)?;
        }
        if let Some(size) = size {
            qcow2.resize(size, ferro_block::qcow2::Preallocation::Off).with_context(failed)?;
        }
        drop(qcow2);
        image.close().with_context(failed)
    }

    fn changes(&self, options: &mut KeyValues, secrets: &Secrets) -> anyhow::Result<AmendOptions> {
        let compat = match options.take("compat").as_deref() {
            None => None,
            Some("0.10" | "v2") => Some(Compat::V2),
            Some("1.1" | "v3") => Some(Compat::V3),
            Some(other) => bail!("Unknown compatibility level {other}"),
        };
        Ok(AmendOptions {
            compat,
            lazy_refcounts: options.take_switch("lazy_refcounts")?,
            refcount_bits: options.take_number("refcount_bits")?,
            data_file_raw: options.take_switch("data_file_raw")?,
            data_file: options.take("data_file"),
            key_slot: self.key_slot(&mut options.take_below("encrypt"), secrets)?,
        })
    }

    fn key_slot(&self, options: &mut KeyValues, secrets: &Secrets) -> anyhow::Result<Option<KeySlotChange>> {
        let slot = options.take_number("keyslot")?;
        let new = options.take("new-secret");
        let old = options.take("old-secret");
        let iter_time_ms = options.take_number("iter-time")?.unwrap_or(2000);
        let force = self.force;
        let change = match options.take("state").as_deref() {
            None if slot.is_none() && new.is_none() && old.is_none() => None,
            None => bail!("encrypt.state=active or encrypt.state=inactive is missing"),
            Some("active") => {
                let Some(id) = new else { bail!("'new-secret' is required to activate a keyslot") };
                Some(KeySlotChange::Add { new_secret: secrets.get(&id)?.clone(), slot, iter_time_ms })
            }
            Some("inactive") => match (slot, old) {
                (Some(slot), None) => Some(KeySlotChange::EraseSlot { slot, force }),
                (None, Some(id)) => Some(KeySlotChange::EraseSecret { old_secret: secrets.get(&id)?.clone(), force }),
                _ => bail!("say which keyslot to erase: encrypt.keyslot=N or encrypt.old-secret=ID"),
            },
            Some(other) => bail!("a keyslot's state is active or inactive, not '{other}'"),
        };
        options.finish()?;
        Ok(change)
    }
}
