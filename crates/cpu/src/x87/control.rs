//! x87 control: initialisation, control, status and tag words, environments.

use crate::core::{Bus, Core, Flow, Op, RAX, bit, vector};
use crate::int::operand::{Address, Based};
use crate::memory::done;
use crate::x87::handlers::begin;
use crate::x87::{F80, Fpu};

/// `FNINIT`
pub(crate) fn fninit(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    initialize(&mut core.fpu);
    Ok(())
}

fn initialize(fpu: &mut Fpu) {
    *fpu = Fpu { regs: fpu.regs, control: 0x37f, used: 0, ..Fpu::default() };
}

/// `FNCLEX`
pub(crate) fn fnclex(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    core.fpu.status &= !0x80ff;
    Ok(())
}

/// `FNOP`
pub(crate) fn fnop(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)
}

/// `WAIT`
pub(crate) fn wait(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let both = bit::CR0_MP | bit::CR0_TS;
    if core.cr0 & both == both {
        return core.raise(vector::NM);
    }
    pending(core)
}

/// Reports an exception that is pending, as all instructions do whose names don't begin with FN.
fn pending(core: &mut Core) -> Flow {
    if core.fpu.status & 0x80 != 0 { core.raise(vector::MF) } else { Ok(()) }
}

/// `FLDCW`
pub(crate) fn fldcw(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    pending(core)?;
    let linear = Based::linear(core, op, 2, false)?;
    let word = core.load::<u16>(bus, linear, op.seg)?;
    core.fpu.control = word & 0x1f7f | 0x40;
    core.fpu.update_summary();
    Ok(())
}

/// `FNSTCW`
pub(crate) fn fnstcw(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 2, true)?;
    let word = core.fpu.control;
    core.store(bus, linear, op.seg, word)
}

/// `FNSTSW m16`
pub(crate) fn fnstsw(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = Based::linear(core, op, 2, true)?;
    let word = core.fpu.status_word();
    core.store(bus, linear, op.seg, word)
}

/// `FNSTSW AX`
pub(crate) fn fnstsw_ax(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    let word = core.fpu.status_word();
    core.set_reg(RAX as u8, word);
    Ok(())
}

/// `FDECSTP` (`op.imm` 0), `FINCSTP`
pub(crate) fn turn(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    let fpu = &mut core.fpu;
    fpu.set_c1(false);
    fpu.top = if op.imm == 0 { fpu.top.wrapping_sub(1) } else { fpu.top.wrapping_add(1) } & 7;
    Ok(())
}

/// `FFREE`, `FFREEP`
pub(crate) fn ffree(core: &mut Core, _bus: &mut Bus<'_>, op: &Op) -> Flow {
    begin(core, op)?;
    core.fpu.set_c1(false);
    core.fpu.free(op.dst);
    if op.bits != 0 {
        core.fpu.pop();
    }
    Ok(())
}

/// The environment in its seven words, protected-mode form.
fn environment(core: &Core, real: bool) -> [u32; 7] {
    let fpu = &core.fpu;
    let (ip, dp) = (fpu.ip as u32, fpu.dp as u32);
    let words = [u32::from(fpu.control), u32::from(fpu.status_word()), u32::from(fpu.tag_word())];
    let opcode = u32::from(fpu.opcode & 0x7ff);
    if real {
        let split = |address: u32| (address & 0xffff, address >> 16 << 12);
        let ((ip_low, ip_high), (dp_low, dp_high)) = (split(ip), split(dp));
        return [words[0], words[1], words[2], ip_low, ip_high | opcode, dp_low, dp_high];
    }
    [words[0], words[1], words[2], ip, u32::from(fpu.cs) | opcode << 16, dp, u32::from(fpu.ds)]
}

