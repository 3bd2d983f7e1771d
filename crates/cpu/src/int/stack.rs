//! Pushes and pops, frames, and the flags register on the stack.

use ferro_guest::Word;

use crate::core::{Bus, CodeSize, Core, Flow, Handler, Op, RBP, RSP, Stop, bit, vector};
use crate::flags::Int;
use crate::int::operand::{Dst, Imm, Mem, Place, Source};
use crate::int::{by_address, by_wide};
use crate::memory::done;
use crate::registers::SS;

const SEGMENT: u8 = SS as u8;

impl Core {
    /// Moves the stack pointer up by `bytes`.
    pub(crate) fn release(&mut self, bytes: u64) {
        let pointer = self.regs[RSP].wrapping_add(bytes);
        self.set_stack_pointer(pointer);
    }

    /// Sets as much of RSP as the stack's width covers.
    #[inline(always)]
    pub(crate) fn set_stack_pointer(&mut self, pointer: u64) {
        self.regs[RSP] = (self.regs[RSP] & !self.stack_mask) | (pointer & self.stack_mask);
    }

    fn stack_linear(&mut self, pointer: u64, size: u8, write: bool) -> Flow<u64> {
        let offset = pointer & self.stack_mask;
        self.segment_linear(SEGMENT, offset, u64::from(size), write)
    }

    /// Pushes `size` (2, 4, 8) bytes. `Err(Stop::Sync)`: done, see [`Core::store`].
    pub(crate) fn push(&mut self, bus: &mut Bus<'_>, size: u8, value: u64) -> Flow {
        let pointer = self.regs[RSP].wrapping_sub(u64::from(size));
        let linear = self.stack_linear(pointer, size, true)?;
        let stored = by_wide!(size, W => self.store(bus, linear, SEGMENT, value as W));
        if stored != Err(Stop::Fault) {
            self.set_stack_pointer(pointer);
        }
        stored
    }

    /// Pushes 8 bytes in 64-bit mode.
    #[inline(always)]
    pub(crate) fn push_long(&mut self, bus: &mut Bus<'_>, value: u64) -> Flow {
        let pointer = self.regs[RSP].wrapping_sub(8);
        let stored = self.store(bus, pointer, SEGMENT, value);
        if stored != Err(Stop::Fault) {
            self.regs[RSP] = pointer;
        }
        stored
    }

    /// Reads the stack `above` bytes above its top.
    pub(crate) fn peek(&mut self, bus: &mut Bus<'_>, size: u8, above: u64) -> Flow<u64> {
        let linear = self.stack_linear(self.regs[RSP].wrapping_add(above), size, false)?;
        by_wide!(size, W => self.load::<W>(bus, linear, SEGMENT).map(Word::widen))
    }

    /// Pops `size` bytes.
    pub(crate) fn pop(&mut self, bus: &mut Bus<'_>, size: u8) -> Flow<u64> {
        let value = self.peek(bus, size, 0)?;
        self.release(u64::from(size));
        Ok(value)
    }
}

fn push_reg_long(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = core.regs[usize::from(op.dst)];
    core.push_long(bus, value)
}

fn push_any<W: Int, S: Source<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let value = S::get(core, bus, op)?;
    core.push(bus, op.size, value.widen())
}

/// The handler of `PUSH` of a register (in `op.dst`) or memory.
pub(crate) fn select_push(memory: bool, size: u8, flat: bool) -> Handler {
    if size == 8 && !memory {
        return push_reg_long;
    }
    by_wide!(size, W => if memory { by_address!(flat, A => push_any::<W, Mem<A>>) } else { push_any::<W, Dst> })
}

/// The handler of `PUSH imm`.
pub(crate) fn select_push_imm(size: u8) -> Handler {
    by_wide!(size, W => push_any::<W, Imm>)
}

fn pop_reg_long(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let pointer = core.regs[RSP];
    let value = core.load::<u64>(bus, pointer, SEGMENT)?;
    core.regs[RSP] = pointer.wrapping_add(8);
    core.regs[usize::from(op.dst)] = value;
    Ok(())
}

/// The address of a memory operand is computed with the stack pointer already moved.
fn pop_any<W: Int, D: Place<W>>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let before = core.regs[RSP];
    let value = core.pop(bus, op.size)?;
    let flow = D::put(core, bus, op, W::truncate(value));
    if flow == Err(Stop::Fault) {
        core.regs[RSP] = before;
    }
    flow
}

/// The handler of `POP`.
pub(crate) fn select_pop(memory: bool, size: u8, flat: bool) -> Handler {
    if size == 8 && !memory {
        return pop_reg_long;
    }
    by_wide!(size, W => if memory { by_address!(flat, A => pop_any::<W, Mem<A>>) } else { pop_any::<W, Dst> })
}

