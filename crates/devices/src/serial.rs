//! A 16550A serial port (National Semiconductor's PC16550D data sheet): eight byte registers, a 16-byte receive FIFO, and
//! a transmitter that is always ready. Where its bytes go is not known here.

use std::collections::VecDeque;
use std::sync::Arc;

use ferro_guest::{BusDevice, InterruptLine, LoadError, SaveState, StateReader, StateWriter};

/// Takes the bytes that the guest sends.
pub trait SerialOutput: Send {
    /// One byte; called in the middle of a guest instruction, so it must not wait for long.
    fn send(&mut self, byte: u8);
}

const FIFO: usize = 16;

mod ier {
    pub(super) const RECEIVED: u8 = 1;
    pub(super) const TRANSMIT: u8 = 2;
    pub(super) const LINE: u8 = 4;
    pub(super) const MODEM: u8 = 8;
}

mod lsr {
    pub(super) const READY: u8 = 1;
    pub(super) const OVERRUN: u8 = 2;
    pub(super) const BREAK: u8 = 0x10;
    pub(super) const TRANSMIT_EMPTY: u8 = 0x60;
}

const LOOPBACK: u8 = 0x10;
const DIVISOR_LATCH: u8 = 0x80;

/// The chip.
pub struct Uart16550 {
    line: Arc<dyn InterruptLine>,
    output: Box<dyn SerialOutput>,
    received: VecDeque<u8>,
    interrupt_enable: u8,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    line_status: u8,
    modem_status: u8,
    scratch: u8,
    divisor: u16,
    /// The transmitter ran empty and the guest hasn't been told.
    transmit_interrupt: bool,
}

impl Uart16550 {
    /// A port whose interrupt drives `line`.
    pub fn new(line: Arc<dyn InterruptLine>, output: Box<dyn SerialOutput>) -> Self {
        Self {
            line,
            output,
            received: VecDeque::with_capacity(FIFO),
            interrupt_enable: 0,
            fifo_control: 0,
            line_control: 3,
            modem_control: 8,
            line_status: lsr::TRANSMIT_EMPTY,
            modem_status: 0xb0,
            scratch: 0,
            divisor: 12,
            transmit_interrupt: false,
        }
    }

    /// How many bytes [`Uart16550::receive`] would take now.
    pub fn room(&self) -> usize {
        if self.modem_control & LOOPBACK != 0 { 0 } else { self.capacity().saturating_sub(self.received.len()) }
    }

    fn capacity(&self) -> usize {
        if self.fifo_control & 1 != 0 { FIFO } else { 1 }
    }

    /// Bytes for the guest; those beyond [`Uart16550::room`] are lost, with the overrun that real hardware reports.
    pub fn receive(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.receive_byte(byte);
        }
        self.update();
    }

    /// A break condition on the line.
    pub fn receive_break(&mut self) {
        self.line_status |= lsr::BREAK;
        self.receive_byte(0);
        self.update();
    }

    fn receive_byte(&mut self, byte: u8) {
        if self.received.len() < self.capacity() {
            self.received.push_back(byte);
        } else {
            self.line_status |= lsr::OVERRUN;
        }
    }

    fn transmit(&mut self, byte: u8) {
        if self.modem_control & LOOPBACK != 0 {
            self.receive_byte(byte);
        } else {
            self.output.send(byte);
        }
        self.transmit_interrupt = true;
    }

    /// The identification of the interrupt of highest priority.
    fn cause(&self) -> u8 {
        let enabled = self.interrupt_enable;
        if enabled & ier::LINE != 0 && self.line_status & 0x1e != 0 {
            6
        } else if enabled & ier::RECEIVED != 0 && !self.received.is_empty() {
            let trigger = [1, 4, 8, 14][usize::from(self.fifo_control >> 6)];
            if self.fifo_control & 1 != 0 && self.received.len() < trigger { 0xc } else { 4 }
        } else if enabled & ier::TRANSMIT != 0 && self.transmit_interrupt {
            2
        } else if enabled & ier::MODEM != 0 && self.modem_status & 0xf != 0 {
            0
        } else {
            1
        }
    }

    fn update(&self) {
        self.line.set_level(self.cause() != 1);
    }

    fn read_register(&mut self, register: u64) -> u8 {
        let latch = self.line_control & DIVISOR_LATCH != 0;
        match register {
            0 if latch => self.divisor as u8,
            1 if latch => (self.divisor >> 8) as u8,
            0 => self.received.pop_front().unwrap_or(0),
            1 => self.interrupt_enable,
            2 => {
                let cause = self.cause();
                if cause == 2 {
                    self.transmit_interrupt = false;
                }
                cause | if self.fifo_control & 1 != 0 { 0xc0 } else { 0 }
            }
            3 => self.line_control,
            4 => self.modem_control,
            5 => {
                let ready = if self.received.is_empty() { 0 } else { lsr::READY };
                let status = self.line_status | ready;
                self.line_status &= !0x1e;
                status
            }
            6 if self.modem_control & LOOPBACK != 0 => {
                let control = self.modem_control;
                (control & 0xc) << 4 | (control & 2) << 3 | (control & 1) << 5
            }
            6 => {
                let status = self.modem_status;
                self.modem_status &= 0xf0;
                status
            }
            _ => self.scratch,
        }
    }

    fn write_register(&mut self, register: u64, value: u8) {
        let latch = self.line_control & DIVISOR_LATCH != 0;
        match register {
            0 if latch => self.divisor = self.divisor & 0xff00 | u16::from(value),
            1 if latch => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            0 => self.transmit(value),
            1 => {
                // Enabling the interrupt of an empty transmitter raises it at once.
                if value & !self.interrupt_enable & ier::TRANSMIT != 0 {
                    self.transmit_interrupt = true;
                }
                self.interrupt_enable = value & 0xf;
            }
            2 => {
                if value & 2 != 0 || (value ^ self.fifo_control) & 1 != 0 {
                    self.received.clear();
                }
                self.fifo_control = value & 0xc9;
            }
            3 => self.line_control = value,
            4 => self.modem_control = value & 0x1f,
            7 => self.scratch = value,
            _ => {}
        }
    }
}

