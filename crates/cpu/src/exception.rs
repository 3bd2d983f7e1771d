//! Events on their way to the guest: which exception comes out when one happens during the delivery of another. How a
//! gate is entered is in `system::interrupt`.

use crate::core::{Bus, Core, vector};
use crate::registers::Activity;

/// An interrupt or exception to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) vector: u8,
    pub(crate) error: Option<u32>,
    /// Comes from an `INT` instruction: the gate's privilege counts.
    pub(crate) software: bool,
    /// Is an exception: a fault during its delivery may become a double fault.
    pub(crate) exception: bool,
    /// RF is set in the pushed flags.
    pub(crate) resume: bool,
}

impl Event {
    /// NMI or external interrupt.
    pub(crate) fn external(vector: u8) -> Self {
        Self { vector, error: None, software: false, exception: false, resume: false }
    }

    /// A trap: reported after the instruction.
    pub(crate) fn trap(vector: u8) -> Self {
        Self { exception: true, ..Self::external(vector) }
    }

    /// `INT n`, `INT3`, `INTO`.
    pub(crate) fn software(vector: u8) -> Self {
        Self { software: true, ..Self::external(vector) }
    }

    /// The EXT bit of error codes that arise during the delivery.
    pub(crate) fn ext(&self) -> u32 {
        u32::from(!self.software)
    }
}

fn is_contributory(vector: u8) -> bool {
    matches!(vector, vector::DE | vector::TS | vector::NP | vector::SS | vector::GP)
}

impl Core {
    /// Delivers the exception in [`Core::fault`].
    #[cold]
    pub(crate) fn deliver_fault(&mut self, bus: &mut Bus<'_>) {
        let event = self.fault_event();
        self.deliver(bus, event);
    }

    /// As [`Core::deliver_fault`], where the instruction that is being executed counts for it.
    #[cold]
    pub(crate) fn deliver_within(&mut self, bus: &mut Bus<'_>) {
        let event = self.fault_event();
        self.deliver_uncounted(bus, event);
    }

    fn fault_event(&mut self) -> Event {
        let fault = self.fault;
        if fault.vector == vector::PF {
            self.cr2 = fault.address;
        }
        Event {
            vector: fault.vector,
            error: fault.error,
            software: false,
            exception: true,
            resume: fault.vector != vector::DB,
        }
    }

    /// Delivers an event, or what comes of it: another exception, a double fault, shutdown. Counts as an instruction.
    pub(crate) fn deliver(&mut self, bus: &mut Bus<'_>, event: Event) {
        self.instructions += 1;
        self.deliver_uncounted(bus, event);
    }

    fn deliver_uncounted(&mut self, bus: &mut Bus<'_>, event: Event) {
        let mut event = event;
        while self.enter_gate(bus, &event).is_err() {
            let second = self.fault_event();
            let first = if event.exception { Some(event.vector) } else { None };
            event = match first {
                Some(vector::DF) => return self.set_activity(Activity::Shutdown),
                Some(vector::PF) if second.vector == vector::PF || is_contributory(second.vector) => double_fault(),
                Some(first) if is_contributory(first) && is_contributory(second.vector) => double_fault(),
                _ => second,
            };
        }
    }
}

fn double_fault() -> Event {
    Event { vector: vector::DF, error: Some(0), software: false, exception: true, resume: true }
}
