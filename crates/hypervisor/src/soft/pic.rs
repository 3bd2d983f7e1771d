//! The pair of 8259A interrupt controllers of a PC: ports 0x20–0x21, 0xA0–0xA1 and the edge/level registers
//! 0x4D0–0x4D1, as in Intel's 8259A data sheet and the PIIX3's. Whom their output interrupts is not known here.

/// One 8259A.
#[derive(Debug, Default, Clone)]
pub(super) struct Pic {
    /// Levels of the inputs as last driven.
    pub(super) lines: u8,
    /// Interrupt request register.
    pub(super) irr: u8,
    /// In-service register.
    pub(super) isr: u8,
    /// Interrupt mask register.
    pub(super) imr: u8,
    /// Which inputs are level-triggered (ELCR).
    pub(super) level: u8,
    /// Upper five bits of the vector (ICW2).
    pub(super) base: u8,
    /// The input of lowest priority is the one before this.
    pub(super) priority: u8,
    /// What the next write to the data port is: 0 the mask, otherwise ICW2, 3 or 4.
    pub(super) expected: u8,
    pub(super) needs_icw4: bool,
    pub(super) single: bool,
    pub(super) read_isr: bool,
    pub(super) poll: bool,
    pub(super) special_mask: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_on_auto_eoi: bool,
    pub(super) special_fully_nested: bool,
}

const CASCADE: u8 = 2;

impl Pic {
    fn set_line(&mut self, line: u8, high: bool) {
        let bit = 1 << line;
        if high {
            if self.level & bit != 0 || self.lines & bit == 0 {
                self.irr |= bit;
            }
            self.lines |= bit;
        } else {
            if self.level & bit != 0 {
                self.irr &= !bit;
            }
            self.lines &= !bit;
        }
    }

    /// The distance from the input of highest priority to the first one set in `mask`; 8 for none.
    fn rank(&self, mask: u8) -> u8 {
        mask.rotate_right(u32::from(self.priority)).trailing_zeros().min(8) as u8
    }

    /// The input that should interrupt now. `is_master` matters for the fully nested rule only.
    fn pending(&self, is_master: bool) -> Option<u8> {
        let requested = self.rank(self.irr & !self.imr);
        if requested == 8 {
            return None;
        }
        let mut in_service = self.isr;
        if self.special_mask {
            in_service &= !self.imr;
        }
        if is_master && self.special_fully_nested {
            in_service &= !(1 << CASCADE);
        }
        (requested < self.rank(in_service)).then(|| (requested + self.priority) & 7)
    }

    fn acknowledge(&mut self, line: u8) {
        let bit = 1 << line;
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.priority = (line + 1) & 7;
            }
        } else {
            self.isr |= bit;
        }
        if self.level & bit == 0 {
            self.irr &= !bit;
        }
    }

    fn write_command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            *self = Self { lines: self.lines, level: self.level, irr: self.lines & self.level, ..Self::default() };
            self.expected = 2;
            self.needs_icw4 = value & 1 != 0;
            self.single = value & 2 != 0;
        } else if value & 0x08 != 0 {
            if value & 4 != 0 {
                self.poll = true;
            }
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            self.end_of_interrupt(value);
        }
    }

    /// OCW2.
    fn end_of_interrupt(&mut self, value: u8) {
        let line = value & 7;
        let rotate = value & 0x80 != 0;
        match value >> 5 & 3 {
            // Non-specific, of the highest in service.
            1 => {
                let rank = self.rank(self.isr);
                if rank < 8 {
                    let line = (rank + self.priority) & 7;
                    self.isr &= !(1 << line);
                    if rotate {
                        self.priority = (line + 1) & 7;
                    }
                }
            }
            3 => {
                self.isr &= !(1 << line);
                if rotate {
                    self.priority = (line + 1) & 7;
                }
            }
            2 if rotate => self.priority = (line + 1) & 7,
            0 => self.rotate_on_auto_eoi = rotate,
            _ => {}
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.expected {
            2 => {
                self.base = value & 0xf8;
                self.expected = match (self.single, self.needs_icw4) {
                    (false, _) => 3,
                    (true, true) => 4,
                    (true, false) => 0,
                };
            }
            3 => self.expected = if self.needs_icw4 { 4 } else { 0 },
            4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.expected = 0;
            }
            _ => self.imr = value,
        }
    }
}

/// Both controllers, wired as in a PC: the second's output is the first's input 2.
#[derive(Debug, Clone)]
pub(crate) struct PicPair {
    pub(super) chips: [Pic; 2],
}

impl PicPair {
    pub(crate) fn new() -> Self {
        Self { chips: [Pic { imr: 0xff, ..Pic::default() }, Pic { imr: 0xff, ..Pic::default() }] }
    }

    /// Drives input `line` (0–15).
    pub(crate) fn set_line(&mut self, line: u8, high: bool) {
        self.chips[usize::from(line >> 3 & 1)].set_line(line & 7, high);
        self.cascade();
    }

