//! The software side.

use std::sync::Arc;

use ferro_cpu::{
    CS, Cpu, CpuConfig, DS, ES, Exit, FS, FpuRegisters, GS, Registers, SS, SegmentRegister, Signals, TableRegister,
    Unconnected,
};
use ferro_guest::{GuestMemory, Ram, Range, RangeKind};

use crate::machine::{
    CODE, DATA, DATA_LEN, FS_BASE, GDT, GS_BASE, HANDLERS, IDT, MEMORY, Mode, ROOT, State, TSS, frame, memory_image,
};

/// A software CPU and its memory.
pub struct Soft {
    cpu: Cpu,
    memory: Arc<GuestMemory>,
    registers: Registers,
}

impl Default for Soft {
    fn default() -> Self {
        Self::new()
    }
}

impl Soft {
    /// A CPU in long mode.
    pub fn new() -> Self {
        let ram = Ram::new(MEMORY as u64).expect("guest memory");
        let range = Range { start: 0, len: MEMORY as u64, offset: 0, kind: RangeKind::Ram };
        let memory = Arc::new(GuestMemory::new(ram, &[range]).expect("one range"));
        memory.write(0, &memory_image());
        let config = CpuConfig { apic_id: 0, vcpus: 1, tsc_khz: 1_000_000, apic_hz: 0 };
        let cpu = Cpu::new(config, memory.clone(), Arc::new(Signals::new()));
        let mut registers = cpu.registers();
        registers.cr0 = 0x8005_0033;
        registers.cr3 = ROOT;
        registers.cr4 = 0x620;
        registers.msr.efer = 0xd01;
        let data = SegmentRegister { selector: 0x1b, base: 0, limit: u32::MAX, attributes: 0xc0f3 };
        for index in [ES, SS, DS, FS, GS] {
            registers.segments[index] = data;
        }
        registers.segments[FS].base = FS_BASE;
        registers.segments[GS].base = GS_BASE;
        registers.gdtr = TableRegister { base: GDT, limit: 63 };
        registers.idtr = TableRegister { base: IDT, limit: 511 };
        registers.tr = SegmentRegister { selector: 0x30, base: TSS, limit: 0x67, attributes: 0x8b };
        Self { cpu, memory, registers }
    }

    /// Executes code from a state until a handler is entered; `None` if it never is.
    pub fn run(&mut self, mode: Mode, code: &[u8], state: &State) -> Option<State> {
        self.start(mode, code, state);
        if self.cpu.run(&mut Unconnected, 100_000) != Exit::Halted {
            return None;
        }
        Some(self.collect())
    }

    /// As [`Soft::run`], in slices of `budget` instructions, so that what executes as one otherwise doesn't.
    pub fn run_in_slices(&mut self, mode: Mode, code: &[u8], state: &State, budget: u64) -> Option<State> {
        self.start(mode, code, state);
        (0..100_000).any(|_| self.cpu.run(&mut Unconnected, budget) == Exit::Halted).then(|| self.collect())
    }

    /// Instructions retired by all runs.
    pub fn instructions(&self) -> u64 {
        self.cpu.instructions()
    }

    fn start(&mut self, mode: Mode, code: &[u8], state: &State) {
        self.memory.write(CODE, code);
        self.memory.write(DATA, &state.data);
        let registers = &mut self.registers;
        registers.activity = ferro_cpu::Activity::Running;
        registers.gpr = state.gpr;
        registers.rip = state.rip;
        registers.rflags = state.rflags;
        registers.cr2 = 0;
        registers.segments[CS] = match mode {
            Mode::Long => SegmentRegister { selector: 0x23, base: 0, limit: u32::MAX, attributes: 0xa0fb },
            Mode::Compatible => SegmentRegister { selector: 0x13, base: 0, limit: u32::MAX, attributes: 0xc0fb },
        };
        registers.fpu = FpuRegisters {
            fcw: state.fcw,
            fsw: state.fsw,
            ftw: (0..8).fold(0, |word, index| word | if state.ftw >> index & 1 != 0 { 0 } else { 3 } << (2 * index)),
            fop: 0,
            fip: 0,
            fcs: 0,
            fdp: 0,
            fds: 0,
            st: state.st,
            mxcsr: state.mxcsr,
            xmm: state.xmm,
        };
        let registers = *registers;
        self.cpu.set_registers(&registers);
    }

    fn collect(&self) -> State {
        let registers = self.cpu.registers();
        let vector = (registers.rip - HANDLERS) / 16;
        let load = |address| self.memory.load::<u64>(address).unwrap_or(0);
        let (error, rip, rflags, rsp) = frame(load, registers.gpr[4], vector);
        let mut data = vec![0; DATA_LEN];
        self.memory.read(DATA, &mut data);
        let mut gpr = registers.gpr;
        gpr[4] = rsp;
        State {
            gpr,
            rip,
            rflags,
            vector,
            error,
            cr2: registers.cr2,
            xmm: registers.fpu.xmm,
            mxcsr: registers.fpu.mxcsr,
            st: registers.fpu.st,
            fcw: registers.fpu.fcw,
            fsw: registers.fpu.fsw,
            ftw: (0..8).fold(0, |used, index| used | u8::from(registers.fpu.ftw >> (2 * index) & 3 != 3) << index),
            data,
        }
    }
}
