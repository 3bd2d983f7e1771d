//! The tray of a CD-ROM drive: the disc in it, the lock, and what the guest hasn't been told yet.

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::DISC_SECTOR;
use crate::state;
use crate::virtio::Disk;

/// Discs with more sectors than the longest CD are DVDs.
const CD_SECTORS: u64 = 80 * 60 * 75;

/// What can be seen of a drive from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediumState {
    /// A disc is in the tray.
    pub inserted: bool,
    /// The tray is open.
    pub open: bool,
    /// The guest has locked the tray.
    pub locked: bool,
}

/// Why a disc can't be taken or put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrayError {
    /// There is no drive.
    #[error("there is no CD-ROM drive at that place")]
    NoDrive,
    /// The guest has locked it.
    #[error("the guest has locked the tray: have the disc unmounted there, or force it")]
    Locked,
}

/// What happened to the medium (MMC-3, table 71).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MediumEvent {
    Nothing = 0,
    EjectRequest = 1,
    New = 2,
    Removed = 3,
}

impl MediumEvent {
    /// All of them; the place is the number in a saved state.
    const ALL: [Self; 4] = [Self::Nothing, Self::EjectRequest, Self::New, Self::Removed];
}

/// The tray.
pub(super) struct Tray {
    disc: Option<Box<dyn Disk>>,
    open: bool,
    pub(super) locked: bool,
    /// The guest's next command is told that the medium changed.
    attention: bool,
    event: MediumEvent,
}

impl Tray {
    pub(super) fn new(disc: Option<Box<dyn Disk>>) -> Self {
        Self { disc, open: false, locked: false, attention: false, event: MediumEvent::Nothing }
    }

    pub(super) fn state(&self) -> MediumState {
        MediumState { inserted: self.disc.is_some(), open: self.open, locked: self.locked }
    }

    /// The disc, if it can be read.
    pub(super) fn disc(&mut self) -> Option<&mut dyn Disk> {
        if self.open { None } else { self.disc.as_deref_mut().map(|disc| disc as &mut dyn Disk) }
    }

    /// Sectors of the disc that can be read.
    pub(super) fn sectors(&self) -> Option<u64> {
        let disc = self.disc.as_ref().filter(|_| !self.open)?;
        Some((disc.size() / DISC_SECTOR as u64).min(u32::MAX.into()))
    }

    /// Whether the disc is a DVD; `None` without one.
    pub(super) fn is_dvd(&self) -> Option<bool> {
        self.sectors().map(|sectors| sectors > CD_SECTORS)
    }

    pub(super) fn eject(&mut self, force: bool) -> Result<Option<Box<dyn Disk>>, TrayError> {
        if self.locked && !force {
            self.event = MediumEvent::EjectRequest;
            return Err(TrayError::Locked);
        }
        self.move_to(true);
        Ok(self.disc.take())
    }

    pub(super) fn insert(&mut self, disc: Box<dyn Disk>, force: bool) -> Result<(), TrayError> {
        if self.locked && !force {
            self.event = MediumEvent::EjectRequest;
            return Err(TrayError::Locked);
        }
        self.disc = Some(disc);
        self.open = false;
        self.locked = false;
        self.attention = true;
        self.event = MediumEvent::New;
        Ok(())
    }

    /// Opens or closes the tray with what is in it.
    pub(super) fn move_to(&mut self, open: bool) {
        if self.open == open {
            return;
        }
        self.open = open;
        self.locked = false;
        self.event = match (open, self.disc.is_some()) {
            (false, true) => MediumEvent::New,
            (true, true) => MediumEvent::Removed,
            (_, false) => MediumEvent::Nothing,
        };
        self.attention = self.disc.is_some() && !open;
    }

    /// Whether the guest is still to be told that the medium changed; it is, now.
    pub(super) fn take_attention(&mut self) -> bool {
        std::mem::take(&mut self.attention)
    }

    pub(super) fn take_event(&mut self) -> MediumEvent {
        std::mem::replace(&mut self.event, MediumEvent::Nothing)
    }

    /// Bytes of the disc, in an open tray too.
    fn disc_size(&self) -> Option<u64> {
        self.disc.as_ref().map(|disc| disc.size())
    }

    pub(super) fn save(&self, into: &mut StateWriter) {
        [self.open, self.locked, self.attention].into_iter().for_each(|flag| into.bool(flag));
        into.u8(self.event as u8);
        state::save_option_u64(self.disc_size(), into);
    }

    /// The disc is the board's. Where it is another one than there was, by its size, the guest is told of a change.
    pub(super) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        for flag in [&mut self.open, &mut self.locked, &mut self.attention] {
            *flag = from.bool()?;
        }
        let event = MediumEvent::ALL.get(usize::from(from.u8()?)).copied();
        self.event = event.ok_or(LoadError::Value("a CD-ROM drive's event"))?;
        let size = self.disc_size();
        if state::load_option_u64(from)? != size {
            self.attention = size.is_some() && !self.open;
            self.event = if size.is_some() { MediumEvent::New } else { MediumEvent::Removed };
        }
        Ok(())
    }
}
