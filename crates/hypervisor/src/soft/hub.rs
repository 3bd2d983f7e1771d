//! Where the interrupt controllers meet: routes lines and messages between the 8259s, the I/O APIC, the local APICs and
//! the vCPUs' [`Signals`], and wakes vCPU threads that sleep. No two of its locks are ever held at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use ferro_cpu::Signals;
use ferro_guest::{Clock, StateSection};

use super::ioapic::{IoApic, Message};
use super::lapic::{Effect, Lapic, Shorthand};
use super::pic::PicPair;
use super::pit::Pit;
use crate::{Part, StateError, VmClock};

/// Where the I/O APIC's registers lie.
const IOAPIC_BASE: u64 = 0xfec0_0000;
const PAGE: u64 = 0x1000;

/// A sleeper that can't miss a wake-up: one that comes before the sleep makes it return at once.
#[derive(Debug, Default)]
struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Parker {
    fn wake(&self) {
        *lock(&self.woken) = true;
        self.changed.notify_one();
    }

    /// Sleeps until woken or for `limit`; with neither, for ever.
    fn sleep(&self, limit: Option<Duration>) {
        let woken = lock(&self.woken);
        let mut woken = match limit {
            Some(limit) => {
                let result = self.changed.wait_timeout_while(woken, limit, |woken| !*woken);
                result.unwrap_or_else(|poisoned| poisoned.into_inner()).0
            }
            None => {
                let result = self.changed.wait_while(woken, |woken| !*woken);
                result.unwrap_or_else(|poisoned| poisoned.into_inner())
            }
        };
        *woken = false;
    }
}

/// The state behind a lock; a panic elsewhere leaves it as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

struct Port {
    lapic: Mutex<Lapic>,
    signals: Arc<Signals>,
    parker: Parker,
    /// Somebody wants this vCPU's `run` to return.
    kicked: AtomicBool,
}

pub(super) struct Hub {
    clock: Arc<VmClock>,
    pics: Mutex<PicPair>,
    pic_output: AtomicBool,
    pit: Mutex<Pit>,
    ioapic: Mutex<IoApic>,
    ports: Vec<Port>,
}

impl Hub {
    pub(super) fn new(vcpus: u32, clock: Arc<VmClock>) -> Self {
        let port = |id| Port {
            lapic: Mutex::new(Lapic::new(id)),
            signals: Arc::new(Signals::new()),
            parker: Parker::default(),
            kicked: AtomicBool::new(false),
        };
        Self {
            clock,
            pics: Mutex::new(PicPair::new()),
            pic_output: AtomicBool::new(false),
            pit: Mutex::new(Pit::new()),
            ioapic: Mutex::new(IoApic::new()),
            ports: (0..vcpus).map(port).collect(),
        }
    }

    pub(super) fn clock(&self) -> &Arc<VmClock> {
        &self.clock
    }

    pub(super) fn signals(&self, vcpu: u32) -> &Arc<Signals> {
        &self.ports[vcpu as usize].signals
    }

    pub(super) fn reset(&self) {
        *lock(&self.pics) = PicPair::new();
        self.pic_output.store(false, Ordering::Release);
        *lock(&self.pit) = Pit::new();
        *lock(&self.ioapic) = IoApic::new();
        for (id, port) in self.ports.iter().enumerate() {
            *lock(&port.lapic) = Lapic::new(id as u32);
            port.signals.set_interrupt(false);
        }
    }

    pub(super) fn kick(&self, vcpu: u32) {
        let port = &self.ports[vcpu as usize];
        port.kicked.store(true, Ordering::Release);
        port.signals.request_exit();
        port.parker.wake();
    }

    /// Whether [`Hub::kick`] was called since this was last asked. The CPU also leaves its slice when its guest has set a
    /// timer.
    pub(super) fn take_kick(&self, vcpu: u32) -> bool {
        self.ports[vcpu as usize].kicked.swap(false, Ordering::AcqRel)
    }

