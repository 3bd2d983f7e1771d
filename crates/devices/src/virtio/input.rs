//! A tablet as a virtio input device (virtio 1.2, section 5.8): a pointer at absolute positions with five buttons and a wheel.
//! Where its positions come from is not known here. Its codes are those of Linux's input layer, as the specification says.

use std::collections::VecDeque;

use ferro_guest::{GuestMemory, LoadError, SaveState, StateReader, StateWriter};

use super::{DeviceType, Queue, QueueError, VirtioDevice};
use crate::ps2::Buttons;
use crate::state;

const EVENTS: usize = 0;
/// The largest coordinate of the tablet, to the right and down.
pub const TABLET_MAX: u16 = 32_767;
const QUEUE_SIZE: u16 = 64;
/// Reports that wait at most for a guest that doesn't read; then the newest replaces the one before it.
const REPORTS: usize = 64;
/// Bytes of an event: type, code, value.
const EVENT: usize = 8;
/// Events of a report at most: two axes, five buttons, the wheel, the end.
const REPORT_EVENTS: usize = 9;

/// What the driver asks for by the configuration's select register.
mod select {
    pub(super) const NAME: u8 = 1;
    pub(super) const SERIAL: u8 = 2;
    pub(super) const IDS: u8 = 3;
    pub(super) const EVENT_BITS: u8 = 0x11;
    pub(super) const AXIS: u8 = 0x12;
}

mod event {
    pub(super) const SYNC: u16 = 0;
    pub(super) const KEY: u16 = 1;
    pub(super) const RELATIVE: u16 = 2;
    pub(super) const ABSOLUTE: u16 = 3;
}

const WHEEL: u16 = 8;
const X: u16 = 0;
const Y: u16 = 1;
/// The codes of left, right, middle, side and extra button.
const BUTTONS: [u16; 5] = [0x110, 0x111, 0x112, 0x113, 0x114];
/// Where the driver reads the length of the answer, and the answer.
const SIZE: usize = 2;
const ANSWER: usize = 8;

/// Where the pointer is and what is pressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Report {
    x: u16,
    y: u16,
    /// Away from the user, since the report before.
    wheel: i32,
    buttons: Buttons,
}

impl Report {
    fn save(&self, into: &mut StateWriter) {
        into.u16(self.x);
        into.u16(self.y);
        into.u32(self.wheel as u32);
        self.buttons.save(into);
    }

    fn load(from: &mut StateReader<'_>) -> Result<Self, LoadError> {
        let (x, y) = (from.u16()?, from.u16()?);
        state::check(x <= TABLET_MAX && y <= TABLET_MAX, "a tablet's position")?;
        Ok(Self { x, y, wheel: from.u32()? as i32, buttons: Buttons::load(from)? })
    }
}

/// The device.
#[derive(Debug, Default)]
pub struct Tablet {
    select: u8,
    subselect: u8,
    waiting: VecDeque<Report>,
    /// Events of the report that is under way.
    events: VecDeque<[u8; EVENT]>,
    /// What the guest has been told last.
    told: Report,
    /// Where the pointer was put last, whether or not a driver was there.
    last: Report,
}

fn pressed(buttons: Buttons) -> [bool; 5] {
    [buttons.left, buttons.right, buttons.middle, buttons.side, buttons.extra]
}

fn encode(kind: u16, code: u16, value: u32) -> [u8; EVENT] {
    let ([a, b], [c, d], [e, f, g, h]) = (kind.to_le_bytes(), code.to_le_bytes(), value.to_le_bytes());
    [a, b, c, d, e, f, g, h]
}

/// A bitmap in which these bits are set.
fn bits(codes: &[u16]) -> Vec<u8> {
    let mut map = vec![0; codes.iter().max().map_or(0, |last| usize::from(last / 8) + 1)];
    codes.iter().for_each(|code| map[usize::from(code / 8)] |= 1 << (code % 8));
    map
}

