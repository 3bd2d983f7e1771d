//! The AC'97 controller of the 82801AA (8086:2415) with a codec behind it (Audio Codec '97, revision 2.1): playback of
//! 16-bit stereo at any rate. Recording gives silence: its engines have registers, but never move.

use std::sync::Arc;

use ferro_guest::{GuestMemory, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

use super::engine::Engine;
use super::{Frame, RATE};
use crate::pci::{BarKind, ConfigSpace, Identity, PciFunction};
use crate::state;

const MIXER_BAR: usize = 0;
const MASTER_BAR: usize = 1;
/// Engines: PCM in, PCM out, microphone.
const ENGINES: usize = 3;
const OUT: usize = 1;

/// Registers of the codec.
mod codec {
    pub(super) const MASTER_VOLUME: usize = 0x02;
    pub(super) const PCM_VOLUME: usize = 0x18;
    pub(super) const POWER: usize = 0x26;
    pub(super) const EXTENDED_ID: usize = 0x28;
    pub(super) const EXTENDED_CONTROL: usize = 0x2a;
    pub(super) const FRONT_RATE: usize = 0x2c;
    pub(super) const INPUT_RATE: usize = 0x32;
    pub(super) const VENDOR_1: usize = 0x7c;
    pub(super) const VENDOR_2: usize = 0x7e;
}

const MUTE: u16 = 1 << 15;
const VARIABLE_RATE: u16 = 1;
const CODEC_READY: u32 = 1 << 8;
const COLD_RESET: u32 = 2;

/// The function.
pub struct Ac97 {
    config: ConfigSpace,
    memory: Arc<GuestMemory>,
    line: Arc<dyn InterruptLine>,
    codec: [u16; 64],
    engines: [Engine; ENGINES],
    global_control: u32,
    semaphore: bool,
    /// How far the output has come between two of its frames, in parts of [`RATE`].
    phase: u32,
    frame: Frame,
}

impl Ac97 {
    /// A controller that reads `memory` and interrupts by `line`.
    pub fn new(memory: Arc<GuestMemory>, line: Arc<dyn InterruptLine>) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: 0x8086,
            device: 0x2415,
            revision: 1,
            class: 0x04_01_00,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        });
        config.set_interrupt_pin(1);
        config.add_bar(MIXER_BAR, BarKind::Io, 1024);
        config.add_bar(MASTER_BAR, BarKind::Io, 256);
        let mut device = Self {
            config,
            memory,
            line,
            codec: [0; 64],
            engines: Default::default(),
            global_control: 0,
            semaphore: false,
            phase: 0,
            frame: [0; 2],
        };
        PciFunction::reset(&mut device);
        device
    }

    fn reset_codec(&mut self) {
        self.codec = [0; 64];
        for (register, value) in [
            (codec::MASTER_VOLUME, MUTE),
            (codec::PCM_VOLUME, MUTE | 0x0808),
            (codec::POWER, 0x000f),
            (codec::EXTENDED_ID, VARIABLE_RATE),
            (codec::FRONT_RATE, RATE as u16),
            (codec::INPUT_RATE, RATE as u16),
            // Three letters and a number: that of no other codec.
            (codec::VENDOR_1, u16::from_be_bytes(*b"FE")),
            (codec::VENDOR_2, u16::from_be_bytes(*b"R\x01")),
        ] {
            self.codec[register / 2] = value;
        }
    }

    fn write_codec(&mut self, register: usize, value: u16) {
        let variable = self.codec[codec::EXTENDED_CONTROL / 2] & VARIABLE_RATE != 0;
        match register {
            0 => self.reset_codec(),
            codec::POWER => self.codec[register / 2] = value & 0xff00 | 0x0f,
            codec::EXTENDED_ID | codec::VENDOR_1 | codec::VENDOR_2 => {}
            codec::EXTENDED_CONTROL => {
                self.codec[register / 2] = value & VARIABLE_RATE;
                if value & VARIABLE_RATE == 0 {
                    self.codec[codec::FRONT_RATE / 2] = RATE as u16;
                    self.codec[codec::INPUT_RATE / 2] = RATE as u16;
                }
            }
            codec::FRONT_RATE | codec::INPUT_RATE => {
                if variable {
                    self.codec[register / 2] = value.clamp(4000, RATE as u16);
                }
            }
            _ => self.codec[register / 2] = value,
        }
    }

    /// What a volume register leaves of a sample, in parts of 65536: steps of 1.5 dB.
    fn gain(&self, register: usize) -> [i64; 2] {
        let value = self.codec[register / 2];
        if value & MUTE != 0 {
            return [0; 2];
        }
        // The PCM volume's 8 is 0 dB, the master's 0.
        let zero = if register == codec::PCM_VOLUME { 8 } else { 0 };
        [value >> 8 & 31, value & 31].map(|steps| {
            let steps = i32::from(steps) - zero;
            (65_536.0 * 10_f64.powf(f64::from(-steps) * 1.5 / 20.0)) as i64
        })
    }

    /// Plays on: fills `into` with the next frames, silence where the guest has none.
    pub fn play(&mut self, into: &mut [Frame]) {
        let rate = u32::from(self.codec[codec::FRONT_RATE / 2]);
        let (master, pcm) = (self.gain(codec::MASTER_VOLUME), self.gain(codec::PCM_VOLUME));
        let gain: [i64; 2] = std::array::from_fn(|side| (master[side] * pcm[side]) >> 16);
        for frame in into {
            self.phase += rate;
            while self.phase >= RATE {
                self.phase -= RATE;
                self.frame = self.engines[OUT].frame(&self.memory).unwrap_or([0; 2]);
            }
            *frame = std::array::from_fn(|side| {
                let scaled = (i64::from(self.frame[side]) * gain[side]) >> 16;
                scaled.clamp(i16::MIN.into(), i16::MAX.into()) as i16
            });
        }
        self.update();
    }

    /// Whether the guest has started the output, so that time has to go by for it.
    pub fn is_playing(&self) -> bool {
        self.engines[OUT].is_running()
    }

    fn update(&self) {
        self.line.set_level(self.engines.iter().any(Engine::interrupts) && !self.config.intx_disabled());
    }

    fn global_status(&self) -> u32 {
        let bits = [5, 6, 7].into_iter().zip(&self.engines);
        bits.fold(CODEC_READY, |status, (bit, engine)| status | u32::from(engine.interrupts()) << bit)
    }

    fn read_master(&mut self, offset: u64) -> u8 {
        let byte = |value: u32, at: u64| (value >> (8 * at)) as u8;
        match offset {
            0..0x2c => self.engines[(offset >> 4) as usize].read(offset & 15),
            0x2c..0x30 => byte(self.global_control, offset - 0x2c),
            0x30..0x34 => byte(self.global_status(), offset - 0x30),
            // Whoever reads it owns the codec until its next access.
            0x34 => u8::from(std::mem::replace(&mut self.semaphore, true)),
            _ => 0,
        }
    }

    fn write_master(&mut self, offset: u64, value: u8) {
        match offset {
            0..0x2c => self.engines[(offset >> 4) as usize].write(offset & 15, value, &self.memory),
            0x2c => {
                let cold = u32::from(value) & COLD_RESET;
                if cold == 0 && self.global_control & COLD_RESET != 0 {
                    self.engines.iter_mut().for_each(Engine::reset);
                    self.reset_codec();
                }
                // The warm reset is over as soon as it begins.
                self.global_control = u32::from(value) & !4;
            }
            _ => {}
        }
    }
}

