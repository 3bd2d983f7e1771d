//! Lowering: from bytes to operations, once per instruction. Decoding itself is iced-x86's; here operands are resolved
//! and handlers are picked. Nothing is executed.

mod fast;
mod fast_vector;
mod integer;
mod string;
mod system;
mod vector;
mod x87;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};

use crate::core::{BLOCK, Handler, Op, ZERO};
use crate::fast::Fast;
use crate::lower::fast::{Tuning, is_tuned};
use crate::registers::{CS, DS, ES, FS, GS, SS};
use crate::snapshot::{KEY_CODE, KEY_EM, KEY_FXSR, KEY_SINGLE, KEY_TS};
use crate::step;
use crate::system::control;

/// Most instructions in a block.
pub(crate) const MAX_OPS: usize = 48;
/// As [`MAX_OPS`], where instructions are executed one by one, mostly just one.
const MAX_SINGLE: usize = 4;
/// Most conditional branches that a block goes on after.
const MAX_BRANCHES: usize = 4;

/// Reserved NOPs stay NOPs, and what would be TZCNT, LZCNT and WBNOINVD is BSF, BSR and WBINVD, as on a CPU that
/// doesn't have them.
const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD;

/// One instruction on its way to an operation.
pub(crate) struct Lowering<'a> {
    instr: &'a Instruction,
    op: Op,
    /// The memory operand needs no segment and no masking.
    flat: bool,
    /// 2, 4 or 8: the default size of code.
    code: u8,
    key: u32,
    /// The fast form of a vector operation.
    fast_operation: Option<Fast>,
    /// Nothing may follow in the block.
    ends: bool,
}

/// Appends the operations for the code given to `ops`. Returns how many bytes they cover: 0 if not even the first
/// instruction is complete.
pub(crate) fn lower_block(key: u32, code: &[u8], ops: &mut Vec<Op>) -> usize {
    lower(key, code, ops, if key & KEY_SINGLE == 0 { MAX_OPS } else { MAX_SINGLE })
}

/// As [`lower_block`], for just one instruction.
pub(crate) fn lower_one(key: u32, code: &[u8], ops: &mut Vec<Op>) -> usize {
    lower(key, code, ops, 1)
}

fn lower(key: u32, code: &[u8], ops: &mut Vec<Op>, most: usize) -> usize {
    let bits = match key & KEY_CODE {
        0 => 16,
        1 => 32,
        _ => 64,
    };
    let mut decoder = Decoder::with_ip(bits, code, 0, OPTIONS);
    let mut instr = Instruction::default();
    let mut used = 0;
    let mut tuning = Tuning::new(key, ops.len());
    for number in 0..most {
        if !decoder.can_decode() {
            break;
        }
        decoder.decode_out(&mut instr);
        let mut ends = false;
        let mut fast = None;
        let mut op;
        if instr.is_invalid() {
            let rest = code.len() - used;
            if decoder.last_error() == DecoderError::NoMoreBytes && rest < 15 {
                break;
            }
            let long = decoder.last_error() == DecoderError::NoMoreBytes || instr.len() >= 15;
            op = empty(if long { control::too_long } else { control::undefined });
            instr.set_len(instr.len().clamp(1, rest.min(15)));
            ends = true;
        } else {
            (op, fast) = lower_instruction(key, bits, &instr, &mut ends);
        }
        used += instr.len();
        op.len = instr.len() as u8;
        op.end = used as u16;
        op.number = number as u8;
        let goes_on = tuning.push(ops, op, fast, &instr);
        if ends && !goes_on {
            break;
        }
    }
    tuning.finish(ops);
    used
}

fn empty(run: Handler) -> Op {
    Op {
        step: step::plain,
        run,
        imm: 0,
        disp: 0,
        dst: 0,
        src: 0,
        base: ZERO as u8,
        index: ZERO as u8,
        scale: 0,
        seg: DS as u8,
        addr: 8,
        size: 0,
        target: 0,
        len: 0,
        number: 0,
        count: 1,
        end: 0,
        bits: 0,
    }
}