impl Tablet {
    /// The pointer goes to a position (0 to [`TABLET_MAX`], from the left and from the top), the wheel towards its user, with
    /// these buttons down; call it through [`super::VirtioPci::act`].
    ///
    /// # Errors
    /// A driver that breaks the rules.
    pub fn point(
        &mut self,
        (x, y): (u16, u16),
        wheel: i32,
        buttons: Buttons,
        queues: &mut [Queue],
        memory: &GuestMemory,
    ) -> Result<(), QueueError> {
        let wheel = wheel.saturating_neg();
        let mut report = Report { x: x.min(TABLET_MAX), y: y.min(TABLET_MAX), wheel, buttons };
        self.last = Report { wheel: 0, ..report };
        // A movement takes the place of one that waits; presses don't, before there are too many.
        let full = self.waiting.len() == REPORTS;
        if self.waiting.back().is_some_and(|waiting| full || waiting.buttons == buttons)
            && let Some(replaced) = self.waiting.pop_back()
        {
            report.wheel = report.wheel.saturating_add(replaced.wheel);
        }
        self.waiting.push_back(report);
        self.flush(queues, memory)
    }

    /// Where the pointer was put last.
    pub fn position(&self) -> (u16, u16) {
        (self.last.x, self.last.y)
    }

    /// Takes the next report apart: what differs from what was told before.
    fn begin(&mut self, report: Report) {
        let told = std::mem::replace(&mut self.told, Report { wheel: 0, ..report });
        for (axis, now, before) in [(X, report.x, told.x), (Y, report.y, told.y)] {
            if now != before {
                self.events.push_back(encode(event::ABSOLUTE, axis, now.into()));
            }
        }
        let buttons = BUTTONS.into_iter().zip(pressed(report.buttons)).zip(pressed(told.buttons));
        for ((code, now), before) in buttons {
            if now != before {
                self.events.push_back(encode(event::KEY, code, now.into()));
            }
        }
        if report.wheel != 0 {
            self.events.push_back(encode(event::RELATIVE, WHEEL, report.wheel as u32));
        }
        if !self.events.is_empty() {
            self.events.push_back(encode(event::SYNC, 0, 0));
        }
    }

    /// Gives the guest as many events as it has buffers for.
    fn flush(&mut self, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        loop {
            let Some(event) = self.events.front() else {
                let Some(report) = self.waiting.pop_front() else { return Ok(()) };
                self.begin(report);
                continue;
            };
            let Some(chain) = queues[EVENTS].pop(memory)? else { return Ok(()) };
            if chain.write(memory, 0, event) != EVENT {
                return Err(QueueError::Request);
            }
            self.events.pop_front();
            queues[EVENTS].push(memory, &chain, EVENT as u32)?;
        }
    }

    /// What the driver has asked for; nothing is an answer too.
    fn answer(&self) -> Vec<u8> {
        let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        match (self.select, u16::from(self.subselect)) {
            (select::NAME, 0) => b"Ferro virtio tablet".to_vec(),
            (select::SERIAL, 0) => b"1".to_vec(),
            // A virtual bus; virtio's vendor, its input device, version 1.
            (select::IDS, 0) => words(&[6, 0x1af4, 0x1052, 1]),
            (select::EVENT_BITS, event::KEY) => bits(&BUTTONS),
            (select::EVENT_BITS, event::RELATIVE) => bits(&[WHEEL]),
            (select::EVENT_BITS, event::ABSOLUTE) => bits(&[X, Y]),
            // Minimum, maximum, fuzz, flat, resolution.
            (select::AXIS, X | Y) => {
                [0, TABLET_MAX.into(), 0, 0, 0_u32].into_iter().flat_map(u32::to_le_bytes).collect()
            }
            _ => vec![],
        }
    }
}

impl VirtioDevice for Tablet {
    fn device_type(&self) -> DeviceType {
        DeviceType::Input
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn start(&mut self, _features: u64) {}

    fn reset(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }

    fn read_config(&self, offset: usize) -> u8 {
        match offset {
            0 => self.select,
            1 => self.subselect,
            SIZE => self.answer().len() as u8,
            ANSWER.. => self.answer().get(offset - ANSWER).copied().unwrap_or(0),
            _ => 0,
        }
    }

    fn write_config(&mut self, offset: usize, value: u8) {
        match offset {
            0 => self.select = value,
            1 => self.subselect = value,
            _ => {}
        }
    }

    fn notify(&mut self, queue: usize, queues: &mut [Queue], memory: &GuestMemory) -> Result<(), QueueError> {
        if queue == EVENTS {
            return self.flush(queues, memory);
        }
        // A tablet has no lamps to set.
        while let Some(chain) = queues[queue].pop(memory)? {
            queues[queue].push(memory, &chain, 0)?;
        }
        Ok(())
    }
}

impl SaveState for Tablet {
    const VERSION: u32 = 1;

