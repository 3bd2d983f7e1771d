//! SSE4.2's string comparisons: `PCMPESTRI`, `PCMPESTRM`, `PCMPISTRI`, `PCMPISTRM`.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RCX, RDX, bit};
use crate::flags::Lazy;
use crate::int::operand::Based;
use crate::sse::lanes::Lane;
use crate::sse::{Operand, XmmMem, XmmSrc};

/// [`Op::bits`]: explicit lengths are in 64-bit registers.
pub(crate) const WIDE: u8 = 8;

/// Elements of a register as the immediate says, widened.
fn elements(value: u128, imm: u8) -> ([i32; 16], usize) {
    let mut result = [0; 16];
    let count = if imm & 1 != 0 { 8 } else { 16 };
    for (index, to) in result.iter_mut().enumerate().take(count) {
        *to = match imm & 3 {
            0 => i32::from(u8::split(value)[index]),
            1 => i32::from(u16::split(value)[index]),
            2 => i32::from(i8::split(value)[index]),
            _ => i32::from(i16::split(value)[index]),
        };
    }
    (result, count)
}

/// Which elements of the second operand match the first; one bit each.
fn compare(a: &[i32], a_len: usize, b: &[i32], b_len: usize, imm: u8) -> u32 {
    let count = a.len();
    let mut matches = 0;
    for j in 0..count {
        let valid = j < b_len;
        let met = match imm >> 2 & 3 {
            // Equal any: is this one of a set?
            0 => valid && a[..a_len].contains(&b[j]),
            // Ranges: pairs of bounds.
            1 => valid && a[..a_len].chunks_exact(2).any(|pair| pair[0] <= b[j] && b[j] <= pair[1]),
            // Equal each.
            2 => match (j < a_len, valid) {
                (true, true) => a[j] == b[j],
                (false, false) => true,
                _ => false,
            },
            // Equal ordered: does the first string begin here?
            _ => (0..count - j).all(|i| i >= a_len || j + i < b_len && a[i] == b[j + i]),
        };
        matches |= u32::from(met) << j;
    }
    let all = (1 << count) - 1;
    let valid = ((1_u32 << b_len) - 1) & all;
    match imm >> 4 & 3 {
        1 => matches ^ all,
        3 => matches ^ valid,
        _ => matches,
    }
}

/// An explicit length: a register's absolute value, at most the number of elements.
fn explicit_length(core: &Core, register: usize, wide: bool, count: usize) -> usize {
    let value = core.regs[register];
    let magnitude = if wide { (value as i64).unsigned_abs() } else { u64::from((value as i32).unsigned_abs()) };
    magnitude.min(count as u64) as usize
}

fn execute<S: Operand, const EXPLICIT: bool, const MASK: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let second = S::get(core, bus, op)?;
    let imm = op.imm as u8;
    let (a, count) = elements(core.xmm[usize::from(op.dst) % 16], imm);
    let (b, _) = elements(second, imm);
    let (a, b) = (&a[..count], &b[..count]);
    let (a_len, b_len) = if EXPLICIT {
        let wide = op.bits & WIDE != 0;
        (explicit_length(core, RAX, wide, count), explicit_length(core, RDX, wide, count))
    } else {
        let end = |lanes: &[i32]| lanes.iter().position(|&lane| lane == 0).unwrap_or(count);
        (end(a), end(b))
    };
    let result = compare(a, a_len, b, b_len, imm);
    if MASK {
        core.xmm[0] = if imm & 0x40 == 0 {
            u128::from(result)
        } else if count == 16 {
            u8::join(std::array::from_fn(|index| if result >> index & 1 != 0 { 0xff } else { 0 }))
        } else {
            u16::join(std::array::from_fn(|index| if result >> index & 1 != 0 { 0xffff } else { 0 }))
        };
    } else {
        let index = match (result, imm & 0x40) {
            (0, _) => count as u32,
            (_, 0) => result.trailing_zeros(),
            _ => result.ilog2(),
        };
        core.regs[RCX] = u64::from(index);
    }
    let mut flags = 0;
    for (set, flag) in
        [(result != 0, bit::CF), (b_len < count, bit::ZF), (a_len < count, bit::SF), (result & 1 != 0, bit::OF)]
    {
        if set {
            flags |= flag;
        }
    }
    core.flags = Lazy::from_bits(flags);
    Ok(())
}

/// The handler of a string comparison.
pub(crate) fn select(explicit: bool, mask: bool, memory: bool) -> Handler {
    type M = XmmMem<Based>;
    match (explicit, mask, memory) {
        (false, false, false) => execute::<XmmSrc, false, false>,
        (false, false, true) => execute::<M, false, false>,
        (false, true, false) => execute::<XmmSrc, false, true>,
        (false, true, true) => execute::<M, false, true>,
        (true, false, false) => execute::<XmmSrc, true, false>,
        (true, false, true) => execute::<M, true, false>,
        (true, true, false) => execute::<XmmSrc, true, true>,
        (true, true, true) => execute::<M, true, true>,
    }
}
