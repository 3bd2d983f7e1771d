//! Lowering of x87 instructions.

use iced_x86::{Code, MemorySize, Mnemonic, Register};

use crate::core::Handler;
use crate::lower::Lowering;
use crate::x87::handlers::{self, DOUBLE_REAL, INTEGER_16, INTEGER_32, INTEGER_64, SINGLE_REAL};
use crate::x87::{control, transcendental, transfer};

/// Picks a handler by the kind of memory operand.
macro_rules! by_kind {
    ($self:ident, $f:path) => {{
        use $f as handler;
        match $self.instr.memory_size() {
            MemorySize::Float32 => handler::<SINGLE_REAL> as Handler,
            MemorySize::Float64 => handler::<DOUBLE_REAL>,
            MemorySize::Int16 => handler::<INTEGER_16>,
            MemorySize::Int32 => handler::<INTEGER_32>,
            _ => handler::<INTEGER_64>,
        }
    }};
}

impl Lowering<'_> {
    pub(super) fn x87(&mut self) -> Option<Handler> {
        if self.instr.mnemonic() == Mnemonic::Wait {
            return Some(control::wait);
        }
        let handler = self
            .x87_arithmetic()
            .or_else(|| self.x87_transfer())
            .or_else(|| self.x87_simple())
            .or_else(|| self.x87_control())?;
        // Any of EM and TS makes #NM of all of these.
        if self.fpu_off() {
            return self.last(crate::sse::not_available);
        }
        Some(handler)
    }

    fn st(&self, operand: u32) -> u8 {
        let register = self.register(operand);
        if register.is_st() { register as u8 - Register::ST0 as u8 } else { 0 }
    }

    fn has_memory(&self) -> bool {
        self.instr.op_count() > 0 && self.is_memory(0)
    }

    fn x87_arithmetic(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let (operation, pops) = match self.instr.mnemonic() {
            M::Fadd | M::Fiadd => (0, 0),
            M::Faddp => (0, 1),
            M::Fmul | M::Fimul => (1, 0),
            M::Fmulp => (1, 1),
            M::Fsub | M::Fisub => (2, 0),
            M::Fsubp => (2, 1),
            M::Fsubr | M::Fisubr => (3, 0),
            M::Fsubrp => (3, 1),
            M::Fdiv | M::Fidiv => (4, 0),
            M::Fdivp => (4, 1),
            M::Fdivr | M::Fidivr => (5, 0),
            M::Fdivrp => (5, 1),
            _ => return self.x87_compare(),
        };
        self.op.imm = operation;
        self.op.bits = pops;
        if self.has_memory() {
            return Some(by_kind!(self, handlers::arithmetic_memory));
        }
        self.op.dst = self.st(0);
        self.op.src = self.st(1);
        Some(handlers::arithmetic)
    }

    fn x87_compare(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let (pops, handler): (u8, Handler) = match mnemonic {
            M::Fcom | M::Ficom => (0, handlers::compare_registers::<true, false>),
            M::Fcomp | M::Ficomp => (1, handlers::compare_registers::<true, false>),
            M::Fcompp => (2, handlers::compare_registers::<true, false>),
            M::Fucom => (0, handlers::compare_registers::<false, false>),
            M::Fucomp => (1, handlers::compare_registers::<false, false>),
            M::Fucompp => (2, handlers::compare_registers::<false, false>),
            M::Fcomi => (0, handlers::compare_registers::<true, true>),
            M::Fcomip => (1, handlers::compare_registers::<true, true>),
            M::Fucomi => (0, handlers::compare_registers::<false, true>),
            M::Fucomip => (1, handlers::compare_registers::<false, true>),
            _ => return None,
        };
        self.op.bits = pops;
        if self.has_memory() {
            return Some(by_kind!(self, handlers::compare_memory));
        }
        self.op.src = match self.instr.op_count() {
            0 => 1,
            1 => self.st(0),
            _ => self.st(1),
        };
        Some(handler)
    }

    fn x87_transfer(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Fld | M::Fild => {
                if !self.has_memory() {
                    self.op.src = self.st(self.instr.op_count().saturating_sub(1));
                    return Some(transfer::load_register);
                }
                if self.instr.memory_size() == MemorySize::Float80 {
                    return Some(transfer::load_extended);
                }
                Some(by_kind!(self, transfer::load))
            }
            M::Fst | M::Fstp | M::Fstpnce => {
                self.op.bits = u8::from(mnemonic != M::Fst);
                if !self.has_memory() {
                    self.op.dst = self.st(0);
                    return Some(transfer::store_register);
                }
                Some(match self.instr.memory_size() {
                    MemorySize::Float80 => transfer::store_extended,
                    MemorySize::Float64 => transfer::store::<true>,
                    _ => transfer::store::<false>,
                })
            }
            M::Fist | M::Fistp | M::Fisttp => {
                self.op.bits = u8::from(mnemonic != M::Fist);
                self.op.size = self.memory_size();
                let truncate = mnemonic == M::Fisttp;
                Some(if truncate { transfer::store_integer::<true> } else { transfer::store_integer::<false> })
            }
            M::Fbld => Some(transfer::load_decimal),
            M::Fbstp => {
                self.op.bits = 1;
                Some(transfer::store_decimal)
            }
            M::Fld1 | M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 | M::Fldz => {
                self.op.imm = match mnemonic {
                    M::Fld1 => 0,
                    M::Fldl2t => 1,
                    M::Fldl2e => 2,
                    M::Fldpi => 3,
                    M::Fldlg2 => 4,
                    M::Fldln2 => 5,
                    _ => 6,
                };
                Some(transfer::load_constant)
            }
            _ => None,
        }
    }

    fn x87_simple(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let mut numbered = |imm, handler: Handler| {
            self.op.imm = imm;
            Some(handler)
        };
        match mnemonic {
            M::Fchs => numbered(handlers::CHANGE_SIGN, handlers::unary),
            M::Fabs => numbered(handlers::ABSOLUTE, handlers::unary),
            M::Fsqrt => numbered(handlers::SQUARE_ROOT, handlers::unary),
            M::Frndint => numbered(handlers::ROUND, handlers::unary),
            M::Fprem => numbered(0, handlers::fprem),
            M::Fprem1 => numbered(1, handlers::fprem),
            M::Fsin => numbered(transcendental::SINE, transcendental::trigonometric),
            M::Fcos => numbered(transcendental::COSINE, transcendental::trigonometric),
            M::Fsincos => numbered(transcendental::BOTH, transcendental::trigonometric),
            M::Fptan => numbered(transcendental::TANGENT, transcendental::trigonometric),
            M::Fpatan => Some(transcendental::fpatan),
            M::F2xm1 => Some(transcendental::f2xm1),
            M::Fyl2x => Some(transcendental::fyl2x),
            M::Fyl2xp1 => Some(transcendental::fyl2xp1),
            M::Ftst => Some(handlers::ftst),
            M::Fxam => Some(handlers::fxam),
            M::Fscale => Some(handlers::fscale),
            M::Fxtract => Some(handlers::fxtract),
            M::Fxch => {
                self.op.src = self.st(self.instr.op_count().saturating_sub(1));
                Some(handlers::fxch)
            }
            M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu | M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu => {
                self.op.src = self.st(1);
                self.op.imm = match mnemonic {
                    M::Fcmovb => 0,
                    M::Fcmove => 1,
                    M::Fcmovbe => 2,
                    M::Fcmovu => 3,
                    M::Fcmovnb => 4,
                    M::Fcmovne => 5,
                    M::Fcmovnbe => 6,
                    _ => 7,
                };
                Some(handlers::fcmov)
            }
            _ => None,
        }
    }

    fn x87_control(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Fninit => Some(control::fninit),
            M::Fnclex => Some(control::fnclex),
            M::Fnop => Some(control::fnop),
            M::Fneni | M::Fndisi | M::Fnsetpm => Some(crate::int::data::nop),
            M::Fldcw => Some(control::fldcw),
            M::Fnstcw => Some(control::fnstcw),
            M::Fnstsw => Some(if self.has_memory() { control::fnstsw } else { control::fnstsw_ax }),
            M::Fdecstp => Some(control::turn),
            M::Fincstp => {
                self.op.imm = 1;
                Some(control::turn)
            }
            M::Ffree | M::Ffreep => {
                self.op.dst = self.st(0);
                self.op.bits = u8::from(mnemonic == M::Ffreep);
                Some(control::ffree)
            }
            M::Fnstenv | M::Fldenv | M::Fnsave | M::Frstor => {
                self.op.size = match self.instr.code() {
                    Code::Fnstenv_m14byte | Code::Fldenv_m14byte | Code::Fnsave_m94byte | Code::Frstor_m94byte => 2,
                    _ => 4,
                };
                Some(match mnemonic {
                    M::Fnstenv => control::fnstenv,
                    M::Fldenv => control::fldenv,
                    M::Fnsave => control::fnsave,
                    _ => control::frstor,
                })
            }
            _ => None,
        }
    }
}
