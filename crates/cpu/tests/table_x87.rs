//! The x87 unit: loads, stores, arithmetic, comparisons, constants, the stack and its faults, control and environments
//! (SDM volume 1, chapter 8; volume 2). Its arithmetic in all cases is compared with silicon elsewhere.

mod machine;

use ferro_cpu::Registers;
use machine::DATA;
use machine::bench::*;

const ONE: u128 = 0x3fff_8000_0000_0000_0000;
const PI: u128 = 0x4000_c90f_daa2_2168_c235;
const INDEFINITE: u128 = 0xffff_c000_0000_0000_0000;

/// The 80-bit form of a double that isn't a denormal.
fn wide(value: f64) -> u128 {
    let bits = value.to_bits();
    let sign = u128::from(bits >> 63) << 79;
    let (exponent, fraction) = (bits >> 52 & 0x7ff, bits << 11 | 1 << 63);
    match exponent {
        0 => sign,
        0x7ff => sign | 0x7fff << 64 | u128::from(fraction),
        _ => sign | u128::from(exponent + 0x3fff - 0x3ff) << 64 | u128::from(fraction),
    }
}

/// Puts these on an otherwise empty stack, the last on top.
fn with(registers: &mut Registers, values: &[f64]) {
    registers.fpu.fcw = 0x37f;
    registers.fpu.fsw = ((8 - values.len() as u16) % 8) << 11;
    registers.fpu.ftw = 0xffff;
    registers.fpu.st = [0; 8];
    for (at, &value) in values.iter().rev().enumerate() {
        registers.fpu.st[at] = wide(value);
        registers.fpu.ftw &= !(3 << (2 * ((8 - values.len() + at) % 8)));
    }
}

/// How many registers are in use.
fn depth(registers: &Registers) -> u32 {
    (0..8).filter(|at| registers.fpu.ftw >> (2 * at) & 3 != 3).count() as u32
}

fn top(registers: &Registers) -> u16 {
    registers.fpu.fsw >> 11 & 7
}

#[test]
fn loads_and_stores_of_every_format() {
    let mut bench = Bench::long();
    // (code with [rdi], memory, value)
    let loads: [(&[u8], u128, f64); 9] = [
        (&[0xd9, 0x07], 0xc020_0000, -2.5),
        (&[0xdd, 0x07], 0x3fb9_9999_9999_999a, 0.1),
        (&[0xdf, 0x07], 0x8000, -32768.0),
        (&[0xdb, 0x07], 0xffff_fffe, -2.0),
        (&[0xdf, 0x2f], 0x7fff_ffff_ffff_fc00, 9_223_372_036_854_774_784.0),
        (&[0xdb, 0x2f], 0x4000_c000_0000_0000_0000, 3.0),
        (&[0xdf, 0x27], 0x8000_0000_0000_0012_3456, -123_456.0),
        (&[0xd9, 0xe8], 0, 1.0),
        (&[0xd9, 0xee], 0, 0.0),
    ];
    for (code, memory, value) in loads {
        bench.machine.memory.write(DATA, &memory.to_le_bytes());
        let after = bench.run(code, |registers| {
            with(registers, &[]);
            registers.gpr[7] = DATA;
        });
        assert_eq!((after.fpu.st[0], depth(&after), top(&after)), (wide(value), 1, 7), "{code:x?}");
    }
    // Stores of 2.5 and -3e9, with the pop and without: (code, bytes, what 2.5 gives, what -3e9 gives, pops)
    let stores: [(&[u8], usize, u128, u128, bool); 11] = [
        (&[0xd9, 0x17], 4, 0x4020_0000, 0xcf32_d05e, false),
        (&[0xd9, 0x1f], 4, 0x4020_0000, 0xcf32_d05e, true),
        (&[0xdd, 0x17], 8, 0x4004_0000_0000_0000, 0xc1e6_5a0b_c000_0000, false),
        (&[0xdd, 0x1f], 8, 0x4004_0000_0000_0000, 0xc1e6_5a0b_c000_0000, true),
        (&[0xdb, 0x3f], 10, 0x4000_a000_0000_0000_0000, 0xc01e_b2d0_5e00_0000_0000, true),
        (&[0xdf, 0x17], 2, 2, 0x8000, false),
        (&[0xdf, 0x1f], 2, 2, 0x8000, true),
        (&[0xdb, 0x1f], 4, 2, 0x8000_0000, true),
        (&[0xdf, 0x3f], 8, 2, 0xffff_ffff_4d2f_a200, true),
        (&[0xdd, 0x0f], 8, 2, 0xffff_ffff_4d2f_a200, true),
        (&[0xdf, 0x37], 10, 2, 0x8000_0000_0030_0000_0000, true),
    ];
    for (code, size, small, large, pops) in stores {
        for (value, expected) in [(2.5, small), (-3e9, large)] {
            bench.machine.memory.write(DATA, &[0x5a; 16]);
            let after = bench.run(code, |registers| {
                with(registers, &[7.0, value]);
                registers.gpr[7] = DATA;
            });
            let mut bytes = [0; 16];
            bench.machine.memory.read(DATA, &mut bytes);
            let mut wanted = [0x5a; 16];
            wanted[..size].copy_from_slice(&expected.to_le_bytes()[..size]);
            assert_eq!(bytes, wanted, "{code:x?} of {value}");
            assert_eq!(depth(&after), if pops { 1 } else { 2 }, "{code:x?}");
        }
    }
    // The constants, by rounding: to nearest, and down, where pi ends in ...4 instead of ...5.
    let constants: [(u8, u128); 5] = [
        (0xe9, 0x4000_d49a_784b_cd1b_8afe),
        (0xea, 0x3fff_b8aa_3b29_5c17_f0bc),
        (0xeb, PI),
        (0xec, 0x3ffd_9a20_9a84_fbcf_f799),
        (0xed, 0x3ffe_b172_17f7_d1cf_79ac),
    ];
    for (opcode, value) in constants {
        assert_eq!(bench.run(&[0xd9, opcode], |registers| with(registers, &[])).fpu.st[0], value);
    }
    let after = bench.run(&[0xd9, 0xeb], |registers| {
        with(registers, &[]);
        registers.fpu.fcw = 0x77f;
    });
    assert_eq!(after.fpu.st[0], PI - 1);
}

