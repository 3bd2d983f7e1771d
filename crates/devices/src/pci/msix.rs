//! MSI-X (PCI 3.0, section 6.8.2): a table of messages in a window of the function, each sent as a memory write.

use std::sync::Arc;

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::ConfigSpace;
use crate::state;

/// Takes message-signalled interrupts to the CPUs.
pub trait MsiSink: Send + Sync {
    /// A write of `data` to `address`.
    fn send(&self, address: u64, data: u32);
}

const CAPABILITY: u8 = 0x11;
const MASKED: u32 = 1;
/// Offset of the pending bits in the window; the table is at its beginning.
const PENDING: u64 = 0x800;

/// The table and pending bits of one function.
pub struct Msix {
    sink: Arc<dyn MsiSink>,
    table: Vec<[u32; 4]>,
    pending: u64,
    enabled: bool,
    masked: bool,
    control: usize,
}

impl Msix {
    /// Bytes of the window that holds table and pending bits.
    pub const WINDOW: u64 = 0x1000;

    /// Adds the capability for `vectors` (1 to 64) messages, whose table is in the window `bar`.
    pub fn new(sink: Arc<dyn MsiSink>, config: &mut ConfigSpace, bar: u8, vectors: u16) -> Self {
        assert!((1..=64).contains(&vectors), "a function has 1 to 64 vectors here");
        let mut body = vec![];
        body.extend((vectors - 1).to_le_bytes());
        body.extend(u32::from(bar).to_le_bytes());
        body.extend((u32::from(bar) | PENDING as u32).to_le_bytes());
        let mut mask = [0; 10];
        mask[1] = 0xc0;
        let control = config.add_capability(CAPABILITY, &body, &mask) + 1;
        let table = vec![[0, 0, 0, MASKED]; usize::from(vectors)];
        Self { sink, table, pending: 0, enabled: false, masked: false, control }
    }

    /// Looks at the control bits again after a write to configuration space.
    pub fn config_written(&mut self, config: &ConfigSpace) {
        self.look_at_control(config);
        self.send_pending();
    }

    fn look_at_control(&mut self, config: &ConfigSpace) {
        let [control] = config.get(self.control);
        self.enabled = control & 0x80 != 0;
        self.masked = control & 0x40 != 0;
    }

    /// Whether messages take the place of INTx#.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// How many messages there are.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Sends a message, or notes it as pending while it is masked.
    pub fn notify(&mut self, vector: u16) {
        let index = usize::from(vector);
        let Some(&[low, high, data, control]) = self.table.get(index) else { return };
        if !self.enabled {
            return;
        }
        if self.masked || control & MASKED != 0 {
            self.pending |= 1 << index;
            return;
        }
        self.pending &= !(1 << index);
        self.sink.send(u64::from(high) << 32 | u64::from(low), data);
    }

    fn send_pending(&mut self) {
        if !self.enabled || self.masked {
            return;
        }
        for vector in 0..self.vectors() {
            if self.pending & 1 << vector != 0 && self.table[usize::from(vector)][3] & MASKED == 0 {
                self.notify(vector);
            }
        }
    }

    /// A guest's read in the window.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let word = |at: u64| -> u32 {
            match at {
                PENDING => self.pending as u32,
                at if at == PENDING + 4 => (self.pending >> 32) as u32,
                at => self.table.get((at / 16) as usize).map_or(0, |entry| entry[(at / 4 % 4) as usize]),
            }
        };
        match size {
            8 => u64::from(word(offset & !7)) | u64::from(word((offset & !7) + 4)) << 32,
            _ => u64::from(word(offset & !3)),
        }
    }

    /// A guest's write in the window.
    pub fn write(&mut self, offset: u64, size: u8, value: u64) {
        let mut word = |at: u64, value: u32| {
            if let Some(entry) = self.table.get_mut((at / 16) as usize).filter(|_| at < PENDING) {
                entry[(at / 4 % 4) as usize] = value;
            }
        };
        word(offset & !3, value as u32);
        if size == 8 {
            word((offset & !3) + 4, (value >> 32) as u32);
        }
        self.send_pending();
    }

    /// The state after power-on.
    pub fn reset(&mut self) {
        self.table.fill([0, 0, 0, MASKED]);
        self.pending = 0;
        self.enabled = false;
        self.masked = false;
    }
}

impl Msix {
    /// Writes the table and what is pending; the control bits are in configuration space.
    pub fn save(&self, into: &mut StateWriter) {
        into.u16(self.vectors());
        self.table.iter().flatten().for_each(|word| into.u32(*word));
        into.u64(self.pending);
    }

    /// Takes over what [`Msix::save`] wrote; `config` is what was loaded before. No message is sent.
    ///
    /// # Errors
    /// A table of another size, or pending bits beyond it.
    pub fn load(&mut self, config: &ConfigSpace, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        state::check(from.u16()? == self.vectors(), "the number of MSI-X messages")?;
        for word in self.table.iter_mut().flatten() {
            *word = from.u32()?;
        }
        self.pending = from.u64()?;
        state::check(self.pending.checked_shr(self.table.len() as u32).unwrap_or(0) == 0, "pending MSI-X messages")?;
        self.look_at_control(config);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::pci::Identity;

    #[derive(Default)]
    struct Sent(Mutex<Vec<(u64, u32)>>);

    impl MsiSink for Sent {
        fn send(&self, address: u64, data: u32) {
            self.0.lock().unwrap().push((address, data));
        }
    }

    #[test]
    fn masked_messages_wait_and_are_sent_once() {
        let identity = Identity { vendor: 1, device: 2, revision: 0, class: 0, subsystem_vendor: 0, subsystem: 0 };
        let mut config = ConfigSpace::new(identity);
        let sent = Arc::new(Sent::default());
        let mut msix = Msix::new(sent.clone(), &mut config, 1, 2);
        config.write(0x42, 2, 0x8000);
        msix.config_written(&config);
        assert!(msix.is_enabled());
        msix.write(16, 4, 0xfee0_0000);
        msix.write(24, 8, 1 << 32 | 0x41);
        msix.notify(1);
        msix.notify(1);
        assert_eq!(msix.read(0x800, 4), 2);
        assert!(sent.0.lock().unwrap().is_empty());
        msix.write(28, 4, 0);
        assert_eq!(*sent.0.lock().unwrap(), [(0xfee0_0000, 0x41)]);
        msix.notify(7);
        msix.read(0xfff, 4);
    }
}
