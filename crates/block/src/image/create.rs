//! Makes new images from QEMU's creation options. What the formats write is theirs.

use std::sync::Arc;

use super::open::open_protocol;
use super::{Cache, Format, ImageSpec, KeyValues, OpenMode, Protocol, Secrets};
use crate::crypto::{Cipher, CipherSpec, Hash, IvGen, LuksOptions, Mode};
use crate::qcow2::{self, Compat, Compression, CreateOptions, EncryptionOptions, Preallocation};
use crate::{Error, FileOptions, FileStorage, Result, Storage};

/// A new image.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Where it goes.
    pub spec: ImageSpec,
    /// In which format.
    pub format: Format,
    /// Bytes of the disk.
    pub size: u64,
    /// The format's options as qemu-img's `-o` names them.
    pub options: KeyValues,
}

/// Creation options, understood.
#[derive(Debug, Clone)]
pub enum FormatOptions {
    /// What is allocated at once.
    Raw(Preallocation),
    /// The options, and the name of the secret.
    Qcow2(CreateOptions, Option<String>),
    /// The options, the name of the secret, and what is allocated at once.
    Luks(LuksOptions, Option<String>, Preallocation),
}

impl FormatOptions {
    /// Understands options.
    ///
    /// # Errors
    /// Options that the format doesn't have, and values that they can't have.
    pub fn parse(format: Format, size: u64, mut options: KeyValues) -> Result<Self> {
        options.take("nocow");
        let parsed = match format {
            Format::Raw => {
                let preallocation = preallocation(options.take("preallocation").as_deref())?;
                if preallocation == Preallocation::Metadata {
                    return Err(Error::Unsupported("Unsupported preallocation mode 'metadata' for a raw image".into()));
                }
                Self::Raw(preallocation)
            }
            Format::Qcow2 => {
                let (parsed, secret) = qcow2_options(size, &mut options)?;
                parsed.validate()?;
                Self::Qcow2(parsed, secret)
            }
            Format::Luks => {
                let secret = options.take("key-secret");
                let preallocation = preallocation(options.take("preallocation").as_deref())?;
                Self::Luks(luks_options(&mut options)?, secret, preallocation)
            }
        };
        options.finish()?;
        Ok(parsed)
    }
}

fn preallocation(name: Option<&str>) -> Result<Preallocation> {
    match name {
        None | Some("off") => Ok(Preallocation::Off),
        Some("metadata") => Ok(Preallocation::Metadata),
        Some("falloc") => Ok(Preallocation::Falloc),
        Some("full") => Ok(Preallocation::Full),
        Some(other) => Err(Error::Invalid(format!("Invalid parameter '{other}' (off, metadata, falloc or full)"))),
    }
}

fn qcow2_options(size: u64, options: &mut KeyValues) -> Result<(CreateOptions, Option<String>)> {
    let mut parsed = CreateOptions { size: size.next_multiple_of(512), ..CreateOptions::default() };
    match options.take("compat").as_deref() {
        None | Some("1.1" | "v3") => {}
        Some("0.10" | "v2") => parsed.compat = Compat::V2,
        Some(other) => return Err(Error::Invalid(format!("Invalid parameter '{other}' (compat is 0.10 or 1.1)"))),
    }
    parsed.extended_l2 = options.take_switch("extended_l2")?.unwrap_or(false);
    if let Some(size) = options.take_size("cluster_size")? {
        if !size.is_power_of_two() {
            return Err(Error::Invalid("Cluster size must be a power of two between 512 and 2048k".into()));
        }
        parsed.cluster_bits = size.trailing_zeros();
    }
    if let Some(bits) = options.take_number("refcount_bits")? {
        parsed.refcount_bits = bits;
    }
    parsed.lazy_refcounts = options.take_switch("lazy_refcounts")?.unwrap_or(false);
    match options.take("compression_type").as_deref() {
        None | Some("zlib") => {}
        Some("zstd") => parsed.compression = Compression::Zstd,
        Some(other) => {
            return Err(Error::Invalid(format!("Invalid parameter '{other}' (compression_type is zlib or zstd)")));
        }
    }
    parsed.preallocation = preallocation(options.take("preallocation").as_deref())?;
    parsed.backing_file = options.take("backing_file").filter(|name| !name.is_empty());
    parsed.backing_format = options.take("backing_fmt");
    parsed.data_file = options.take("data_file");
    parsed.data_file_raw = options.take_switch("data_file_raw")?.unwrap_or(false);
    let legacy = options.take_switch("encryption")?.unwrap_or(false);
    let mut encrypt = options.take_below("encrypt");
    let secret = encrypt.take("key-secret");
    parsed.encryption = match encrypt.take("format").as_deref() {
        None if legacy => Some(EncryptionOptions::Aes),
        None => None,
        Some("aes") => Some(EncryptionOptions::Aes),
        Some("luks") => Some(EncryptionOptions::Luks(luks_options(&mut encrypt)?)),
        Some(other) => {
            return Err(Error::Invalid(format!("Invalid parameter '{other}' (encrypt.format is aes or luks)")));
        }
    };
    encrypt.finish()?;
    if parsed.encryption.is_some() && secret.is_none() {
        return Err(Error::Secret("Parameter 'encrypt.key-secret' is required for cipher".into()));
    }
    Ok((parsed, secret))
}

