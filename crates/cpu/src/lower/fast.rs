//! Tuning of a block: gives frequent instructions steps of their own, leaves out flags that nobody can see, and pairs
//! comparisons with the branch that follows. What instructions mean was decided before; none of this changes it.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpKind};

use crate::core::{Op, ZERO};
use crate::fast::{Effect, Fast, arithmetic, control, moves};
use crate::int::alu::{self, Form};
use crate::int::shift;
use crate::lower::{Lowering, MAX_BRANCHES, MAX_OPS};
use crate::snapshot::{KEY_CODE, KEY_SINGLE};
use crate::step::Step;

/// Whether blocks of this kind are tuned: 64-bit code that doesn't execute instruction by instruction.
pub(super) fn is_tuned(key: u32) -> bool {
    key & (KEY_CODE | KEY_SINGLE) == 2
}

/// The number of an instruction's condition in its opcode.
fn condition(instr: &Instruction) -> Option<u8> {
    match instr.condition_code() {
        ConditionCode::None => None,
        code => Some(code as u8 - 1),
    }
}

/// A block being tuned.
pub(super) struct Tuning {
    tuned: bool,
    /// Where its operations begin.
    start: usize,
    branches: usize,
    /// How the last operation pairs with a branch.
    pair: Option<fn(u8) -> Option<Step>>,
    effects: [Effect; MAX_OPS],
    quiet: [Option<Step>; MAX_OPS],
}

impl Tuning {
    pub(super) fn new(key: u32, start: usize) -> Self {
        Self {
            tuned: is_tuned(key),
            start,
            branches: 0,
            pair: None,
            effects: [Effect::Looks; MAX_OPS],
            quiet: [None; MAX_OPS],
        }
    }

    /// Appends an operation. Says whether the block may go on after it although it branches.
    pub(super) fn push(&mut self, ops: &mut Vec<Op>, mut op: Op, fast: Option<Fast>, instr: &Instruction) -> bool {
        let pair = self.pair.take();
        let Some(fast) = fast.filter(|_| self.tuned) else {
            ops.push(op);
            return false;
        };
        let branches = instr.is_jcc_short_or_near();
        if branches {
            self.branches += 1;
            let step = condition(instr).and_then(|condition| pair?(condition));
            if let (Some(step), Some(last), Ok(target)) = (step, ops.last_mut(), i32::try_from(op.imm as i64)) {
                last.step = step;
                last.target = target;
                last.len += op.len;
                last.end = op.end;
                last.count = 2;
                return self.branches < MAX_BRANCHES;
            }
        }
        let at = ops.len() - self.start;
        self.effects[at] = fast.effect;
        self.quiet[at] = fast.quiet;
        self.pair = fast.pair;
        op.step = fast.step;
        ops.push(op);
        branches && self.branches < MAX_BRANCHES
    }

    /// Leaves out the flags that are replaced before anything can look at them.
    pub(super) fn finish(self, ops: &mut [Op]) {
        if !self.tuned {
            return;
        }
        let mut dead = false;
        for (at, op) in ops[self.start..].iter_mut().enumerate().rev() {
            let quiet = if op.count == 1 { self.quiet[at] } else { None };
            match (self.effects[at], dead, quiet) {
                (Effect::Passes, ..) => {}
                (Effect::Looks, ..) | (Effect::Changes, _, None) | (Effect::Changes, false, _) => dead = false,
                (Effect::Changes, true, Some(quiet)) => op.step = quiet,
                (Effect::Replaces, true, Some(quiet)) => op.step = quiet,
                (Effect::Replaces, ..) => dead = true,
            }
        }
    }
}

