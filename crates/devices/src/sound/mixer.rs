//! The mixer: what the AC'97 controller plays and the PC speaker's tone, added up, as far as the VM's time has come.

use super::{Frame, RATE};

/// The speaker's amplitude: a quarter of what there is room for.
const SPEAKER: i16 = i16::MAX / 4;
/// Frames made at once at most: after a longer time than this, sound that is too late is left out.
const MOST: u64 = RATE as u64 / 2;

/// A square wave whose frequency changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SpeakerTone {
    /// Where in the wave it is, 0 to 1.
    phase: f64,
}

impl SpeakerTone {
    /// Adds the tone to these frames; `frequency` is in hertz, `None` for silence.
    pub fn add(&mut self, frequency: Option<f64>, frames: &mut [Frame]) {
        let Some(frequency) = frequency.filter(|frequency| (1.0..f64::from(RATE) / 2.0).contains(frequency)) else {
            self.phase = 0.0;
            return;
        };
        for frame in frames {
            let sample = if self.phase < 0.5 { SPEAKER } else { -SPEAKER };
            *frame = frame.map(|other| other.saturating_add(sample));
            self.phase = (self.phase + frequency / f64::from(RATE)).fract();
        }
    }
}

/// The mixer.
#[derive(Debug, Default)]
pub struct Mixer {
    tone: SpeakerTone,
    /// Frames made since the VM's beginning, those left out included.
    made: u64,
    frames: Vec<Frame>,
}

impl Mixer {
    /// The sound up to `now`, in nanoseconds of the VM's clock: `play` fills in what the sound card has, `speaker` is the
    /// tone of the PC speaker meanwhile. After a time that is earlier than the last one, because an earlier state of the VM
    /// was loaded, it goes on from there.
    pub fn advance(&mut self, now: u64, speaker: Option<f64>, play: impl FnOnce(&mut [Frame])) -> &[Frame] {
        let due = (u128::from(now) * u128::from(RATE) / 1_000_000_000) as u64;
        let count = due.saturating_sub(self.made).min(MOST);
        self.made = due;
        self.frames.clear();
        self.frames.resize(count as usize, [0; 2]);
        play(&mut self.frames);
        self.tone.add(speaker, &mut self.frames);
        &self.frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_as_time_goes_by() {
        let mut mixer = Mixer::default();
        assert_eq!(mixer.advance(10_000_000, None, |_| {}).len(), 480);
        assert_eq!(mixer.advance(10_000_000, None, |_| {}).len(), 0);
        assert_eq!(mixer.advance(9_000_000, None, |_| {}).len(), 0);
        assert_eq!(mixer.advance(10_000_000, None, |_| {}).len(), 48, "it was set back to 9 ms");
        assert_eq!(mixer.advance(60_000_000_000, None, |_| {}).len(), MOST as usize);
        assert_eq!(mixer.advance(60_001_000_000, None, |frames| frames.fill([1, 2])), [[1, 2]; 48]);
    }

    #[test]
    fn the_speaker_is_heard_at_its_frequency_beside_the_card() {
        let mut mixer = Mixer::default();
        let mut crossings = 0;
        let mut last = 0;
        for step in 1..=100 {
            let frames = mixer.advance(step * 10_000_000, Some(1000.0), |frames| frames.fill([100, 0]));
            for [left, right] in frames {
                assert_eq!(left - right, 100);
                crossings += u32::from(last < 0 && *right >= 0);
                last = *right;
            }
        }
        assert!((999..=1000).contains(&crossings), "{crossings} waves in a second");
    }
}
