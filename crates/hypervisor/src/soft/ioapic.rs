//! The I/O APIC (82093AA data sheet): 24 inputs, each redirected to local APICs by an entry that the guest writes. It
//! doesn't know the local APICs: it says which message an input sends.

/// Inputs of the chip.
pub(crate) const INPUTS: usize = 24;

const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;

/// An interrupt message on its way to one or more local APICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Message {
    /// Vector, 0 to 255.
    pub(crate) vector: u8,
    /// Delivery mode as the APICs encode it: 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 6 start-up, 7 ExtINT.
    pub(crate) mode: u8,
    /// Whether `destination` is a set of logical IDs rather than one APIC ID.
    pub(crate) logical: bool,
    /// APIC ID or logical destination.
    pub(crate) destination: u32,
    /// Level-triggered: the receiver's end of interrupt is told to the sender.
    pub(crate) level: bool,
}

impl Message {
    /// What a device's write of `data` to `address` (0xFEExxxxx) means, as PCI's MSI defines it for x86.
    pub(crate) fn from_msi(address: u64, data: u32) -> Self {
        Self {
            vector: data as u8,
            mode: (data >> 8 & 7) as u8,
            logical: address & 4 != 0,
            destination: (address >> 12 & 0xff) as u32,
            level: data & 1 << 15 != 0,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct IoApic {
    pub(super) select: u8,
    pub(super) id: u8,
    pub(super) entries: [u64; INPUTS],
    pub(super) lines: u32,
    /// Edges and levels not sent because the entry was masked or its last interrupt isn't ended.
    pub(super) waiting: u32,
}

impl IoApic {
    pub(crate) fn new() -> Self {
        Self { select: 0, id: 0, entries: [MASKED; INPUTS], lines: 0, waiting: 0 }
    }

    /// Drives an input and returns the message that this sends.
    pub(crate) fn set_line(&mut self, input: usize, high: bool) -> Option<Message> {
        let bit = 1_u32 << input;
        let rises = high && self.lines & bit == 0;
        if high {
            self.lines |= bit;
        } else {
            self.lines &= !bit;
        }
        let level = self.entries[input] & LEVEL != 0;
        if level {
            if !high {
                self.waiting &= !bit;
                return None;
            }
            self.waiting |= bit;
        } else if rises {
            self.waiting |= bit;
        }
        self.send(input)
    }

    fn send(&mut self, input: usize) -> Option<Message> {
        let bit = 1_u32 << input;
        let entry = self.entries[input];
        if self.waiting & bit == 0 || entry & MASKED != 0 || entry & REMOTE_IRR != 0 {
            return None;
        }
        self.waiting &= !bit;
        let level = entry & LEVEL != 0;
        if level {
            self.entries[input] |= REMOTE_IRR;
        }
        Some(Message {
            vector: entry as u8,
            mode: (entry >> 8 & 7) as u8,
            logical: entry & 1 << 11 != 0,
            destination: (entry >> 56) as u32,
            level,
        })
    }

    /// A local APIC ended the level-triggered interrupt `vector`: returns the messages of inputs still high.
    pub(crate) fn end_of_interrupt(&mut self, vector: u8) -> impl Iterator<Item = Message> {
        let mut messages = [None; INPUTS];
        for (input, message) in messages.iter_mut().enumerate() {
            let entry = self.entries[input];
            if entry as u8 == vector && entry & REMOTE_IRR != 0 {
                self.entries[input] &= !REMOTE_IRR;
                if self.lines & 1 << input != 0 {
                    self.waiting |= 1 << input;
                    *message = self.send(input);
                }
            }
        }
        messages.into_iter().flatten()
    }

    /// Reads 32 bits at an offset into its page.
    pub(crate) fn read(&self, offset: u64) -> u32 {
        match offset {
            0x00 => u32::from(self.select),
            0x10 => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                1 => 0x20 | (INPUTS as u32 - 1) << 16,
                register @ 0x10..0x40 => {
                    let entry = self.entries[usize::from(register - 0x10) / 2];
                    if register & 1 == 0 { entry as u32 } else { (entry >> 32) as u32 }
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes 32 bits at an offset into its page; returns the message of an input that waited for it, and the vector
    /// ended by a write to the EOI register of version 0x20.
    pub(crate) fn write(&mut self, offset: u64, value: u32) -> (Option<Message>, Option<u8>) {
        match offset {
            0x00 => self.select = value as u8,
            0x10 => match self.select {
                0 => self.id = (value >> 24 & 15) as u8,
                register @ 0x10..0x40 => {
                    let input = usize::from(register - 0x10) / 2;
                    return (self.write_entry(input, register & 1 != 0, value), None);
                }
                _ => {}
            },
            0x40 => return (None, Some(value as u8)),
            _ => {}
        }
        (None, None)
    }

    fn write_entry(&mut self, input: usize, high_half: bool, value: u32) -> Option<Message> {
        let old = self.entries[input];
        let value = u64::from(value);
        let new = if high_half {
            old & 0xffff_ffff | value << 32
        } else {
            old & !0xffff_ffff | value & !READ_ONLY | old & READ_ONLY
        };
        self.entries[input] = new;
        if new & LEVEL == 0 {
            self.entries[input] &= !REMOTE_IRR;
        } else if self.lines & 1 << input != 0 {
            self.waiting |= 1 << input;
        } else {
            self.waiting &= !(1 << input);
        }
        self.send(input)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(apic: &mut IoApic, input: u8, entry: u64) -> Option<Message> {
        apic.write(0, u32::from(0x11 + input * 2));
        apic.write(0x10, (entry >> 32) as u32);
        apic.write(0, u32::from(0x10 + input * 2));
        apic.write(0x10, entry as u32).0
    }

    #[test]
    fn edges_send_one_message_each() {
        let mut apic = IoApic::new();
        program(&mut apic, 4, 0x34 | 1 << 56);
        let message = apic.set_line(4, true).unwrap();
        assert_eq!((message.vector, message.destination, message.level), (0x34, 1, false));
        assert_eq!(apic.set_line(4, true), None);
        assert_eq!(apic.set_line(4, false), None);
        assert!(apic.set_line(4, true).is_some());
    }

    #[test]
    fn levels_wait_for_the_end_of_interrupt() {
        let mut apic = IoApic::new();
        program(&mut apic, 11, 0x51 | LEVEL);
        assert!(apic.set_line(11, true).is_some());
        assert_eq!(apic.set_line(11, true), None);
        assert_eq!(apic.end_of_interrupt(0x51).count(), 1, "still high");
        apic.set_line(11, false);
        assert_eq!(apic.end_of_interrupt(0x51).count(), 0);
        assert!(apic.set_line(11, true).is_some());
    }

    #[test]
    fn a_masked_edge_is_sent_when_unmasked() {
        let mut apic = IoApic::new();
        program(&mut apic, 1, 0x31 | MASKED);
        assert_eq!(apic.set_line(1, true), None);
        assert!(program(&mut apic, 1, 0x31).is_some());
    }

    #[test]
    fn registers_read_back_without_the_read_only_bits() {
        let mut apic = IoApic::new();
        program(&mut apic, 2, 0xff00_0000_0001_ffff);
        apic.write(0, 0x14);
        assert_eq!(apic.read(0x10), 0x0001_afff);
        apic.write(0, 1);
        assert_eq!(apic.read(0x10), 0x0017_0020);
    }
}