impl PciFunction for Ac97 {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn read_bar(&mut self, bar: usize, offset: u64, size: u8) -> u64 {
        let size = u64::from(size);
        if bar == MASTER_BAR {
            return (0..size).fold(0, |value, at| value | u64::from(self.read_master(offset + at)) << (8 * at));
        }
        self.semaphore = false;
        (0..size).fold(0, |value, at| {
            let register = self.codec.get((offset + at) as usize / 2).copied().unwrap_or(0);
            value | u64::from(register.to_le_bytes()[(offset + at) as usize & 1]) << (8 * at)
        })
    }

    fn write_bar(&mut self, bar: usize, offset: u64, size: u8, value: u64) {
        if bar == MASTER_BAR {
            for at in 0..u64::from(size) {
                self.write_master(offset + at, (value >> (8 * at)) as u8);
            }
            self.update();
            return;
        }
        self.semaphore = false;
        if size == 2 && offset.is_multiple_of(2) && offset < 0x80 {
            self.write_codec(offset as usize, value as u16);
        }
    }

    fn reset(&mut self) {
        self.engines.iter_mut().for_each(Engine::reset);
        self.reset_codec();
        (self.global_control, self.semaphore, self.phase, self.frame) = (0, false, 0, [0; 2]);
        self.update();
    }
}