fn lower_instruction(key: u32, bits: u32, instr: &Instruction, ends: &mut bool) -> (Op, Option<Fast>) {
    let mut lowering = Lowering {
        instr,
        op: empty(control::undefined),
        flat: false,
        code: (bits / 8) as u8,
        key,
        fast_operation: None,
        ends: false,
    };
    if (0..instr.op_count()).any(|index| instr.op_kind(index) == OpKind::Memory) {
        lowering.set_memory();
    }
    let handler = lowering
        .integer()
        .or_else(|| lowering.string())
        .or_else(|| lowering.system())
        .or_else(|| lowering.vector())
        .or_else(|| lowering.x87());
    let fast = if handler.is_some() && is_tuned(key) { lowering.fast() } else { None };
    let mut op = lowering.op;
    *ends = lowering.ends;
    match handler {
        Some(run) => op.run = run,
        None => {
            op.run = control::undefined;
            *ends = true;
        }
    }
    (op, fast)
}

/// Size of a general register in bytes, by where it stands in the enumeration.
fn register_size(register: Register) -> u8 {
    if register.is_gpr8() {
        1
    } else if register.is_gpr16() {
        2
    } else if register.is_gpr32() || register == Register::EIP {
        4
    } else {
        8
    }
}

/// Index of a general register as operations have it; bit 7 marks AH, CH, DH and BH.
fn register_index(register: Register) -> u8 {
    if register.is_gpr8() {
        match register as u32 - Register::AL as u32 {
            low @ 0..=3 => low as u8,
            high @ 4..=7 => (high as u8 - 4) | 0x80,
            other => other as u8 - 4,
        }
    } else {
        register.number() as u8
    }
}

/// Index of a segment register.
fn segment_index(register: Register) -> u8 {
    (match register {
        Register::ES => ES,
        Register::CS => CS,
        Register::SS => SS,
        Register::FS => FS,
        Register::GS => GS,
        _ => DS,
    }) as u8
}

impl Lowering<'_> {
    /// Resolves the memory operand.
    fn set_memory(&mut self) {
        let instr = self.instr;
        let (base, index) = (instr.memory_base(), instr.memory_index());
        let op = &mut self.op;
        op.disp = instr.memory_displacement64();
        op.base = match base {
            Register::None => ZERO as u8,
            Register::RIP | Register::EIP => {
                // Decoded at address 0: the displacement already is the target relative to the block's start.
                BLOCK as u8
            }
            register => register_index(register),
        };
        if index != Register::None {
            op.index = register_index(index);
            op.scale = instr.memory_index_scale().trailing_zeros() as u8;
        }
        op.addr = if base != Register::None {
            register_size(base)
        } else if index != Register::None {
            register_size(index)
        } else {
            match instr.memory_displ_size() {
                2 => 2,
                4 => 4,
                _ => self.code.max(2),
            }
        };
        op.seg = segment_index(instr.memory_segment());
        self.flat = self.code == 8 && op.addr == 8 && usize::from(op.seg) < FS;
    }

    fn is_memory(&self, operand: u32) -> bool {
        self.instr.op_kind(operand) == OpKind::Memory
    }

    fn is_register(&self, operand: u32) -> bool {
        self.instr.op_kind(operand) == OpKind::Register
    }

    fn register(&self, operand: u32) -> Register {
        self.instr.op_register(operand)
    }

    fn index(&self, operand: u32) -> u8 {
        register_index(self.register(operand))
    }

    fn memory_size(&self) -> u8 {
        self.instr.memory_size().size() as u8
    }

    /// Width of an operand in bytes.
    fn width(&self, operand: u32) -> u8 {
        if self.is_memory(operand) { self.memory_size() } else { register_size(self.register(operand)) }
    }

    fn immediate(&self, operand: u32) -> u64 {
        self.instr.immediate(operand)
    }

    /// Ends the block after this instruction.
    fn last(&mut self, handler: Handler) -> Option<Handler> {
        self.ends = true;
        Some(handler)
    }

    fn fpu_off(&self) -> bool {
        self.key & (KEY_EM | KEY_TS) != 0
    }

    fn is_emulated(&self) -> bool {
        self.key & KEY_EM != 0
    }

    fn has_fxsr(&self) -> bool {
        self.key & KEY_FXSR != 0
    }
}
