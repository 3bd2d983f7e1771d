//! Decimal adjustments of 16- and 32-bit code.

use crate::core::{Bus, Core, Flow, Op, RAX, vector};

fn al(core: &Core) -> u8 {
    core.regs[RAX] as u8
}

fn adjust(core: &mut Core, subtract: bool) {
    let old = al(core);
    let (old_cf, old_af) = (core.flags.cf(), core.flags.af());
    let step = |value: u8, by: u8| if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    let mut value = old;
    let mut cf = false;
    let af = old & 15 > 9 || old_af;
    if af {
        value = step(old, 6);
        cf = old_cf || if subtract { old < 6 } else { old > 0xf9 };
    }
    if old > 0x99 || old_cf {
        value = step(value, 0x60);
        cf = true;
    }
    core.set_reg(RAX as u8, value);
    core.flags.set_result(value);
    core.flags.set_carries(cf, false, af);
}

/// `DAA`
pub(crate) fn daa(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    adjust(core, false);
    Ok(())
}

/// `DAS`
pub(crate) fn das(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    adjust(core, true);
    Ok(())
}

fn adjust_ascii(core: &mut Core, subtract: bool) {
    let ax = core.regs[RAX] as u16;
    let adjusted = ax & 15 > 9 || core.flags.af();
    let value = match (adjusted, subtract) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    } & 0xff0f;
    core.set_reg(RAX as u8, value);
    core.flags.set_result(value as u8);
    core.flags.set_carries(adjusted, false, adjusted);
}

/// `AAA`
pub(crate) fn aaa(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    adjust_ascii(core, false);
    Ok(())
}

/// `AAS`
pub(crate) fn aas(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    adjust_ascii(core, true);
    Ok(())
}

/// `AAM`
pub(crate) fn aam(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let base = op.imm as u8;
    if base == 0 {
        return core.raise(vector::DE);
    }
    let value = al(core);
    core.set_reg(RAX as u8, u16::from(value / base) << 8 | u16::from(value % base));
    core.flags.set_logic(value % base);
    Ok(())
}

/// `AAD`
pub(crate) fn aad(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    let ax = core.regs[RAX] as u16;
    let value = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    core.set_reg(RAX as u8, u16::from(value));
    core.flags.set_logic(value);
    Ok(())
}
