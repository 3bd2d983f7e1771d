//! A VM in this process, reached through its handle: its screen is read and its keys are pressed. Tests of the real binary
//! use [`super::Vm`].

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferro_block::{FileOptions, FileStorage, Storage};
use ferro_machine::{Accelerator, DiskDescription, Handle, Key, Outcome, RunError, VmDescription, run_with};

use super::PATIENCE;

/// Between two looks at the screen.
const LOOK: Duration = Duration::from_millis(20);

/// A VM with a disc in its CD-ROM drive and nothing else.
pub(crate) fn description(accelerator: Accelerator, disc: &Path) -> VmDescription {
    VmDescription {
        memory: "256M".parse().expect("a size"),
        accelerator,
        disks: vec![DiskDescription::cdrom(disc.display().to_string())],
        ..VmDescription::default()
    }
}

/// The VM.
pub(crate) struct Pc {
    pub(crate) handle: Handle,
    thread: Option<JoinHandle<Result<Outcome, RunError>>>,
}

impl Pc {
    /// Starts it with the image of its one disc.
    pub(crate) fn start(description: VmDescription, disc: &Path) -> Self {
        let image: Arc<dyn Storage> = Arc::new(FileStorage::open(disc, FileOptions::default()).expect("an image"));
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            run_with(&description, vec![image.into()], |handle| sender.send(handle).expect("the test waits for it"))
        });
        match receiver.recv() {
            Ok(handle) => Self { handle, thread: Some(thread) },
            Err(_) => panic!("{:?}", thread.join().expect("it reports its errors")),
        }
    }

    fn contents(&self) -> Vec<String> {
        self.handle.screen().expect("there is a VGA").contents().unwrap_or_default()
    }

    /// Waits until the VM is as it is to be.
    pub(crate) fn wait_until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !reached(self) {
            let screen = self.contents().join("\n");
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                let result = self.thread.take().map(JoinHandle::join);
                panic!("ended with {result:?} before there was {what}:\n{screen}");
            }
            assert!(Instant::now() < end, "hangs before there is {what}:\n{screen}");
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until a line of the text screen has this in it.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |pc| pc.contents().iter().any(|line| line.contains(text)));
    }

    /// Waits until several looks at the screen have found nothing new.
    pub(crate) fn wait_until_still(&mut self) {
        let screen = self.handle.screen().expect("there is a VGA").clone();
        let mut still = 0;
        self.wait_until("a screen that stays as it is", |_| {
            still = if screen.update().is_empty() { still + 1 } else { 0 };
            still == 10
        });
    }

    /// Presses and releases keys, by their names.
    pub(crate) fn type_keys(&mut self, names: &str) {
        let keys: Vec<Key> = names.split('-').map(|name| Key::from_name(name).expect("a key's name")).collect();
        for (key, down) in keys.iter().map(|key| (key, true)).chain(keys.iter().rev().map(|key| (key, false))) {
            self.wait_until("room in the keyboard", |pc| pc.handle.key(*key, down));
        }
    }

    /// Types text on a US keyboard.
    pub(crate) fn type_text(&mut self, text: &str) {
        for character in text.chars() {
            let name = match character {
                ' ' => "spc",
                '\n' => "ret",
                '=' => "equal",
                ';' => "semicolon",
                '_' => "shift-minus",
                '*' => "shift-8",
                '$' => "shift-4",
                '(' => "shift-9",
                ')' => "shift-0",
                '/' => "slash",
                '-' => "minus",
                '.' => "dot",
                '|' => "shift-backslash",
                capital @ 'A'..='Z' => &format!("shift-{}", capital.to_ascii_lowercase()),
                other => &other.to_string(),
            };
            self.type_keys(name);
        }
    }

    /// Ends it.
    pub(crate) fn finish(mut self) {
        self.handle.quit();
        let result = self.thread.take().map(JoinHandle::join);
        assert!(matches!(result, Some(Ok(Ok(Outcome::Quit)))), "{result:?}");
    }
}

impl Drop for Pc {
    fn drop(&mut self) {
        self.handle.quit();
        // A test that has failed says so itself.
        drop(self.thread.take().map(JoinHandle::join));
    }
}
