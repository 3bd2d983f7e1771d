//! Flags that name and open images, shared by the commands, and the secrets that open encrypted ones.

use std::fs;
use std::io::Write;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use ferro_block::crypto::Secret;
use ferro_block::image::{Cache, Format, Image, ImageSpec, KeyValues, OpenMode, Secrets, open};

/// Objects that images refer to.
#[derive(Debug, Args)]
pub(super) struct Objects {
    /// A secret: secret,id=NAME,file=PATH (or data=…, which others on this machine can see)
    #[arg(long = "object", value_name = "OBJECT")]
    objects: Vec<String>,
}

impl Objects {
    /// Reads all secrets.
    pub(super) fn secrets(&self) -> anyhow::Result<Secrets> {
        let mut secrets = Secrets::default();
        for object in &self.objects {
            let mut options = if object.starts_with('{') {
                KeyValues::from_json(object)?
            } else {
                KeyValues::parse(object, Some("qom-type"))?
            };
            let kind = options.take("qom-type").unwrap_or_default();
            if kind != "secret" {
                bail!("invalid object type: {kind} (only secret is known)");
            }
            let Some(id) = options.take("id") else { bail!("Parameter 'id' is missing in --object secret,…") };
            let bytes = match (options.take("file"), options.take("data")) {
                (Some(path), None) => {
                    fs::read(&path).with_context(|| format!("cannot read the secret '{id}' from {path}"))?
                }
                (None, Some(data)) => {
                    tracing::warn!(
                        "the secret '{id}' is on the command line, where other users can see it: use file=PATH instead"
                    );
                    data.into_bytes()
                }
                (Some(_), Some(_)) => bail!("'file' and 'data' of the secret '{id}' are mutually exclusive"),
                (None, None) => bail!("the secret '{id}' needs file=PATH"),
            };
            let bytes = match options.take("format").as_deref() {
                None | Some("raw") => bytes,
                Some("base64") => base64(&bytes).with_context(|| format!("the secret '{id}' is not base64"))?,
                Some(other) => bail!("a secret's format is raw or base64, not '{other}'"),
            };
            if options.take("keyid").is_some() {
                bail!("encrypted secrets (keyid) are not supported: use file=PATH");
            }
            options.finish()?;
            secrets.add(&id, Secret::new(bytes))?;
        }
        Ok(secrets)
    }
}

/// Decodes base64 (RFC 4648), white space ignored.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for &letter in text.iter().filter(|letter| !letter.is_ascii_whitespace()) {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// How an image is named on the command line.
#[derive(Debug, Args)]
pub(super) struct Naming {
    #[command(flatten)]
    pub(super) objects: Objects,
    /// The file names are lists of options: driver=qcow2,file.filename=PATH,…
    #[arg(long)]
    pub(super) image_opts: bool,
    /// The image's format (raw, qcow2, luks); found out if not given
    #[arg(short, long, value_name = "FMT")]
    pub(super) format: Option<Format>,
}

impl Naming {
    /// What `name` means under these flags.
    pub(super) fn spec(&self, name: &str) -> anyhow::Result<ImageSpec> {
        named(name, self.image_opts, self.format)
    }

    /// Opens the image `name`.
    pub(super) fn open(&self, name: &str, mode: OpenMode) -> anyhow::Result<Image> {
        let secrets = self.objects.secrets()?;
        opened(&self.spec(name)?, mode, &secrets)
    }
}

/// What a name means.
pub(super) fn named(name: &str, image_opts: bool, format: Option<Format>) -> anyhow::Result<ImageSpec> {
    if image_opts {
        if format.is_some() {
            bail!("--image-opts and a format are mutually exclusive: say driver=… in the options");
        }
        return Ok(ImageSpec::from_image_opts(name)?);
    }
    Ok(ImageSpec::from_name(name, format)?)
}

/// Opens an image, saying which one if that fails.
pub(super) fn opened(spec: &ImageSpec, mode: OpenMode, secrets: &Secrets) -> anyhow::Result<Image> {
    open(spec, mode, secrets).with_context(|| format!("Could not open '{}'", spec.name))
}

/// How to write results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// For people
    Human,
    /// For programs
    Json,
}

/// A cache mode from the command line.
pub(super) fn cache(name: &str) -> Result<Cache, String> {
    name.parse().map_err(|error: ferro_block::Error| error.to_string())
}

/// Writes to standard output; a reader that has gone is no error of ours.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to standard output"),
    }
}

/// Writes JSON as qemu-img lays it out.
pub(super) fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut text = Vec::new();
    serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    text.push(b'\n');
    print(&String::from_utf8_lossy(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read() {
        assert_eq!(base64(b"aGVs\nbG8="), Some(b"hello".to_vec()));
        assert_eq!(base64(b"a?"), None);
    }
}
