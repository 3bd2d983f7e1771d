//! Small records that have to outlive a crash: one JSON file, replaced whole.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A record can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The host refused.
    #[error("cannot {1} {path}: {2}", path = .0.display())]
    File(PathBuf, &'static str, #[source] io::Error),
    /// What is there is none of ours.
    #[error("{path} is damaged: {1}", path = .0.display())]
    Damaged(PathBuf, #[source] serde_json::Error),
}

/// What the file holds, or the default if it isn't there.
pub(crate) fn load<T: DeserializeOwned + Default>(path: &Path) -> Result<T, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged(path.into(), error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(StoreError::File(path.into(), "read", error)),
    }
}

/// Replaces the file, durably.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| StoreError::File(path.into(), "write", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_found_again_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("record.json");
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), Vec::<u32>::new());
        save(&path, &vec![1u32, 2]).unwrap();
        assert_eq!(load::<Vec<u32>>(&path).unwrap(), [1, 2]);
        std::fs::write(&path, "[1,").unwrap();
        assert!(load::<Vec<u32>>(&path).unwrap_err().to_string().contains("damaged"));
    }
}
