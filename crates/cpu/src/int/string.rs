//! String instructions with and without repetition. Repeated ones can be interrupted after each element, and move whole
//! runs within pages at once where memory allows.

use crate::core::{Bus, Core, Flow, Handler, Op, RAX, RCX, RDI, RDX, REP, REPNE, RSI, Stop, bit};
use crate::flags::Int;
use crate::int::alu::{Binary, Cmp};
use crate::int::by_width;
use crate::int::operand::size_mask;
use crate::memory::done;
use crate::registers::ES;
use crate::tlb::Access;

const EXTRA: u8 = ES as u8;

/// How an instruction goes on after one element.
#[derive(PartialEq, Eq)]
enum More {
    Yes,
    /// `CMPS` or `SCAS` found what ends the repetition.
    No,
}

fn advance<W: Int>(core: &mut Core, op: &Op, register: usize, elements: u64) {
    let bytes = elements.wrapping_mul(W::SIZE as u64);
    let value = core.reg_sized(register, op.addr);
    let moved = if core.rflags & bit::DF == 0 { value.wrapping_add(bytes) } else { value.wrapping_sub(bytes) };
    core.set_reg_sized(register, op.addr, moved & size_mask(op.addr));
}

/// An element function, and one that does many at once and says how many (0: none, use the other).
type Element = fn(&mut Core, &mut Bus<'_>, &Op) -> Flow<More>;
type Bulk = fn(&mut Core, &mut Bus<'_>, &Op, u64) -> u64;

#[inline(always)]
fn repeat(core: &mut Core, bus: &mut Bus<'_>, op: &Op, element: Element, bulk: Bulk, fast: bool) -> Flow {
    if op.bits & (REP | REPNE) == 0 {
        element(core, bus, op)?;
        return core.synced();
    }
    let mut count = core.reg_sized(RCX, op.addr);
    let flags = core.flags;
    if op.addr == 4 {
        // What the manual leaves open is done as Intel's CPUs do it: the upper half of RCX goes even if nothing, or only
        // a fault, comes of the instruction, and that of RDI with the fast ones (MOVS, STOS).
        core.regs[RCX] = count;
        if fast && count != 0 {
            core.regs[RDI] &= 0xffff_ffff;
        }
    }
    while count != 0 {
        let mut moved = bulk(core, bus, op, count);
        let mut more = More::Yes;
        if moved == 0 {
            more = match element(core, bus, op) {
                Ok(more) => more,
                Err(stop) => {
                    // A fault leaves the flags as they were before the first comparison.
                    core.flags = flags;
                    return Err(stop);
                }
            };
            moved = 1;
        }
        count -= moved;
        core.set_reg_sized(RCX, op.addr, count);
        if more == More::No || count == 0 {
            break;
        }
        let interrupted = core.signals.pending() & core.signal_mask != 0 || core.attention != 0;
        if interrupted || core.synced().is_err() {
            return Err(Stop::Again);
        }
    }
    core.synced()
}

fn no_bulk(_core: &mut Core, _bus: &mut Bus<'_>, _op: &Op, _count: u64) -> u64 {
    0
}

/// Host offset of as many elements (at most `count`) at `register` in `seg` as can be had in one run, upwards.
fn run<W: Int>(core: &mut Core, op: &Op, seg: u8, register: usize, count: u64, access: Access) -> Option<(usize, u64)> {
    let offset = core.reg_sized(register, op.addr);
    let linear = if core.is_code_64() {
        core.segment_linear(seg, offset, 1, access == Access::Write).ok()?
    } else {
        let segment = &core.segments[usize::from(seg) % 6];
        core.wrap(segment.base.wrapping_add(offset))
    };
    let in_page = (0x1000 - (linear & 0xfff)) / W::SIZE as u64;
    let elements = count.min(in_page);
    if elements < 2 {
        return None;
    }
    let bytes = elements * W::SIZE as u64;
    if !core.is_code_64() {
        let segment = &core.segments[usize::from(seg) % 6];
        let fits = offset + bytes - 1 <= size_mask(op.addr);
        if !fits || !segment.allows(offset, bytes, access == Access::Write) {
            return None;
        }
    }
    core.tlb.find(access, linear, 1).map(|place| (place, elements))
}

fn movs<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let source = core.reg_sized(RSI, op.addr);
    let from = core.segment_linear(op.seg, source, W::SIZE as u64, false)?;
    let value = core.load::<W>(bus, from, op.seg)?;
    let target = core.reg_sized(RDI, op.addr);
    let to = core.segment_linear(EXTRA, target, W::SIZE as u64, true)?;
    done(core.store(bus, to, EXTRA, value))?;
    advance::<W>(core, op, RSI, 1);
    advance::<W>(core, op, RDI, 1);
    Ok(More::Yes)
}

fn movs_bulk<W: Int>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op, count: u64) -> u64 {
    if core.rflags & bit::DF != 0 || core.attention != 0 {
        return 0;
    }
    let Some((from, readable)) = run::<W>(core, op, op.seg, RSI, count, Access::Read) else { return 0 };
    let Some((to, elements)) = run::<W>(core, op, EXTRA, RDI, readable, Access::Write) else { return 0 };
    let bytes = elements as usize * W::SIZE;
    if to > from && to < from + bytes {
        return 0;
    }
    core.memory.ram().copy(from, to, bytes);
    advance::<W>(core, op, RSI, elements);
    advance::<W>(core, op, RDI, elements);
    elements
}