    fn cascade(&mut self) {
        let high = self.chips[1].pending(false).is_some();
        self.chips[0].set_line(CASCADE, high);
        if !high {
            self.chips[0].irr &= !(1 << CASCADE);
        }
    }

    /// Whether the INTR output is high.
    pub(crate) fn output(&self) -> bool {
        self.chips[0].pending(true).is_some()
    }

    /// The interrupt acknowledge cycle: the vector, spurious 7 or 15 if nothing waits.
    pub(crate) fn acknowledge(&mut self) -> u8 {
        let Some(line) = self.chips[0].pending(true) else {
            return self.chips[0].base | 7;
        };
        self.chips[0].acknowledge(line);
        if line != CASCADE {
            return self.chips[0].base | line;
        }
        let vector = match self.chips[1].pending(false) {
            Some(line) => {
                self.chips[1].acknowledge(line);
                self.chips[1].base | line
            }
            None => self.chips[1].base | 7,
        };
        self.cascade_after_acknowledge();
        vector
    }

    /// A second request may wait behind the one just taken: the cascade input needs its edge.
    fn cascade_after_acknowledge(&mut self) {
        self.chips[0].set_line(CASCADE, false);
        self.cascade();
    }

    /// Reads a byte of port 0x20, 0x21, 0xA0, 0xA1, 0x4D0 or 0x4D1.
    pub(crate) fn read(&mut self, port: u16) -> u8 {
        if let 0x4d0 | 0x4d1 = port {
            return self.chips[usize::from(port & 1)].level;
        }
        let index = usize::from(port & 0x80 != 0);
        let chip = &mut self.chips[index];
        if chip.poll {
            chip.poll = false;
            let answer = chip.pending(index == 0).map_or(0, |line| {
                chip.acknowledge(line);
                0x80 | line
            });
            self.cascade();
            return answer;
        }
        match port & 1 {
            0 if chip.read_isr => chip.isr,
            0 => chip.irr,
            _ => chip.imr,
        }
    }

    /// Writes a byte of the same ports.
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            0x4d0 => self.chips[0].level = value & 0xf8,
            0x4d1 => self.chips[1].level = value & 0xde,
            _ => {
                let chip = &mut self.chips[usize::from(port & 0x80 != 0)];
                if port & 1 == 0 { chip.write_command(value) } else { chip.write_data(value) }
            }
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initialised() -> PicPair {
        let mut pics = PicPair::new();
        for (port, base, cascade) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            pics.write(port, 0x11);
            pics.write(port + 1, base);
            pics.write(port + 1, cascade);
            pics.write(port + 1, 1);
        }
        pics
    }

    #[test]
    fn an_edge_interrupts_once() {
        let mut pics = initialised();
        pics.set_line(0, true);
        assert!(pics.output());
        assert_eq!(pics.acknowledge(), 0x20);
        assert!(!pics.output());
        pics.write(0x20, 0x20);
        assert!(!pics.output(), "the line is still high, but no new edge came");
        pics.set_line(0, false);
        pics.set_line(0, true);
        assert!(pics.output());
    }

    #[test]
    fn the_second_chip_comes_through_the_first() {
        let mut pics = initialised();
        pics.set_line(12, true);
        pics.set_line(14, true);
        assert_eq!(pics.acknowledge(), 0x2c);
        pics.write(0xa0, 0x20);
        pics.write(0x20, 0x20);
        assert!(pics.output());
        assert_eq!(pics.acknowledge(), 0x2e);
    }

    #[test]
    fn higher_priority_interrupts_a_handler_and_lower_waits() {
        let mut pics = initialised();
        pics.set_line(4, true);
        assert_eq!(pics.acknowledge(), 0x24);
        pics.set_line(5, true);
        assert!(!pics.output());
        pics.set_line(1, true);
        assert_eq!(pics.acknowledge(), 0x21);
        pics.write(0x20, 0x20);
        assert!(!pics.output());
        pics.write(0x20, 0x20);
        assert_eq!(pics.acknowledge(), 0x25);
    }

    #[test]
    fn level_inputs_ask_again_until_they_fall() {
        let mut pics = initialised();
        pics.write(0x4d1, 0x08);
        pics.set_line(11, true);
        assert_eq!(pics.acknowledge(), 0x2b);
        pics.write(0xa0, 0x20);
        pics.write(0x20, 0x20);
        assert!(pics.output());
        pics.set_line(11, false);
        assert!(!pics.output());
        assert_eq!(pics.acknowledge(), 0x27, "spurious");
    }

    #[test]
    fn masked_inputs_wait() {
        let mut pics = initialised();
        pics.write(0x21, 0x02);
        pics.set_line(1, true);
        assert!(!pics.output());
        assert_eq!(pics.read(0x20), 2);
        pics.write(0x21, 0);
        assert_eq!(pics.acknowledge(), 0x21);
        pics.write(0x20, 0x0b);
        assert_eq!(pics.read(0x20), 2, "in service");
    }
}
