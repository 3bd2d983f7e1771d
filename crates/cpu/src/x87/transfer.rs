//! x87 loads and stores: reals, integers, packed decimals, constants.

use crate::core::{Bus, Core, Flow, Op, vector};
use crate::int::operand::{Address, Based};
use crate::memory::done;
use crate::soft::{
    Class, DOUBLE, Exact, Format, Number, Rounding, SINGLE, round, round_to_integral, status, to_integer,
};
use crate::x87::F80;
use crate::x87::arithmetic::exact_f80;
use crate::x87::handlers::{begin, operand};

/// `FLD` and `FILD` of memory of a kind.
pub(crate) fn load<const KIND: u8>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let mut number = operand::<KIND>(core, bus, op)?;
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    if fpu.get(7).is_none() {
        if number.class == Class::Signaling {
            if fpu.note(status::INVALID, 1) {
                return Ok(());
            }
            number = number.quieted();
        }
        if number.denormal {
            // Pushed even if that isn't masked.
            fpu.note(status::DENORMAL, 0);
        }
    }
    fpu.push(exact_f80(number));
    Ok(())
}

/// `FLD m80`
pub(crate) fn load_extended(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let linear = Based::linear(core, op, 10, false)?;
    core.probe_read(linear, 10, op.seg)?;
    let significand = core.load::<u64>(bus, linear, op.seg)?;
    let exponent = core.load::<u16>(bus, core.wrap(linear.wrapping_add(8)), op.seg)?;
    begin(core, op)?;
    core.fpu.dp = linear;
    core.fpu.set_c1(false);
    core.fpu.push(F80 { significand, exponent });
    Ok(())
}

/// `FLD ST(i)`
pub(crate) fn load_register(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    match fpu.get(op.src) {
        Some(value) => fpu.push(value),
        None => {
            if !fpu.stack_fault(false) {
                fpu.top = fpu.top.wrapping_sub(1) & 7;
                fpu.set(0, F80::INDEFINITE);
            }
        }
    }
    Ok(())
}

/// Constants: (exponent, 66 bits of significand as 64 and how the rest rounds: whether up to nearest, and upwards).
const CONSTANTS: [(u16, u64, i8); 7] = [
    (0x3fff, 0x8000_0000_0000_0000, 0),
    (0x4000, 0xd49a_784b_cd1b_8afe, -1),
    (0x3fff, 0xb8aa_3b29_5c17_f0bc, 1),
    (0x4000, 0xc90f_daa2_2168_c235, 1),
    (0x3ffd, 0x9a20_9a84_fbcf_f799, 1),
    (0x3ffe, 0xb172_17f7_d1cf_79ac, 1),
    (0, 0, 0),
];

/// `FLD1`, `FLDL2T`, `FLDL2E`, `FLDPI`, `FLDLG2`, `FLDLN2`, `FLDZ` by `op.imm`.
pub(crate) fn load_constant(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let (exponent, mut significand, error) = CONSTANTS[op.imm as usize % 7];
    // The value in the table is rounded to nearest: `error` says on which side of the constant it is.
    match fpu.rounding() {
        Rounding::Down | Rounding::Zero if error > 0 => significand -= 1,
        Rounding::Up if error < 0 => significand += 1,
        _ => {}
    }
    fpu.push(F80 { significand, exponent });
    Ok(())
}

/// Writes ST(0) to memory as a single or double. `bits` of `op.bits`: pops.
pub(crate) fn store<const DOUBLE_SIZE: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let format: &Format = if DOUBLE_SIZE { &DOUBLE } else { &SINGLE };
    let size = if DOUBLE_SIZE { 8 } else { 4 };
    let place = begin_store(core, op, size)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let mut number = match fpu.get(0) {
        Some(value) => value.unpack(),
        None if fpu.stack_fault(false) => return Ok(()),
        None => Number::indefinite(),
    };
    let mut flags = 0;
    match number.class {
        Class::Unsupported => {
            flags |= status::INVALID;
            number = Number::indefinite();
        }
        Class::Signaling => {
            flags |= status::INVALID;
            number = number.quieted();
        }
        _ => {}
    }
    let exact = if number.class == Class::Finite { Exact::Finite(number.widen()) } else { Exact::Special(number) };
    let rounded = round(exact, format, &fpu.memory_context(format), &mut flags);
    let unmasked = flags & !u32::from(fpu.control);
    if unmasked & (status::OVERFLOW | status::UNDERFLOW) != 0 {
        // Without a result, nothing is inexact.
        flags &= !status::PRECISION;
    }
    fpu.set_c1(flags & status::PRECISION != 0 && rounded.up);
    if fpu.note(flags, status::INVALID | status::OVERFLOW | status::UNDERFLOW) {
        return Ok(());
    }
    let bits = format.pack(&rounded);
    let linear = check_store(core, op, place, size as usize)?;
    if DOUBLE_SIZE {
        done(core.store(bus, linear, op.seg, bits))?;
    } else {
        done(core.store(bus, linear, op.seg, bits as u32))?;
    }
    finish_store(core, op)
}

/// What every store does first; returns where it goes and the status word before.
fn begin_store(core: &mut Core, op: &Op, size: u64) -> Flow<(u64, u16)> {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let linear = Based::linear(core, op, size, true)?;
    begin(core, op)?;
    core.fpu.dp = linear;
    Ok((linear, core.fpu.status))
}

