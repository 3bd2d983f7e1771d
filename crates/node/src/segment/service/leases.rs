//! Leases that outlive the process and the host's restart: a file a segment, to which changes are appended. A line that a
//! crash cut off is as if it had never been: who was to get the address hadn't been told yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ferro_net::dhcp::Lease;

/// Lines beyond what is needed, after which the file is written anew.
const SPARE: usize = 4096;

/// The leases of one segment.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// As last written.
    kept: BTreeMap<Ipv4Addr, Lease>,
    lines: usize,
    /// Not on the disk yet.
    pending: Vec<u8>,
}

/// The file of a segment's leases.
fn path(folder: &Path, segment: &str) -> PathBuf {
    folder.join(format!("{segment}.leases"))
}

/// What a file has, without holding it; nothing if there is none.
pub(super) fn read(folder: &Path, segment: &str) -> io::Result<Vec<Lease>> {
    let text = match std::fs::read(path(folder, segment)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        other => other?,
    };
    let mut kept = BTreeMap::new();
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Ok(lease) = serde_json::from_slice::<Lease>(line) {
            kept.insert(lease.address, lease);
        }
    }
    Ok(kept.into_values().collect())
}

impl Journal {
    /// Opens the file, which is made if there is none, and makes it as short as it can be.
    pub(super) fn open(folder: &Path, segment: &str) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let kept = read(folder, segment)?.into_iter().map(|lease| (lease.address, lease)).collect();
        let path = path(folder, segment);
        let file = write(&path, &kept)?;
        Ok(Self { path, file, lines: kept.len(), kept, pending: vec![] })
    }

    /// What it has.
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.kept.values().cloned()
    }

    /// The last lease of an address.
    pub(super) fn leases_of(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.kept.get(&address)
    }

    /// Adds a lease, which is durable after [`Self::sync`].
    pub(super) fn add(&mut self, lease: &Lease) {
        // A lease is text and numbers.
        let _ = serde_json::to_writer(&mut self.pending, lease);
        self.pending.push(b'\n');
        self.lines += 1;
        self.kept.insert(lease.address, lease.clone());
    }

    /// Everything that was added is durable now.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.lines > self.kept.len() + SPARE {
            self.file = write(&self.path, &self.kept)?;
            self.lines = self.kept.len();
        } else {
            self.file.write_all(&self.pending)?;
            self.file.sync_data()?;
        }
        self.pending.clear();
        Ok(())
    }
}

/// Writes a file anew, in one piece, and returns it for further lines.
fn write(path: &Path, kept: &BTreeMap<Ipv4Addr, Lease>) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    for lease in kept.values() {
        serde_json::to_writer(&mut file, lease)?;
        file.write_all(b"\n")?;
    }
    file.as_file().sync_all()?;
    let file = file.persist(path)?;
    File::open(folder)?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use ferro_net::MacAddress;

    use super::*;

    fn lease(last: u8, ends: u64) -> Lease {
        let address = Ipv4Addr::new(10, 0, 0, last);
        Lease { address, mac: MacAddress([2, 0, 0, 0, 0, last]), hostname: None, ends }
    }

    #[test]
    fn they_are_found_again_without_what_a_crash_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "dmz").unwrap();
        journal.add(&lease(1, 10));
        journal.add(&lease(2, 20));
        journal.add(&lease(1, 30));
        journal.sync().unwrap();
        let file = path(folder.path(), "dmz");
        let text = std::fs::read(&file).unwrap();
        std::fs::write(&file, [text.as_slice(), b"{\"address\":\"10.0.0.9\",\"mac"].concat()).unwrap();
        assert_eq!(read(folder.path(), "dmz").unwrap(), [lease(1, 30), lease(2, 20)]);
        let journal = Journal::open(folder.path(), "dmz").unwrap();
        assert_eq!(journal.leases().count(), 2);
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2, "only what counts is left");
    }

    #[test]
    fn the_file_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(folder.path(), "dmz").unwrap();
        for turn in 0..5000 {
            journal.add(&lease(1, turn));
            if turn % 500 == 499 {
                journal.sync().unwrap();
            }
        }
        let text = std::fs::read_to_string(path(folder.path(), "dmz")).unwrap();
        assert!(text.lines().count() < 1000);
        assert_eq!(read(folder.path(), "dmz").unwrap(), [lease(1, 4999)]);
    }
}