    /// Has the CPU leave its slice after this instruction if time is a count of instructions: a timer that was set is then
    /// looked at right away, wherever the slice would have ended, so that runs repeat however often they are interrupted.
    fn timer_set(&self, vcpu: u32) {
        if let VmClock::Instructions(_) = &*self.clock {
            self.ports[vcpu as usize].signals.request_exit();
        }
    }

    pub(super) fn inject_nmi(&self, vcpu: u32) {
        let port = &self.ports[vcpu as usize];
        port.signals.raise_nmi();
        port.parker.wake();
    }

    pub(super) fn speaker(&self) -> Option<f64> {
        lock(&self.pit).speaker()
    }

    /// Sleeps until something was raised for this vCPU, or for `limit`.
    pub(super) fn sleep(&self, vcpu: u32, limit: Option<Duration>) {
        self.ports[vcpu as usize].parker.sleep(limit);
    }

    /// Whether something was raised for this vCPU since it last slept or asked.
    pub(super) fn take_wake(&self, vcpu: u32) -> bool {
        std::mem::take(&mut lock(&self.ports[vcpu as usize].parker.woken))
    }

    /// Drives a global interrupt input: the 8259s and the I/O APIC both see it, input 0 at the latter's input 2.
    pub(super) fn set_line(&self, gsi: u32, high: bool) {
        if gsi < 16 {
            self.with_pics(|pics| pics.set_line(gsi as u8, high));
        }
        let input = match gsi {
            0 => 2,
            2 => return,
            other => other as usize,
        };
        if input < super::ioapic::INPUTS {
            let message = lock(&self.ioapic).set_line(input, high);
            message.into_iter().for_each(|message| self.deliver(message));
        }
    }

    fn with_pics<T>(&self, act: impl FnOnce(&mut PicPair) -> T) -> T {
        let (result, changed) = {
            let mut pics = lock(&self.pics);
            let result = act(&mut pics);
            let output = pics.output();
            (result, self.pic_output.swap(output, Ordering::AcqRel) != output)
        };
        if changed {
            self.update(0);
        }
        result
    }

    /// Brings the vCPU's interrupt input in line with its local APIC and, for the boot CPU, the 8259s.
    fn update(&self, vcpu: u32) {
        let port = &self.ports[vcpu as usize];
        let lapic = lock(&port.lapic);
        self.update_locked(vcpu, port, &lapic);
    }

    fn update_locked(&self, vcpu: u32, port: &Port, lapic: &Lapic) {
        let external = vcpu == 0 && self.pic_output.load(Ordering::Acquire) && lapic.accepts_external();
        let high = external || lapic.pending().is_some();
        port.signals.set_interrupt(high);
        if high {
            port.parker.wake();
        }
    }

    /// Takes a message to the local APICs that it names.
    pub(super) fn deliver(&self, message: Message) {
        let named: Vec<u32> = (0..self.ports.len() as u32)
            .filter(|&vcpu| lock(&self.ports[vcpu as usize].lapic).is_named(message.logical, message.destination))
            .collect();
        // Lowest priority: any one of those named may be chosen.
        let named = if message.mode == 1 { &named[..named.len().min(1)] } else { &named[..] };
        for &vcpu in named {
            self.deliver_to(vcpu, message);
        }
    }

    fn deliver_to(&self, vcpu: u32, message: Message) {
        let port = &self.ports[vcpu as usize];
        match message.mode {
            0 | 1 => {
                let mut lapic = lock(&port.lapic);
                lapic.accept(message.vector, message.level);
                self.update_locked(vcpu, port, &lapic);
            }
            4 => self.inject_nmi(vcpu),
            5 => {
                lock(&port.lapic).reset();
                self.update(vcpu);
                port.signals.raise_init();
                port.parker.wake();
            }
            6 => {
                port.signals.raise_sipi(message.vector);
                port.parker.wake();
            }
            // SMIs don't exist here, and ExtINT comes by the 8259s' own wire.
            _ => {}
        }
    }