impl BusDevice for Uart16550 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let value = self.read_register(offset & 7);
        self.update();
        u64::from(value)
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        self.write_register(offset & 7, value as u8);
        self.update();
    }
}

impl SaveState for Uart16550 {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        let (head, tail) = self.received.as_slices();
        into.bytes(&[head, tail].concat());
        for register in [
            self.interrupt_enable,
            self.fifo_control,
            self.line_control,
            self.modem_control,
            self.line_status,
            self.modem_status,
            self.scratch,
        ] {
            into.u8(register);
        }
        into.u16(self.divisor);
        into.bool(self.transmit_interrupt);
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        let received = from.bytes()?;
        if received.len() > FIFO {
            return Err(LoadError::Value("a serial port's FIFO"));
        }
        self.received = received.iter().copied().collect();
        for register in [
            &mut self.interrupt_enable,
            &mut self.fifo_control,
            &mut self.line_control,
            &mut self.modem_control,
            &mut self.line_status,
            &mut self.modem_status,
            &mut self.scratch,
        ] {
            *register = from.u8()?;
        }
        self.divisor = from.u16()?;
        self.transmit_interrupt = from.bool()?;
        self.update();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Default)]
    struct Level(AtomicBool);

    impl InterruptLine for Level {
        fn set_level(&self, high: bool) {
            self.0.store(high, Ordering::Relaxed);
        }
    }

    struct Sent(Arc<Mutex<Vec<u8>>>);

    impl SerialOutput for Sent {
        fn send(&mut self, byte: u8) {
            self.0.lock().unwrap().push(byte);
        }
    }

    fn port() -> (Uart16550, Arc<Level>, Arc<Mutex<Vec<u8>>>) {
        let (level, sent) = (Arc::new(Level::default()), Arc::new(Mutex::new(vec![])));
        (Uart16550::new(level.clone(), Box::new(Sent(sent.clone()))), level, sent)
    }

    #[test]
    fn the_transmitter_interrupts_when_enabled_and_after_each_byte() {
        let (mut uart, level, sent) = port();
        uart.write(1, 1, 2);
        assert!(level.0.load(Ordering::Relaxed));
        assert_eq!(uart.read(2, 1), 2);
        assert!(!level.0.load(Ordering::Relaxed));
        uart.write(0, 1, b'A'.into());
        assert!(level.0.load(Ordering::Relaxed));
        assert_eq!(*sent.lock().unwrap(), b"A");
    }

    #[test]
    fn received_bytes_interrupt_until_read_and_overruns_are_told() {
        let (mut uart, level, _) = port();
        uart.write(2, 1, 1);
        uart.write(1, 1, 5);
        assert_eq!(uart.room(), 16);
        uart.receive(&[7; 17]);
        assert_eq!(uart.read(2, 1), 0xc6);
        assert_eq!(uart.read(5, 1), 0x63);
        for _ in 0..16 {
            assert!(level.0.load(Ordering::Relaxed));
            assert_eq!(uart.read(0, 1), 7);
        }
        assert!(!level.0.load(Ordering::Relaxed));
    }

    #[test]
    fn loopback_returns_bytes_and_modem_lines() {
        let (mut uart, _, sent) = port();
        uart.write(4, 1, 0x1b);
        uart.write(0, 1, 0x42);
        assert_eq!(uart.read(0, 1), 0x42);
        assert_eq!(uart.read(6, 1), 0xb0 & 0xf0 & !0x20 | 0x20 | 0x10 & 0x10);
        assert!(sent.lock().unwrap().is_empty());
    }

    #[test]
    fn the_divisor_latch_hides_the_data_register() {
        let (mut uart, _, sent) = port();
        uart.write(3, 1, 0x83);
        uart.write(0, 1, 1);
        uart.write(1, 1, 0);
        assert_eq!((uart.read(0, 1), uart.read(1, 1)), (1, 0));
        uart.write(3, 1, 3);
        assert!(sent.lock().unwrap().is_empty());
    }

    #[test]
    fn saved_state_reads_back() {
        let (mut uart, _, _) = port();
        uart.write(2, 1, 1);
        uart.receive(b"abc");
        uart.write(7, 1, 0x5a);
        let mut writer = StateWriter::new();
        uart.save(&mut writer);
        let bytes = writer.finish();
        let (mut other, _, _) = port();
        let mut reader = StateReader::new(&bytes);
        other.load(1, &mut reader).unwrap();
        reader.finish().unwrap();
        assert_eq!((other.read(0, 1), other.read(7, 1)), (b'a'.into(), 0x5a));
    }
}