fn luks_options(options: &mut KeyValues) -> Result<LuksOptions> {
    let default = LuksOptions::default();
    let cipher = options.take("cipher-alg").map_or(Ok(default.spec.cipher), |name| name.parse::<Cipher>())?;
    let mode = options.take("cipher-mode").map_or(Ok(default.spec.mode), |name| name.parse::<Mode>())?;
    let hash = options.take("hash-alg").map_or(Ok(default.hash), |name| name.parse::<Hash>())?;
    let ivgen_hash = options.take("ivgen-hash-alg");
    let ivgen = match (options.take("ivgen-alg"), ivgen_hash) {
        (None, _) => default.spec.ivgen,
        (Some(name), Some(hash)) if name == "essiv" => IvGen::Essiv(hash.parse()?),
        (Some(name), _) => name.parse()?,
    };
    let iter_time_ms = options.take_number("iter-time")?.unwrap_or(default.iter_time_ms);
    Ok(LuksOptions { spec: CipherSpec { cipher, mode, ivgen }, hash, iter_time_ms, iterations: None })
}

/// Makes the image; one that is there already loses its contents.
///
/// # Errors
/// Bad options, a missing secret, an image that others use, errors of the host.
pub fn create(request: &CreateRequest, secrets: &Secrets) -> Result<()> {
    let size = request.size;
    let parsed = FormatOptions::parse(request.format, size, request.options.clone())?;
    match parsed {
        FormatOptions::Raw(preallocation) => create_raw(request, preallocation),
        FormatOptions::Qcow2(options, secret) => {
            let secret = secret.map(|id| secrets.get(&id)).transpose()?;
            let file = new_file(&request.spec, 0)?;
            let data_file = match &options.data_file {
                Some(name) => {
                    let spec = request.spec.relative(name, None)?;
                    Some(new_file(&spec, 0)?)
                }
                None => None,
            };
            qcow2::create(&file, data_file.as_ref(), &options, secret)
        }
        FormatOptions::Luks(options, secret, preallocation) => {
            let Some(secret) = secret else {
                return Err(Error::Secret("Parameter 'key-secret' is required for cipher".into()));
            };
            let file = new_file(&request.spec, 0)?;
            super::luks::create(&file, size, &options, secrets.get(&secret)?, preallocation)
        }
    }
}

/// An empty file for a format to write into, or what a server exports.
fn new_file(spec: &ImageSpec, size: u64) -> Result<Arc<dyn Storage>> {
    match &spec.protocol {
        Protocol::File(path) => {
            let options = FileOptions { writable: true, format: true, no_flush: true, ..FileOptions::default() };
            Ok(Arc::new(FileStorage::create(path, size, options)?))
        }
        Protocol::Nbd(_) => {
            let mode = OpenMode { cache: Cache::Writeback, ..OpenMode::WRITE };
            Ok(open_protocol(&spec.protocol, mode, true)?.0)
        }
    }
}

fn create_raw(request: &CreateRequest, preallocation: Preallocation) -> Result<()> {
    let file = match &request.spec.protocol {
        Protocol::File(path) => {
            let options = FileOptions { writable: true, no_flush: true, ..FileOptions::default() };
            FileStorage::create(path, request.size, options)?
        }
        Protocol::Nbd(address) => {
            return Err(Error::Unsupported(format!("{address}: an export can't be created, use convert -n")));
        }
    };
    match preallocation {
        Preallocation::Falloc => file.allocate(0, request.size),
        Preallocation::Full => {
            let zeros = vec![0; 1 << 20];
            let mut done = 0;
            while done < request.size {
                let now = (request.size - done).min(zeros.len() as u64);
                file.write_at(&zeros[..now as usize], done)?;
                done += now;
            }
            file.flush()
        }
        Preallocation::Off | Preallocation::Metadata => Ok(()),
    }
}