impl Lowering<'_> {
    /// The fast form of an instruction, where there is one.
    pub(super) fn fast(&mut self) -> Option<Fast> {
        use Mnemonic as M;
        let memory = (0..self.instr.op_count()).any(|operand| self.is_memory(operand));
        if self.instr.has_lock_prefix() || memory && !self.flat && self.instr.mnemonic() != M::Lea {
            return None;
        }
        let index = usize::from(self.op.index) != ZERO;
        match self.instr.mnemonic() {
            M::Add => self.fast_binary(arithmetic::binary::<alu::Add>),
            M::Sub => self.fast_binary(arithmetic::binary::<alu::Sub>),
            M::And => self.fast_binary(arithmetic::binary::<alu::And>),
            M::Or => self.fast_binary(arithmetic::binary::<alu::Or>),
            M::Xor => self.fast_binary(arithmetic::binary::<alu::Xor>),
            M::Cmp => self.fast_binary(arithmetic::compare::<alu::Cmp>),
            M::Test => self.fast_binary(arithmetic::compare::<alu::Test>),
            M::Adc if self.width(0) > 1 => self.fast_binary(arithmetic::carry::<alu::Adc>),
            M::Sbb if self.width(0) > 1 => self.fast_binary(arithmetic::carry::<alu::Sbb>),
            M::Mov if self.is_general() => self.fast_binary(moves::mov),
            M::Inc => Some(arithmetic::count::<alu::Inc>(memory, self.width(0), index)),
            M::Dec => Some(arithmetic::count::<alu::Dec>(memory, self.width(0), index)),
            M::Neg if !memory => Some(arithmetic::unary::<alu::Neg>(self.width(0), Effect::Replaces)),
            M::Not if !memory => Some(arithmetic::unary::<alu::Not>(self.width(0), Effect::Passes)),
            M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror if !memory => self.fast_shift(),
            M::Imul if self.instr.op_count() > 1 => {
                let three = self.instr.op_count() == 3;
                Some(arithmetic::multiply(three, memory, self.width(0), index))
            }
            M::Lea if self.op.addr == 8 => moves::lea(self.width(0), index),
            M::Movzx | M::Movsx | M::Movsxd => {
                let (from, to) = (self.width(1), self.width(0));
                if from == to { None } else { Some(moves::extend(self.is_signed(), memory, from, to, index)) }
            }
            M::Nop | M::Endbr64 => Some(moves::nop()),
            _ => self.fast_control(memory, index).or_else(|| self.fast_vector(memory)),
        }
    }

    fn fast_control(&self, memory: bool, index: bool) -> Option<Fast> {
        use Mnemonic as M;
        let near = self.instr.op_kind(0) == OpKind::NearBranch64;
        match self.instr.mnemonic() {
            M::Push if self.op.size == 8 && !self.is_register(0) => {
                Some(moves::push(if memory { Form::RegMem } else { Form::RegImm }, index))
            }
            M::Push if self.op.size == 8 && self.register(0).is_gpr() => Some(moves::push(Form::RegReg, index)),
            M::Pop if !memory && self.register(0).is_gpr() && self.op.size == 8 => Some(moves::pop()),
            M::Jmp if near => Some(control::jmp()),
            M::Call if near => Some(control::call()),
            M::Ret if self.op.size == 8 => Some(control::ret()),
            M::Jmp | M::Call if self.op.size == 8 && (self.is_register(0) || self.is_near_memory()) => {
                Some(control::indirect(self.instr.mnemonic() == M::Call, memory, index))
            }
            _ => {
                let condition = condition(self.instr)?;
                if self.instr.is_jcc_short_or_near() {
                    return near.then(|| control::jcc(condition));
                }
                match self.instr.op_count() {
                    1 if self.is_register(0) => Some(moves::setcc(condition)),
                    2 if self.is_register(0) && self.register(0).is_gpr() => {
                        Some(moves::cmov(condition, memory, self.width(0), index))
                    }
                    _ => None,
                }
            }
        }
    }

    fn is_near_memory(&self) -> bool {
        self.is_memory(0) && self.memory_size() == 8 && !self.is_far_memory()
    }

    fn is_general(&self) -> bool {
        (0..2).all(|operand| !self.is_register(operand) || self.register(operand).is_gpr())
    }

    fn is_signed(&self) -> bool {
        self.instr.mnemonic() != Mnemonic::Movzx
    }

    fn fast_binary(&mut self, select: fn(Form, u8, bool) -> Fast) -> Option<Fast> {
        let form = self.form();
        Some(select(form, self.width(0), usize::from(self.op.index) != ZERO))
    }

    fn fast_shift(&self) -> Option<Fast> {
        use Mnemonic as M;
        let by_cl = self.is_register(1);
        let size = self.width(0);
        let count = self.op.imm & if size == 8 { 63 } else { 31 };
        let effect = if by_cl || count == 0 { Effect::Changes } else { Effect::Replaces };
        Some(match self.instr.mnemonic() {
            M::Shr => arithmetic::shift::<shift::Shr>(by_cl, size, effect),
            M::Sar => arithmetic::shift::<shift::Sar>(by_cl, size, effect),
            M::Rol => arithmetic::shift::<shift::Rol>(by_cl, size, Effect::Changes),
            M::Ror => arithmetic::shift::<shift::Ror>(by_cl, size, Effect::Changes),
            _ => arithmetic::shift::<shift::Shl>(by_cl, size, effect),
        })
    }
}
