//! Where sound goes: WAV files that a thread fills as the VM's time goes by.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ferro_devices::sound::{Ac97, Frame, Mixer, RATE};
use ferro_guest::Clock;
use ferro_hypervisor::Vm;
use tracing::warn;

use crate::bus::{Shared, lock};
use crate::description::DescriptionError;

/// Between two pieces of sound.
const PIECE: Duration = Duration::from_millis(10);
/// Between two looks at a card that doesn't play, while nobody records.
const LOOK: Duration = Duration::from_millis(50);
const HEADER: usize = 44;

/// Where the VM's sound goes; with none there is no sound card.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AudioTarget {
    /// Nowhere.
    #[default]
    None,
    /// Unheard, but for who records it by the monitor.
    Null,
    /// Into a WAV file: 48 kHz, 16 bits, stereo.
    Wav(std::path::PathBuf),
}

impl FromStr for AudioTarget {
    type Err = DescriptionError;

    /// `none`, `null`, or `wav=FILE`.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value.split_once('=').unwrap_or((value, "")) {
            ("none", "") => Ok(Self::None),
            ("null", "") => Ok(Self::Null),
            ("wav", path) if !path.is_empty() => Ok(Self::Wav(path.into())),
            _ => Err(DescriptionError { value: value.into(), problem: "sound goes to none, null or wav=FILE".into() }),
        }
    }
}

/// The form of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WaveForm {
    /// Samples a second.
    pub(crate) frequency: u32,
    /// Bits a sample: 8 or 16.
    pub(crate) bits: u16,
    /// 1 or 2.
    pub(crate) channels: u16,
}

impl Default for WaveForm {
    fn default() -> Self {
        Self { frequency: RATE, bits: 16, channels: 2 }
    }
}

impl WaveForm {
    fn bytes_per_frame(self) -> u16 {
        self.channels * (self.bits / 8)
    }

    /// The header of a file with `len` bytes of sound (RIFF WAVE, PCM).
    fn header(self, len: u32) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut set = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        let frame = self.bytes_per_frame();
        set(0, b"RIFF");
        set(4, &len.saturating_add(HEADER as u32 - 8).to_le_bytes());
        set(8, b"WAVEfmt ");
        set(16, &16_u32.to_le_bytes());
        // PCM, channels, bytes a second, bytes a frame, bits a sample.
        set(20, &1_u16.to_le_bytes());
        set(22, &self.channels.to_le_bytes());
        set(24, &self.frequency.to_le_bytes());
        set(28, &(self.frequency * u32::from(frame)).to_le_bytes());
        set(32, &frame.to_le_bytes());
        set(34, &self.bits.to_le_bytes());
        set(36, b"data");
        set(40, &len.to_le_bytes());
        bytes
    }

    /// A frame in this form.
    fn put(self, frame: Frame, into: &mut Vec<u8>) {
        let [left, right] = frame;
        let mixed = [((i32::from(left) + i32::from(right)) / 2) as i16];
        let samples: &[i16] = if self.channels == 1 { &mixed } else { &frame };
        for sample in samples {
            match self.bits {
                // Eight bits are unsigned in WAV.
                8 => into.push(((sample >> 8) as u8) ^ 0x80),
                _ => into.extend(sample.to_le_bytes()),
            }
        }
    }
}

/// A WAV file being written.
struct Wav {
    file: File,
    form: WaveForm,
    /// Bytes of sound.
    len: u32,
    /// The frame before, and where between it and the next one the file's next frame lies: 0 to 1 in units of the VM's.
    before: Frame,
    position: f64,
}

impl Wav {
    fn create(path: &Path, form: WaveForm) -> io::Result<Self> {
        let mut file = File::create(path)?;
        file.write_all(&form.header(0))?;
        Ok(Self { file, form, len: 0, before: [0; 2], position: 1.0 })
    }

    /// Adds frames; the file is whole after each call. What four gigabytes can't hold is left out.
    fn add(&mut self, frames: &[Frame]) -> io::Result<()> {
        let mut bytes = vec![];
        let step = f64::from(RATE) / f64::from(self.form.frequency);
        for &frame in frames {
            while self.position <= 1.0 {
                let between = |channel: usize| {
                    let (from, to) = (f64::from(self.before[channel]), f64::from(frame[channel]));
                    (from + (to - from) * self.position) as i16
                };
                self.form.put([between(0), between(1)], &mut bytes);
                self.position += step;
            }
            self.position -= 1.0;
            self.before = frame;
        }
        let Some(len) = self.len.checked_add(bytes.len() as u32).filter(|len| *len <= u32::MAX - HEADER as u32) else {
            return Ok(());
        };
        self.file.write_all(&bytes)?;
        self.len = len;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&self.form.header(len))?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }
}

