//! The port to which firmware writes what it does (0x402 on emulators): takes the text line by line.

use ferro_guest::{BusDevice, LoadError, SaveState, StateReader, StateWriter};

use crate::state;

/// The port.
pub const PORT: u16 = 0x402;

/// What reading gives: by this firmware knows that somebody listens.
const READ_BACK: u64 = 0xe9;
const LINE: usize = 512;

/// Takes the lines.
pub trait DebugSink: Send {
    /// One line, without its end. Bytes that are no text are replaced.
    fn line(&mut self, text: &str);
}

/// The device.
pub struct DebugPort {
    sink: Box<dyn DebugSink>,
    line: Vec<u8>,
}

impl DebugPort {
    /// A port that sends its lines to `sink`.
    pub fn new(sink: Box<dyn DebugSink>) -> Self {
        Self { sink, line: vec![] }
    }
}

impl BusDevice for DebugPort {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        READ_BACK
    }

    fn write(&mut self, _offset: u64, _size: u8, value: u64) {
        let byte = value as u8;
        if byte != b'\n' {
            self.line.push(byte);
        }
        if byte == b'\n' || self.line.len() == LINE {
            self.sink.line(String::from_utf8_lossy(&self.line).trim_end());
            self.line.clear();
        }
    }
}

/// The guest can't see the beginning of a line that it has sent; who reads the log can.
impl SaveState for DebugPort {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.bytes(&self.line);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        let line = from.bytes()?;
        state::check(line.len() < LINE, "the debug port's line")?;
        self.line = line.to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl DebugSink for Lines {
        fn line(&mut self, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[test]
    fn text_comes_in_lines_of_bounded_length() {
        let lines = Arc::new(Mutex::new(vec![]));
        let mut port = DebugPort::new(Box::new(Lines(lines.clone())));
        assert_eq!(port.read(0, 1), 0xe9);
        for byte in b"one\ntwo\r\n" {
            port.write(0, 1, u64::from(*byte));
        }
        (0..LINE).for_each(|_| port.write(0, 1, u64::from(b'x')));
        assert_eq!(lines.lock().unwrap()[..2], ["one", "two"]);
        assert_eq!(lines.lock().unwrap()[2].len(), LINE);
    }
}