#[test]
fn arithmetic_in_both_orders_and_with_pops() {
    let mut bench = Bench::long();
    let (a, b) = (7.0, 2.0);
    // ST(0) is 2, ST(1) is 7. (opcode, result, in ST(1)?, pops)
    let cases = [
        ([0xd8, 0xc1], a + b, false, 0),
        ([0xd8, 0xc9], a * b, false, 0),
        ([0xd8, 0xe1], b - a, false, 0),
        ([0xd8, 0xe9], a - b, false, 0),
        ([0xd8, 0xf1], b / a, false, 0),
        ([0xd8, 0xf9], a / b, false, 0),
        ([0xdc, 0xc1], a + b, true, 0),
        ([0xdc, 0xe9], a - b, true, 0),
        ([0xdc, 0xe1], b - a, true, 0),
        ([0xdc, 0xf9], a / b, true, 0),
        ([0xdc, 0xf1], b / a, true, 0),
        ([0xde, 0xc1], a + b, true, 1),
        ([0xde, 0xc9], a * b, true, 1),
        ([0xde, 0xe9], a - b, true, 1),
        ([0xde, 0xe1], b - a, true, 1),
        ([0xde, 0xf9], a / b, true, 1),
        ([0xde, 0xf1], b / a, true, 1),
    ];
    for (code, result, second, pops) in cases {
        let after = bench.run(&code, |registers| {
            with(registers, &[1.0, a, b]);
            // Double precision, so that the host can say what comes out.
            registers.fpu.fcw = 0x27f;
        });
        let at = usize::from(second) - pops;
        assert_eq!((after.fpu.st[at], depth(&after)), (wide(result), 3 - pops as u32), "{code:x?}");
    }
    // Memory operands of four kinds.
    bench.machine.memory.write(DATA, &4.0_f32.to_le_bytes());
    bench.machine.memory.write(DATA + 8, &4.0_f64.to_le_bytes());
    bench.machine.memory.write(DATA + 16, &4_i32.to_le_bytes());
    for (opcode, offset) in [(0xd8, 0), (0xdc, 8), (0xda, 16), (0xde, 16)] {
        for (digit, result) in [(0, 6.0), (1, 8.0), (4, -2.0), (5, 2.0), (6, 0.5), (7, 2.0)] {
            let after = bench.run(&[opcode, 0x07 | digit << 3], |registers| {
                with(registers, &[2.0]);
                registers.gpr[7] = DATA + offset;
            });
            assert_eq!(after.fpu.st[0], wide(result), "{opcode:x} /{digit}");
        }
    }
    // One operand.
    for (opcode, value, result) in [
        (0xe0, 3.0, -3.0),
        (0xe1, -3.0, 3.0),
        (0xfa, 9.0, 3.0),
        (0xfc, 2.5, 2.0),
        (0xfc, 3.5, 4.0),
        (0xf0, 0.0, 0.0),
        (0xf0, 1.0, 1.0),
        (0xfe, 0.0, 0.0),
        (0xff, 0.0, 1.0),
    ] {
        let after = bench.run(&[0xd9, opcode], |registers| with(registers, &[value]));
        assert_eq!(after.fpu.st[0], wide(result), "{opcode:x} of {value}");
    }
    // FPREM and FPREM1 of 7 and 2 with the quotient's bits in C0, C3, C1; FSCALE; FXTRACT; FYL2X; FPATAN.
    let after = bench.run(&[0xd9, 0xf8], |registers| with(registers, &[2.0, 7.0]));
    assert_eq!((after.fpu.st[0], after.fpu.fsw & 0x4700), (wide(1.0), 0x4200), "quotient 3");
    let after = bench.run(&[0xd9, 0xf5], |registers| with(registers, &[2.0, 7.0]));
    assert_eq!((after.fpu.st[0], after.fpu.fsw & 0x4700), (wide(-1.0), 0x0100), "quotient 4");
    let after = bench.run(&[0xd9, 0xfd], |registers| with(registers, &[3.9, 1.5]));
    assert_eq!(after.fpu.st[0], wide(12.0));
    let after = bench.run(&[0xd9, 0xf4], |registers| with(registers, &[-12.0]));
    assert_eq!((after.fpu.st[0], after.fpu.st[1], depth(&after)), (wide(-1.5), wide(3.0), 2));
    let after = bench.run(&[0xd9, 0xf1], |registers| with(registers, &[3.0, 8.0]));
    assert_eq!((after.fpu.st[0], depth(&after)), (wide(9.0), 1), "3 * log2 8");
    let after = bench.run(&[0xd9, 0xf3], |registers| with(registers, &[0.0, -1.0]));
    assert_eq!((after.fpu.st[0], depth(&after)), (PI, 1), "the angle of (-1, 0)");
}