impl SaveState for Ac97 {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        self.config.save(into);
        self.codec.iter().for_each(|register| into.u16(*register));
        self.engines.iter().for_each(|engine| engine.save(into));
        into.u32(self.global_control);
        into.bool(self.semaphore);
        into.u32(self.phase);
        self.frame.iter().for_each(|sample| into.u16(*sample as u16));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.config.load(from)?;
        for register in &mut self.codec {
            *register = from.u16()?;
        }
        let rates = [codec::FRONT_RATE, codec::INPUT_RATE].map(|register| u32::from(self.codec[register / 2]));
        state::check(rates.iter().all(|rate| (4000..=RATE).contains(rate)), "the sound card's rate")?;
        self.engines.iter_mut().try_for_each(|engine| engine.load(from))?;
        self.global_control = from.u32()?;
        self.semaphore = from.bool()?;
        self.phase = from.u32()?;
        state::check(self.phase < RATE, "the sound card's phase")?;
        for sample in &mut self.frame {
            *sample = from.u16()? as i16;
        }
        self.update();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use ferro_guest::{Ram, Range, RangeKind};

    use super::*;

    #[derive(Default)]
    struct Level(AtomicBool);

    impl InterruptLine for Level {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    /// Two buffers of four frames each, at full volume.
    fn device() -> (Ac97, Arc<Level>) {
        let range = Range { start: 0, len: 0x1_0000, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(Ram::new(0x1_0000).unwrap(), &[range]).unwrap());
        memory.store(0x1000, 0x2000_u64 | 8 << 32 | 1 << 63).unwrap();
        memory.store(0x1008, 0x3000_u64 | 8 << 32).unwrap();
        for frame in 0..4 {
            memory.store(0x2000 + 4 * frame, 0x0064_00c8_u32).unwrap();
            memory.store(0x3000 + 4 * frame, 0xff9c_0001_u32).unwrap();
        }
        let line = Arc::new(Level::default());
        let mut device = Ac97::new(memory, line.clone());
        device.write_bar(MIXER_BAR, 0x02, 2, 0);
        device.write_bar(MIXER_BAR, 0x18, 2, 0x0808);
        device.write_bar(MASTER_BAR, 0x10, 4, 0x1000);
        device.write_bar(MASTER_BAR, 0x15, 1, 1);
        (device, line)
    }

    #[test]
    fn buffers_are_played_in_order_and_tell_when_they_are_done() {
        let (mut device, line) = device();
        let mut frames = [[9; 2]; 6];
        device.play(&mut frames);
        assert_eq!(frames, [[0; 2]; 6], "it doesn't run yet");
        device.write_bar(MASTER_BAR, 0x1b, 1, 0x15);
        device.play(&mut frames);
        assert_eq!(frames[..4], [[200, 100]; 4]);
        assert_eq!(frames[4..], [[1, -100]; 2]);
        assert!(line.0.load(Ordering::Relaxed));
        assert_eq!((device.read_bar(MASTER_BAR, 0x14, 1), device.read_bar(MASTER_BAR, 0x30, 4) & 0x40), (1, 0x40));
        device.write_bar(MASTER_BAR, 0x16, 2, 8);
        assert!(!line.0.load(Ordering::Relaxed));
        device.play(&mut frames);
        assert_eq!(frames[1..4], [[1, -100], [0, 0], [0, 0]], "silence after the last buffer");
        assert_eq!(device.read_bar(MASTER_BAR, 0x16, 2) & 7, 7);
    }

    #[test]
    fn other_rates_are_stretched_and_volumes_obeyed() {
        let (mut device, _) = device();
        device.write_bar(MIXER_BAR, 0x2c, 2, 24_000);
        assert_eq!(device.read_bar(MIXER_BAR, 0x2c, 2), 48_000, "variable rates are off");
        device.write_bar(MIXER_BAR, 0x2a, 2, 1);
        device.write_bar(MIXER_BAR, 0x2c, 2, 24_000);
        device.write_bar(MIXER_BAR, 0x02, 2, 0x8000);
        device.write_bar(MASTER_BAR, 0x1b, 1, 1);
        let mut frames = [[9; 2]; 3];
        device.play(&mut frames);
        assert_eq!(frames, [[0; 2]; 3], "muted, but played");
        device.write_bar(MIXER_BAR, 0x02, 2, 0x0004);
        let mut frames = [[9; 2]; 4];
        device.play(&mut frames);
        // Three frames of the first buffer are gone; four steps are 6 dB.
        assert_eq!(frames, [[200, 50]; 4]);
        assert_eq!(device.read_bar(MASTER_BAR, 0x14, 1), 0);
    }
}
