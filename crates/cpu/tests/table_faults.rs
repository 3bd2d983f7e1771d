//! Which exception an instruction raises, with its error code: encodings that don't exist, LOCK where it may not be,
//! privileges, units that are off, alignment (SDM volume 2, the exception lists, and volume 3, chapters 2 and 6).

mod machine;

use machine::bench::*;
use machine::{CODE, DATA, Machine, STACK};

const UD: u64 = 6;
const NM: u64 = 7;
const GP: u64 = 13;
const MF: u64 = 16;
const XM: u64 = 19;

/// The vector that `code` raises, if any.
fn vector(bench: &mut Bench, code: &[u8]) -> Option<u64> {
    bench.try_run(code, |registers| (registers.gpr[3], registers.gpr[7]) = (DATA, DATA)).err().map(|(vector, _)| vector)
}

#[test]
fn lock_is_allowed_for_some_instructions_on_memory_only() {
    let mut bench = Bench::long();
    // add, or, adc, sbb, and, sub, xor [rbx], ecx; not, neg, inc, dec; bts, btr, btc; xchg, xadd, cmpxchg, cmpxchg8b, 16b
    let good: [&[u8]; 20] = [
        &[0x01, 0x0b],
        &[0x09, 0x0b],
        &[0x11, 0x0b],
        &[0x19, 0x0b],
        &[0x21, 0x0b],
        &[0x29, 0x0b],
        &[0x31, 0x0b],
        &[0x80, 0x03, 1],
        &[0x81, 0x2b, 1, 0, 0, 0],
        &[0xf7, 0x13],
        &[0xf6, 0x1b],
        &[0xff, 0x03],
        &[0xfe, 0x0b],
        &[0x0f, 0xab, 0x0b],
        &[0x0f, 0xba, 0x33, 1],
        &[0x0f, 0xbb, 0x0b],
        &[0x87, 0x0b],
        &[0x0f, 0xc1, 0x0b],
        &[0x0f, 0xb1, 0x0b],
        &[0x0f, 0xc7, 0x0b],
    ];
    for code in good {
        let locked = [&[0xf0], code].concat();
        assert_eq!(vector(&mut bench, &locked), None, "{locked:x?}");
        // With a register as the destination it is invalid.
        let mut register = locked.clone();
        let at = if code[0] == 0x0f { 3 } else { 2 };
        register[at] |= 0xc0;
        assert_eq!(vector(&mut bench, &register), Some(UD), "{register:x?}");
    }
    let bad: [&[u8]; 22] = [
        &[0x90],
        &[0x03, 0x0b],
        &[0x39, 0x0b],
        &[0x81, 0x3b, 1, 0, 0, 0],
        &[0x85, 0x0b],
        &[0x89, 0x0b],
        &[0x8b, 0x0b],
        &[0xc7, 0x03, 1, 0, 0, 0],
        &[0xd1, 0x23],
        &[0xf7, 0x23],
        &[0xf7, 0x33],
        &[0xff, 0x33],
        &[0x8f, 0x03],
        &[0x0f, 0xa3, 0x0b],
        &[0x0f, 0xba, 0x23, 1],
        &[0x0f, 0xaf, 0x0b],
        &[0x0f, 0x11, 0x03],
        &[0xdd, 0x03],
        &[0xa4],
        &[0xe8, 0, 0, 0, 0],
        &[0x0f, 0xa4, 0x0b, 1],
        &[0xfa],
    ];
    for code in bad {
        let locked = [&[0xf0], code].concat();
        assert_eq!(vector(&mut bench, &locked), Some(UD), "{locked:x?}");
    }
}

