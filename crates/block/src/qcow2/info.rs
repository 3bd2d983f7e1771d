//! What an open image says of itself, and changes to that: header fields, backing file name, version, key slots.

use super::geometry::corrupt;
use super::header::{AUTOCLEAR_DATA_RAW, COMPAT_LAZY, CryptMethod, INCOMPAT_CORRUPT, INCOMPAT_EXTENDED_L2, RawHeader};
use super::image::{Alone, Inner, Qcow2};
use super::open::{Header, luks_bytes};
use super::options::{AmendOptions, Compat, Compression, KeySlotChange};
use super::report::{EncryptionInfo, Info};
use crate::crypto::{Luks, Secret};
use crate::{Error, Result};

impl Inner {
    /// Stores a changed header, after everything before it.
    fn change_header(&self, alone: &Alone<'_>, change: impl FnOnce(&mut RawHeader)) -> Result<()> {
        self.settle(&alone.committing)?;
        let mut state = self.state();
        let mut header = state.stored_header.clone();
        change(&mut header);
        header.to_bytes()?;
        state.header = header.clone();
        self.store_header(&mut state, header)?;
        self.file.flush()
    }

    fn check_downgrade(&self) -> Result<()> {
        let state = self.state();
        let refuse = |what: &str| Err(Error::Unsupported(format!("Cannot downgrade an image with {what}")));
        if state.header.incompatible & INCOMPAT_EXTENDED_L2 != 0 {
            return refuse("extended L2 entries");
        }
        if state.header.refcount_order != 4 {
            return refuse("refcount entry width other than 16 bits");
        }
        if state.header.has_data_file() {
            return refuse("a data file");
        }
        if self.compression != Compression::Zlib {
            return refuse("a compression type other than zlib");
        }
        if !state.bitmaps.is_empty() {
            return refuse("bitmaps");
        }
        drop(state);
        self.check_no_zero_clusters()
    }

    /// Version 2 has no zero clusters: they would show the backing file, or old data.
    fn check_no_zero_clusters(&self) -> Result<()> {
        let mut state = self.state();
        let snapshots = state.snapshots.clone();
        let mut tables = vec![state.l1.clone()];
        for snapshot in &snapshots {
            tables.push(self.snapshot_l1(snapshot)?);
        }
        for host in tables.iter().flatten().map(|entry| entry & super::geometry::OFFSET_MASK) {
            if host == 0 {
                continue;
            }
            let geometry = state.geometry;
            let table = state.l2.load(&self.file, host)?;
            let zeros = (0..geometry.l2_entries() as usize)
                .any(|index| super::entry::Cluster::read(&geometry, table, index).zero != 0);
            if zeros {
                return Err(Error::Unsupported(
                    "Cannot downgrade an image with zero clusters; convert it instead".into(),
                ));
            }
        }
        Ok(())
    }

    fn change_key_slot(&self, change: &KeySlotChange, secret: Option<&Secret>) -> Result<()> {
        let header = self.state().stored_header.clone();
        if header.crypt != CryptMethod::Luks {
            return Err(Error::Unsupported("only LUKS encrypted images have key slots".into()));
        }
        let mut luks = Luks::parse(&luks_bytes(&self.file, &header)?)?;
        let (offset, _) = header.luks.ok_or_else(|| corrupt("LUKS encryption without its header"))?;
        let read = |bytes: &mut [u8], at: u64| self.file.read(bytes, offset.saturating_add(at));
        let write = |bytes: &[u8], at: u64| {
            self.file.write(bytes, offset.saturating_add(at))?;
            self.file.flush()
        };
        match change {
            KeySlotChange::Add { new_secret, slot, iter_time_ms } => {
                let old = secret.ok_or_else(|| Error::Secret("the image's own passphrase is needed".into()))?;
                luks.add_secret(old, new_secret, (*slot, *iter_time_ms), read, write)
            }
            KeySlotChange::EraseSlot { slot, force } => luks.erase_slot(*slot, *force, write),
            KeySlotChange::EraseSecret { old_secret, force } => luks.erase_secret(old_secret, *force, read, write),
        }
    }
}

impl Qcow2 {
    /// What the header says.
    pub fn header(&self) -> Header {
        Header::of(&self.0.state().header)
    }

