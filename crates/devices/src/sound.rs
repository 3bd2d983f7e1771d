//! Sound: an AC'97 controller, the PC speaker's tone, and the mixer that makes one stream of them. Where the stream goes is
//! not known here, and nothing runs by itself: whoever wants sound asks the mixer for the next piece of it.

mod ac97;
mod engine;
mod mixer;

pub use ac97::Ac97;
pub use mixer::{Mixer, SpeakerTone};

/// Samples a second of the mixed stream.
pub const RATE: u32 = 48_000;

/// A sample for the left and one for the right ear.
pub type Frame = [i16; 2];
