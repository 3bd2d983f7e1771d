//! What the tests of the qcow2 engine share: storage over a temporary file, storage that fails on request, a source of
//! reproducible random numbers, and qemu-img beside us. Not tests.

#![allow(dead_code, unreachable_pub)] // Each test uses a part of it.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ferro_block::qcow2::{CreateOptions, Files, OpenOptions, Qcow2, create};
use ferro_block::{Error, Extent, ExtentKind, MemoryStorage, Result, Storage, WriteFlags, ZeroFlags, check_range};

/// A file, without locks or direct I/O.
pub struct TestFile(File);

impl TestFile {
    pub fn create(path: &Path) -> Arc<dyn Storage> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        Arc::new(Self(file))
    }

    pub fn open(path: &Path) -> Arc<dyn Storage> {
        Arc::new(Self(File::options().read(true).write(true).open(path).unwrap()))
    }
}

fn failed(operation: &str) -> impl FnOnce(io::Error) -> Error + use<'_> {
    move |source| Error::Io { operation: operation.into(), source }
}

impl Storage for TestFile {
    fn size(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], mut offset: u64) -> Result<()> {
        for buffer in buffers {
            self.0.read_exact_at(buffer, offset).map_err(failed("read"))?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], mut offset: u64, _flags: WriteFlags) -> Result<()> {
        for buffer in buffers {
            self.0.write_all_at(buffer, offset).map_err(failed("write"))?;
            offset += buffer.len() as u64;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _flags: ZeroFlags) -> Result<()> {
        self.0.write_all_at(&vec![0; len as usize], offset).map_err(failed("write zeros"))
    }

    fn discard(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        check_range(offset, len, self.size())?;
        Ok(Extent { len, kind: ExtentKind::Data, file_offset: Some(offset), depth: 0 })
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.0.set_len(size).map_err(failed("resize"))
    }
}

/// Memory that fails every write and flush after a number of them.
pub struct Failing {
    pub memory: MemoryStorage,
    left: AtomicI64,
    kind: io::ErrorKind,
}

impl Failing {
    pub fn new(kind: io::ErrorKind) -> Arc<Self> {
        Arc::new(Self { memory: MemoryStorage::new(0), left: AtomicI64::new(i64::MAX), kind })
    }

    /// Lets `count` more operations succeed.
    pub fn fail_after(&self, count: i64) {
        self.left.store(count, Ordering::Relaxed);
    }

    fn step(&self) -> Result<()> {
        if self.left.fetch_sub(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(Error::Io { operation: "write (made to fail)".into(), source: self.kind.into() })
    }
}

impl Storage for Failing {
    fn size(&self) -> u64 {
        self.memory.size()
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn read_vectored_at(&self, buffers: &mut [IoSliceMut<'_>], offset: u64) -> Result<()> {
        self.memory.read_vectored_at(buffers, offset)
    }

    fn write_vectored_at(&self, buffers: &[IoSlice<'_>], offset: u64, flags: WriteFlags) -> Result<()> {
        self.step()?;
        self.memory.write_vectored_at(buffers, offset, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        self.step()?;
        self.memory.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> Result<()> {
        self.memory.discard(offset, len)
    }

    fn flush(&self) -> Result<()> {
        self.step()
    }

    fn extent_at(&self, offset: u64, len: u64) -> Result<Extent> {
        self.memory.extent_at(offset, len)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.step()?;
        self.memory.set_size(size)
    }
}

/// Reproducible random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.any() % end.max(1)
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Bytes that compress, and differ from call to call.
    pub fn data(&mut self, len: usize) -> Vec<u8> {
        let seed = self.any();
        (0..len).map(|index| (seed >> (index / 64 % 8 * 8)) as u8 | 1).collect()
    }
}

pub fn files(file: &Arc<dyn Storage>) -> Files {
    Files { file: Arc::clone(file), data_file: None, backing: None }
}

pub fn open(file: &Arc<dyn Storage>) -> Qcow2 {
    Qcow2::open(files(file), &OpenOptions::default()).unwrap()
}

/// A new image in memory.
pub fn new_image(options: &CreateOptions) -> Arc<dyn Storage> {
    let file: Arc<dyn Storage> = Arc::new(MemoryStorage::new(0));
    create(&file, None, options, None).unwrap();
    file
}

/// All bytes.
pub fn contents(storage: &dyn Storage) -> Vec<u8> {
    let mut bytes = vec![0; storage.size() as usize];
    storage.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Whether qemu-img is there; says so if not.
pub fn has_qemu() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        println!("skipped: qemu-img is not installed");
    }
    there
}

/// Runs a command that has to succeed; returns what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let attempt = || {
        let output = Command::new(program).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output, text)
    };
    let (mut output, mut text) = attempt();
    // Where the host accounts CPU time coarsely, qemu-img can't time its own key derivation and gives up now and then.
    for _ in 0..30 {
        if output.status.success() || !text.contains("Unable to get accurate CPU usage") {
            break;
        }
        (output, text) = attempt();
    }
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}
