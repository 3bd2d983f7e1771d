//! Lowering of integer instructions.

use iced_x86::{Code, ConditionCode, Mnemonic, OpKind};

use crate::core::{Handler, RAX};
use crate::int::alu::{self, Form};
use crate::int::muldiv::{self, MulDiv};
use crate::int::{bits, branch, data, decimal, exchange, shift, stack};
use crate::lower::Lowering;

impl Lowering<'_> {
    pub(super) fn integer(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        match self.instr.mnemonic() {
            M::Add => self.binary::<alu::Add>(),
            M::Adc => self.binary::<alu::Adc>(),
            M::Sub => self.binary::<alu::Sub>(),
            M::Sbb => self.binary::<alu::Sbb>(),
            M::Cmp => self.binary::<alu::Cmp>(),
            M::And => self.binary::<alu::And>(),
            M::Or => self.binary::<alu::Or>(),
            M::Xor => self.binary::<alu::Xor>(),
            M::Test => self.binary::<alu::Test>(),
            M::Mov => self.mov(),
            M::Inc => self.unary::<alu::Inc>(),
            M::Dec => self.unary::<alu::Dec>(),
            M::Neg => self.unary::<alu::Neg>(),
            M::Not => self.unary::<alu::Not>(),
            M::Rol => self.shift::<shift::Rol>(),
            M::Ror => self.shift::<shift::Ror>(),
            M::Rcl => self.shift::<shift::Rcl>(),
            M::Rcr => self.shift::<shift::Rcr>(),
            M::Shl | M::Sal => self.shift::<shift::Shl>(),
            M::Shr => self.shift::<shift::Shr>(),
            M::Sar => self.shift::<shift::Sar>(),
            M::Shld => self.double_shift(true),
            M::Shrd => self.double_shift(false),
            M::Mul => self.muldiv(MulDiv::Mul),
            M::Imul => self.imul(),
            M::Div => self.muldiv(MulDiv::Div),
            M::Idiv => self.muldiv(MulDiv::Idiv),
            M::Bt => self.bit_test::<bits::Keep>(),
            M::Bts => self.bit_test::<bits::Set>(),
            M::Btr => self.bit_test::<bits::Reset>(),
            M::Btc => self.bit_test::<bits::Complement>(),
            M::Bsf | M::Bsr => {
                let memory = self.load_form();
                let forward = self.instr.mnemonic() == M::Bsf;
                Some(bits::select_scan(forward, memory, self.width(0), self.flat))
            }
            M::Popcnt => {
                let memory = self.load_form();
                Some(bits::select_popcnt(memory, self.width(0), self.flat))
            }
            M::Crc32 => {
                let memory = self.load_form();
                Some(bits::select_crc32(memory, self.width(1), self.flat))
            }
            M::Movzx => self.extend(false),
            M::Movsx | M::Movsxd => self.extend(true),
            M::Lea => {
                self.op.dst = self.index(0);
                Some(data::select_lea(self.width(0), self.op.addr))
            }
            _ => self.exchange().or_else(|| self.flags()).or_else(|| self.stack()).or_else(|| self.branch()),
        }
    }

    /// Register and memory-or-register operands of an instruction that reads its second; says whether that is memory.
    fn load_form(&mut self) -> bool {
        self.op.dst = self.index(0);
        let memory = self.is_memory(1);
        if !memory {
            self.op.src = self.index(1);
        }
        memory
    }

    /// A destination that is a register or memory; says whether it is memory.
    fn destination(&mut self) -> bool {
        let memory = self.is_memory(0);
        if !memory {
            self.op.dst = self.index(0);
        }
        memory
    }

    pub(super) fn form(&mut self) -> Form {
        let memory = self.destination();
        if self.is_register(1) {
            self.op.src = self.index(1);
            return if memory { Form::MemReg } else { Form::RegReg };
        }
        if self.is_memory(1) {
            return Form::RegMem;
        }
        self.op.imm = self.immediate(1);
        if memory { Form::MemImm } else { Form::RegImm }
    }

    fn binary<O: alu::Binary>(&mut self) -> Option<Handler> {
        let size = self.width(0);
        let form = self.form();
        if self.instr.has_lock_prefix() {
            return Some(alu::select_locked::<O>(form, size));
        }
        Some(alu::select::<O>(form, size, self.flat))
    }

    fn mov(&mut self) -> Option<Handler> {
        let plain = |register: iced_x86::Register| register.is_gpr();
        let general = (0..2).all(|operand| !self.is_register(operand) || plain(self.register(operand)));
        if !general {
            return None;
        }
        let size = self.width(0);
        let form = self.form();
        Some(data::select_mov(form, size, self.flat))
    }

    fn unary<O: alu::Unary>(&mut self) -> Option<Handler> {
        let memory = self.destination();
        Some(alu::select_unary::<O>(memory, self.width(0), self.flat, self.instr.has_lock_prefix()))
    }

    fn shift<O: shift::Shift>(&mut self) -> Option<Handler> {
        let memory = self.destination();
        let by_cl = self.is_register(1);
        if !by_cl {
            self.op.imm = self.immediate(1);
        }
        Some(shift::select::<O>(memory, by_cl, self.width(0), self.flat))
    }

    fn double_shift(&mut self, left: bool) -> Option<Handler> {
        let memory = self.destination();
        self.op.src = self.index(1);
        let by_cl = self.is_register(2);
        if !by_cl {
            self.op.imm = self.immediate(2);
        }
        Some(shift::select_double(left, memory, by_cl, self.width(0), self.flat))
    }

    fn muldiv(&mut self, which: MulDiv) -> Option<Handler> {
        let memory = self.destination();
        Some(muldiv::select(which, memory, self.width(0), self.flat))
    }

    fn imul(&mut self) -> Option<Handler> {
        if self.instr.op_count() == 1 {
            return self.muldiv(MulDiv::Imul);
        }
        let three = self.instr.op_count() == 3;
        let memory = self.load_form();
        if three {
            self.op.imm = self.immediate(2);
        }
        Some(muldiv::select_imul(three, memory, self.width(0), self.flat))
    }

    fn bit_test<O: bits::Change>(&mut self) -> Option<Handler> {
        let memory = self.destination();
        let immediate = !self.is_register(1);
        if immediate {
            self.op.imm = self.immediate(1);
        } else {
            self.op.src = self.index(1);
        }
        Some(bits::select::<O>(memory, immediate, self.width(0), self.flat, self.instr.has_lock_prefix()))
    }

    fn extend(&mut self, signed: bool) -> Option<Handler> {
        let memory = self.load_form();
        let (from, to) = (self.width(1), self.width(0));
        if from == to {
            // MOVSXD with 16 or 32 bits on both sides is a plain move.
            let form = if memory { Form::RegMem } else { Form::RegReg };
            return Some(data::select_mov(form, to, self.flat));
        }
        Some(data::select_extend(signed, memory, from, to, self.flat))
    }

    fn exchange(&mut self) -> Option<Handler> {
        let lock = self.instr.has_lock_prefix();
        match self.instr.mnemonic() {
            Mnemonic::Xchg => {
                // The memory operand may come first or second.
                let memory = self.is_memory(0) || self.is_memory(1);
                let size = self.width(0);
                if memory {
                    self.op.src = self.index(u32::from(self.is_memory(0)));
                } else {
                    self.op.dst = self.index(0);
                    self.op.src = self.index(1);
                }
                Some(exchange::select_xchg(memory, size))
            }
            Mnemonic::Xadd => {
                let memory = self.destination();
                self.op.src = self.index(1);
                Some(exchange::select_xadd(memory, self.width(0), self.flat, lock))
            }
            Mnemonic::Cmpxchg => {
                let memory = self.destination();
                self.op.src = self.index(1);
                Some(exchange::select_cmpxchg(memory, self.width(0), self.flat, lock))
            }
            Mnemonic::Cmpxchg8b => Some(exchange::cmpxchg8b),
            Mnemonic::Cmpxchg16b => Some(exchange::cmpxchg16b),
            _ => None,
        }
    }

    fn flags(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let mut sized = |size, handler: Handler| {
            self.op.size = size;
            Some(handler)
        };
        match mnemonic {
            M::Cbw => sized(2, data::widen_accumulator),
            M::Cwde => sized(4, data::widen_accumulator),
            M::Cdqe => sized(8, data::widen_accumulator),
            M::Cwd => sized(2, data::spread_sign),
            M::Cdq => sized(4, data::spread_sign),
            M::Cqo => sized(8, data::spread_sign),
            M::Bswap => {
                self.op.dst = self.index(0);
                self.op.size = self.width(0);
                Some(data::bswap)
            }
            M::Nop
            | M::Reservednop
            | M::Pause
            | M::Endbr32
            | M::Endbr64
            | M::Prefetchnta
            | M::Prefetcht0
            | M::Prefetcht1
            | M::Prefetcht2
            | M::Prefetch
            | M::Prefetchw
            | M::Prefetchwt1
            | M::Lfence
            | M::Mfence
            | M::Sfence
            | M::Cldemote => Some(data::nop),
            M::Lahf => Some(data::lahf),
            M::Sahf => Some(data::sahf),
            M::Clc => Some(data::clc),
            M::Stc => Some(data::stc),
            M::Cmc => Some(data::cmc),
            M::Cld => Some(data::cld),
            M::Std => Some(data::std),
            M::Salc => Some(data::salc),
            M::Daa => Some(decimal::daa),
            M::Das => Some(decimal::das),
            M::Aaa => Some(decimal::aaa),
            M::Aas => Some(decimal::aas),
            M::Aam | M::Aad => {
                self.op.imm = self.immediate(0);
                Some(if mnemonic == M::Aam { decimal::aam } else { decimal::aad })
            }
            _ => self.conditional(),
        }
    }

    /// `CMOVcc`, `SETcc`, `Jcc`
    fn conditional(&mut self) -> Option<Handler> {
        let condition = match self.instr.condition_code() {
            ConditionCode::None => return None,
            code => code as u8 - 1,
        };
        if self.instr.is_jcc_short_or_near() {
            let long = self.near_target();
            return self.last(branch::select_jcc(condition, long));
        }
        if self.instr.op_count() == 1 {
            if !(self.is_memory(0) || self.is_register(0)) || self.instr.mnemonic() == Mnemonic::Loope {
                return None;
            }
            let memory = self.destination();
            return Some(data::select_setcc(condition, memory, self.flat));
        }
        // FCMOVcc is x87's affair.
        if !self.is_register(0) || !self.register(0).is_gpr() {
            return None;
        }
        let memory = self.load_form();
        Some(data::select_cmov(condition, memory, self.width(0), self.flat))
    }

    /// Takes a relative branch's target; says whether it is a 64-bit one.
    fn near_target(&mut self) -> bool {
        self.op.size = match self.instr.op_kind(0) {
            OpKind::NearBranch16 => 2,
            OpKind::NearBranch32 => 4,
            _ => 8,
        };
        self.op.imm = self.instr.near_branch_target();
        if self.op.size == 8 {
            return true;
        }
        false
    }

    fn branch(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let near = matches!(self.instr.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Jmp if near => {
                let long = self.near_target();
                self.last(branch::select_jmp(long))
            }
            M::Call if near => {
                let long = self.near_target();
                self.last(branch::select_call(long))
            }
            M::Jmp | M::Call if self.is_register(0) || self.is_memory(0) && self.memory_size() != 6 => {
                if self.is_far_memory() {
                    return None;
                }
                let memory = self.destination();
                self.op.size = self.width(0);
                self.last(branch::select_indirect(mnemonic == M::Call, memory, self.op.size, self.flat))
            }
            M::Ret => {
                self.op.size = match self.instr.code() {
                    Code::Retnw | Code::Retnw_imm16 => 2,
                    Code::Retnd | Code::Retnd_imm16 => 4,
                    _ => 8,
                };
                self.op.imm = if self.instr.op_count() == 1 { self.immediate(0) } else { 0 };
                self.last(if self.op.size == 8 { branch::ret_long } else { branch::ret })
            }
            M::Jcxz | M::Jecxz | M::Jrcxz => {
                self.near_target();
                self.op.addr = match mnemonic {
                    M::Jcxz => 2,
                    M::Jecxz => 4,
                    _ => 8,
                };
                self.last(branch::jcxz)
            }
            M::Loop | M::Loope | M::Loopne => {
                self.near_target();
                self.op.addr = loop_counter(self.instr.code());
                self.last(match mnemonic {
                    M::Loop => branch::loop_,
                    M::Loope => branch::loope,
                    _ => branch::loopne,
                })
            }
            _ => None,
        }
    }

    pub(super) fn is_far_memory(&self) -> bool {
        self.instr.is_jmp_far_indirect() || self.instr.is_call_far_indirect()
    }

    fn stack(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mut sized = |size, handler: Handler| {
            self.op.size = size;
            Some(handler)
        };
        match self.instr.mnemonic() {
            M::Push => self.push(),
            M::Pop => {
                if self.is_register(0) && !self.register(0).is_gpr() {
                    return None;
                }
                let memory = self.destination();
                self.op.size = self.width(0);
                if memory && self.instr.memory_base() == iced_x86::Register::RSP {
                    self.flat = false;
                }
                Some(stack::select_pop(memory, self.op.size, self.flat))
            }
            M::Pusha => sized(2, stack::pusha),
            M::Pushad => sized(4, stack::pusha),
            M::Popa => sized(2, stack::popa),
            M::Popad => sized(4, stack::popa),
            M::Pushf => sized(2, stack::pushf),
            M::Pushfd => sized(4, stack::pushf),
            M::Pushfq => sized(8, stack::pushf),
            M::Popf => sized(2, stack::popf).and_then(|handler| self.last(handler)),
            M::Popfd => sized(4, stack::popf).and_then(|handler| self.last(handler)),
            M::Popfq => sized(8, stack::popf).and_then(|handler| self.last(handler)),
            M::Leave => {
                self.op.size = match self.instr.code() {
                    Code::Leavew => 2,
                    Code::Leaved => 4,
                    _ => 8,
                };
                Some(stack::leave)
            }
            M::Enter => {
                self.op.size = match self.instr.code() {
                    Code::Enterw_imm16_imm8 => 2,
                    Code::Enterd_imm16_imm8 => 4,
                    _ => 8,
                };
                self.op.imm = self.immediate(0) & 0xffff | (self.immediate(1) & 0xff) << 16;
                Some(stack::enter)
            }
            M::Cli => Some(stack::cli),
            M::Sti => self.last(stack::sti),
            M::Xlatb => {
                self.op.dst = RAX as u8;
                Some(data::xlat)
            }
            _ => None,
        }
    }

    fn push(&mut self) -> Option<Handler> {
        let size = match self.instr.op_kind(0) {
            OpKind::Register if !self.register(0).is_gpr() => return None,
            OpKind::Register | OpKind::Memory => self.width(0),
            OpKind::Immediate8to16 | OpKind::Immediate16 => 2,
            OpKind::Immediate8to32 | OpKind::Immediate32 => 4,
            _ => 8,
        };
        self.op.size = size;
        if self.is_register(0) || self.is_memory(0) {
            let memory = self.destination();
            return Some(stack::select_push(memory, size, self.flat));
        }
        self.op.imm = self.immediate(0);
        Some(stack::select_push_imm(size))
    }
}

/// Size of the register that a loop counts down.
fn loop_counter(code: Code) -> u8 {
    use Code as C;
    match code {
        C::Loop_rel8_16_CX
        | C::Loop_rel8_32_CX
        | C::Loope_rel8_16_CX
        | C::Loope_rel8_32_CX
        | C::Loopne_rel8_16_CX
        | C::Loopne_rel8_32_CX => 2,
        C::Loop_rel8_16_ECX
        | C::Loop_rel8_32_ECX
        | C::Loop_rel8_64_ECX
        | C::Loope_rel8_16_ECX
        | C::Loope_rel8_32_ECX
        | C::Loope_rel8_64_ECX
        | C::Loopne_rel8_16_ECX
        | C::Loopne_rel8_32_ECX
        | C::Loopne_rel8_64_ECX => 4,
        _ => 8,
    }
}