    /// What `qemu-img info` prints as format specific.
    ///
    /// # Errors
    /// A damaged LUKS header, errors of the file.
    pub fn info(&self) -> Result<Info> {
        let (header, bitmaps) = {
            let state = self.0.state();
            (state.header.clone(), state.bitmaps.iter().map(super::bitmap::Bitmap::info).collect::<Vec<_>>())
        };
        let v3 = |value: bool| (header.version >= 3).then_some(value);
        let encrypt = match header.crypt {
            CryptMethod::None => None,
            CryptMethod::Aes => Some(EncryptionInfo::Aes),
            CryptMethod::Luks => Some(EncryptionInfo::Luks(Luks::parse(&luks_bytes(&self.0.file, &header)?)?.info())),
        };
        Ok(Info {
            compat: if header.version >= 3 { "1.1" } else { "0.10" }.into(),
            compression_type: if header.compression_type == 1 { "zstd" } else { "zlib" }.into(),
            lazy_refcounts: v3(header.compatible & COMPAT_LAZY != 0),
            bitmaps: (!bitmaps.is_empty()).then_some(bitmaps),
            refcount_bits: 1 << header.refcount_order,
            corrupt: v3(header.incompatible & INCOMPAT_CORRUPT != 0),
            extended_l2: v3(header.incompatible & INCOMPAT_EXTENDED_L2 != 0),
            data_file: header.data_file.clone().filter(|_| header.has_data_file()),
            data_file_raw: header.has_data_file().then(|| header.data_file_raw()),
            encrypt,
        })
    }

    /// Changes the name and the format of the backing file in the header. The storage in use stays.
    ///
    /// # Errors
    /// Names that are too long, errors of the file.
    pub fn set_backing(&self, name: Option<&str>, format: Option<&str>) -> Result<()> {
        if name.is_some_and(|name| name.len() > 1023) {
            return Err(Error::Invalid("Backing file name is too long: 1023 bytes are allowed".into()));
        }
        let alone = self.0.alone_to_write()?;
        if name.is_some() && self.0.data_file_raw {
            return Err(Error::Invalid("Cannot set backing file on image with data-file-raw=on".into()));
        }
        self.0.change_header(&alone, |header| {
            header.backing_file = name.map(Into::into);
            header.backing_format = format.filter(|_| name.is_some()).map(Into::into);
        })?;
        self.0.names_backing.store(name.is_some(), std::sync::atomic::Ordering::Release);
        Ok(())
    }

    /// Changes properties of the image. `secret` is needed to add a key slot.
    ///
    /// # Errors
    /// What can't be changed, errors of the file.
    pub fn amend(&self, options: &AmendOptions, secret: Option<&Secret>) -> Result<()> {
        let inner = &self.0;
        let alone = inner.alone_to_write()?;
        if let Some(change) = &options.key_slot {
            inner.change_key_slot(change, secret)?;
        }
        let version = inner.state().geometry.version;
        if options.compat == Some(Compat::V3) && version < 3 {
            inner.change_header(&alone, |header| header.version = 3)?;
            inner.set_version(3);
        }
        let version = inner.state().geometry.version;
        if let Some(lazy) = options.lazy_refcounts {
            if lazy && (version < 3 || options.compat == Some(Compat::V2)) {
                return Err(Error::Invalid(
                    "Lazy refcounts only supported with compatibility level 1.1 and above \
                                           (use compat=1.1 or greater)"
                        .into(),
                ));
            }
            inner.change_header(&alone, |header| {
                header.compatible = header.compatible & !COMPAT_LAZY | if lazy { COMPAT_LAZY } else { 0 };
            })?;
        }
        if let Some(bits) = options.refcount_bits.filter(|&bits| bits != 1 << inner.state().geometry.refcount_order) {
            inner.change_refcount_bits(&alone, bits)?;
        }
        if let Some(name) = &options.data_file {
            if !inner.state().header.has_data_file() {
                return Err(Error::Invalid(
                    "data-file can only be set for images that use an external data file".into(),
                ));
            }
            inner.change_header(&alone, |header| header.data_file = Some(name.clone()))?;
        }
        match options.data_file_raw {
            Some(true) if !inner.data_file_raw => {
                return Err(Error::Invalid("data-file-raw cannot be set on existing images".into()));
            }
            Some(false) if inner.data_file_raw => {
                inner.change_header(&alone, |header| header.autoclear &= !AUTOCLEAR_DATA_RAW)?;
            }
            _ => {}
        }
        if options.compat == Some(Compat::V2) && version >= 3 {
            inner.check_downgrade()?;
            inner.change_header(&alone, |header| {
                (header.version, header.compatible, header.autoclear) = (2, 0, 0);
                (header.incompatible, header.bitmaps) = (0, None);
                header.extra.clear();
            })?;
            inner.set_version(2);
        }
        Ok(())
    }
}

impl Inner {
    fn set_version(&self, version: u32) {
        let mut state = self.state();
        state.geometry.version = version;
    }
}