#[test]
fn comparisons_report_by_condition_codes_or_flags() {
    let mut bench = Bench::long();
    // C3 C2 C0 at bits 14, 10, 8.
    let orders =
        [(1.0, 2.0, 0x0100, CF), (2.0, 1.0, 0, 0), (2.0, 2.0, 0x4000, ZF), (f64::NAN, 2.0, 0x4500, ZF | PF | CF)];
    for (a, b, codes, flags) in orders {
        // FCOM, FCOMP, FCOMPP, FUCOM, FUCOMP, FUCOMPP: (code, pops, does a quiet NaN signal?)
        let cases: [(&[u8], u32, bool); 6] = [
            (&[0xd8, 0xd1], 0, true),
            (&[0xd8, 0xd9], 1, true),
            (&[0xde, 0xd9], 2, true),
            (&[0xdd, 0xe1], 0, false),
            (&[0xdd, 0xe9], 1, false),
            (&[0xda, 0xe9], 2, false),
        ];
        for (code, pops, signals) in cases {
            let after = bench.run(code, |registers| with(registers, &[b, a]));
            assert_eq!((after.fpu.fsw & 0x4500, depth(&after)), (codes, 2 - pops), "{code:x?} {a} {b}");
            assert_eq!(after.fpu.fsw & 1 != 0, signals && a.is_nan(), "{code:x?} {a} {b}");
        }
        for (code, pops, signals) in
            [([0xdb, 0xf1], 0, true), ([0xdf, 0xf1], 1, true), ([0xdb, 0xe9], 0, false), ([0xdf, 0xe9], 1, false)]
        {
            let after = bench.run(&code, |registers| {
                with(registers, &[b, a]);
                registers.rflags |= CF | ZF | PF;
            });
            assert_eq!((after.rflags & (CF | ZF | PF), depth(&after)), (flags, 2 - pops), "{code:x?} {a} {b}");
            assert_eq!(after.fpu.fsw & 1 != 0, signals && a.is_nan(), "{code:x?} {a} {b}");
        }
        // FTST is against zero; and FNSTSW AX with SAHF is how old programs ask.
        let after = bench.run(&[0xd9, 0xe4, 0xdf, 0xe0, 0x9e], |registers| with(registers, &[a]));
        let expected = if a.is_nan() { ZF | PF | CF } else { 0 };
        assert_eq!(after.rflags & (CF | ZF | PF), expected);
    }
    // FXAM: sign in C1; the class in C3, C2, C0.
    let classes = [
        (wide(1.0), 0x0400),
        (wide(-1.0), 0x0600),
        (wide(0.0), 0x4000),
        (wide(f64::NEG_INFINITY), 0x0700),
        (wide(f64::NAN), 0x0100),
        (0x0000_4000_0000_0000_0000, 0x4400),
        (0x4000_4000_0000_0000_0000, 0x0000),
    ];
    for (value, codes) in classes {
        let after = bench.run(&[0xd9, 0xe5], |registers| {
            with(registers, &[1.0]);
            registers.fpu.st[0] = value;
        });
        assert_eq!(after.fpu.fsw & 0x4700, codes, "{value:x}");
    }
    let after = bench.run(&[0xd9, 0xe5], |registers| with(registers, &[]));
    assert_eq!(after.fpu.fsw & 0x4500, 0x4100, "empty");
    // FCMOVcc of ST(1) by CF, ZF, both, PF, and their opposites.
    for (code, flag) in [([0xda, 0xc1], CF), ([0xda, 0xc9], ZF), ([0xda, 0xd1], CF | ZF), ([0xda, 0xd9], PF)] {
        for flags in [0, CF, ZF, PF] {
            for negated in [false, true] {
                let code = [code[0] | u8::from(negated), code[1]];
                let after = bench.run(&code, |registers| {
                    with(registers, &[5.0, 6.0]);
                    registers.rflags |= flags;
                });
                let moves = (flags & flag != 0) != negated;
                assert_eq!(after.fpu.st[0], wide(if moves { 5.0 } else { 6.0 }), "{code:x?} {flags:x}");
            }
        }
    }
}

