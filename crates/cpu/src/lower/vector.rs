//! Lowering of MMX and SSE instructions.

use iced_x86::Mnemonic;

use crate::core::Handler;
use crate::fast::vector;
use crate::int::by_address;
use crate::lower::Lowering;
use crate::lower::fast::is_tuned;
use crate::sse::float::{self, Shape};
use crate::sse::{self, ALIGNED, From, Vector, arrange, convert, horizontal, integer, moves, order, state, text};
use crate::system::control;

/// Maps mnemonics to vector operations.
macro_rules! vector_table {
    ($self:ident, $mnemonic:expr, $($m:ident => $o:ty),* $(,)?) => {
        match $mnemonic {
            $(Mnemonic::$m => $self.operation::<$o>(),)*
            _ => None,
        }
    };
}

impl Lowering<'_> {
    pub(super) fn vector(&mut self) -> Option<Handler> {
        let handler = self.vector_state().or_else(|| self.any_vector())?;
        self.unless_off(handler)
    }

    /// Replaces the handler where the unit is off.
    fn unless_off(&mut self, handler: Handler) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let state = matches!(mnemonic, M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64);
        if mnemonic == M::Movnti {
            return Some(handler);
        }
        if state {
            return if self.fpu_off() { self.last(sse::not_available) } else { Some(handler) };
        }
        let mmx = mnemonic == M::Emms || (0..self.instr.op_count()).any(|at| self.is_mmx(at));
        let xmm = !mmx || (0..self.instr.op_count()).any(|at| self.is_register(at) && self.register(at).is_xmm());
        if self.is_emulated() || xmm && !self.has_fxsr() {
            return self.last(control::undefined);
        }
        if self.fpu_off() {
            return self.last(sse::not_available);
        }
        Some(handler)
    }

    fn is_mmx(&self, operand: u32) -> bool {
        self.is_register(operand) && self.register(operand).is_mm()
    }

    fn vector_index(&self, operand: u32) -> u8 {
        self.register(operand).number() as u8
    }

    fn vector_state(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => {
                self.op.size = if matches!(mnemonic, M::Fxsave64 | M::Fxrstor64) { 8 } else { 4 };
                let save = matches!(mnemonic, M::Fxsave | M::Fxsave64);
                Some(if save { state::fxsave } else { state::fxrstor })
            }
            M::Ldmxcsr => Some(state::ldmxcsr),
            M::Stmxcsr => Some(state::stmxcsr),
            M::Emms => Some(state::emms),
            _ => None,
        }
    }

    fn any_vector(&mut self) -> Option<Handler> {
        let has_vector = (0..self.instr.op_count())
            .any(|at| self.is_register(at) && (self.register(at).is_xmm() || self.register(at).is_mm()));
        let without = matches!(
            self.instr.mnemonic(),
            Mnemonic::Movnti | Mnemonic::Cvtss2si | Mnemonic::Cvttss2si | Mnemonic::Cvtsd2si | Mnemonic::Cvttsd2si
        );
        if !has_vector && !without {
            return None;
        }
        self.vector_move()
            .or_else(|| self.vector_lane())
            .or_else(|| self.vector_float())
            .or_else(|| self.vector_convert())
            .or_else(|| self.vector_special())
            .or_else(|| self.vector_integer())
            .or_else(|| self.vector_arrange())
    }

    /// Source of the last non-immediate operand, and the immediate; says where the source is.
    fn vector_source(&mut self) -> From {
        self.op.dst = self.vector_index(0);
        if self.instr.op_count() > 2 {
            self.op.imm = self.immediate(2);
        }
        if self.is_memory(1) {
            self.op.size = self.memory_size();
            self.op.bits |= ALIGNED;
            return From::Memory;
        }
        if self.is_register(1) {
            self.op.src = self.vector_index(1);
            return From::Register;
        }
        self.op.imm = self.immediate(1);
        From::Immediate
    }

    fn operation<O: Vector>(&mut self) -> Option<Handler> {
        let from = self.vector_source();
        if is_tuned(self.key) && !self.is_mmx(0) {
            self.fast_operation = vector::operation::<O>(from);
        }
        Some(sse::select::<O>(from, self.is_mmx(0), self.flat))
    }

    fn vector_integer(&mut self) -> Option<Handler> {
        use integer as i;
        vector_table!(self, self.instr.mnemonic(),
            Paddb => i::Paddb, Paddw => i::Paddw, Paddd => i::Paddd, Paddq => i::Paddq,
            Psubb => i::Psubb, Psubw => i::Psubw, Psubd => i::Psubd, Psubq => i::Psubq,
            Paddsb => i::Paddsb, Paddsw => i::Paddsw, Paddusb => i::Paddusb, Paddusw => i::Paddusw,
            Psubsb => i::Psubsb, Psubsw => i::Psubsw, Psubusb => i::Psubusb, Psubusw => i::Psubusw,
            Pcmpeqb => i::Pcmpeqb, Pcmpeqw => i::Pcmpeqw, Pcmpeqd => i::Pcmpeqd, Pcmpeqq => i::Pcmpeqq,
            Pcmpgtb => i::Pcmpgtb, Pcmpgtw => i::Pcmpgtw, Pcmpgtd => i::Pcmpgtd, Pcmpgtq => i::Pcmpgtq,
            Pmaxsb => i::Pmaxsb, Pmaxsw => i::Pmaxsw, Pmaxsd => i::Pmaxsd,
            Pmaxub => i::Pmaxub, Pmaxuw => i::Pmaxuw, Pmaxud => i::Pmaxud,
            Pminsb => i::Pminsb, Pminsw => i::Pminsw, Pminsd => i::Pminsd,
            Pminub => i::Pminub, Pminuw => i::Pminuw, Pminud => i::Pminud,
            Pavgb => i::Pavgb, Pavgw => i::Pavgw, Pmullw => i::Pmullw, Pmulhw => i::Pmulhw,
            Pmulhuw => i::Pmulhuw, Pmulhrsw => i::Pmulhrsw, Pmulld => i::Pmulld, Pmuludq => i::Pmuludq,
            Pmuldq => i::Pmuldq, Pand => i::Pand, Pandn => i::Pandn, Por => i::Por, Pxor => i::Pxor,
            Andps => i::Pand, Andpd => i::Pand, Andnps => i::Pandn, Andnpd => i::Pandn,
            Orps => i::Por, Orpd => i::Por, Xorps => i::Pxor, Xorpd => i::Pxor,
            Psignb => i::Psignb, Psignw => i::Psignw, Psignd => i::Psignd,
            Pabsb => i::Pabsb, Pabsw => i::Pabsw, Pabsd => i::Pabsd,
            Psllw => i::Psllw, Pslld => i::Pslld, Psllq => i::Psllq, Psrlw => i::Psrlw, Psrld => i::Psrld,
            Psrlq => i::Psrlq, Psraw => i::Psraw, Psrad => i::Psrad, Pslldq => i::Pslldq, Psrldq => i::Psrldq,
            Pmaddwd => i::Pmaddwd, Pmaddubsw => i::Pmaddubsw, Psadbw => i::Psadbw, Mpsadbw => i::Mpsadbw,
            Phminposuw => i::Phminposuw,
        )
    }

    fn vector_arrange(&mut self) -> Option<Handler> {
        use arrange as a;
        vector_table!(self, self.instr.mnemonic(),
            Punpcklbw => a::Unpacklb, Punpckhbw => a::Unpackhb, Punpcklwd => a::Unpacklw, Punpckhwd => a::Unpackhw,
            Punpckldq => a::Unpackld, Punpckhdq => a::Unpackhd, Punpcklqdq => a::Unpacklq, Punpckhqdq => a::Unpackhq,
            Unpcklps => a::Unpackld, Unpckhps => a::Unpackhd, Unpcklpd => a::Unpacklq, Unpckhpd => a::Unpackhq,
            Packsswb => a::Packsswb, Packuswb => a::Packuswb, Packssdw => a::Packssdw, Packusdw => a::Packusdw,
            Pmovsxbw => a::Pmovsxbw, Pmovsxbd => a::Pmovsxbd, Pmovsxbq => a::Pmovsxbq, Pmovsxwd => a::Pmovsxwd,
            Pmovsxwq => a::Pmovsxwq, Pmovsxdq => a::Pmovsxdq, Pmovzxbw => a::Pmovzxbw, Pmovzxbd => a::Pmovzxbd,
            Pmovzxbq => a::Pmovzxbq, Pmovzxwd => a::Pmovzxwd, Pmovzxwq => a::Pmovzxwq, Pmovzxdq => a::Pmovzxdq,
            Phaddw => a::Phaddw, Phaddd => a::Phaddd, Phaddsw => a::Phaddsw,
            Phsubw => a::Phsubw, Phsubd => a::Phsubd, Phsubsw => a::Phsubsw,
            Pshufd => a::Pshufd, Pshuflw => a::Pshuflw, Pshufhw => a::Pshufhw, Pshufw => a::Pshufw,
            Shufps => a::Shufps, Shufpd => a::Shufpd, Pblendw => a::Pblendw, Blendps => a::Blendps,
            Blendpd => a::Blendpd, Movddup => a::Movddup, Movshdup => a::Movshdup, Movsldup => a::Movsldup,
            Movhlps => a::Movhlps, Movlhps => a::Movlhps, Pshufb => a::Pshufb, Palignr => a::Palignr,
        )
    }

    /// Moves of whole registers and of their low parts.
    fn vector_move(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let aligned = match mnemonic {
            M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => true,
            M::Movups | M::Movupd | M::Movdqu | M::Lddqu => false,
            _ => return self.low_move(),
        };
        if self.is_memory(0) {
            self.op.src = self.vector_index(1);
            self.op.bits |= if aligned { ALIGNED } else { 0 };
            return Some(by_address!(self.flat, A => moves::store::<A>));
        }
        let from = self.vector_source();
        if !aligned {
            self.op.bits &= !ALIGNED;
        }
        if from == From::Memory && self.flat {
            return Some(moves::load);
        }
        Some(sse::select::<arrange::Copy>(from, false, self.flat))
    }

    fn low_move(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Movss | M::Movsd | M::Movq | M::Movd | M::Movntq => {}
            _ => return None,
        }
        let mmx = self.is_mmx(0) || self.is_mmx(1);
        if self.is_memory(0) {
            self.op.src = self.vector_index(1);
            self.op.size = self.memory_size();
            return Some(self.store_lane(mmx));
        }
        if self.is_register(0) && self.register(0).is_gpr() {
            self.op.size = self.width(0);
            self.op.dst = self.index(0);
            self.op.src = self.vector_index(1);
            return Some(if mmx { moves::to_general::<true> } else { moves::to_general::<false> });
        }
        if self.is_register(1) && self.register(1).is_gpr() {
            self.op.size = self.width(1);
            self.op.dst = self.vector_index(0);
            self.op.src = self.index(1);
            return Some(if mmx { moves::from_general::<true> } else { moves::from_general::<false> });
        }
        let from = self.vector_source();
        if from == From::Memory {
            return Some(sse::select::<arrange::Copy>(from, mmx, self.flat));
        }
        Some(match mnemonic {
            M::Movss => sse::select::<arrange::Movss>(from, false, self.flat),
            M::Movsd => sse::select::<arrange::Movsd>(from, false, self.flat),
            _ if mmx => sse::select::<arrange::Copy>(from, true, self.flat),
            _ => sse::select::<arrange::Movq>(from, false, self.flat),
        })
    }

    fn store_lane(&self, mmx: bool) -> Handler {
        if mmx {
            moves::store_lane::<true, crate::int::operand::Based>
        } else {
            by_address!(self.flat, A => moves::store_lane::<false, A>)
        }
    }

    /// Half moves, insertions and extractions.
    fn vector_lane(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        let shift = |index: u64, size: u64| (index * size * 8) & 127;
        let (size, bit) = match mnemonic {
            M::Movlps | M::Movlpd => (8, 0),
            M::Movhps | M::Movhpd => (8, 64),
            M::Pinsrb => (1, shift(self.immediate(2) & 15, 1)),
            M::Pinsrw => (2, shift(self.immediate(2) & if self.is_mmx(0) { 3 } else { 7 }, 2)),
            M::Pinsrd => (4, shift(self.immediate(2) & 3, 4)),
            M::Pinsrq => (8, shift(self.immediate(2) & 1, 8)),
            M::Pextrb => (1, shift(self.immediate(2) & 15, 1)),
            M::Pextrw => (2, shift(self.immediate(2) & if self.is_mmx(1) { 3 } else { 7 }, 2)),
            M::Pextrd | M::Extractps => (4, shift(self.immediate(2) & 3, 4)),
            M::Pextrq => (8, shift(self.immediate(2) & 1, 8)),
            _ => return None,
        };
        self.op.size = size;
        self.op.imm = bit;
        let mmx = self.is_mmx(0) || self.is_mmx(1);
        if self.is_memory(0) {
            self.op.src = self.vector_index(1);
            return Some(self.store_lane(mmx));
        }
        if self.is_memory(1) {
            self.op.dst = self.vector_index(0);
            return Some(if mmx { moves::load_lane::<true> } else { moves::load_lane::<false> });
        }
        if self.register(0).is_gpr() {
            self.op.dst = self.index(0);
            self.op.src = self.vector_index(1);
            return Some(if mmx { moves::to_general::<true> } else { moves::to_general::<false> });
        }
        self.op.dst = self.vector_index(0);
        self.op.src = self.index(1);
        Some(if mmx { moves::insert_general::<true> } else { moves::insert_general::<false> })
    }

    fn vector_special(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Movnti => {
                self.op.src = self.index(1);
                self.op.size = self.width(1);
                Some(moves::movnti)
            }
            M::Pmovmskb | M::Movmskps | M::Movmskpd => {
                self.op.dst = self.index(0);
                self.op.src = self.vector_index(1);
                Some(match mnemonic {
                    M::Movmskps => moves::single_mask,
                    M::Movmskpd => moves::double_mask,
                    _ if self.is_mmx(1) => moves::byte_mask::<true>,
                    _ => moves::byte_mask::<false>,
                })
            }
            M::Maskmovq | M::Maskmovdqu => {
                self.op.dst = self.vector_index(1);
                self.op.src = self.vector_index(2);
                self.op.seg = crate::lower::segment_index(self.instr.memory_segment());
                self.op.addr = match self.instr.op_kind(0) {
                    iced_x86::OpKind::MemorySegDI => 2,
                    iced_x86::OpKind::MemorySegEDI => 4,
                    _ => 8,
                };
                Some(if mnemonic == M::Maskmovq { moves::masked_store::<true> } else { moves::masked_store::<false> })
            }
            M::Movq2dq | M::Movdq2q => {
                self.op.dst = self.vector_index(0);
                self.op.src = self.vector_index(1);
                Some(if mnemonic == M::Movq2dq { moves::mmx_to_xmm } else { moves::xmm_to_mmx })
            }
            M::Pblendvb | M::Blendvps | M::Blendvpd | M::Ptest => {
                self.op.dst = self.vector_index(0);
                let memory = self.is_memory(1);
                self.op.size = 16;
                self.op.bits |= ALIGNED;
                if !memory {
                    self.op.src = self.vector_index(1);
                }
                if mnemonic == M::Ptest {
                    return Some(if memory { moves::ptest::<true> } else { moves::ptest::<false> });
                }
                self.op.imm = match mnemonic {
                    M::Pblendvb => 1,
                    M::Blendvps => 4,
                    _ => 8,
                };
                Some(if memory { moves::blend_by_xmm0::<true> } else { moves::blend_by_xmm0::<false> })
            }
            M::Insertps => {
                let from = self.vector_source();
                if from == From::Memory {
                    self.op.imm &= 0x3f;
                }
                Some(sse::select::<arrange::Insertps>(from, false, self.flat))
            }
            _ => self.vector_text(),
        }
    }

    fn vector_text(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let (explicit, mask, wide) = match self.instr.mnemonic() {
            M::Pcmpestri => (true, false, false),
            M::Pcmpestri64 => (true, false, true),
            M::Pcmpestrm => (true, true, false),
            M::Pcmpestrm64 => (true, true, true),
            M::Pcmpistri => (false, false, false),
            M::Pcmpistrm => (false, true, false),
            _ => return None,
        };
        let from = self.vector_source();
        self.op.bits = if wide { text::WIDE } else { 0 };
        self.op.size = 16;
        Some(text::select(explicit, mask, from == From::Memory))
    }

    fn vector_float(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        use float::{Add, Div, Mul, Sqrt, Sub};
        use order::{Compare, Max, Min};
        let mnemonic = self.instr.mnemonic();
        let shape = match mnemonic {
            M::Addps
            | M::Subps
            | M::Mulps
            | M::Divps
            | M::Sqrtps
            | M::Minps
            | M::Maxps
            | M::Cmpps
            | M::Roundps
            | M::Rcpps
            | M::Rsqrtps
            | M::Haddps
            | M::Hsubps
            | M::Addsubps
            | M::Dpps => Shape::Ps,
            M::Addpd
            | M::Subpd
            | M::Mulpd
            | M::Divpd
            | M::Sqrtpd
            | M::Minpd
            | M::Maxpd
            | M::Cmppd
            | M::Roundpd
            | M::Haddpd
            | M::Hsubpd
            | M::Addsubpd
            | M::Dppd => Shape::Pd,
            M::Addss
            | M::Subss
            | M::Mulss
            | M::Divss
            | M::Sqrtss
            | M::Minss
            | M::Maxss
            | M::Cmpss
            | M::Roundss
            | M::Rcpss
            | M::Rsqrtss
            | M::Comiss
            | M::Ucomiss => Shape::Ss,
            M::Addsd
            | M::Subsd
            | M::Mulsd
            | M::Divsd
            | M::Sqrtsd
            | M::Minsd
            | M::Maxsd
            | M::Cmpsd
            | M::Roundsd
            | M::Comisd
            | M::Ucomisd => Shape::Sd,
            _ => return None,
        };
        let memory = self.vector_source() == From::Memory;
        let flat = self.flat;
        let double = matches!(shape, Shape::Pd | Shape::Sd);
        Some(match mnemonic {
            M::Addps | M::Addpd | M::Addss | M::Addsd => float::select::<Add>(shape, memory, flat),
            M::Subps | M::Subpd | M::Subss | M::Subsd => float::select::<Sub>(shape, memory, flat),
            M::Mulps | M::Mulpd | M::Mulss | M::Mulsd => float::select::<Mul>(shape, memory, flat),
            M::Divps | M::Divpd | M::Divss | M::Divsd => float::select::<Div>(shape, memory, flat),
            M::Sqrtps | M::Sqrtpd | M::Sqrtss | M::Sqrtsd => float::select::<Sqrt>(shape, memory, flat),
            M::Minps | M::Minpd | M::Minss | M::Minsd => order::select_choice::<Min>(shape, memory, flat),
            M::Maxps | M::Maxpd | M::Maxss | M::Maxsd => order::select_choice::<Max>(shape, memory, flat),
            M::Cmpps | M::Cmppd | M::Cmpss | M::Cmpsd => order::select_choice::<Compare>(shape, memory, flat),
            M::Roundps | M::Roundpd | M::Roundss | M::Roundsd => convert::select_round(shape, memory),
            M::Comiss | M::Comisd => order::select_compare(double, true, memory),
            M::Ucomiss | M::Ucomisd => order::select_compare(double, false, memory),
            M::Haddps | M::Haddpd => horizontal::select_pairs(double, false, memory),
            M::Hsubps | M::Hsubpd => horizontal::select_pairs(double, true, memory),
            M::Addsubps | M::Addsubpd => horizontal::select_alternate(double, memory),
            M::Dpps | M::Dppd => horizontal::select_dot(double, memory),
            _ => {
                self.op.imm = u64::from(matches!(mnemonic, M::Rsqrtps | M::Rsqrtss));
                horizontal::select_approximate(shape, memory)
            }
        })
    }

    fn vector_convert(&mut self) -> Option<Handler> {
        use Mnemonic as M;
        let mnemonic = self.instr.mnemonic();
        match mnemonic {
            M::Cvtss2si | M::Cvttss2si | M::Cvtsd2si | M::Cvttsd2si => {
                let memory = self.is_memory(1);
                self.op.dst = self.index(0);
                self.op.imm = u64::from(self.width(0));
                if memory {
                    self.op.size = self.memory_size();
                } else {
                    self.op.src = self.vector_index(1);
                }
                let double = matches!(mnemonic, M::Cvtsd2si | M::Cvttsd2si);
                let truncate = matches!(mnemonic, M::Cvttss2si | M::Cvttsd2si);
                return Some(convert::select_to_general(double, truncate, memory));
            }
            M::Cvtsi2ss | M::Cvtsi2sd => {
                let memory = self.is_memory(1);
                self.op.dst = self.vector_index(0);
                if !memory {
                    self.op.src = self.index(1);
                }
                let wide = self.width(1) == 8;
                return Some(convert::select_from_general(mnemonic == M::Cvtsi2sd, wide, memory));
            }
            M::Cvtss2sd | M::Cvtsd2ss => {
                let memory = self.vector_source() == From::Memory;
                return Some(convert::select_resize(mnemonic == M::Cvtsd2ss, memory));
            }
            _ => {}
        }
        let kind = match mnemonic {
            M::Cvtps2pd => 0,
            M::Cvtpd2ps => 1,
            M::Cvtdq2ps | M::Cvtpi2ps => 2,
            M::Cvtdq2pd | M::Cvtpi2pd => 3,
            M::Cvtps2dq | M::Cvtps2pi => 4,
            M::Cvttps2dq | M::Cvttps2pi => 5,
            M::Cvtpd2dq | M::Cvtpd2pi => 6,
            M::Cvttpd2dq | M::Cvttpd2pi => 7,
            _ => return None,
        };
        let memory = self.vector_source() == From::Memory;
        self.op.imm = kind;
        Some(if self.is_mmx(0) {
            convert::select_to_mmx(memory)
        } else if matches!(mnemonic, M::Cvtpi2ps | M::Cvtpi2pd) {
            convert::select_from_mmx(memory)
        } else {
            convert::select_packed(memory)
        })
    }
}
