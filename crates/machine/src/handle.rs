//! What others reach of a VM while it runs: its screen, keyboard and mouse, its CD-ROM drives, and its end. A monitor, a VNC server and tests
//! work through it.

use std::sync::{Arc, Mutex, Weak};

use ferro_block::Storage;
use ferro_devices::i8042::I8042;
use ferro_devices::ide::{IdeController, MediumState, Position, TrayError};
use ferro_devices::ps2::{Buttons, Key};
use ferro_devices::vga::{Rect, Surface, Vga};
use ferro_devices::virtio::{Tablet, VirtioPci};

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
    pub(crate) tablet: Option<Shared<VirtioPci<Tablet>>>,
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

    /// Whether the VM has a tablet whose driver is up: [`Handle::point`] then works, and nobody in the guest may look at the
    /// mouse.
    pub fn pointer_is_absolute(&self) -> bool {
        self.tablet.as_ref().is_some_and(|tablet| lock(tablet).is_running())
    }

    /// Whether the VM has a tablet, with a driver or without.
    pub fn has_tablet(&self) -> bool {
        self.tablet.is_some()
    }

    /// The tablet's pointer goes to a position (0 to [`ferro_devices::virtio::TABLET_MAX`], from the left and from the top),
    /// the wheel towards its user, with these buttons down. Returns whether there was a tablet to do it.
    pub fn point(&self, at: (u16, u16), wheel: i32, buttons: Buttons) -> bool {
        self.tablet.as_ref().is_some_and(|tablet| {
            lock(tablet).act(|tablet, queues, memory| tablet.point(at, wheel, buttons, queues, memory)).is_some()
        })
    }

    /// Where the tablet's pointer was put last.
    pub fn pointer(&self) -> Option<(u16, u16)> {
        self.tablet.as_ref().map(|tablet| lock(tablet).device().position())
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
    drawn: Arc<Mutex<Drawn>>,
}

/// The picture as of the last update.
#[derive(Default)]
struct Drawn {
    surface: Surface,
    followers: Vec<Weak<Mutex<Vec<Rect>>>>,
}

/// Somebody who wants to know all that changes, however many others look at the screen.
#[derive(Clone, Default)]
pub(crate) struct Follower(Arc<Mutex<Vec<Rect>>>);

impl Follower {
    /// More changes than that are joined into one.
    const CHANGES: usize = 256;

    /// What changed since this was last asked.
    pub(crate) fn take(&self) -> Vec<Rect> {
        std::mem::take(&mut *lock(&self.0))
    }

    /// Whether something changed since then.
    pub(crate) fn has_changes(&self) -> bool {
        !lock(&self.0).is_empty()
    }

    fn add(changes: &mut Vec<Rect>, new: &[Rect]) {
        changes.extend_from_slice(new);
        if changes.len() > Self::CHANGES {
            let bounds = changes.drain(..).reduce(|a, b| {
                let (x, y) = (a.x.min(b.x), a.y.min(b.y));
                let (right, bottom) = ((a.x + a.width).max(b.x + b.width), (a.y + a.height).max(b.y + b.height));
                Rect { x, y, width: right - x, height: bottom - y }
            });
            changes.extend(bounds);
        }
    }
}

impl Screen {
    pub(crate) fn new(vga: Shared<Vga>) -> Self {
        Self { vga, drawn: Arc::default() }
    }

    /// Brings the picture up to date and returns what changed since the last call, of whoever. Costs next to nothing while
    /// nothing changes.
    pub fn update(&self) -> Vec<Rect> {
        let mut drawn = lock(&self.drawn);
        let changes = lock(&self.vga).update(&mut drawn.surface);
        if !changes.is_empty() {
            drawn.followers.retain(|follower| {
                follower.upgrade().is_some_and(|follower| {
                    Follower::add(&mut lock(&follower), &changes);
                    true
                })
            });
        }
        changes
    }

    /// Lets somebody know of all changes from now on.
    pub(crate) fn follow(&self) -> Follower {
        let follower = Follower::default();
        lock(&self.drawn).followers.push(Arc::downgrade(&follower.0));
        follower
    }

    /// Does something with the picture as of the last update.
    pub fn with_picture<T>(&self, act: impl FnOnce(&Surface) -> T) -> T {
        act(&lock(&self.drawn).surface)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_follower_that_sleeps_are_joined() {
        let mut changes = vec![];
        for at in 0..1000 {
            Follower::add(&mut changes, &[Rect { x: at, y: 7, width: 1, height: 2 }]);
            assert!(changes.len() <= Follower::CHANGES);
        }
        assert_eq!(changes[0].x, 0);
        assert!(changes.iter().any(|rect| rect.x + rect.width == 1000));
    }
}
