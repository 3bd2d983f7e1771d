//! `FXSAVE`, `FXRSTOR`, `LDMXCSR`, `STMXCSR` and `EMMS`.

use crate::core::{Bus, Core, Flow, Op, vector};
use crate::int::operand::{Address, Based};
use crate::memory::done;
use crate::x87::F80;

/// `LDMXCSR`
pub(crate) fn ldmxcsr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 4, false)?;
    let value = core.load::<u32>(bus, linear, op.seg)?;
    if value >> 16 != 0 {
        return core.raise_code(vector::GP, 0);
    }
    core.mxcsr = value;
    Ok(())
}

/// `STMXCSR`
pub(crate) fn stmxcsr(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 4, true)?;
    let value = core.mxcsr;
    core.store(bus, linear, op.seg, value)
}

/// `EMMS`
pub(crate) fn emms(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    if core.fpu.status & 0x80 != 0 {
        return core.raise(vector::MF);
    }
    core.fpu.used = 0;
    core.fpu.top = 0;
    Ok(())
}

fn area(core: &mut Core, op: &Op, write: bool) -> Flow<u64> {
    let linear = Based::linear(core, op, 512, write)?;
    if !linear.is_multiple_of(16) {
        return core.raise_code(vector::GP, 0);
    }
    Ok(linear)
}

/// `FXSAVE`; `op.size` is 8 with REX.W.
pub(crate) fn fxsave(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = area(core, op, true)?;
    core.probe_write(linear, 512, op.seg)?;
    let fpu = &core.fpu;
    let mut image = [0_u64; 52];
    image[0] = u64::from(fpu.control)
        | u64::from(fpu.status_word()) << 16
        | u64::from(fpu.used) << 32
        | u64::from(fpu.opcode) << 48;
    if op.size == 8 {
        (image[1], image[2]) = (fpu.ip, fpu.dp);
    } else {
        image[1] = fpu.ip & 0xffff_ffff | u64::from(fpu.cs) << 32;
        image[2] = fpu.dp & 0xffff_ffff | u64::from(fpu.ds) << 32;
    }
    image[3] = u64::from(core.mxcsr) | 0xffff << 32;
    for index in 0..8 {
        let register = fpu.regs[(usize::from(fpu.top) + index) % 8];
        image[4 + 2 * index] = register.significand;
        image[5 + 2 * index] = u64::from(register.exponent);
    }
    for (index, register) in core.xmm.iter().enumerate() {
        image[20 + 2 * index] = *register as u64;
        image[21 + 2 * index] = (*register >> 64) as u64;
    }
    let words = if core.is_code_64() { 52 } else { 36 };
    for (index, &word) in image[..words].iter().enumerate() {
        let at = core.wrap(linear.wrapping_add(8 * index as u64));
        done(core.store(bus, at, op.seg, word))?;
    }
    core.synced()
}

/// `FXRSTOR`
pub(crate) fn fxrstor(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = area(core, op, false)?;
    let words = if core.is_code_64() { 52 } else { 36 };
    let mut image = [0_u64; 52];
    for (index, word) in image[..words].iter_mut().enumerate() {
        let at = core.wrap(linear.wrapping_add(8 * index as u64));
        *word = core.load(bus, at, op.seg)?;
    }
    let mxcsr = image[3] as u32;
    if mxcsr >> 16 != 0 {
        return core.raise_code(vector::GP, 0);
    }
    core.mxcsr = mxcsr;
    let fpu = &mut core.fpu;
    fpu.control = image[0] as u16 & 0x1f7f | 0x40;
    fpu.set_status_word((image[0] >> 16) as u16);
    fpu.used = (image[0] >> 32) as u8;
    fpu.opcode = (image[0] >> 48) as u16 & 0x7ff;
    if op.size == 8 {
        (fpu.ip, fpu.dp) = (image[1], image[2]);
    } else {
        (fpu.ip, fpu.cs) = (image[1] & 0xffff_ffff, (image[1] >> 32) as u16);
        (fpu.dp, fpu.ds) = (image[2] & 0xffff_ffff, (image[2] >> 32) as u16);
    }
    for index in 0..8 {
        fpu.regs[(usize::from(fpu.top) + index) % 8] =
            F80 { significand: image[4 + 2 * index], exponent: image[5 + 2 * index] as u16 };
    }
    fpu.update_summary();
    for index in 0..(words - 20) / 2 {
        core.xmm[index] = u128::from(image[21 + 2 * index]) << 64 | u128::from(image[20 + 2 * index]);
    }
    Ok(())
}
