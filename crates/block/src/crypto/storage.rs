//! QEMU's standalone `luks` image format: a LUKS header and the encrypted disk behind it, over any storage. Not LUKS
//! within qcow2, and no device mapper.

use std::io::{IoSlice, IoSliceMut};
use std::sync::{Arc, PoisonError, RwLock};

use super::sector::SectorCipher;
use super::{Luks, LuksInfo, LuksOptions, Secret};
use crate::storage::check_range;
use crate::{Error, Extent, ExtentKind, Limits, Result, Storage, WriteFlags, ZeroFlags};

const SECTOR: u64 = 512;
/// How many literal zeros are encrypted at once, in bytes.
const ZERO_STEP: u64 = 1 << 20;

/// An encrypted disk.
pub struct LuksStorage {
    file: Arc<dyn Storage>,
    luks: Luks,
    cipher: SectorCipher,
    read_only: bool,
    /// Held for itself by writes that have to read part of a sector first.
    sectors: RwLock<()>,
}

impl LuksStorage {
    /// Makes a volume with a disk of `size` bytes, rounded up to whole sectors, in `file`, whatever was there before.
    ///
    /// # Errors
    /// Combinations of algorithms that aren't possible, errors of the file.
    pub fn create(file: Arc<dyn Storage>, size: u64, options: &LuksOptions, secret: &Secret) -> Result<Self> {
        let header = Luks::new_len(options);
        let total = header.checked_add(size.next_multiple_of(SECTOR)).filter(|&total| total <= i64::MAX as u64);
        let total = total.ok_or_else(|| Error::Invalid("Image size is too large".into()))?;
        match file.set_size(total) {
            Err(Error::Unsupported(_)) if file.size() >= total => {}
            other => other?,
        }
        let (luks, cipher) = Luks::create(options, secret, |bytes, at| file.write_at(bytes, at))?;
        file.flush()?;
        Ok(Self { file, luks, cipher, read_only: false, sectors: RwLock::default() })
    }

    /// Opens a volume; without the secret, only to ask what the header says.
    ///
    /// # Errors
    /// What isn't a LUKS volume, a wrong passphrase, errors of the file.
    pub fn open(file: Arc<dyn Storage>, secret: Option<&Secret>, read_only: bool) -> Result<Self> {
        let luks = Self::probe(&*file)?;
        let size = file.size();
        let read = |bytes: &mut [u8], at: u64| {
            check_range(at, bytes.len() as u64, size)?;
            file.read_at(bytes, at)
        };
        let cipher = secret.map_or_else(|| Ok(SectorCipher::locked()), |secret| luks.unlock(secret, read))?;
        if luks.payload_offset() > size {
            return Err(Error::Corrupt { format: "luks", problem: "the volume ends before its payload".into() });
        }
        Ok(Self { file, luks, cipher, read_only, sectors: RwLock::default() })
    }

    /// Reads the header, which needs no passphrase.
    ///
    /// # Errors
    /// What isn't a LUKS volume, errors of the file.
    pub fn probe(file: &dyn Storage) -> Result<Luks> {
        let mut bytes = vec![0; Luks::HEADER_LEN.min(usize::try_from(file.size()).unwrap_or(usize::MAX))];
        file.read_at(&mut bytes, 0)?;
        Luks::parse(&bytes)
    }

    /// What `qemu-img info` says of the volume.
    pub fn info(&self) -> LuksInfo {
        self.luks.info()
    }

    fn payload(&self) -> u64 {
        self.luks.payload_offset()
    }

    /// Whole sectors, decrypted.
    fn read_sectors(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        // The last sector may be cut.
        let there = len.min(self.file.size().saturating_sub(self.payload() + offset)) as usize;
        self.file.read_at(&mut bytes[..there], self.payload() + offset)?;
        self.cipher.decrypt(&mut bytes, offset)?;
        Ok(bytes)
    }
}

impl Storage for LuksStorage {
    fn size(&self) -> u64 {
        self.file.size().saturating_sub(self.payload()) & !(SECTOR - 1)
    }

    fn is_read_only(&self) -> bool {
        self.read_only || self.file.is_read_only()
    }

    fn limits(&self) -> Limits {
        self.file.limits()
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        check_range(offset, len, self.size())?;
        if let ([buffer], true) = (&mut *buffers, offset.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR)) {
            self.file.read_at(buffer, self.payload() + offset)?;
            return self.cipher.decrypt(buffer, offset);
        }
        let before = offset % SECTOR;
        let bytes = self.read_sectors(offset - before, (before + len).next_multiple_of(SECTOR))?;
        let mut rest = &bytes[before as usize..];
        for buffer in buffers {
            let (now, later) = rest.split_at(buffer.len());
            buffer.copy_from_slice(now);
            rest = later;
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::ReadOnly("the LUKS volume".into()));
        }
        let len: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        check_range(offset, len, self.size())?;
        let (before, after) = (offset % SECTOR, (offset + len) % SECTOR);
        let whole = before == 0 && after == 0;
        let _shared = whole.then(|| self.sectors.read().unwrap_or_else(PoisonError::into_inner));
        let _alone = (!whole).then(|| self.sectors.write().unwrap_or_else(PoisonError::into_inner));
        let mut bytes = Vec::with_capacity((len + 2 * SECTOR) as usize);
        if before != 0 {
            bytes = self.read_sectors(offset - before, SECTOR)?;
            bytes.truncate(before as usize);
        }
        buffers.iter().for_each(|buffer| bytes.extend_from_slice(buffer));
        if after != 0 {
            let last = self.read_sectors(offset + len - after, SECTOR)?;
            bytes.extend_from_slice(&last[after as usize..]);
        }
        self.cipher.encrypt(&mut bytes, offset - before)?;
        self.file.write_vectored_at(&[IoSlice::new(&bytes)], self.payload() + offset - before, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        if flags.no_fallback {
            return Err(Error::Unsupported("zeros have to be encrypted like anything else".into()));
        }
        check_range(offset, len, self.size())?;
        let zeros = vec![0; len.min(ZERO_STEP) as usize];
        let mut at = offset;
        while at < offset + len {
            let count = (offset + len - at).min(ZERO_STEP) as usize;
            self.write_vectored_at(&[IoSlice::new(&zeros[..count])], at, WriteFlags { fua: flags.fua })?;
            at += count as u64;
        }
        Ok(())
    }

    /// Does nothing: what the host reads as zeros after a discard would decrypt to noise.
    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        check_range(offset, len, self.size())
    }

    fn flush(&self) -> Result<()> {
        self.file.flush()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size())?;
        Ok(Extent { len, kind: ExtentKind::Data, file_offset: None, depth: 0 })
    }

    fn set_size(&self, size: u64) -> Result<()> {
        if self.is_read_only() {
            return Err(Error::ReadOnly("the LUKS volume".into()));
        }
        let old = self.size();
        self.file.set_size(self.payload() + size.next_multiple_of(SECTOR))?;
        if size > old { self.write_zeroes(old, self.size() - old, ZeroFlags::default()) } else { Ok(()) }
    }
}
