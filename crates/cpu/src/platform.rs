//! What a CPU needs of the machine around it: the callbacks it makes while it executes ([`Platform`]) and the requests
//! that other threads may raise at any time ([`Signals`]). No device and no interrupt controller is here.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The surroundings of one CPU. Every call comes from inside [`crate::Cpu::run`], in the middle of the instruction that
/// asks for it.
///
/// The `size` of an access is 1, 2, 4 or 8 bytes (ports: at most 4); accesses that cross a page come in parts.
pub trait Platform {
    /// `IN`, `INS`.
    fn port_read(&mut self, port: u16, size: u8) -> u32;
    /// `OUT`, `OUTS`.
    fn port_write(&mut self, port: u16, size: u8, value: u32);
    /// A read of a guest-physical address that memory doesn't serve.
    fn mmio_read(&mut self, address: u64, size: u8) -> u64;
    /// A write to a guest-physical address that memory doesn't serve, or that is ROM.
    fn mmio_write(&mut self, address: u64, size: u8, value: u64);
    /// The interrupt acknowledge cycle: called when [`Signals::set_interrupt`] is up and the CPU can take an interrupt.
    /// `None` if there is none after all.
    fn acknowledge_interrupt(&mut self) -> Option<u8>;
    /// Reads CR8: the task priority, 0 to 15.
    fn read_tpr(&mut self) -> u8;
    /// Writes CR8.
    fn write_tpr(&mut self, value: u8);
    /// `RDMSR` of a register that the CPU itself doesn't keep (APIC base, x2APIC, TSC deadline). `None`: there is none.
    fn read_msr(&mut self, index: u32) -> Option<u64>;
    /// `WRMSR`, likewise. `None`: there is none, or the value is not allowed in it.
    fn write_msr(&mut self, index: u32, value: u64) -> Option<()>;
    /// The time stamp counter before the offset that the CPU adds.
    fn timestamp(&mut self) -> u64;
    /// Random bits for `RDRAND` and `RDSEED`.
    fn random(&mut self) -> u64;
}

/// Surroundings with nothing in them, for code that needs no more than memory: reads give zero, writes are lost, there
/// are no interrupts and no registers beyond the CPU's own, and no time passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unconnected;

impl Platform for Unconnected {
    fn port_read(&mut self, _port: u16, _size: u8) -> u32 {
        0
    }
    fn port_write(&mut self, _port: u16, _size: u8, _value: u32) {}
    fn mmio_read(&mut self, _address: u64, _size: u8) -> u64 {
        0
    }
    fn mmio_write(&mut self, _address: u64, _size: u8, _value: u64) {}
    fn acknowledge_interrupt(&mut self) -> Option<u8> {
        None
    }
    fn read_tpr(&mut self) -> u8 {
        0
    }
    fn write_tpr(&mut self, _value: u8) {}
    fn read_msr(&mut self, _index: u32) -> Option<u64> {
        None
    }
    fn write_msr(&mut self, _index: u32, _value: u64) -> Option<()> {
        None
    }
    fn timestamp(&mut self) -> u64 {
        0
    }
    fn random(&mut self) -> u64 {
        0
    }
}

/// An external interrupt is waiting.
pub(crate) const SIGNAL_INTERRUPT: u32 = 1;
/// A non-maskable interrupt was raised.
pub(crate) const SIGNAL_NMI: u32 = 1 << 1;
/// INIT was asserted.
pub(crate) const SIGNAL_INIT: u32 = 1 << 2;
/// A startup message arrived.
pub(crate) const SIGNAL_SIPI: u32 = 1 << 3;
/// `run` shall return.
pub(crate) const SIGNAL_EXIT: u32 = 1 << 4;
/// The memory map changed.
pub(crate) const SIGNAL_FLUSH: u32 = 1 << 5;