    /// Fires the timers that are due and returns when the next one is. The boot CPU's thread also minds the 8254.
    pub(super) fn advance(&self, vcpu: u32, now: u64) -> Option<u64> {
        let port = &self.ports[vcpu as usize];
        let mut next = {
            let mut lapic = lock(&port.lapic);
            if lapic.advance(now) {
                self.update_locked(vcpu, port, &lapic);
            }
            lapic.deadline()
        };
        if vcpu == 0 {
            let (edge, deadline) = {
                let mut pit = lock(&self.pit);
                (pit.advance(now), pit.deadline())
            };
            if edge {
                self.set_line(0, true);
                self.set_line(0, false);
            }
            next = [next, deadline].into_iter().flatten().min();
        }
        next
    }

    pub(super) fn acknowledge(&self, vcpu: u32) -> Option<u8> {
        let port = &self.ports[vcpu as usize];
        let external = {
            let mut lapic = lock(&port.lapic);
            if let Some(vector) = lapic.acknowledge() {
                self.update_locked(vcpu, port, &lapic);
                return Some(vector);
            }
            vcpu == 0 && lapic.accepts_external() && self.pic_output.load(Ordering::Acquire)
        };
        if external {
            return Some(self.with_pics(PicPair::acknowledge));
        }
        self.update(vcpu);
        None
    }

    fn act(&self, vcpu: u32, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::EndOfInterrupt(vector) => self.end_of_interrupt(vector),
            Effect::Send(message, shorthand) => match shorthand {
                Shorthand::Destination => self.deliver(message),
                Shorthand::OnlySelf => self.deliver_to(vcpu, message),
                Shorthand::All | Shorthand::Others => {
                    for other in 0..self.ports.len() as u32 {
                        if shorthand == Shorthand::All || other != vcpu {
                            self.deliver_to(other, message);
                        }
                    }
                }
            },
        }
    }

    fn end_of_interrupt(&self, vector: u8) {
        let messages: Vec<_> = lock(&self.ioapic).end_of_interrupt(vector).collect();
        messages.into_iter().for_each(|message| self.deliver(message));
    }

    /// Does something to a vCPU's local APIC and brings its interrupt input in line.
    fn with_lapic<T>(&self, vcpu: u32, act: impl FnOnce(&mut Lapic) -> T) -> T {
        let port = &self.ports[vcpu as usize];
        let mut lapic = lock(&port.lapic);
        let result = act(&mut lapic);
        self.update_locked(vcpu, port, &lapic);
        result
    }

    pub(super) fn read_task_priority(&self, vcpu: u32) -> u8 {
        lock(&self.ports[vcpu as usize].lapic).task_priority()
    }

    pub(super) fn write_task_priority(&self, vcpu: u32, value: u8) {
        self.with_lapic(vcpu, |lapic| lapic.set_task_priority(value));
    }

    pub(super) fn read_msr(&self, vcpu: u32, index: u32) -> Option<u64> {
        let now = self.clock.now();
        is_apic_msr(index).then(|| lock(&self.ports[vcpu as usize].lapic).read_msr(index, now)).flatten()
    }

    /// `tsc_offset` is what the CPU adds to the clock for its time stamp counter.
    pub(super) fn write_msr(&self, vcpu: u32, index: u32, value: u64, tsc_offset: u64) -> Option<()> {
        if !is_apic_msr(index) {
            return None;
        }
        let now = self.clock.now();
        let to_clock = |tsc: u64| {
            let distance = tsc.wrapping_sub(now.wrapping_add(tsc_offset)) as i64;
            now.saturating_add_signed(distance)
        };
        let effect = self.with_lapic(vcpu, |lapic| lapic.write_msr(index, value, now, to_clock))?;
        self.timer_set(vcpu);
        self.act(vcpu, effect);
        Some(())
    }

    /// Serves a read of the local or I/O APIC's registers; `None` for any other address.
    pub(super) fn mmio_read(&self, vcpu: u32, address: u64) -> Option<u32> {
        if address & !(PAGE - 1) == IOAPIC_BASE {
            return Some(lock(&self.ioapic).read(address & (PAGE - 1)));
        }
        let lapic = lock(&self.ports[vcpu as usize].lapic);
        (lapic.page() == Some(address & !(PAGE - 1))).then(|| lapic.read_page(address & (PAGE - 1), self.clock.now()))
    }

    /// Serves a write; returns whether the address was one of these registers.
    pub(super) fn mmio_write(&self, vcpu: u32, address: u64, value: u32) -> bool {
        let offset = address & (PAGE - 1);
        if address - offset == IOAPIC_BASE {
            let (message, ended) = lock(&self.ioapic).write(offset, value);
            message.into_iter().for_each(|message| self.deliver(message));
            ended.into_iter().for_each(|vector| self.end_of_interrupt(vector));
            return true;
        }
        let now = self.clock.now();
        let effect = self.with_lapic(vcpu, |lapic| {
            (lapic.page() == Some(address - offset)).then(|| lapic.write_page(offset, value, now))
        });
        let Some(effect) = effect else { return false };
        self.timer_set(vcpu);
        self.act(vcpu, effect);
        true
    }

    /// Serves a read of the 8259s' or the 8254's ports; `None` for any other port.
    pub(super) fn port_read(&self, port: u16) -> Option<u8> {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Some(self.with_pics(|pics| pics.read(port))),
            0x40..=0x43 | 0x61 => Some(lock(&self.pit).read(port, self.clock.now())),
            _ => None,
        }
    }

    /// Serves a write; returns whether the port was one of these.
    pub(super) fn port_write(&self, port: u16, value: u8) -> bool {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => self.with_pics(|pics| pics.write(port, value)),
            0x40..=0x43 | 0x61 => {
                lock(&self.pit).write(port, value, self.clock.now());
                // The boot CPU minds the timer: it may have to wake earlier now.
                self.ports[0].parker.wake();
                self.timer_set(0);
            }
            _ => return false,
        }
        true
    }
}

