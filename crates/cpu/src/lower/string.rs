//! Lowering of string instructions and port I/O.

use iced_x86::{Mnemonic, OpKind};

use crate::core::{Handler, REP, REPNE};
use crate::int::string::{self, Text};
use crate::lower::{Lowering, segment_index};
use crate::system::port;

impl Lowering<'_> {
    pub(super) fn string(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let (which, size) = match self.instr.mnemonic() {
            M::Movsb => (Text::Movs, 1),
            M::Movsw => (Text::Movs, 2),
            M::Movsd if self.is_string() => (Text::Movs, 4),
            M::Movsq => (Text::Movs, 8),
            M::Stosb => (Text::Stos, 1),
            M::Stosw => (Text::Stos, 2),
            M::Stosd => (Text::Stos, 4),
            M::Stosq => (Text::Stos, 8),
            M::Lodsb => (Text::Lods, 1),
            M::Lodsw => (Text::Lods, 2),
            M::Lodsd => (Text::Lods, 4),
            M::Lodsq => (Text::Lods, 8),
            M::Cmpsb => (Text::Cmps, 1),
            M::Cmpsw => (Text::Cmps, 2),
            M::Cmpsd if self.is_string() => (Text::Cmps, 4),
            M::Cmpsq => (Text::Cmps, 8),
            M::Scasb => (Text::Scas, 1),
            M::Scasw => (Text::Scas, 2),
            M::Scasd => (Text::Scas, 4),
            M::Scasq => (Text::Scas, 8),
            M::Insb => (Text::Ins, 1),
            M::Insw => (Text::Ins, 2),
            M::Insd => (Text::Ins, 4),
            M::Outsb => (Text::Outs, 1),
            M::Outsw => (Text::Outs, 2),
            M::Outsd => (Text::Outs, 4),
            M::In | M::Out => return self.port(),
            _ => return None,
        };
        self.set_string_address();
        if self.instr.has_rep_prefix() {
            self.op.bits |= REP;
        }
        if self.instr.has_repne_prefix() {
            self.op.bits |= REPNE;
        }
        Some(string::select(which, size))
    }

    /// Tells the string instructions `MOVSD` and `CMPSD` from those of SSE2.
    fn is_string(&self) -> bool {
        (0..2).all(|operand| !self.is_register(operand) && !self.is_memory(operand))
    }

    fn set_string_address(&mut self) {
        for operand in 0..self.instr.op_count() {
            let (addr, source) = match self.instr.op_kind(operand) {
                OpKind::MemorySegSI => (2, true),
                OpKind::MemorySegESI => (4, true),
                OpKind::MemorySegRSI => (8, true),
                OpKind::MemorySegDI | OpKind::MemoryESDI => (2, false),
                OpKind::MemorySegEDI | OpKind::MemoryESEDI => (4, false),
                OpKind::MemorySegRDI | OpKind::MemoryESRDI => (8, false),
                _ => continue,
            };
            self.op.addr = addr;
            if source {
                self.op.seg = segment_index(self.instr.memory_segment());
            }
        }
    }

    fn port(&mut self) -> Option<Handler> {
        let input = self.instr.mnemonic() == Mnemonic::In;
        let (data, number) = if input { (0, 1) } else { (1, 0) };
        self.op.size = self.width(data);
        let by_dx = self.is_register(number);
        if !by_dx {
            self.op.imm = self.immediate(number);
        }
        let handler: Handler = match (input, by_dx) {
            (true, true) => port::input::<true>,
            (true, false) => port::input::<false>,
            (false, true) => port::output::<true>,
            (false, false) => port::output::<false>,
        };
        self.last(handler)
    }
}
