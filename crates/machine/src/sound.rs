//! Where sound goes: a WAV file that a thread fills as the VM's time goes by.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferro_devices::sound::{Ac97, Frame, Mixer, RATE};
use ferro_guest::Clock;
use ferro_hypervisor::Vm;
use tracing::warn;

use crate::bus::{Shared, lock};
use crate::description::DescriptionError;

/// Between two pieces of sound.
const PIECE: Duration = Duration::from_millis(10);
const HEADER: usize = 44;

/// Where the VM's sound goes; without a place to go to there is no sound card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AudioTarget {
    /// Nowhere.
    #[default]
    None,
    /// Into a WAV file: 48 kHz, 16 bits, stereo.
    Wav(std::path::PathBuf),
}

impl FromStr for AudioTarget {
    type Err = DescriptionError;

    /// `none`, or `wav=FILE`.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value.split_once('=').unwrap_or((value, "")) {
            ("none", "") => Ok(Self::None),
            ("wav", path) if !path.is_empty() => Ok(Self::Wav(path.into())),
            _ => Err(DescriptionError { value: value.into(), problem: "sound goes to none or wav=FILE".into() }),
        }
    }
}

/// A WAV file being written.
struct Wav {
    file: File,
    /// Bytes of sound.
    len: u32,
}

/// The header of a file with `len` bytes of sound (RIFF WAVE, PCM).
fn header(len: u32) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let mut set = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
    set(0, b"RIFF");
    set(4, &len.saturating_add(HEADER as u32 - 8).to_le_bytes());
    set(8, b"WAVEfmt ");
    set(16, &16_u32.to_le_bytes());
    // PCM, two channels, bytes a second, bytes a frame, bits a sample.
    set(20, &[1, 0, 2, 0]);
    set(24, &RATE.to_le_bytes());
    set(28, &(RATE * 4).to_le_bytes());
    set(32, &[4, 0, 16, 0]);
    set(36, b"data");
    set(40, &len.to_le_bytes());
    bytes
}

impl Wav {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&header(0))?;
        Ok(Self { file, len: 0 })
    }

    /// Adds frames; the file is whole after each call. What four gigabytes can't hold is left out.
    fn add(&mut self, frames: &[Frame]) -> io::Result<()> {
        let bytes: Vec<u8> = frames.iter().flatten().flat_map(|sample| sample.to_le_bytes()).collect();
        let Some(len) = self.len.checked_add(bytes.len() as u32).filter(|len| *len <= u32::MAX - HEADER as u32) else {
            return Ok(());
        };
        self.file.write_all(&bytes)?;
        self.len = len;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header(len))?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }
}

/// Ends the sound when it is dropped, with the last piece of it.
pub(crate) struct Sound {
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Sound {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

/// Begins to take the sound of a VM.
///
/// # Errors
/// A file that can't be made, or no more threads.
pub(crate) fn record(path: &Path, vm: Arc<dyn Vm>, card: Shared<Ac97>) -> io::Result<Sound> {
    let mut wav = Wav::create(path)?;
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    let name = path.display().to_string();
    let work = move || {
        let mut mixer = Mixer::default();
        loop {
            let last = told.load(Ordering::Acquire);
            let frames = mixer.advance(vm.clock().now(), vm.speaker(), |frames| lock(&card).play(frames));
            if !frames.is_empty()
                && let Err(error) = wav.add(frames)
            {
                warn!("cannot write the sound to {name}: {error}; it ends here");
                return;
            }
            if last {
                return;
            }
            std::thread::sleep(PIECE);
        }
    };
    let thread = Some(std::thread::Builder::new().name("sound".into()).spawn(work)?);
    Ok(Sound { ended, thread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_after_each_piece() {
        let path = std::env::temp_dir().join(format!("ferro-wav-{}", std::process::id()));
        let mut wav = Wav::create(&path).unwrap();
        for _ in 0..2 {
            wav.add(&[[1, 2], [-1, -2]]).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..4], &bytes[8..12]), (44 + 16, &b"RIFF"[..], &b"WAVE"[..]));
        assert_eq!(bytes[40..52], [16, 0, 0, 0, 1, 0, 2, 0, 0xff, 0xff, 0xfe, 0xff]);
        assert_eq!("wav=a.wav".parse(), Ok(AudioTarget::Wav("a.wav".into())));
        assert!("alsa".parse::<AudioTarget>().is_err() && "wav".parse::<AudioTarget>().is_err());
    }
}