/// `PUSHA`, `PUSHAD`
pub(crate) fn pusha(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let size = op.size;
    let before = core.regs[RSP];
    for index in 0..8 {
        let value = if index == RSP { before } else { core.regs[index] };
        if let Err(Stop::Fault) = core.push(bus, size, value) {
            core.regs[RSP] = before;
            return Err(Stop::Fault);
        }
    }
    core.synced()
}

/// `POPA`, `POPAD`
pub(crate) fn popa(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let mut values = [0; 8];
    for (index, value) in values.iter_mut().enumerate() {
        *value = core.peek(bus, op.size, index as u64 * u64::from(op.size))?;
    }
    for (index, value) in values.into_iter().enumerate() {
        if 7 - index != RSP {
            core.set_reg_sized(7 - index, op.size, value);
        }
    }
    core.release(8 * u64::from(op.size));
    Ok(())
}

/// `ENTER`
pub(crate) fn enter(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let before = core.regs[RSP];
    let flow = enter_frame(core, bus, op);
    if flow == Err(Stop::Fault) {
        core.regs[RSP] = before;
        return flow;
    }
    core.synced()
}

fn enter_frame(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let size = op.size;
    let (bytes, level) = (op.imm & 0xffff, op.imm >> 16 & 31);
    let old = core.regs[RBP];
    done(core.push(bus, size, old))?;
    let frame = core.regs[RSP];
    let mut pointer = old;
    for _ in 1..level {
        pointer = pointer.wrapping_sub(u64::from(size));
        let linear = core.stack_linear(pointer, size, false)?;
        let value = by_wide!(size, W => core.load::<W>(bus, linear, SEGMENT).map(Word::widen))?;
        done(core.push(bus, size, value))?;
    }
    if level > 0 {
        done(core.push(bus, size, frame))?;
    }
    let top = core.regs[RSP].wrapping_sub(bytes);
    core.set_stack_pointer(top);
    let top = core.stack_linear(core.regs[RSP], size, true)?;
    core.probe_write(top, usize::from(size), SEGMENT)?;
    core.set_reg_sized(RBP, size, frame);
    Ok(())
}

/// `LEAVE`
pub(crate) fn leave(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let frame = core.regs[RBP];
    let linear = core.stack_linear(frame, op.size, false)?;
    let value = by_wide!(op.size, W => core.load::<W>(bus, linear, SEGMENT).map(Word::widen))?;
    core.set_stack_pointer(frame.wrapping_add(u64::from(op.size)));
    core.set_reg_sized(RBP, op.size, value);
    Ok(())
}

/// `PUSHF`
pub(crate) fn pushf(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.is_v86() && core.rflags & bit::IOPL != bit::IOPL {
        return core.raise_code(vector::GP, 0);
    }
    let flags = core.read_rflags() & !(bit::VM | bit::RF);
    core.push(bus, op.size, flags)
}

/// `POPF`
pub(crate) fn popf(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    if core.is_v86() && core.rflags & bit::IOPL != bit::IOPL {
        return core.raise_code(vector::GP, 0);
    }
    let value = core.pop(bus, op.size)?;
    core.write_flags(value, op.size);
    Ok(())
}

impl Core {
    /// Writes RFLAGS as `POPF` and `IRET` of this privilege may.
    pub(crate) fn write_flags(&mut self, value: u64, size: u8) {
        let mut mask = bit::ARITHMETIC | bit::TF | bit::DF | bit::NT;
        if size > 2 {
            mask |= bit::AC | bit::ID;
        }
        let io_level = (self.rflags & bit::IOPL) >> 12;
        if self.cpl == 0 {
            mask |= bit::IOPL;
        }
        if u64::from(self.cpl) <= io_level {
            mask |= bit::IF;
        }
        let old = self.read_rflags();
        self.set_rflags((old & !mask & !bit::RF) | (value & mask));
    }

    /// Whether 64-bit code executes.
    #[inline(always)]
    pub(crate) fn is_code_64(&self) -> bool {
        self.code == CodeSize::Bits64
    }
}

/// `CLI`
pub(crate) fn cli(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    if !core.may_change_if() {
        return core.raise_code(vector::GP, 0);
    }
    core.rflags &= !bit::IF;
    core.update_flags();
    Ok(())
}

/// `STI`
pub(crate) fn sti(core: &mut Core, _bus: &mut Bus<'_>, _op: &Op) -> Flow {
    if !core.may_change_if() {
        return core.raise_code(vector::GP, 0);
    }
    if core.rflags & bit::IF == 0 {
        core.rflags |= bit::IF;
        core.update_flags();
        core.attention |= crate::core::ATTENTION_SHADOW;
    }
    Ok(())
}

impl Core {
    fn may_change_if(&self) -> bool {
        let io_level = (self.rflags & bit::IOPL) >> 12;
        self.cr0 & bit::CR0_PE == 0 || u64::from(self.cpl) <= io_level
    }
}
