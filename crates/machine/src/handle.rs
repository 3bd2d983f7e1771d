//! What others reach of a VM while it runs: its screen, keyboard and mouse, its CD-ROM drives, and its end. A monitor, a VNC server and tests
//! work through it.

use std::sync::{Arc, Mutex};

use ferro_block::Storage;
use ferro_devices::i8042::I8042;
use ferro_devices::ide::{IdeController, MediumState, Position, TrayError};
use ferro_devices::ps2::{Buttons, Key};
use ferro_devices::vga::{Rect, Surface, Vga};

use crate::bus::{Shared, lock};
use crate::control::{Control, Event};
use crate::disk::StorageDisk;

/// A running VM.
#[derive(Clone)]
pub struct Handle {
    pub(crate) control: Arc<Control>,
    pub(crate) screen: Option<Screen>,
    pub(crate) keyboard: Shared<I8042>,
    pub(crate) ide: Shared<IdeController>,
}

impl Handle {
    /// Ends the VM.
    pub fn quit(&self) {
        self.control.report(Event::Quit);
    }

    /// Resets it.
    pub fn reset(&self) {
        self.control.report(Event::ResetRequested { guest: false });
    }

    /// Its screen, if it has one.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_ref()
    }

    /// A key goes down or up; a key that is held is pressed again and again. Returns whether the keyboard had room for it:
    /// a guest that doesn't read loses keys.
    pub fn key(&self, key: Key, down: bool) -> bool {
        lock(&self.keyboard).key(key, down)
    }

    /// The mouse moves to the right and up by so many counts, its wheel towards its user, with these buttons down.
    pub fn move_mouse(&self, dx: i32, dy: i32, wheel: i32, buttons: Buttons) {
        lock(&self.keyboard).move_mouse(dx, dy, wheel, buttons);
    }

    /// The keyboard's lamps: scroll lock (bit 0), num lock (1) and caps lock (2).
    pub fn lamps(&self) -> u8 {
        lock(&self.keyboard).lamps()
    }

    /// The state of a CD-ROM drive, by its IDE unit (0 to 3).
    ///
    /// # Errors
    /// There is no drive.
    pub fn medium(&self, unit: u8) -> Result<MediumState, TrayError> {
        lock(&self.ide).medium(Position::from_index(unit))
    }

    /// Opens a drive's tray and takes the disc out; `force` does it against the guest's lock.
    ///
    /// # Errors
    /// There is no drive, or the guest has locked it.
    pub fn eject(&self, unit: u8, force: bool) -> Result<(), TrayError> {
        // The image is closed when the lock is free again.
        let disc = lock(&self.ide).eject(Position::from_index(unit), force)?;
        drop(disc);
        Ok(())
    }

    /// Puts a disc, by the name for messages and its image, into a drive, in place of the one that may be there.
    ///
    /// # Errors
    /// There is no drive, or the guest has locked it.
    pub fn insert(&self, unit: u8, name: &str, image: Arc<dyn Storage>, force: bool) -> Result<(), TrayError> {
        let disc = Box::new(StorageDisk::new(name.to_owned(), image, true));
        lock(&self.ide).insert(Position::from_index(unit), disc, force)
    }
}

/// The screen of a VM.
#[derive(Clone)]
pub struct Screen {
    vga: Shared<Vga>,
    surface: Arc<Mutex<Surface>>,
}

impl Screen {
    pub(crate) fn new(vga: Shared<Vga>) -> Self {
        Self { vga, surface: Arc::default() }
    }

    /// Brings the picture up to date and returns what changed since the last call, of whoever. Costs next to nothing while
    /// nothing changes.
    pub fn update(&self) -> Vec<Rect> {
        let mut surface = lock(&self.surface);
        lock(&self.vga).update(&mut surface)
    }

    /// Does something with the picture as of the last update.
    pub fn with_picture<T>(&self, act: impl FnOnce(&Surface) -> T) -> T {
        act(&lock(&self.surface))
    }

    /// The picture now.
    pub fn picture(&self) -> Surface {
        self.update();
        self.with_picture(Surface::clone)
    }

    /// What a text screen says, row by row; `None` in graphics modes.
    pub fn contents(&self) -> Option<Vec<String>> {
        lock(&self.vga).contents()
    }
}
