//! A PS/2 mouse with a wheel and five buttons (IntelliMouse and IntelliMouse Explorer, which a host turns on by setting
//! certain sample rates one after the other).

use std::collections::VecDeque;

use ferro_guest::{LoadError, StateReader, StateWriter};

use super::{ACKNOWLEDGE, PASSED, RESEND};
use crate::state;

/// Bytes that wait at most; movements add up meanwhile.
const QUEUE: usize = 16;
const ANSWERS: usize = 16;
/// Movements that add up at most.
const FAR: i32 = 1 << 16;

/// Which buttons are down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Buttons {
    /// The left one.
    pub left: bool,
    /// The right one.
    pub right: bool,
    /// The middle one, or the wheel.
    pub middle: bool,
    /// The fourth: back.
    pub side: bool,
    /// The fifth: forward.
    pub extra: bool,
}

impl Buttons {
    fn bits(self) -> u8 {
        u8::from(self.left) | u8::from(self.right) << 1 | u8::from(self.middle) << 2
    }

    pub(crate) fn save(self, into: &mut StateWriter) {
        into.u8(self.bits() | u8::from(self.side) << 3 | u8::from(self.extra) << 4);
    }

    pub(crate) fn load(from: &mut StateReader<'_>) -> Result<Self, LoadError> {
        let bits = from.u8()?;
        state::check(bits < 32, "the mouse's buttons")?;
        let has = |bit: u8| bits >> bit & 1 != 0;
        Ok(Self { left: has(0), right: has(1), middle: has(2), side: has(3), extra: has(4) })
    }
}

/// The mouse.
#[derive(Debug, Default)]
pub(crate) struct Mouse {
    answers: VecDeque<u8>,
    packets: VecDeque<u8>,
    command: Option<u8>,
    id: u8,
    rates: [u8; 3],
    resolution: u8,
    doubled: bool,
    remote: bool,
    wrapping: bool,
    reporting: bool,
    x: i32,
    y: i32,
    wheel: i32,
    buttons: Buttons,
    /// Something has changed since the last packet.
    moved: bool,
}

impl Mouse {
    /// It is moved: to the right and up, the wheel towards its user, with these buttons down.
    pub(crate) fn act(&mut self, dx: i32, dy: i32, wheel: i32, buttons: Buttons) {
        if !self.reporting && !self.remote {
            self.buttons = buttons;
            return;
        }
        let add = |to: &mut i32, by: i32| *to = to.saturating_add(by).clamp(-FAR, FAR);
        add(&mut self.x, dx);
        add(&mut self.y, dy);
        add(&mut self.wheel, wheel);
        self.moved |= dx != 0 || dy != 0 || wheel != 0 || buttons != self.buttons;
        self.buttons = buttons;
        self.report();
    }

    /// Makes packets of what has changed, as far as there is room.
    fn report(&mut self) {
        if !self.reporting || self.remote {
            return;
        }
        while self.moved && self.packets.len() + 4 <= QUEUE {
            let packet = self.packet();
            self.packets.extend(packet);
            self.moved = self.x != 0 || self.y != 0 || self.wheel != 0;
        }
    }

    /// A packet of as much of the movement as one can say.
    fn packet(&mut self) -> Vec<u8> {
        let take = |axis: &mut i32, limit: i32| {
            let part = (*axis).clamp(-limit, limit);
            *axis -= part;
            part
        };
        let (dx, dy) = (take(&mut self.x, 255), take(&mut self.y, 255));
        let sign = |value: i32, bit: u8| if value < 0 { 1 << bit } else { 0 };
        let mut packet = vec![8 | self.buttons.bits() | sign(dx, 4) | sign(dy, 5), dx as u8, dy as u8];
        match self.id {
            3 => packet.push(take(&mut self.wheel, 127) as u8),
            4 => {
                let wheel = take(&mut self.wheel, 7) as u8 & 15;
                packet.push(wheel | u8::from(self.buttons.side) << 4 | u8::from(self.buttons.extra) << 5);
            }
            _ => self.wheel = 0,
        }
        packet
    }

    /// The next byte for the controller.
    pub(crate) fn take(&mut self) -> Option<u8> {
        let byte = self.answers.pop_front().or_else(|| self.packets.pop_front());
        self.report();
        byte
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len() + bytes.len() <= ANSWERS {
            self.answers.extend(bytes);
        }
    }

    fn set_defaults(&mut self) {
        (self.resolution, self.doubled, self.remote, self.reporting, self.rates) =
            (2, false, false, false, [0, 0, 100]);
        self.packets.clear();
    }

