//! The durable memory of what was made on this host, so that just that is unmade: one JSON file in a directory that a
//! restart of the host clears, as it clears what the file tells of. Only one process at a time holds it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::plan::Made;
use super::{Error, Result};

const FILE: &str = "segments.json";
const LOCK: &str = "segments.lock";

/// The memory, held until dropped.
#[derive(Debug)]
pub(super) struct State {
    pub(super) folder: PathBuf,
    /// What was made, in that order.
    pub(super) made: Vec<Made>,
    /// Locked while this lives.
    _lock: File,
}

impl State {
    /// Takes hold of the memory in `folder`, which is made if it isn't there.
    ///
    /// # Errors
    /// A folder or file that can't be used, a file that isn't ours, another process that holds it.
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let wrong = |error| Error::host(format!("use the state directory {}", folder.display()), error);
        std::fs::create_dir_all(folder).map_err(wrong)?;
        let lock = File::options().create(true).truncate(false).write(true).open(folder.join(LOCK)).map_err(wrong)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Busy(folder.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(wrong(error)),
        }
        let made = recall(folder)?;
        Ok(Self { folder: folder.to_owned(), made, _lock: lock })
    }

    /// Writes the memory: afterwards it outlives a crash.
    ///
    /// # Errors
    /// The file can't be written; the former one is still there then.
    pub(super) fn save(&self) -> Result<()> {
        let save = || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            serde_json::to_writer_pretty(&mut file, &self.made)?;
            // Everybody may know which segments there are.
            file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(self.folder.join(FILE))?;
            File::open(&self.folder)?.sync_all()
        };
        save().map_err(|error| Error::host(format!("write {}", self.folder.join(FILE).display()), error))
    }
}

/// What the memory in `folder` tells, without holding it.
///
/// # Errors
/// A file that can't be read or isn't ours.
pub(super) fn recall(folder: &Path) -> Result<Vec<Made>> {
    let path = folder.join(FILE);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| Error::Memory { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(Error::host(format!("read {}", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Thing;
    use super::*;

    #[test]
    fn it_is_found_again_and_held_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = State::open(folder.path()).unwrap();
        assert!(state.made.is_empty());
        state.made.push(Made { thing: Thing::Bridge { name: "br0".into() }, listing: String::new() });
        state.save().unwrap();
        assert!(matches!(State::open(folder.path()), Err(Error::Busy(_))));
        let made = state.made.clone();
        drop(state);
        assert_eq!(State::open(folder.path()).unwrap().made, made);
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "[{").unwrap();
        let complaint = State::open(folder.path()).unwrap_err().to_string();
        assert!(complaint.contains(FILE), "{complaint}");
    }
}
