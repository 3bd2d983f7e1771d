//! Finds a format out by the first bytes. Only that: what follows may still be damaged.

use super::Format;
use crate::{Error, Result, Storage};

/// What the bytes look like; anything unknown is raw.
///
/// # Errors
/// Read errors, and a format that is known by name but not supported: taking it for raw would show its metadata as a
/// disk.
pub fn probe(file: &dyn Storage) -> Result<Format> {
    let mut head = [0; 512];
    let len = file.size().min(512) as usize;
    file.read_at(&mut head[..len], 0)?;
    let unsupported = |name: &str| Err(Error::Unsupported(format!("images of the format '{name}' are not supported")));
    match &head {
        head if head.starts_with(b"QFI\xfb\0\0\0\x01") => unsupported("qcow"),
        head if head.starts_with(b"QFI\xfb") => Ok(Format::Qcow2),
        head if head.starts_with(b"LUKS\xba\xbe\0\x01") => Ok(Format::Luks),
        head if head.starts_with(b"KDMV") || head.starts_with(b"COWD") => unsupported("vmdk"),
        head if head.starts_with(b"vhdxfile") => unsupported("vhdx"),
        head if head.starts_with(b"conectix") => unsupported("vpc"),
        head if head[64..68] == [0x7f, 0x10, 0xda, 0xbe] => unsupported("vdi"),
        _ => Ok(Format::Raw),
    }
}