/// A recording that is running.
struct Recording {
    name: String,
    wav: Wav,
}

#[derive(Default)]
struct Recordings {
    running: Vec<Recording>,
    thread: Option<std::thread::JoinHandle<()>>,
    ended: bool,
}

/// Lets a VM's card play, and records it. It costs nothing while there is neither a card nor a recording.
pub(crate) struct Recorder {
    vm: Arc<dyn Vm>,
    card: Option<Shared<Ac97>>,
    recordings: Mutex<Recordings>,
}

impl Recorder {
    /// A recorder without a recording.
    pub(crate) fn new(vm: Arc<dyn Vm>, card: Option<Shared<Ac97>>) -> Arc<Self> {
        Arc::new(Self { vm, card, recordings: Mutex::default() })
    }

    /// Begins a recording.
    ///
    /// # Errors
    /// A file that can't be made, or no more threads.
    pub(crate) fn start(self: &Arc<Self>, path: &Path, form: WaveForm) -> io::Result<()> {
        let wav = Wav::create(path, form)?;
        lock(&self.recordings).running.push(Recording { name: path.display().to_string(), wav });
        self.play()
    }

    /// Lets the card play from now on, if it doesn't yet.
    ///
    /// # Errors
    /// No more threads.
    pub(crate) fn play(self: &Arc<Self>) -> io::Result<()> {
        let mut recordings = lock(&self.recordings);
        if recordings.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
            let recorder = self.clone();
            recordings.thread = Some(std::thread::Builder::new().name("sound".into()).spawn(move || recorder.work())?);
        }
        Ok(())
    }

    /// Ends a recording by its place in the list. False if there is none.
    pub(crate) fn stop(&self, index: usize) -> bool {
        let mut recordings = lock(&self.recordings);
        let there = index < recordings.running.len();
        if there {
            recordings.running.remove(index);
        }
        there
    }

    /// The files that are written, their forms, and bytes of sound in them.
    pub(crate) fn list(&self) -> Vec<(String, WaveForm, u32)> {
        lock(&self.recordings).running.iter().map(|one| (one.name.clone(), one.wav.form, one.wav.len)).collect()
    }

    /// Ends all recordings, with the last piece of sound.
    pub(crate) fn end(&self) {
        let mut recordings = lock(&self.recordings);
        recordings.ended = true;
        let thread = recordings.thread.take();
        drop(recordings);
        // A panic in that thread was printed by it already.
        drop(thread.map(std::thread::JoinHandle::join));
    }

    /// Takes sound as the VM's time goes by: where there is a card until the end, else until nobody records any more.
    fn work(&self) {
        let mut mixer = Mixer::default();
        // What was played before isn't heard.
        mixer.advance(self.vm.clock().now(), None, |_| {});
        loop {
            let playing = self.card.as_ref().is_some_and(|card| lock(card).is_playing());
            let recorded = !lock(&self.recordings).running.is_empty();
            std::thread::sleep(if playing || recorded { PIECE } else { LOOK });
            let mut recordings = lock(&self.recordings);
            let frames = mixer.advance(self.vm.clock().now(), self.vm.speaker(), |frames| {
                if let Some(card) = &self.card {
                    lock(card).play(frames);
                }
            });
            recordings.running.retain_mut(|Recording { name, wav }| match wav.add(frames) {
                Ok(()) => true,
                Err(error) => {
                    warn!("cannot write the sound to {name}: {error}; it ends here");
                    false
                }
            });
            if recordings.ended || recordings.running.is_empty() && self.card.is_none() {
                recordings.running.clear();
                recordings.thread = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_after_each_piece() {
        let path = std::env::temp_dir().join(format!("ferro-wav-{}", std::process::id()));
        let mut wav = Wav::create(&path, WaveForm::default()).unwrap();
        for _ in 0..2 {
            wav.add(&[[1, 2], [-1, -2]]).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((bytes.len(), &bytes[..4], &bytes[8..12]), (44 + 16, &b"RIFF"[..], &b"WAVE"[..]));
        assert_eq!(bytes[40..52], [16, 0, 0, 0, 1, 0, 2, 0, 0xff, 0xff, 0xfe, 0xff]);
        let mono = WaveForm { frequency: RATE / 2, bits: 8, channels: 1 };
        let mut wav = Wav::create(&path, mono).unwrap();
        wav.add(&[[0x4000, 0x4000]; 480]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((bytes.len(), bytes[44 + 100]), (44 + 240, 0xc0), "half as many, one channel, unsigned");
        assert_eq!("wav=a.wav".parse(), Ok(AudioTarget::Wav("a.wav".into())));
        assert_eq!("null".parse(), Ok(AudioTarget::Null));
        assert!("alsa".parse::<AudioTarget>().is_err() && "wav".parse::<AudioTarget>().is_err());
    }
}