/// What the parts of a saved VM are called.
const PIC: &str = "pic";
const IO_APIC: &str = "ioapic";
const LOCAL_APIC: &str = "lapic";
const TIMER: &str = "pit";

impl Hub {
    /// The state of all chips. The vCPUs are stopped.
    pub(super) fn save(&self) -> Vec<Part> {
        let part = |name: &str, instance: usize, chip: &dyn StateSection| Part {
            name: name.to_owned(),
            instance: instance as u32,
            version: chip.version(),
            bytes: chip.save_section(),
        };
        let mut parts = vec![
            part(PIC, 0, &*lock(&self.pics)),
            part(IO_APIC, 0, &*lock(&self.ioapic)),
            part(TIMER, 0, &*lock(&self.pit)),
        ];
        parts.extend(self.ports.iter().enumerate().map(|(id, port)| part(LOCAL_APIC, id, &*lock(&port.lapic))));
        parts
    }

    /// Takes over the state of one chip and brings the vCPUs' interrupt inputs in line with it.
    pub(super) fn load(&self, part: &Part) -> Result<(), StateError> {
        let load = |chip: &mut dyn StateSection| chip.load_section(part.version, &part.bytes);
        match (part.name.as_str(), part.instance) {
            (PIC, 0) => {
                let output = {
                    let mut pics = lock(&self.pics);
                    load(&mut *pics)?;
                    pics.output()
                };
                self.pic_output.store(output, Ordering::Release);
                self.update(0);
            }
            (IO_APIC, 0) => load(&mut *lock(&self.ioapic))?,
            (TIMER, 0) => load(&mut *lock(&self.pit))?,
            (LOCAL_APIC, id) => {
                let port = self.ports.get(id as usize).ok_or(StateError::Unknown)?;
                load(&mut *lock(&port.lapic))?;
                self.update(id);
            }
            _ => return Err(StateError::Unknown),
        }
        // Whoever sleeps looks at the new deadlines.
        self.ports.iter().for_each(|port| port.parker.wake());
        Ok(())
    }
}

fn is_apic_msr(index: u32) -> bool {
    matches!(index, 0x1b | 0x6e0 | 0x800..=0x83f)
}