#[test]
fn opcodes_that_are_not_there() {
    let mut bench = Bench::long();
    // Removed in 64-bit mode, and never there.
    let long: [&[u8]; 40] = [
        &[0x06],
        &[0x07],
        &[0x0e],
        &[0x16],
        &[0x17],
        &[0x1e],
        &[0x1f],
        &[0x27],
        &[0x2f],
        &[0x37],
        &[0x3f],
        &[0x60],
        &[0x61],
        &[0x62, 0x03],
        &[0x82, 0xc0, 0],
        &[0x9a, 0, 0, 0, 0, 0, 0],
        &[0xc4, 0x03],
        &[0xc5, 0x03],
        &[0xce],
        &[0xd4, 10],
        &[0xd5, 10],
        &[0xd6],
        &[0xea, 0, 0, 0, 0, 0, 0],
        &[0x0f, 0x04],
        &[0x0f, 0x0a],
        &[0x0f, 0x0b],
        &[0x0f, 0xb9, 0xc0],
        &[0x0f, 0xff, 0xc0],
        &[0x0f, 0x24, 0xc0],
        &[0x0f, 0x36],
        &[0x0f, 0xc7, 0xc8],
        &[0xfe, 0xd0],
        &[0xff, 0xf8],
        &[0x8f, 0xc8],
        &[0xc6, 0xc8, 0],
        &[0x8d, 0xc0],
        &[0x0f, 0xba, 0xc0, 0],
        &[0x8c, 0xf0],
        &[0x8e, 0xc8],
        &[0x0f, 0x01, 0xd0],
    ];
    for code in long {
        assert_eq!(vector(&mut bench, code), Some(UD), "{code:x?}");
    }
    // VEX and EVEX, AES, BMI, MOVBE, SHA, CLFLUSHOPT, RDPID, XSAVE, VMX, SVM: CPUID doesn't offer them.
    let absent: [&[u8]; 14] = [
        &[0xc5, 0xf8, 0x58, 0xc1],
        &[0xc4, 0xe2, 0x79, 0x18, 0x03],
        &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1],
        &[0x66, 0x0f, 0x38, 0xdc, 0xc1],
        &[0x66, 0x0f, 0x3a, 0x44, 0xc1, 0],
        &[0x0f, 0x38, 0xf0, 0x03],
        &[0x0f, 0x38, 0xc8, 0xc1],
        &[0xf3, 0x0f, 0xc7, 0xf8],
        &[0x0f, 0xae, 0x23],
        &[0x0f, 0xae, 0x2b],
        &[0x0f, 0x01, 0xc1],
        &[0x0f, 0x01, 0xd9],
        &[0x0f, 0x01, 0xca],
        &[0x66, 0x0f, 0x38, 0xf6, 0xc1],
    ];
    for code in absent {
        assert_eq!(vector(&mut bench, code), Some(UD), "{code:x?}");
    }
    // In 32-bit code: the same opcodes as register forms that only memory has, and 64-bit instructions.
    let mut bench = Bench::legacy();
    let legacy: [&[u8]; 8] = [
        &[0xc4, 0xc0],
        &[0x62, 0xc0],
        &[0x0f, 0x05],
        &[0x0f, 0x07],
        &[0x0f, 0x01, 0xf8],
        &[0xf3, 0x0f, 0xae, 0xc0],
        &[0x0f, 0xb2, 0xc0],
        &[0xff, 0xd8],
    ];
    for code in legacy {
        assert_eq!(vector(&mut bench, code), Some(UD), "{code:x?}");
    }
    // What has no effect, rather.
    let mut bench = Bench::long();
    let nothing: [&[u8]; 9] = [
        &[0x90],
        &[0xf3, 0x90],
        &[0x0f, 0x1f, 0x03],
        &[0x0f, 0x1e, 0xfa],
        &[0xf3, 0x0f, 0x1e, 0xfa],
        &[0x0f, 0x18, 0x03],
        &[0x0f, 0x0d, 0x03],
        &[0x2e, 0x36, 0x3e, 0x26, 0x90],
        &[0x48, 0x0f, 0x1f, 0xc0],
    ];
    for code in nothing {
        assert_eq!(vector(&mut bench, code), None, "{code:x?}");
    }
}

#[test]
fn instructions_are_15_bytes_at_most() {
    let mut bench = Bench::long();
    let prefixes = |count: usize| [vec![0x66; count], vec![0x90]].concat();
    assert_eq!(vector(&mut bench, &prefixes(14)), None);
    assert_eq!(vector(&mut bench, &prefixes(15)), Some(GP));
    let long = [vec![0x2e; 8], vec![0x48, 0xc7, 0x84, 0x23, 0, 0, 0, 0, 1, 0, 0, 0]].concat();
    assert_eq!(vector(&mut bench, &long), Some(GP));
}