fn stos<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let target = core.reg_sized(RDI, op.addr);
    let to = core.segment_linear(EXTRA, target, W::SIZE as u64, true)?;
    let value = core.reg::<W>(RAX as u8);
    done(core.store(bus, to, EXTRA, value))?;
    advance::<W>(core, op, RDI, 1);
    Ok(More::Yes)
}

fn stos_bulk<W: Int>(core: &mut Core, _bus: &mut Bus<'_>, op: &Op, count: u64) -> u64 {
    if core.rflags & bit::DF != 0 || core.attention != 0 {
        return 0;
    }
    let Some((to, elements)) = run::<W>(core, op, EXTRA, RDI, count, Access::Write) else { return 0 };
    let pattern = core.reg::<W>(RAX as u8).widen().to_le_bytes();
    let bytes = elements as usize * W::SIZE;
    let ram = core.memory.ram();
    if pattern[..W::SIZE].iter().all(|&byte| byte == pattern[0]) {
        ram.fill(to, bytes, pattern[0]);
    } else {
        for at in (0..bytes).step_by(W::SIZE) {
            ram.write(to + at, &pattern[..W::SIZE]);
        }
    }
    advance::<W>(core, op, RDI, elements);
    elements
}

fn lods<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let source = core.reg_sized(RSI, op.addr);
    let from = core.segment_linear(op.seg, source, W::SIZE as u64, false)?;
    let value = core.load::<W>(bus, from, op.seg)?;
    core.set_reg(RAX as u8, value);
    advance::<W>(core, op, RSI, 1);
    Ok(More::Yes)
}

/// Whether a repeated comparison goes on.
fn compared(core: &Core, op: &Op) -> More {
    let equal = core.flags.zf();
    if op.bits & REP != 0 && !equal || op.bits & REPNE != 0 && equal { More::No } else { More::Yes }
}

fn cmps<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    // Hardware reads the second operand first: so the fault is its, if both would.
    let target = core.reg_sized(RDI, op.addr);
    let second = core.segment_linear(EXTRA, target, W::SIZE as u64, false)?;
    let b = core.load::<W>(bus, second, EXTRA)?;
    let source = core.reg_sized(RSI, op.addr);
    let first = core.segment_linear(op.seg, source, W::SIZE as u64, false)?;
    let a = core.load::<W>(bus, first, op.seg)?;
    Cmp::apply(core, a, b);
    advance::<W>(core, op, RSI, 1);
    advance::<W>(core, op, RDI, 1);
    Ok(compared(core, op))
}

fn scas<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let target = core.reg_sized(RDI, op.addr);
    let linear = core.segment_linear(EXTRA, target, W::SIZE as u64, false)?;
    let b = core.load::<W>(bus, linear, EXTRA)?;
    let a = core.reg::<W>(RAX as u8);
    Cmp::apply(core, a, b);
    advance::<W>(core, op, RDI, 1);
    Ok(compared(core, op))
}

fn ins<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let port = core.regs[RDX] as u16;
    core.check_port(bus, port, W::SIZE as u8)?;
    let target = core.reg_sized(RDI, op.addr);
    let to = core.segment_linear(EXTRA, target, W::SIZE as u64, true)?;
    core.probe_write(to, W::SIZE, EXTRA)?;
    core.publish_instructions(op);
    let value = bus.port_read(port, W::SIZE as u8);
    done(core.store(bus, to, EXTRA, W::truncate(u64::from(value))))?;
    advance::<W>(core, op, RDI, 1);
    Ok(More::Yes)
}

fn outs<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow<More> {
    let port = core.regs[RDX] as u16;
    core.check_port(bus, port, W::SIZE as u8)?;
    let source = core.reg_sized(RSI, op.addr);
    let from = core.segment_linear(op.seg, source, W::SIZE as u64, false)?;
    let value = core.load::<W>(bus, from, op.seg)?;
    core.publish_instructions(op);
    bus.port_write(port, W::SIZE as u8, value.widen() as u32);
    core.refresh_memory_map();
    advance::<W>(core, op, RSI, 1);
    Ok(More::Yes)
}

macro_rules! handlers {
    ($($name:ident: $element:ident, $bulk:expr, $fast:literal;)*) => {$(
        fn $name<W: Int>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
            repeat(core, bus, op, $element::<W>, $bulk, $fast)
        }
    )*};
}
handlers! {
    movs_all: movs, movs_bulk::<W>, true;
    stos_all: stos, stos_bulk::<W>, true;
    lods_all: lods, no_bulk, false;
    cmps_all: cmps, no_bulk, false;
    scas_all: scas, no_bulk, false;
    ins_all: ins, no_bulk, false;
    outs_all: outs, no_bulk, false;
}

/// Which string instruction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text {
    Movs,
    Stos,
    Lods,
    Cmps,
    Scas,
    Ins,
    Outs,
}

/// The handler of a string instruction.
pub(crate) fn select(which: Text, size: u8) -> Handler {
    by_width!(size, W => match which {
        Text::Movs => movs_all::<W>,
        Text::Stos => stos_all::<W>,
        Text::Lods => lods_all::<W>,
        Text::Cmps => cmps_all::<W>,
        Text::Scas => scas_all::<W>,
        Text::Ins => ins_all::<W>,
        Text::Outs => outs_all::<W>,
    })
}