fn store_environment(core: &mut Core, bus: &mut Bus<'_>, op: &Op, linear: u64) -> Flow<u64> {
    let wide = op.size == 4;
    let words = environment(core, !core.is_protected());
    let mut at = linear;
    for (index, word) in words.into_iter().enumerate() {
        if wide {
            // The upper halves of the first three, and of the last, are set.
            let word = if matches!(index, 0..=2 | 6) { word | 0xffff_0000 } else { word };
            done(core.store(bus, core.wrap(at), op.seg, word))?;
            at = at.wrapping_add(4);
        } else {
            done(core.store(bus, core.wrap(at), op.seg, word as u16))?;
            at = at.wrapping_add(2);
        }
    }
    Ok(at)
}

fn area(core: &mut Core, op: &Op, registers: bool, write: bool) -> Flow<u64> {
    let size = if op.size == 4 { 28 } else { 14 } + if registers { 80 } else { 0 };
    let linear = Based::linear(core, op, size, write)?;
    if write {
        core.probe_write(linear, size as usize, op.seg)?;
    } else {
        core.probe_read(linear, size as usize, op.seg)?;
    }
    Ok(linear)
}

/// `FNSTENV`
pub(crate) fn fnstenv(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = area(core, op, false, true)?;
    store_environment(core, bus, op, linear)?;
    core.fpu.control |= 0x3f;
    core.fpu.update_summary();
    core.synced()
}

/// `FNSAVE`
pub(crate) fn fnsave(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let linear = area(core, op, true, true)?;
    let mut at = store_environment(core, bus, op, linear)?;
    for index in 0..8 {
        let register = core.fpu.regs[usize::from(core.fpu.top.wrapping_add(index) & 7)];
        // In words: alignment is that of the whole area.
        let value = u128::from(register.exponent) << 64 | u128::from(register.significand);
        for shift in (0..80).step_by(16) {
            done(core.store(bus, core.wrap(at), op.seg, (value >> shift) as u16))?;
            at = at.wrapping_add(2);
        }
    }
    initialize(&mut core.fpu);
    core.synced()
}

fn load_environment(core: &mut Core, bus: &mut Bus<'_>, op: &Op, linear: u64) -> Flow<u64> {
    let mut words = [0; 7];
    let mut at = linear;
    for word in &mut words {
        if op.size == 4 {
            *word = core.load::<u32>(bus, core.wrap(at), op.seg)?;
            at = at.wrapping_add(4);
        } else {
            *word = u32::from(core.load::<u16>(bus, core.wrap(at), op.seg)?);
            at = at.wrapping_add(2);
        }
    }
    let real = !core.is_protected();
    let fpu = &mut core.fpu;
    fpu.control = words[0] as u16 & 0x1f7f | 0x40;
    fpu.set_status_word(words[1] as u16);
    fpu.set_tag_word(words[2] as u16);
    if real {
        fpu.ip = u64::from(words[3] & 0xffff | words[4] >> 12 << 16);
        fpu.dp = u64::from(words[5] & 0xffff | words[6] >> 12 << 16);
        fpu.opcode = words[4] as u16 & 0x7ff;
    } else {
        (fpu.ip, fpu.cs, fpu.dp, fpu.ds) = (u64::from(words[3]), words[4] as u16, u64::from(words[5]), words[6] as u16);
        fpu.opcode = (words[4] >> 16) as u16 & 0x7ff;
    }
    fpu.update_summary();
    Ok(at)
}

/// `FLDENV`
pub(crate) fn fldenv(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    pending(core)?;
    let linear = area(core, op, false, false)?;
    load_environment(core, bus, op, linear)?;
    Ok(())
}

/// `FRSTOR`
pub(crate) fn frstor(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    pending(core)?;
    let linear = area(core, op, true, false)?;
    let mut at = load_environment(core, bus, op, linear)?;
    for index in 0..8 {
        let mut value = 0;
        for shift in (0..80).step_by(16) {
            value |= u128::from(core.load::<u16>(bus, core.wrap(at), op.seg)?) << shift;
            at = at.wrapping_add(2);
        }
        core.fpu.regs[usize::from(core.fpu.top.wrapping_add(index) & 7)] =
            F80 { significand: value as u64, exponent: (value >> 64) as u16 };
    }
    Ok(())
}