#[test]
fn ring_3_may_not_execute_these() {
    let privileged: [&[u8]; 22] = [
        &[0xf4],
        &[0x0f, 0x06],
        &[0x0f, 0x08],
        &[0x0f, 0x09],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x23, 0xc0],
        &[0x0f, 0x30],
        &[0x0f, 0x32],
        &[0x0f, 0x33],
        &[0x0f, 0x35],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
        &[0x0f, 0x01, 0x13],
        &[0x0f, 0x01, 0x1b],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x01, 0x3b],
        &[0x0f, 0x01, 0xf8],
        &[0xfa],
        &[0xfb],
        &[0xec],
    ];
    for code in privileged {
        let mut machine = Machine::new(code, true);
        machine.edit(|registers| registers.gpr[3] = DATA);
        assert_eq!((machine.vector(), machine.handler().1), (GP, [0, CODE, 0x23]), "{code:x?}");
    }
    // SYSRET without the privilege, and RDTSC and RDTSCP where CR4.TSD forbids them.
    let mut machine = Machine::new(&[0x48, 0x0f, 0x07], true);
    assert_eq!(machine.vector(), GP);
    for (code, user, tsd) in
        [(&[0x0f, 0x31][..], true, true), (&[0x0f, 0x01, 0xf9], true, true), (&[0x0f, 0x31], false, true)]
    {
        let mut bytes = code.to_vec();
        bytes.push(0xf4);
        let mut machine = Machine::new(&bytes, user);
        machine.edit(|registers| registers.cr4 |= if tsd { 4 } else { 0 });
        if user {
            assert_eq!((machine.vector(), machine.handler().1[1]), (GP, CODE));
        } else {
            machine.halts_at(code.len() as u64);
        }
    }
}

#[test]
fn units_that_are_off_say_so() {
    // An x87, an MMX, an SSE instruction, WAIT, FXSAVE, LDMXCSR by CR0.EM (4), TS (8), MP (2), and OSFXSR.
    let codes: [&[u8]; 7] = [
        &[0xd9, 0xe8],
        &[0x0f, 0xfc, 0xc1],
        &[0x0f, 0x58, 0xc1],
        &[0x9b],
        &[0x0f, 0xae, 0x03],
        &[0x0f, 0xae, 0x13],
        &[0x0f, 0xc3, 0x0b],
    ];
    for bits in 0..16_u64 {
        let (em, ts, mp, off) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0, bits & 8 != 0);
        let expected = [
            (em || ts).then_some(NM),
            if em { Some(UD) } else { ts.then_some(NM) },
            if em || off { Some(UD) } else { ts.then_some(NM) },
            (ts && mp).then_some(NM),
            (em || ts).then_some(NM),
            if em || off { Some(UD) } else { ts.then_some(NM) },
            None,
        ];
        for (code, expected) in codes.iter().zip(expected) {
            let mut bench = Bench::long();
            let found = bench.try_run(code, |registers| {
                registers.gpr[3] = DATA;
                registers.cr0 = registers.cr0 & !0xe | (bits & 1) << 2 | (bits & 2) << 2 | (bits & 4) >> 1;
                registers.cr4 = if off { 0x420 } else { 0x620 };
            });
            assert_eq!(
                found.err().map(|(vector, _)| vector),
                expected,
                "{code:x?} EM {em} TS {ts} MP {mp} FXSR off {off}"
            );
        }
    }
}