    /// A byte from the controller.
    pub(crate) fn write(&mut self, value: u8) {
        if let Some(command) = self.command.take() {
            match command {
                0xf3 => self.set_rate(value),
                _ => self.resolution = value & 3,
            }
            self.answer(&[ACKNOWLEDGE]);
            return;
        }
        if self.wrapping && !matches!(value, 0xec | 0xff) {
            self.answer(&[value]);
            return;
        }
        match value {
            0xe6 | 0xe7 => self.doubled = value == 0xe7,
            0xe8 | 0xf3 => self.command = Some(value),
            0xe9 => {
                let status = u8::from(self.buttons.right)
                    | u8::from(self.buttons.middle) << 1
                    | u8::from(self.buttons.left) << 2
                    | u8::from(self.doubled) << 4
                    | u8::from(self.reporting) << 5
                    | u8::from(self.remote) << 6;
                self.answer(&[ACKNOWLEDGE, status, self.resolution, self.rates[2]]);
                return;
            }
            0xea => self.remote = false,
            0xeb => {
                let packet = self.packet();
                self.answer(&[&[ACKNOWLEDGE], &packet[..]].concat());
                return;
            }
            0xec | 0xee => self.wrapping = value == 0xee,
            0xf0 => self.remote = true,
            0xf2 => {
                self.answer(&[ACKNOWLEDGE, self.id]);
                return;
            }
            0xf4 => self.reporting = true,
            0xf5 => self.reporting = false,
            0xf6 => self.set_defaults(),
            0xff => {
                *self = Self::default();
                self.set_defaults();
                self.answer(&[ACKNOWLEDGE, PASSED, 0]);
                return;
            }
            _ => {
                self.answer(&[RESEND]);
                return;
            }
        }
        self.answer(&[ACKNOWLEDGE]);
    }

    fn set_rate(&mut self, rate: u8) {
        self.rates = [self.rates[1], self.rates[2], rate];
        match self.rates {
            [200, 100, 80] => self.id = 3,
            [200, 200, 80] => self.id = 4,
            _ => {}
        }
    }

    pub(crate) fn save(&self, into: &mut StateWriter) {
        state::save_queue(&self.answers, into);
        state::save_queue(&self.packets, into);
        state::save_option_u8(self.command, into);
        into.u8(self.id);
        into.bytes(&self.rates);
        into.u8(self.resolution);
        for flag in [self.doubled, self.remote, self.wrapping, self.reporting, self.moved] {
            into.bool(flag);
        }
        for distance in [self.x, self.y, self.wheel] {
            into.u32(distance as u32);
        }
        self.buttons.save(into);
    }

    pub(crate) fn load(&mut self, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.answers = state::load_queue(ANSWERS, "the mouse's answers", from)?;
        self.packets = state::load_queue(QUEUE, "the mouse's packets", from)?;
        self.command = state::load_option_u8(from)?;
        self.id = from.u8()?;
        state::check(matches!(self.id, 0 | 3 | 4), "the mouse's kind")?;
        state::load_bytes(&mut self.rates, "the mouse's sample rates", from)?;
        self.resolution = from.u8()?;
        state::check(self.resolution < 4, "the mouse's resolution")?;
        for flag in [&mut self.doubled, &mut self.remote, &mut self.wrapping, &mut self.reporting, &mut self.moved] {
            *flag = from.bool()?;
        }
        for distance in [&mut self.x, &mut self.y, &mut self.wheel] {
            *distance = from.u32()? as i32;
            state::check((-FAR..=FAR).contains(distance), "the mouse's movement")?;
        }
        self.buttons = Buttons::load(from)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mouse: &mut Mouse) -> Vec<u8> {
        std::iter::from_fn(|| mouse.take()).collect()
    }

    fn send(mouse: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        bytes.iter().for_each(|byte| mouse.write(*byte));
        all(mouse)
    }

    #[test]
    fn certain_rates_turn_the_wheel_on() {
        let mut mouse = Mouse::default();
        assert_eq!(send(&mut mouse, &[0xff]), [0xfa, 0xaa, 0]);
        assert_eq!(send(&mut mouse, &[0xf2]), [0xfa, 0]);
        send(&mut mouse, &[0xf3, 200, 0xf3, 100, 0xf3, 80]);
        assert_eq!(send(&mut mouse, &[0xf2]), [0xfa, 3]);
        send(&mut mouse, &[0xf4]);
        mouse.act(5, -3, -1, Buttons { left: true, ..Buttons::default() });
        assert_eq!(all(&mut mouse), [0x29, 5, 0xfd, 0xff]);
    }

    #[test]
    fn movements_add_up_while_nobody_reads() {
        let mut mouse = Mouse::default();
        send(&mut mouse, &[0xff]);
        mouse.act(1, 1, 0, Buttons::default());
        assert_eq!(all(&mut mouse), [], "it isn't reporting");
        send(&mut mouse, &[0xf4]);
        (0..1000).for_each(|_| mouse.act(1, 0, 0, Buttons::default()));
        assert!(mouse.packets.len() <= QUEUE);
        let distance: u32 = all(&mut mouse).chunks(3).map(|packet| u32::from(packet[1])).sum();
        assert_eq!(distance, 1000);
    }
}