    fn save(&self, into: &mut StateWriter) {
        into.u8(self.select);
        into.u8(self.subselect);
        into.u8(self.waiting.len() as u8);
        self.waiting.iter().chain([&self.told, &self.last]).for_each(|report| report.save(into));
        into.u8(self.events.len() as u8);
        self.events.iter().for_each(|event| into.u64(u64::from_le_bytes(*event)));
    }

    fn load(&mut self, _version: u32, from: &mut StateReader<'_>) -> Result<(), LoadError> {
        self.select = from.u8()?;
        self.subselect = from.u8()?;
        let waiting = usize::from(from.u8()?);
        state::check(waiting <= REPORTS, "a tablet's reports")?;
        self.waiting = (0..waiting).map(|_| Report::load(from)).collect::<Result<_, _>>()?;
        (self.told, self.last) = (Report::load(from)?, Report::load(from)?);
        let events = usize::from(from.u8()?);
        state::check(events <= REPORT_EVENTS, "a tablet's events")?;
        self.events = (0..events).map(|_| from.u64().map(u64::to_le_bytes)).collect::<Result<_, _>>()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::tests::{descriptor, memory, offer, queue};
    use super::*;

    fn ask(tablet: &mut Tablet, select: u8, subselect: u8) -> Vec<u8> {
        tablet.write_config(0, select);
        tablet.write_config(1, subselect);
        (0..usize::from(tablet.read_config(2))).map(|at| tablet.read_config(8 + at)).collect()
    }

    #[test]
    fn it_says_what_it_is() {
        let mut tablet = Tablet::default();
        assert_eq!(ask(&mut tablet, 1, 0), b"Ferro virtio tablet");
        let buttons = ask(&mut tablet, 0x11, 1);
        assert_eq!((buttons.len(), buttons[0x22]), (0x23, 0x1f));
        assert_eq!(ask(&mut tablet, 0x11, 3), [3]);
        assert_eq!(ask(&mut tablet, 0x12, 1)[4..8], [0xff, 0x7f, 0, 0]);
        assert_eq!(ask(&mut tablet, 0x12, 2), [], "no third axis");
        assert_eq!(ask(&mut tablet, 0x11, 0x14), [], "no repeats");
        assert_eq!(tablet.read_config(0xfff), 0);
    }

    #[test]
    fn movements_are_joined_and_presses_are_kept_while_there_is_no_buffer() {
        let (memory, mut queues) = (memory(), [queue(), queue()]);
        let mut tablet = Tablet::default();
        let down = Buttons { left: true, ..Buttons::default() };
        for x in 0..1000 {
            tablet.point((x, 5), 0, Buttons::default(), &mut queues, &memory).unwrap();
        }
        tablet.point((1000, 5), 0, down, &mut queues, &memory).unwrap();
        tablet.point((1000, 5), -2, Buttons::default(), &mut queues, &memory).unwrap();
        assert_eq!(tablet.position(), (1000, 5));
        let mut events = vec![];
        loop {
            // One buffer after the other, in the same place.
            descriptor(&memory, 0x1000, 0, (0x5000, 8, 2, 0));
            memory.store(0x5000, u64::MAX).unwrap();
            offer(&memory, 0);
            tablet.notify(EVENTS, &mut queues, &memory).unwrap();
            let event: u64 = memory.load(0x5000).unwrap();
            if event == u64::MAX {
                break;
            }
            events.push((event as u16, (event >> 16) as u16, (event >> 32) as i32));
        }
        let expected = [
            &[(3, 1, 5), (0, 0, 0)][..],
            &[(3, 0, 999), (0, 0, 0)],
            &[(3, 0, 1000), (1, 0x110, 1), (0, 0, 0)],
            &[(1, 0x110, 0), (2, 8, 2), (0, 0, 0)],
        ];
        assert_eq!(events, expected.concat());
        (0..10_000).for_each(|x| {
            let buttons = if x % 2 == 0 { down } else { Buttons::default() };
            tablet.point((x, 5), 1, buttons, &mut queues, &memory).unwrap();
        });
        assert!(tablet.waiting.len() <= REPORTS);
    }
}
