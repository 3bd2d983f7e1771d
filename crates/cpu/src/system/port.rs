//! `IN` and `OUT`, and whether a port may be used.

use crate::core::{Bus, Core, Flow, Op, RAX, RDX, bit, vector};

impl Core {
    /// Raises #GP(0) unless IOPL or the task's bitmap allows the port.
    pub(crate) fn check_port(&mut self, bus: &mut Bus<'_>, port: u16, size: u8) -> Flow {
        let io_level = (self.rflags & bit::IOPL) >> 12;
        if self.cr0 & bit::CR0_PE == 0 || !self.is_v86() && u64::from(self.cpl) <= io_level {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        if self.tr.kind() & 8 == 0 || limit < 0x67 {
            return self.raise_code(vector::GP, 0);
        }
        let map = u64::from(self.load_system::<u16>(bus, self.tr.base.wrapping_add(0x66))?);
        let at = map + u64::from(port / 8);
        if at + 1 > limit {
            return self.raise_code(vector::GP, 0);
        }
        let bits = self.load_system::<u16>(bus, self.tr.base.wrapping_add(at))?;
        if bits >> (port % 8) & ((1 << size) - 1) != 0 {
            return self.raise_code(vector::GP, 0);
        }
        Ok(())
    }
}

fn port<const DX: bool>(core: &Core, op: &Op) -> u16 {
    if DX { core.regs[RDX] as u16 } else { op.imm as u16 & 0xff }
}

/// `IN`; `op.size` is the width.
pub(crate) fn input<const DX: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let port = port::<DX>(core, op);
    core.check_port(bus, port, op.size)?;
    core.publish_instructions(op);
    let value = bus.port_read(port, op.size);
    match op.size {
        1 => core.set_reg(RAX as u8, value as u8),
        2 => core.set_reg(RAX as u8, value as u16),
        _ => core.set_reg(RAX as u8, value),
    }
    Ok(())
}

/// `OUT`
pub(crate) fn output<const DX: bool>(core: &mut Core, bus: &mut Bus<'_>, op: &Op) -> Flow {
    let port = port::<DX>(core, op);
    core.check_port(bus, port, op.size)?;
    core.publish_instructions(op);
    let value = core.regs[RAX] as u32;
    bus.port_write(port, op.size, value & (u32::MAX >> (32 - 8 * u32::from(op.size))));
    core.refresh_memory_map();
    Ok(())
}