#[test]
fn floating_point_exceptions_are_reported_by_each_unit_in_its_way() {
    // x87: a division by zero, unmasked, is pending until the next waiting instruction.
    let mut bench = Bench::long();
    // fld1; fldz; fdivp; fnop
    let code = [0xd9, 0xe8, 0xd9, 0xee, 0xde, 0xf9, 0xd9, 0xd0];
    let fault = bench.try_run(&code, |registers| (registers.fpu.fcw, registers.fpu.ftw) = (0x37b, 0xffff)).unwrap_err();
    assert_eq!(fault, (MF, CODE + 6));
    // FNSTSW, FNINIT, FNCLEX don't wait; MMX instructions and WAIT do.
    for (tail, expected) in [
        (&[0xdf, 0xe0][..], None),
        (&[0xdb, 0xe3], None),
        (&[0xdb, 0xe2], None),
        (&[0xd9, 0x33], None),
        (&[0x9b], Some(MF)),
        (&[0x0f, 0x77], Some(MF)),
        (&[0x0f, 0xfc, 0xc1], Some(MF)),
        (&[0xd9, 0xe8], Some(MF)),
        (&[0xd9, 0x2b], Some(MF)),
        (&[0xd9, 0x23], Some(MF)),
        (&[0xdd, 0x23], Some(MF)),
        (&[0x0f, 0x58, 0xc1], None),
    ] {
        let code = [&code[..6], tail].concat();
        let found = bench.try_run(&code, |registers| {
            (registers.fpu.fcw, registers.fpu.ftw) = (0x37b, 0xffff);
            registers.gpr[3] = DATA;
        });
        assert_eq!(found.err().map(|(vector, _)| vector), expected, "{tail:x?}");
    }
    // A pending exception comes before the faults of the operand: cvtps2pi, pinsrw, paddb, fadd of an address that
    // isn't canonical.
    for tail in [&[0x0f, 0x2d, 0x0b][..], &[0x0f, 0xc4, 0x0b, 1], &[0x0f, 0xfc, 0x0b], &[0xd8, 0x03]] {
        let code = [&code[..6], tail].concat();
        let found = bench.try_run(&code, |registers| {
            (registers.fpu.fcw, registers.fpu.ftw) = (0x37b, 0xffff);
            registers.gpr[3] = 1 << 60;
        });
        assert_eq!(found.unwrap_err().0, MF, "{tail:x?}");
    }
    // SSE: #XM by the instruction itself, which writes nothing; without OSXMMEXCPT #UD; masked nothing.
    for (mxcsr, exceptions, expected) in [(0x1f80, true, None), (0x1d80, true, Some(XM)), (0x1d80, false, Some(UD))] {
        let found = bench.try_run(&[0xf3, 0x0f, 0x5e, 0xc1], |registers| {
            registers.fpu.xmm = [0; 16];
            registers.fpu.xmm[0] = u128::from(1.0_f32.to_bits());
            registers.fpu.mxcsr = mxcsr;
            registers.cr4 = if exceptions { 0x620 } else { 0x220 };
        });
        match expected {
            None => {
                let registers = found.unwrap();
                assert_eq!(registers.fpu.xmm[0], u128::from(f32::INFINITY.to_bits()));
                assert_eq!(registers.fpu.mxcsr, mxcsr | 4);
            }
            Some(expected) => {
                assert_eq!(found.unwrap_err(), (expected, CODE));
                let registers = bench.machine.cpu.registers();
                assert_eq!(registers.fpu.xmm[0], u128::from(1.0_f32.to_bits()));
                assert_eq!(registers.fpu.mxcsr, mxcsr | 4, "the flag is set nevertheless");
            }
        }
    }
}

#[test]
fn sixteen_bytes_must_be_aligned_for_most_of_sse() {
    let mut bench = Bench::long();
    // (code with [rbx], must be aligned)
    let cases: [(&[u8], bool); 16] = [
        (&[0x0f, 0x28, 0x03], true),
        (&[0x0f, 0x29, 0x03], true),
        (&[0x66, 0x0f, 0x6f, 0x03], true),
        (&[0x66, 0x0f, 0xe7, 0x03], true),
        (&[0x0f, 0x58, 0x03], true),
        (&[0x66, 0x0f, 0xfc, 0x03], true),
        (&[0x66, 0x0f, 0x38, 0x00, 0x03], true),
        (&[0x66, 0x0f, 0x3a, 0x0f, 0x03, 1], true),
        (&[0x0f, 0x10, 0x03], false),
        (&[0xf3, 0x0f, 0x6f, 0x03], false),
        (&[0xf2, 0x0f, 0xf0, 0x03], false),
        (&[0xf3, 0x0f, 0x58, 0x03], false),
        (&[0x0f, 0x12, 0x03], false),
        (&[0x66, 0x0f, 0x3a, 0x63, 0x03, 0], false),
        (&[0x66, 0x0f, 0x38, 0x20, 0x03], false),
        (&[0x0f, 0xae, 0x0b], true),
    ];
    for (code, aligned) in cases {
        for offset in [0, 1, 8, 15, 16] {
            bench.machine.memory.write(DATA, &[0; 1024]);
            let found = bench.try_run(code, |registers| registers.gpr[3] = DATA + offset);
            let expected = (aligned && offset % 16 != 0).then_some((GP, 0));
            assert_eq!(found.err(), expected, "{code:x?} at {offset}");
        }
    }
}