/// Requests to one CPU that other threads may raise at any time; it looks at them between blocks of instructions.
///
/// Raising one doesn't wake a thread that sleeps because its CPU halted: that's the caller's business.
#[derive(Debug, Default)]
pub struct Signals {
    bits: AtomicU32,
    sipi_vector: AtomicU8,
    instructions: AtomicU64,
}

impl Signals {
    /// Nothing requested.
    pub fn new() -> Self {
        Self::default()
    }

    /// Drives the CPU's INTR input: an interrupt of sufficient priority waits in the interrupt controller.
    pub fn set_interrupt(&self, high: bool) {
        if high {
            self.raise(SIGNAL_INTERRUPT);
        } else {
            self.bits.fetch_and(!SIGNAL_INTERRUPT, Ordering::AcqRel);
        }
    }

    /// Whether the INTR input is high.
    pub fn interrupt(&self) -> bool {
        self.pending() & SIGNAL_INTERRUPT != 0
    }

    /// An edge on the NMI input.
    pub fn raise_nmi(&self) {
        self.raise(SIGNAL_NMI);
    }

    /// INIT: the boot CPU starts over at the reset vector, others wait for [`Signals::raise_sipi`].
    pub fn raise_init(&self) {
        self.raise(SIGNAL_INIT);
    }

    /// A startup message: a CPU that waits for one begins at `vector * 4096` in real mode; any other ignores it.
    pub fn raise_sipi(&self, vector: u8) {
        self.sipi_vector.store(vector, Ordering::Release);
        self.raise(SIGNAL_SIPI);
    }

    /// Makes [`crate::Cpu::run`] return [`crate::Exit::Kicked`] soon, or at once when it is called next.
    pub fn request_exit(&self) {
        self.raise(SIGNAL_EXIT);
    }

    /// Says that [`ferro_guest::GuestMemory::remap`] was called by another thread, so that translations are dropped.
    /// (A remap from inside one of the CPU's own [`Platform`] calls is noticed by itself.)
    pub fn memory_map_changed(&self) {
        self.raise(SIGNAL_FLUSH);
    }

    /// Whether any request is pending that could end a halt, the CPU's own interrupt flag not considered.
    pub fn any(&self) -> bool {
        self.pending() != 0
    }

    /// Instructions retired when the CPU last called its [`Platform`] or returned from `run`: the time by which a clock
    /// that counts instructions goes.
    pub fn instructions(&self) -> u64 {
        self.instructions.load(Ordering::Relaxed)
    }

    /// What was raised by edges and isn't taken yet: NMI, INIT and startup message, one bit each, and the latter's vector.
    pub(crate) fn edges(&self) -> (u8, u8) {
        let bits = self.pending() & (SIGNAL_NMI | SIGNAL_INIT | SIGNAL_SIPI);
        (bits as u8, self.sipi_vector())
    }

    /// Replaces those. What isn't one of them is left away.
    pub(crate) fn set_edges(&self, bits: u8, sipi_vector: u8) {
        const EDGES: u32 = SIGNAL_NMI | SIGNAL_INIT | SIGNAL_SIPI;
        self.sipi_vector.store(sipi_vector, Ordering::Release);
        self.bits.fetch_and(!EDGES, Ordering::AcqRel);
        self.raise(u32::from(bits) & EDGES);
    }

    fn raise(&self, bit: u32) {
        self.bits.fetch_or(bit, Ordering::AcqRel);
    }

    #[inline(always)]
    pub(crate) fn pending(&self) -> u32 {
        self.bits.load(Ordering::Relaxed)
    }

    /// Clears `bit` and says whether it was set.
    pub(crate) fn take(&self, bit: u32) -> bool {
        self.bits.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    pub(crate) fn sipi_vector(&self) -> u8 {
        self.sipi_vector.load(Ordering::Acquire)
    }

    pub(crate) fn set_instructions(&self, count: u64) {
        self.instructions.store(count, Ordering::Relaxed);
    }
}