#[test]
fn the_stack_overflows_and_underflows() {
    let mut bench = Bench::long();
    // Overflow: IE, SF, C1; masked the indefinite value is pushed, unmasked nothing happens.
    for (control, value, place) in [(0x37f, INDEFINITE, 7), (0x37e, wide(8.0), 0)] {
        let after = bench.run(&[0xd9, 0xe8], |registers| {
            with(registers, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
            registers.fpu.fcw = control;
        });
        let summary = if control == 0x37e { 0x8080 } else { 0 };
        assert_eq!((after.fpu.st[0], top(&after), after.fpu.fsw & 0x82ff), (value, place, 0x0241 | summary));
    }
    // Underflow: C1 clear.
    for (code, control) in [([0xd8, 0xc1], 0x37f), ([0xd9, 0xe0], 0x37f), ([0xd9, 0xfa], 0x37e)] {
        let after = bench.run(&code, |registers| {
            with(registers, &[]);
            registers.fpu.fcw = control;
        });
        let summary = if control == 0x37e { 0x8080 } else { 0 };
        assert_eq!(after.fpu.fsw & 0x82ff, 0x0041 | summary, "{code:x?}");
        assert_eq!(after.fpu.st[0], if control == 0x37f { INDEFINITE } else { 0 }, "{code:x?}");
    }
    // FINCSTP, FDECSTP, FFREE, FXCH, FLD ST(i), FST ST(i)
    let after = bench.run(&[0xd9, 0xf7], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((top(&after), after.fpu.st[0], depth(&after)), (7, wide(1.0), 2));
    let after = bench.run(&[0xd9, 0xf6], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((top(&after), after.fpu.st[1], depth(&after)), (5, wide(2.0), 2));
    let after = bench.run(&[0xdd, 0xc1], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!(depth(&after), 1);
    let after = bench.run(&[0xd9, 0xc9], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((after.fpu.st[0], after.fpu.st[1]), (wide(1.0), wide(2.0)));
    let after = bench.run(&[0xd9, 0xc1], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((after.fpu.st[0], depth(&after)), (wide(1.0), 3));
    let after = bench.run(&[0xdd, 0xd9], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((after.fpu.st[0], depth(&after)), (wide(2.0), 1));
}

#[test]
fn exceptions_set_flags_and_summary() {
    let mut bench = Bench::long();
    // (values, code, flags with everything masked, result)
    let cases: [(&[f64], &[u8], u16, u128); 8] = [
        (&[0.0, 1.0], &[0xd8, 0xf1], 4, wide(f64::INFINITY)),
        (&[0.0, 0.0], &[0xd8, 0xf1], 1, INDEFINITE),
        (&[f64::INFINITY, f64::INFINITY], &[0xd8, 0xe1], 1, INDEFINITE),
        (&[3.0, 1.0], &[0xd8, 0xf1], 0x20, 0x3ffd_aaaa_aaaa_aaaa_aaab),
        (&[-1.0], &[0xd9, 0xfa], 1, INDEFINITE),
        (&[1.0, 2.0], &[0xd8, 0xc1], 0, wide(3.0)),
        (&[0.0, f64::INFINITY], &[0xd8, 0xc9], 1, INDEFINITE),
        (&[0.5], &[0xd9, 0xfc], 0x20, 0),
    ];
    for (values, code, flags, result) in cases {
        let after = bench.run(code, |registers| with(registers, values));
        assert_eq!((after.fpu.fsw & 0xff, after.fpu.st[0]), (flags, result), "{code:x?} of {values:?}");
        // Unmasked: the summary and busy bits, and for what is found before computing no result.
        let after = bench.run(code, |registers| {
            with(registers, values);
            registers.fpu.fcw = 0x340;
        });
        let summary = if flags != 0 { 0x8080 } else { 0 };
        assert_eq!(after.fpu.fsw & 0x80ff, flags | summary, "{code:x?} of {values:?} unmasked");
        let kept = flags & 7 != 0;
        let expected = if kept { wide(values[values.len() - 1]) } else { result };
        assert_eq!(after.fpu.st[0], expected, "{code:x?} of {values:?} unmasked");
    }
    // FSCALE beyond even the wrapped range gives infinity or zero; a denormal is told whatever the other operand is.
    for (scale, control, result, flags) in
        [(65536.0, 0x377, wide(f64::INFINITY), 0x28), (-65536.0, 0x36f, 0, 0x30), (24_576.0, 0x377, ONE, 0x08)]
    {
        let after = bench.run(&[0xd9, 0xfd], |registers| {
            with(registers, &[scale, 1.0]);
            registers.fpu.fcw = control;
        });
        assert_eq!((after.fpu.st[0], after.fpu.fsw & 0x7f), (result, flags), "{scale} {control:x}");
    }
    let after = bench.run(&[0xd9, 0xfd], |registers| {
        with(registers, &[1.0, 0.0]);
        registers.fpu.st[1] = 1;
    });
    assert_eq!((after.fpu.st[0], after.fpu.fsw & 0x7f), (0, 2));
    // A remainder that isn't one is complete.
    for values in [[1.0, f64::NAN], [0.0, 1.0], [1.0, f64::INFINITY]] {
        let after = bench.run(&[0xd9, 0xf8], |registers| {
            with(registers, &values);
            registers.fpu.fsw |= 0x400;
        });
        assert_eq!(after.fpu.fsw & 0x400, 0, "{values:?}");
    }
    // Precision control: a third in 24, 53 and 64 bits.
    for (control, result) in [
        (0x07f, 0x3ffd_aaaa_ab00_0000_0000_u128),
        (0x27f, 0x3ffd_aaaa_aaaa_aaaa_a800),
        (0x37f, 0x3ffd_aaaa_aaaa_aaaa_aaab),
    ] {
        let after = bench.run(&[0xd8, 0xf1], |registers| {
            with(registers, &[3.0, 1.0]);
            registers.fpu.fcw = control;
        });
        assert_eq!(after.fpu.st[0], result);
    }
}

#[test]
fn control_words_environments_and_whole_states() {
    let mut bench = Bench::long();
    // fnstcw, fldcw, fnstsw, fninit, fnclex
    bench.run(&[0xd9, 0x3f], |registers| {
        registers.fpu.fcw = 0x123f;
        registers.gpr[7] = DATA;
    });
    assert_eq!(bench.machine.memory.load::<u16>(DATA).unwrap() & 0x1f3f, 0x123f);
    bench.machine.memory.store(DATA, 0x0f3b_u16).unwrap();
    let after = bench.run(&[0xd9, 0x2f], |registers| registers.gpr[7] = DATA);
    assert_eq!(after.fpu.fcw, 0x0f7b);
    let after = bench.run(&[0xdb, 0xe3], |registers| with(registers, &[1.0, 2.0]));
    assert_eq!((after.fpu.fcw, after.fpu.fsw, after.fpu.ftw), (0x37f, 0, 0xffff));
    let after = bench.run(&[0xdb, 0xe2], |registers| {
        with(registers, &[1.0]);
        registers.fpu.fsw |= 0xc7ff & !0x3800;
    });
    assert_eq!(after.fpu.fsw & 0x80ff, 0);
    // FNSTENV masks everything afterwards; FLDENV brings it back. Tags: valid 0, zero 1, special 2, empty 3.
    let after = bench.run(&[0xd9, 0x37], |registers| {
        with(registers, &[f64::INFINITY, 0.0, 1.0]);
        registers.fpu.fcw = 0x340;
        registers.gpr[7] = DATA;
    });
    assert_eq!(after.fpu.fcw, 0x37f);
    let words: Vec<u32> = (0..3).map(|at| bench.machine.word(DATA + 4 * at)).collect();
    assert_eq!(words, [0xffff_0340, 0xffff_2800, 0xffff_93ff]);
    let after = bench.run(&[0xd9, 0x27], |registers| registers.gpr[7] = DATA);
    assert_eq!((after.fpu.fcw, after.fpu.fsw & 0x3800), (0x340, 0x2800));
    // FNSAVE, FRSTOR and FXSAVE, FXRSTOR: what is saved comes back whatever was done between.
    for (save, restore) in [(&[0xdd, 0x37][..], &[0xdd, 0x27][..]), (&[0x0f, 0xae, 0x07], &[0x0f, 0xae, 0x0f])] {
        let set = |registers: &mut Registers| {
            with(registers, &[f64::INFINITY, -0.0, 1.0, 1e300]);
            registers.fpu.fcw = 0xb7f;
            registers.fpu.mxcsr = 0x9fc0;
            registers.fpu.xmm = std::array::from_fn(|at| (at as u128 + 1) << 100 | 5);
            registers.gpr[7] = DATA;
        };
        // fninit; fld1 between
        let code = [save, &[0xdb, 0xe3, 0xd9, 0xe8], restore].concat();
        let after = bench.run(&code, set);
        let mut expected = after;
        set(&mut expected);
        assert_eq!((after.fpu.fcw, after.fpu.fsw, after.fpu.ftw), (0xb7f, expected.fpu.fsw, after.fpu.ftw));
        assert_eq!((after.fpu.st[..4].to_vec(), depth(&after)), (expected.fpu.st[..4].to_vec(), 4));
        assert_eq!((after.fpu.xmm, after.fpu.mxcsr), (expected.fpu.xmm, 0x9fc0));
    }
    // FXSAVE's layout: control, status, abridged tags, MXCSR and its mask, ST(0), XMM0.
    bench.machine.memory.write(DATA, &[0xee; 512]);
    bench.run(&[0x0f, 0xae, 0x07], |registers| {
        with(registers, &[1.0]);
        (registers.fpu.mxcsr, registers.fpu.xmm[0], registers.gpr[7]) = (0x1f81, 77, DATA);
    });
    let memory = &bench.machine.memory;
    assert_eq!(
        (memory.load::<u16>(DATA), memory.load::<u16>(DATA + 2), memory.load::<u8>(DATA + 4)),
        (Some(0x37f), Some(0x3800), Some(0x80))
    );
    assert_eq!((memory.load::<u32>(DATA + 24), memory.load::<u64>(DATA + 32)), (Some(0x1f81), Some(1 << 63)));
    assert_eq!((memory.load::<u16>(DATA + 40), memory.load::<u64>(DATA + 160)), (Some(0x3fff), Some(77)));
    assert_eq!(memory.load::<u8>(DATA + 416), Some(0xee), "what is reserved for software stays");
    // LDMXCSR, STMXCSR; reserved bits raise #GP.
    bench.machine.memory.store(DATA, 0xffbf_u32).unwrap();
    let after = bench.run(&[0x0f, 0xae, 0x17], |registers| registers.gpr[7] = DATA);
    assert_eq!(after.fpu.mxcsr, 0xffbf);
    bench.machine.memory.store(DATA, 0x1_1f80_u32).unwrap();
    assert_eq!(bench.try_run(&[0x0f, 0xae, 0x17], |registers| registers.gpr[7] = DATA).unwrap_err(), (13, 0));
    bench.machine.memory.store(DATA + 24, 0x1_0000_u32).unwrap();
    assert_eq!(bench.try_run(&[0x0f, 0xae, 0x0f], |registers| registers.gpr[7] = DATA).unwrap_err(), (13, 0));
}