#[test]
fn alignment_is_checked_in_ring_3_where_both_flags_say_so() {
    // mov eax, [rbx]; and in the other sizes: (code, what the address must be a multiple of)
    let cases: [(&[u8], u64); 12] = [
        (&[0x8a, 0x03], 1),
        (&[0x66, 0x8b, 0x03], 2),
        (&[0x8b, 0x03], 4),
        (&[0x48, 0x8b, 0x03], 8),
        (&[0x48, 0x89, 0x03], 8),
        (&[0xf0, 0x48, 0x01, 0x03], 8),
        (&[0xdd, 0x03], 8),
        (&[0xdb, 0x2b], 8),
        (&[0xdb, 0x3b], 8),
        (&[0xd9, 0x33], 4),
        (&[0x66, 0xd9, 0x33], 2),
        (&[0xdd, 0x33], 4),
    ];
    for (code, multiple) in cases {
        for offset in 0..9 {
            for (user, flag, enabled) in
                [(true, true, true), (true, false, true), (true, true, false), (false, true, true)]
            {
                let mut bytes = code.to_vec();
                bytes.push(0xf4);
                let mut machine = Machine::new(&bytes, user);
                machine.edit(|registers| {
                    registers.gpr[3] = DATA + offset;
                    registers.cr0 |= if enabled { 1 << 18 } else { 0 };
                    registers.rflags |= if flag { 1 << 18 } else { 0 };
                    registers.fpu.ftw = 0;
                });
                assert_eq!(machine.run(10), ferro_cpu::Exit::Halted);
                let fault = user && flag && enabled && offset % multiple != 0;
                let shown = format!("{code:x?} at {offset} user {user} AC {flag} AM {enabled}");
                let (vector, frame) = machine.handler();
                if user {
                    let expected = if fault { (17, 0, CODE) } else { (GP, 0, CODE + code.len() as u64) };
                    assert_eq!((vector, frame[0], frame[1]), expected, "{shown}");
                } else {
                    assert_eq!(machine.cpu.registers().rip, CODE + bytes.len() as u64, "{shown}");
                }
            }
        }
    }
}

#[test]
fn traps_and_checks_of_their_own() {
    // INTO, BOUND of 16 and 32 bits in 32-bit code; INT3 pushes the address after it.
    let mut bench = Bench::legacy();
    for (overflow, expected) in [(false, None), (true, Some((4, CODE + 1)))] {
        let found = bench.try_run(&[0xce], |registers| registers.rflags |= if overflow { OF } else { 0 });
        assert_eq!(found.err(), expected);
    }
    bench.machine.memory.write(DATA, &[0xfe, 0xff, 0xff, 0xff, 5, 0, 0, 0]);
    for (index, fine) in [(-3_i32, false), (-2, true), (0, true), (5, true), (6, false)] {
        let found = bench.try_run(&[0x62, 0x03], |registers| {
            (registers.gpr[0], registers.gpr[3]) = (u64::from(index as u32), DATA);
        });
        assert_eq!(found.err(), (!fine).then_some((5, CODE)), "{index}");
    }
    bench.machine.memory.write(DATA, &[0xfe, 0xff, 5, 0]);
    for (index, fine) in [(0xfffd, false), (0xfffe, true), (5, true), (6, false)] {
        let found =
            bench.try_run(&[0x66, 0x62, 0x03], |registers| (registers.gpr[0], registers.gpr[3]) = (index, DATA));
        assert_eq!(found.err(), (!fine).then_some((5, CODE)), "{index}");
    }
    assert_eq!(bench.try_run(&[0xcc], |_| ()).unwrap_err(), (3, CODE + 1));
    assert_eq!(bench.try_run(&[0xcd, 0x80], |_| ()).unwrap_err(), (0x80, CODE + 2));
    assert_eq!(bench.machine.cpu.registers().gpr[4], STACK - 12);
}