/// Checks that the memory can be written, once it is sure that it will be; otherwise takes the flags raised back.
fn check_store(core: &mut Core, op: &Op, (linear, status): (u64, u16), size: usize) -> Flow<u64> {
    let checked = core.probe_write(linear, size, op.seg);
    if checked.is_err() {
        core.fpu.status = status;
    }
    checked.map(|()| linear)
}

fn finish_store(core: &mut Core, op: &Op) -> Flow {
    if op.bits != 0 {
        core.fpu.pop();
    }
    core.synced()
}

/// `FSTP m80`
pub(crate) fn store_extended(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let place = begin_store(core, op, 10)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let value = match fpu.get(0) {
        Some(value) => value,
        None if fpu.stack_fault(false) => return Ok(()),
        None => F80::INDEFINITE,
    };
    let linear = check_store(core, op, place, 10)?;
    done(core.store(bus, linear, op.seg, value.significand))?;
    done(core.store(bus, core.wrap(linear.wrapping_add(8)), op.seg, value.exponent))?;
    finish_store(core, op)
}

/// `FST ST(i)`
pub(crate) fn store_register(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let value = match fpu.get(0) {
        Some(value) => value,
        None if fpu.stack_fault(false) => return Ok(()),
        None => F80::INDEFINITE,
    };
    fpu.set(op.dst, value);
    if op.bits != 0 {
        fpu.pop();
    }
    Ok(())
}

/// `FIST`, `FISTP`, `FISTTP` of `op.size` bytes.
pub(crate) fn store_integer<const TRUNCATE: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let place = begin_store(core, op, u64::from(op.size))?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let bits = 8 * u32::from(op.size);
    let indefinite = 1_u64 << (bits - 1);
    let rounding = if TRUNCATE { Rounding::Zero } else { fpu.rounding() };
    let value = match fpu.get(0) {
        None if fpu.stack_fault(false) => return Ok(()),
        None => indefinite,
        Some(value) => match to_integer(value.unpack(), bits, rounding) {
            Some((value, inexact, up)) => {
                if inexact {
                    fpu.set_c1(up);
                    fpu.note(status::PRECISION, 0);
                }
                value as u64
            }
            None if fpu.note(status::INVALID, 1) => return Ok(()),
            None => indefinite,
        },
    };
    let linear = check_store(core, op, place, usize::from(op.size))?;
    match op.size {
        2 => done(core.store(bus, linear, op.seg, value as u16))?,
        4 => done(core.store(bus, linear, op.seg, value as u32))?,
        _ => done(core.store(bus, linear, op.seg, value))?,
    }
    finish_store(core, op)
}

/// `FBLD`
pub(crate) fn load_decimal(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    let linear = Based::linear(core, op, 10, false)?;
    core.probe_read(linear, 10, op.seg)?;
    let low = core.load::<u64>(bus, linear, op.seg)?;
    let high = core.load::<u16>(bus, core.wrap(linear.wrapping_add(8)), op.seg)?;
    begin(core, op)?;
    core.fpu.dp = linear;
    core.fpu.set_c1(false);
    let digit =
        |index: u32| if index < 16 { low >> (4 * index) & 15 } else { u64::from(high >> (4 * (index - 16)) & 15) };
    let magnitude = (0..18).rev().fold(0_u64, |value, index| value.wrapping_mul(10).wrapping_add(digit(index)));
    let mut number = Number::from_integer(magnitude as i64);
    number.sign = high >> 15 != 0;
    core.fpu.push(exact_f80(number));
    Ok(())
}

/// `FBSTP`
pub(crate) fn store_decimal(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let place = begin_store(core, op, 10)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    let mut image = (0xc000_0000_0000_0000_u64, 0xffff_u16);
    match fpu.get(0) {
        None if fpu.stack_fault(false) => return Ok(()),
        None => {}
        Some(value) => {
            let number = value.unpack();
            let (whole, inexact, up) = match number.class {
                Class::Zero | Class::Finite => round_to_integral(number, fpu.rounding()),
                _ => (number, false, false),
            };
            let magnitude = match whole.class {
                Class::Zero => Some(0),
                Class::Finite if whole.exponent < 63 => Some(whole.significand >> (63 - whole.exponent)),
                _ => None,
            };
            match magnitude.filter(|&magnitude| magnitude < 1_000_000_000_000_000_000) {
                Some(magnitude) => {
                    if inexact {
                        fpu.set_c1(up);
                        fpu.note(status::PRECISION, 0);
                    }
                    image = decimal(magnitude, whole.sign);
                }
                None if fpu.note(status::INVALID, 1) => return Ok(()),
                None => {}
            }
        }
    }
    let linear = check_store(core, op, place, 10)?;
    done(core.store(bus, linear, op.seg, image.0))?;
    done(core.store(bus, core.wrap(linear.wrapping_add(8)), op.seg, image.1))?;
    finish_store(core, op)
}

/// Eighteen digits and a sign.
fn decimal(magnitude: u64, sign: bool) -> (u64, u16) {
    let mut rest = magnitude;
    let mut digits = 0_u128;
    for index in 0..18 {
        digits |= u128::from(rest % 10) << (4 * index);
        rest /= 10;
    }
    (digits as u64, (digits >> 64) as u16 | u16::from(sign) << 15)
}
