//! `ferro img create`.

use anyhow::{Context, bail};
use clap::Args;
use ferro_block::Storage;
use ferro_block::image::{CreateRequest, Format, FormatOptions, ImageSpec, KeyValues, OpenMode, create};

use super::source::{Objects, opened, print};
use super::{figures, info};

/// Flags of `create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    objects: Objects,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// The new image's format (raw, qcow2, luks)
    #[arg(short, long, value_name = "FMT", default_value = "raw")]
    format: Format,
    /// Base the image on this one, which must not change afterwards
    #[arg(short, long, value_name = "FILE")]
    backing: Option<String>,
    /// The backing file's format
    #[arg(short = 'F', long, value_name = "FMT")]
    backing_format: Option<Format>,
    /// Don't look at the backing file
    #[arg(short = 'u', long = "unsafe")]
    no_look: bool,
    /// The format's options: name=value,… (help lists them)
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// The new image
    #[arg(required_unless_present = "options")]
    filename: Option<String>,
    /// The disk's size: a number with k, M, G, T, P or E after it
    size: Option<String>,
}

/// Options with several `-o` joined, later ones winning.
pub(super) fn joined(options: &[String]) -> anyhow::Result<KeyValues> {
    let mut all = KeyValues::default();
    for text in options {
        all.merge(KeyValues::parse(text, None)?);
    }
    Ok(all)
}

/// Whether `-o help` or `-o ?` asks what there is.
pub(super) fn asks_for_help(options: &[String]) -> bool {
    options.iter().any(|text| text.split(',').any(|part| part == "help" || part == "?"))
}

/// The creation options of a format, for `-o help`.
pub(super) fn help(format: Format) -> String {
    let qcow2 = [
        ("backing_file=<str>", "File name of a base image"),
        ("backing_fmt=<str>", "Image format of the base image"),
        ("cluster_size=<size>", "qcow2 cluster size"),
        ("compat=<str>", "Compatibility level (v2 [0.10] or v3 [1.1])"),
        ("compression_type=<str>", "Compression method used for image cluster compression"),
        ("data_file=<str>", "File name of an external data file"),
        ("data_file_raw=<bool (on/off)>", "The external data file must stay valid as a raw image"),
        ("encrypt.cipher-alg=<str>", "Name of encryption cipher algorithm"),
        ("encrypt.cipher-mode=<str>", "Name of encryption cipher mode"),
        ("encrypt.format=<str>", "Encrypt the image, format choices: 'aes', 'luks'"),
        ("encrypt.hash-alg=<str>", "Name of encryption hash algorithm"),
        ("encrypt.iter-time=<num>", "Time to spend in PBKDF in milliseconds"),
        ("encrypt.ivgen-alg=<str>", "Name of IV generator algorithm"),
        ("encrypt.ivgen-hash-alg=<str>", "Name of IV generator hash algorithm"),
        ("encrypt.key-secret=<str>", "ID of secret providing qcow AES key or LUKS passphrase"),
        ("extended_l2=<bool (on/off)>", "Extended L2 tables"),
        ("lazy_refcounts=<bool (on/off)>", "Postpone refcount updates"),
        ("preallocation=<str>", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
        ("refcount_bits=<num>", "Width of a reference count entry in bits"),
        ("size=<size>", "Virtual disk size"),
    ];
    let luks = [
        ("cipher-alg=<str>", "Name of encryption cipher algorithm"),
        ("cipher-mode=<str>", "Name of encryption cipher mode"),
        ("hash-alg=<str>", "Name of encryption hash algorithm"),
        ("iter-time=<num>", "Time to spend in PBKDF in milliseconds"),
        ("ivgen-alg=<str>", "Name of IV generator algorithm"),
        ("ivgen-hash-alg=<str>", "Name of IV generator hash algorithm"),
        ("key-secret=<str>", "ID of the secret that provides the keyslot key"),
        ("preallocation=<str>", "Preallocation mode (allowed values: off, metadata, falloc, full)"),
        ("size=<size>", "Virtual disk size"),
    ];
    let raw = [
        ("preallocation=<str>", "Preallocation mode (allowed values: off, falloc, full)"),
        ("size=<size>", "Virtual disk size"),
    ];
    let options: &[(&str, &str)] = match format {
        Format::Raw => &raw,
        Format::Qcow2 => &qcow2,
        Format::Luks => &luks,
    };
    let lines: String = options.iter().map(|(name, what)| format!("  {name:<22} - {what}\n")).collect();
    format!("Supported {format} options:\n{lines}")
}

impl CreateArgs {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if asks_for_help(&self.options) {
            return print(&help(self.format));
        }
        let Some(filename) = self.filename.as_deref() else { bail!("name the new image") };
        let secrets = self.objects.secrets()?;
        let spec = ImageSpec::from_name(filename, None)?;
        let mut options = joined(&self.options).with_context(|| filename.to_string())?;
        let stated = options.take_size("size")?;
        let size = match &self.size {
            Some(text) => Some(
                figures::size(text).map_err(|why| anyhow::anyhow!("Invalid image size specified: {text}: {why}"))?,
            ),
            None => stated,
        };
        if let Some(name) = &self.backing {
            options.insert("backing_file", name.clone());
        }
        if let Some(format) = self.backing_format {
            options.insert("backing_fmt", format.name());
        }
        let size = self.backing_size(&spec, &mut options, size, &secrets)?;
        let Some(size) = size else { bail!("{filename}: Image creation needs a size parameter") };
        let parsed = FormatOptions::parse(self.format, size, options.clone());
        let parsed = parsed.with_context(|| filename.to_string())?;
        if !self.quiet {
            print(&format!("Formatting '{}', {}\n", filename, info::creation(self.format, size, &parsed, &options)))?;
        }
        let request = CreateRequest { spec, format: self.format, size, options };
        create(&request, &secrets).with_context(|| format!("Could not create '{filename}'"))
    }

    /// Looks at the backing file: it has to be there, and gives the size if there is no other.
    fn backing_size(
        &self,
        spec: &ImageSpec,
        options: &mut KeyValues,
        size: Option<u64>,
        secrets: &ferro_block::image::Secrets,
    ) -> anyhow::Result<Option<u64>> {
        let Some(name) = options.get("backing_file").filter(|name| !name.is_empty()) else { return Ok(size) };
        let format = options.get("backing_fmt").map(str::parse::<Format>).transpose()?;
        if format.is_none() && !self.no_look {
            let found = spec.relative(name, None).map(|spec| spec.name).unwrap_or_default();
            bail!(
                "{}: Backing file specified without backing format: say -F {}",
                spec.name,
                guess(&found).map_or("FORMAT", Format::name)
            );
        }
        if self.no_look {
            return Ok(size);
        }
        let found = spec.relative(name, format)?;
        let mode = OpenMode { no_io: true, ..OpenMode::READ };
        let image = opened(&found, mode, secrets)?;
        Ok(size.or(Some(image.storage.size())))
    }
}

/// What a file looks like.
fn guess(path: &str) -> Option<Format> {
    let options = ferro_block::FileOptions { unlocked: true, ..ferro_block::FileOptions::default() };
    let file = ferro_block::FileStorage::open(path, options).ok()?;
    ferro_block::image::probe(&file as &dyn Storage).ok()
}
