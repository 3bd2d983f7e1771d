//! Lowering of system instructions and far transfers.

use iced_x86::{Code, Mnemonic, OpKind, Register};

use crate::core::Handler;
use crate::lower::{Lowering, segment_index};
use crate::registers::{DS, ES, FS, GS, SS};
use crate::system::{control, far, iret, load, syscall};

impl Lowering<'_> {
    pub(super) fn system(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Mov => self.mov_special(),
            M::Push if self.is_register(0) => {
                self.op.src = segment_index(self.register(0));
                self.op.size = self.segment_slot();
                Some(load::push_segment)
            }
            M::Pop if self.is_register(0) => {
                self.op.dst = segment_index(self.register(0));
                self.op.size = self.segment_slot();
                self.last(load::pop_segment)
            }
            M::Les | M::Lds | M::Lss | M::Lfs | M::Lgs => {
                let segment = match mnemonic {
                    M::Les => ES,
                    M::Lds => DS,
                    M::Lss => SS,
                    M::Lfs => FS,
                    _ => GS,
                };
                self.op.imm = segment as u64;
                self.op.dst = self.index(0);
                self.op.size = self.width(0);
                self.last(load::load_pointer)
            }
            M::Iret | M::Iretd | M::Iretq => {
                self.op.size = match mnemonic {
                    M::Iret => 2,
                    M::Iretd => 4,
                    _ => 8,
                };
                self.last(iret::iret)
            }
            M::Int => {
                self.op.imm = self.immediate(0);
                self.last(far::int)
            }
            M::Int3 => {
                self.op.imm = 3;
                self.op.bits = 1;
                self.last(far::int)
            }
            M::Int1 => self.last(far::int1),
            M::Into => self.last(far::into),
            M::Bound => {
                self.op.dst = self.index(0);
                self.op.size = self.width(0);
                Some(control::bound)
            }
            M::Jmp | M::Call | M::Retf => self.far(),
            _ => self.tables().or_else(|| self.machine()),
        }
    }

    /// Size of a stack slot that a segment register takes.
    fn segment_slot(&self) -> u8 {
        use Code as C;
        match self.instr.code() {
            C::Pushw_ES | C::Pushw_CS | C::Pushw_SS | C::Pushw_DS | C::Pushw_FS | C::Pushw_GS => 2,
            C::Popw_ES | C::Popw_CS | C::Popw_SS | C::Popw_DS | C::Popw_FS | C::Popw_GS => 2,
            C::Pushq_FS | C::Pushq_GS | C::Popq_FS | C::Popq_GS => 8,
            _ => 4,
        }
    }

    fn mov_special(&mut self) -> Option<Handler> {
        if self.is_register(0) && self.register(0).is_segment_register() {
            self.op.dst = segment_index(self.register(0));
            if self.register(0) == Register::CS {
                return None;
            }
            self.ends = self.op.dst == SS as u8;
            if self.is_memory(1) {
                return Some(load::mov_to_segment::<true>);
            }
            self.op.src = self.index(1);
            return Some(load::mov_to_segment::<false>);
        }
        if self.is_register(1) && self.register(1).is_segment_register() {
            self.op.src = segment_index(self.register(1));
            if self.is_memory(0) {
                return Some(load::store_segment);
            }
            self.op.dst = self.index(0);
            self.op.size = self.width(0);
            return Some(load::mov_from_segment);
        }
        if !self.is_register(0) || !self.is_register(1) {
            return None;
        }
        let (to, from) = (self.register(0), self.register(1));
        self.op.size = if self.code == 8 { 8 } else { 4 };
        self.op.dst = to.number() as u8;
        self.op.src = from.number() as u8;
        if to.is_cr() {
            self.last(control::mov_to_cr)
        } else if from.is_cr() {
            Some(control::mov_from_cr)
        } else if to.is_dr() {
            self.last(control::mov_to_dr)
        } else if from.is_dr() {
            Some(control::mov_from_dr)
        } else {
            None
        }
    }

    fn far(&mut self) -> Option<Handler> {
        if self.instr.mnemonic() == Mnemonic::Retf {
            self.op.size = match self.instr.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            self.op.imm = if self.instr.op_count() == 1 { self.immediate(0) } else { 0 };
            return self.last(far::retf);
        }
        let call = self.instr.mnemonic() == Mnemonic::Call;
        match self.instr.op_kind(0) {
            OpKind::FarBranch16 | OpKind::FarBranch32 => {
                let wide = self.instr.op_kind(0) == OpKind::FarBranch32;
                self.op.size = if wide { 4 } else { 2 };
                let offset =
                    if wide { u64::from(self.instr.far_branch32()) } else { u64::from(self.instr.far_branch16()) };
                self.op.imm = u64::from(self.instr.far_branch_selector()) << 32 | offset;
                self.last(if call { far::call_immediate } else { far::jmp_immediate })
            }
            OpKind::Memory => {
                self.op.size = self.memory_size() - 2;
                self.last(if call { far::call_memory } else { far::jmp_memory })
            }
            _ => None,
        }
    }

    fn tables(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => {
                self.op.imm = u64::from(matches!(mnemonic, M::Lidt | M::Sidt));
                self.op.size = match self.instr.code() {
                    Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => 2,
                    _ => 4,
                };
                Some(if matches!(mnemonic, M::Lgdt | M::Lidt) { control::load_table } else { control::store_table })
            }
            M::Lldt | M::Ltr | M::Verr | M::Verw | M::Lmsw => {
                let memory = self.is_memory(0);
                if !memory {
                    self.op.src = self.index(0);
                }
                self.ends = mnemonic == M::Lmsw;
                let handler: Handler = match (mnemonic, memory) {
                    (M::Lldt, false) => load::lldt::<false>,
                    (M::Lldt, true) => load::lldt::<true>,
                    (M::Ltr, false) => load::ltr::<false>,
                    (M::Ltr, true) => load::ltr::<true>,
                    (M::Verr, false) => load::verify::<false, false>,
                    (M::Verr, true) => load::verify::<true, false>,
                    (M::Verw, false) => load::verify::<false, true>,
                    (M::Verw, true) => load::verify::<true, true>,
                    (_, false) => control::lmsw::<false>,
                    (_, true) => control::lmsw::<true>,
                };
                Some(handler)
            }
            M::Lar | M::Lsl => {
                self.op.dst = self.index(0);
                self.op.size = self.width(0);
                let memory = self.is_memory(1);
                if !memory {
                    self.op.src = self.index(1);
                }
                Some(match (mnemonic, memory) {
                    (M::Lar, false) => load::lar::<false>,
                    (M::Lar, true) => load::lar::<true>,
                    (_, false) => load::lsl::<false>,
                    (_, true) => load::lsl::<true>,
                })
            }
            M::Sldt | M::Str | M::Smsw => {
                self.op.imm = u64::from(mnemonic == M::Str);
                let memory = self.is_memory(0);
                if !memory {
                    self.op.dst = self.index(0);
                    self.op.size = self.width(0);
                }
                Some(match (mnemonic, memory) {
                    (M::Smsw, false) => control::smsw_reg,
                    (M::Smsw, true) => control::smsw_mem,
                    (_, false) => load::store_table_reg,
                    (_, true) => load::store_table_mem,
                })
            }
            M::Arpl => {
                self.op.src = self.index(1);
                if self.is_memory(0) {
                    return Some(load::arpl::<true>);
                }
                self.op.dst = self.index(0);
                Some(load::arpl::<false>)
            }
            _ => None,
        }
    }

    fn machine(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let handler: Handler = match self.instr.mnemonic() {
            M::Syscall => syscall::syscall,
            M::Sysret | M::Sysretq => {
                self.op.size = if self.instr.mnemonic() == M::Sysretq { 8 } else { 4 };
                syscall::sysret
            }
            M::Sysenter => syscall::sysenter,
            M::Sysexit | M::Sysexitq => {
                self.op.size = if self.instr.mnemonic() == M::Sysexitq { 8 } else { 4 };
                syscall::sysexit
            }
            M::Swapgs => return Some(syscall::swapgs),
            M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
                self.op.dst = self.index(0);
                self.op.size = self.width(0);
                return Some(match self.instr.mnemonic() {
                    M::Rdfsbase => syscall::read_base::<false>,
                    M::Rdgsbase => syscall::read_base::<true>,
                    M::Wrfsbase => syscall::write_base::<false>,
                    _ => syscall::write_base::<true>,
                });
            }
            M::Clts => control::clts,
            M::Hlt => control::hlt,
            M::Invlpg => control::invlpg,
            M::Invd | M::Wbinvd => return Some(control::invalidate_caches),
            M::Clflush => return Some(control::clflush),
            M::Cpuid => return Some(control::cpuid),
            M::Rdtsc => return Some(control::rdtsc),
            M::Rdtscp => {
                self.op.imm = 1;
                return Some(control::rdtsc);
            }
            M::Rdpmc => return Some(control::rdpmc),
            M::Rdrand | M::Rdseed => {
                self.op.dst = self.index(0);
                return Some(control::select_random(self.width(0)));
            }
            M::Rdmsr => control::rdmsr,
            M::Wrmsr => control::wrmsr,
            M::Ud0 | M::Ud1 | M::Ud2 => control::undefined,
            _ => return None,
        };
        self.last(handler)
    }
}
