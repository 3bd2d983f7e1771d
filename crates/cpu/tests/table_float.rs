//! SSE to SSE4.1 floating point: arithmetic, comparisons, conversions and rounding, with the flags of MXCSR (SDM volume
//! 1, 4.8 and 11.5; volume 2), against the host's arithmetic, which IEEE 754 leaves no choice but in NaNs.

mod machine;

use machine::bench::*;

const INVALID: u32 = 1;
const DENORMAL: u32 = 2;
const ZERO_DIVIDE: u32 = 4;
const OVERFLOW: u32 = 8;
const UNDERFLOW: u32 = 16;
const PRECISION: u32 = 32;

const DOUBLES: [f64; 22] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1.5,
    2.5,
    -2.5,
    0.1,
    1e-3,
    3.0,
    -7.75,
    1e10,
    -1e18,
    9.3e18,
    1e300,
    f64::MAX,
    f64::MIN_POSITIVE,
    5e-324,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    2_147_483_647.5,
];

fn singles() -> Vec<f32> {
    let mut values: Vec<f32> = DOUBLES.iter().map(|&value| value as f32).collect();
    values.extend([f32::MAX, f32::MIN_POSITIVE, 1e-45, 16_777_217.0, 0.333_333_34]);
    values
}

/// Executes on XMM1 and XMM2 with all exceptions masked; gives XMM1, RBX, RFLAGS and what MXCSR got.
fn run(bench: &mut Bench, code: &[u8], a: u128, b: u128) -> (u128, u64, u64, u32) {
    let after = bench.run(code, |registers| {
        (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (a, b);
        registers.rflags |= ALL;
    });
    (after.fpu.xmm[1], after.gpr[3], after.rflags & ALL, after.fpu.mxcsr & 0x3f)
}

fn pack64(values: [f64; 2]) -> u128 {
    u128::from(values[0].to_bits()) | u128::from(values[1].to_bits()) << 64
}

fn pack32(values: [f32; 4]) -> u128 {
    values.iter().rev().fold(0, |packed, value| packed << 32 | u128::from(value.to_bits()))
}

/// The result of an operation on NaNs: the first operand that is one, quiet; or the default NaN.
fn nan64(a: f64, b: f64, result: f64) -> u64 {
    let quiet = |value: f64| value.to_bits() | 1 << 51;
    match (a.is_nan(), b.is_nan(), result.is_nan()) {
        (true, ..) => quiet(a),
        (_, true, _) => quiet(b),
        (_, _, true) => 0xfff8_0000_0000_0000,
        _ => result.to_bits(),
    }
}

fn nan32(a: f32, b: f32, result: f32) -> u32 {
    let quiet = |value: f32| value.to_bits() | 1 << 22;
    match (a.is_nan(), b.is_nan(), result.is_nan()) {
        (true, ..) => quiet(a),
        (_, true, _) => quiet(b),
        (_, _, true) => 0xffc0_0000,
        _ => result.to_bits(),
    }
}

/// Opcode, the operation on doubles, and on singles.
type Arithmetic = (u8, fn(f64, f64) -> f64, fn(f32, f32) -> f32);
const ARITHMETIC: [Arithmetic; 5] = [
    (0x58, |a, b| a + b, |a, b| a + b),
    (0x59, |a, b| a * b, |a, b| a * b),
    (0x5c, |a, b| a - b, |a, b| a - b),
    (0x5e, |a, b| a / b, |a, b| a / b),
    (0x51, |_, b| b.sqrt(), |_, b| b.sqrt()),
];

#[test]
fn arithmetic_of_doubles_and_singles_packed_and_scalar() {
    let mut bench = Bench::long();
    for (opcode, double, single) in ARITHMETIC {
        let one = |a: f64, b: f64| nan64(if opcode == 0x51 { b } else { a }, b, double(a, b));
        for (a, b) in DOUBLES.iter().flat_map(|&a| DOUBLES.iter().map(move |&b| (a, b))) {
            let expected = u128::from(one(a, b));
            let old = 0x77 << 64;
            let found = run(&mut bench, &[0xf2, 0x0f, opcode, 0xca], u128::from(a.to_bits()) | old, pack64([b, 5.0]));
            assert_eq!(found.0, expected | old, "{opcode:x} {a:e} {b:e}");
            let found = run(&mut bench, &[0x66, 0x0f, opcode, 0xca], pack64([a, b]), pack64([b, a]));
            assert_eq!(found.0, expected | u128::from(one(b, a)) << 64, "{opcode:x} {a:e} {b:e}");
        }
        let one = |a: f32, b: f32| u128::from(nan32(if opcode == 0x51 { b } else { a }, b, single(a, b)));
        let values = singles();
        for (a, b) in values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))) {
            let old = 0x77 << 32;
            let found =
                run(&mut bench, &[0xf3, 0x0f, opcode, 0xca], u128::from(a.to_bits()) | old, pack32([b, 5.0, 0.0, 1.0]));
            assert_eq!(found.0, one(a, b) | old, "{opcode:x} {a:e} {b:e}");
            let found = run(&mut bench, &[0x0f, opcode, 0xca], pack32([a, b, 1.0, a]), pack32([b, a, 2.0, 1.0]));
            let expected = one(a, b) | one(b, a) << 32 | one(1.0, 2.0) << 64 | one(a, 1.0) << 96;
            assert_eq!(found.0, expected, "{opcode:x} {a:e} {b:e}");
        }
    }
}

#[test]
fn flags_of_mxcsr() {
    let mut bench = Bench::long();
    let tiny = f64::MIN_POSITIVE;
    let signaling = f64::from_bits(0x7ff0_0000_0000_0001);
    // (opcode, a, b, flags)
    let cases = [
        (0x58, 1.0, 1.0, 0),
        (0x58, 1.0, 1e-30, PRECISION),
        (0x58, f64::INFINITY, f64::NEG_INFINITY, INVALID),
        (0x5c, f64::INFINITY, f64::INFINITY, INVALID),
        (0x58, f64::NAN, 1.0, 0),
        (0x58, signaling, 1.0, INVALID),
        (0x58, 1.0, 5e-324, DENORMAL | PRECISION),
        (0x58, f64::MAX, f64::MAX, OVERFLOW | PRECISION),
        (0x59, tiny, 0.5, 0),
        (0x59, tiny, 0.1, UNDERFLOW | PRECISION),
        (0x59, 5e-324, 0.25, DENORMAL | UNDERFLOW | PRECISION),
        (0x59, 0.0, f64::INFINITY, INVALID),
        (0x5e, 1.0, 0.0, ZERO_DIVIDE),
        (0x5e, 0.0, 0.0, INVALID),
        (0x5e, f64::INFINITY, 0.0, 0),
        (0x5e, 1.0, 3.0, PRECISION),
        // Looked at before the operand's being denormal; and the least denormal, 2^-1074, has an exact root.
        (0x5e, 5e-324, 0.0, ZERO_DIVIDE),
        (0x51, 0.0, -1.0, INVALID),
        (0x51, 0.0, -0.0, 0),
        (0x51, 0.0, 2.0, PRECISION),
        (0x51, 0.0, 5e-324, DENORMAL),
        (0x5d, 1.0, f64::NAN, INVALID),
        (0x5f, 5e-324, 1.0, DENORMAL),
    ];
    for (opcode, a, b, flags) in cases {
        let found = run(&mut bench, &[0xf2, 0x0f, opcode, 0xca], u128::from(a.to_bits()), u128::from(b.to_bits()));
        assert_eq!(found.3, flags, "{opcode:x} {a:e} {b:e}");
    }
    // Rounding modes: a third, rounded four ways; flush to zero; denormals are zeros.
    let third = 1.0_f64 / 3.0;
    let below = third.to_bits();
    for (mode, sign, expected) in [
        (0, 1.0, below),
        (1, 1.0, below),
        (2, 1.0, below + 1),
        (3, 1.0, below),
        (1, -1.0, (below + 1) | 1 << 63),
        (2, -1.0, below | 1 << 63),
    ] {
        let after = bench.run(&[0xf2, 0x0f, 0x5e, 0xca], |registers| {
            registers.fpu.mxcsr = 0x1f80 | mode << 13;
            (registers.fpu.xmm[1], registers.fpu.xmm[2]) =
                (u128::from((sign * 1.0_f64).to_bits()), u128::from(3.0_f64.to_bits()));
        });
        assert_eq!(after.fpu.xmm[1] as u64, expected, "mode {mode} sign {sign}");
    }
    let after = bench.run(&[0xf2, 0x0f, 0x59, 0xca], |registers| {
        registers.fpu.mxcsr = 0x9f80;
        (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (u128::from((-tiny).to_bits()), u128::from(0.5_f64.to_bits()));
    });
    assert_eq!((after.fpu.xmm[1] as u64, after.fpu.mxcsr), (1 << 63, 0x9f80 | UNDERFLOW | PRECISION), "FTZ");
    let after = bench.run(&[0xf2, 0x0f, 0x58, 0xca], |registers| {
        registers.fpu.mxcsr = 0x1fc0;
        (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (u128::from(5e-324_f64.to_bits()), 0);
    });
    assert_eq!((after.fpu.xmm[1] as u64, after.fpu.mxcsr), (0, 0x1fc0), "DAZ");
}

#[test]
fn comparisons_minima_and_maxima() {
    let mut bench = Bench::long();
    for (a, b) in DOUBLES.iter().flat_map(|&a| DOUBLES.iter().map(move |&b| (a, b))) {
        let (x, y) = (u128::from(a.to_bits()), u128::from(b.to_bits()));
        let unordered = a.is_nan() || b.is_nan();
        let predicates = [a == b, a < b, a <= b, unordered, a != b, false, false, !unordered];
        for (imm, met) in predicates.into_iter().enumerate() {
            // 5 and 6 are "not less" and "not less or equal": also met by NaNs.
            let met = match imm {
                5 => unordered || a >= b,
                6 => unordered || a > b,
                _ => met,
            };
            let found = run(&mut bench, &[0xf2, 0x0f, 0xc2, 0xca, imm as u8], x, y);
            assert_eq!(found.0, if met { u128::from(u64::MAX) } else { 0 }, "cmpsd {imm} {a:e} {b:e}");
            let invalid = unordered && matches!(imm, 1 | 2 | 5 | 6);
            assert_eq!(found.3 & INVALID != 0, invalid, "cmpsd {imm} {a:e} {b:e}");
        }
        // The second operand comes out of NaNs and of zeros.
        let found = run(&mut bench, &[0xf2, 0x0f, 0x5d, 0xca], x, y);
        assert_eq!(found.0, if a < b { x } else { y }, "minsd {a:e} {b:e}");
        let found = run(&mut bench, &[0xf2, 0x0f, 0x5f, 0xca], x, y);
        assert_eq!(found.0, if a > b { x } else { y }, "maxsd {a:e} {b:e}");
        // comisd, ucomisd
        let flags = match a.partial_cmp(&b) {
            None => ZF | PF | CF,
            Some(std::cmp::Ordering::Less) => CF,
            Some(std::cmp::Ordering::Equal) => ZF,
            Some(std::cmp::Ordering::Greater) => 0,
        };
        for (opcode, signals) in [(0x2f, true), (0x2e, false)] {
            let found = run(&mut bench, &[0x66, 0x0f, opcode, 0xca], x, y);
            assert_eq!((found.2, found.3 & INVALID != 0), (flags, signals && unordered), "{opcode:x} {a:e} {b:e}");
        }
    }
}

/// What converting to an integer of `bits` bits gives; the indefinite value where it doesn't fit.
fn to_integer(value: f64, mode: u32, bits: u32) -> (u64, u32) {
    let rounded = match mode {
        0 => value.round_ties_even(),
        1 => value.floor(),
        2 => value.ceil(),
        _ => value.trunc(),
    };
    let limit = 2_f64.powi(bits as i32 - 1);
    if !(rounded >= -limit && rounded < limit) {
        return (1 << (bits - 1), INVALID);
    }
    (rounded as i64 as u64 & mask(bits), if rounded == value { 0 } else { PRECISION })
}

#[test]
fn conversions_to_and_from_integers() {
    let mut bench = Bench::long();
    for value in DOUBLES {
        for mode in 0..4 {
            for (truncate, opcode) in [(false, 0x2d), (true, 0x2c)] {
                for bits in [32, 64] {
                    for double in [true, false] {
                        let mut code = vec![if double { 0xf2 } else { 0xf3 }];
                        code.extend((bits == 64).then_some(0x48));
                        code.extend([0x0f, opcode, 0xd9]);
                        let source = if double { value } else { f64::from(value as f32) };
                        let input = if double { value.to_bits() } else { u64::from((value as f32).to_bits()) };
                        let after = bench.run(&code, |registers| {
                            registers.fpu.mxcsr = 0x1f80 | mode << 13;
                            registers.fpu.xmm[1] = u128::from(input);
                        });
                        let (expected, flags) = to_integer(source, if truncate { 3 } else { mode }, bits);
                        assert_eq!(after.gpr[3], expected, "{code:x?} of {source:e} mode {mode}");
                        assert_eq!(after.fpu.mxcsr & 0x3f, flags, "{code:x?} of {source:e} mode {mode}");
                    }
                }
            }
            // ROUNDSD and ROUNDSS: the immediate's mode or MXCSR's, the precision flag suppressed by bit 3.
            for imm in 0..16_u8 {
                let by = if imm & 4 != 0 { mode } else { u32::from(imm & 3) };
                let rounded = match by {
                    0 => value.round_ties_even(),
                    1 => value.floor(),
                    2 => value.ceil(),
                    _ => value.trunc(),
                };
                let after = bench.run(&[0x66, 0x0f, 0x3a, 0x0b, 0xca, imm], |registers| {
                    registers.fpu.mxcsr = 0x1f80 | mode << 13;
                    (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (7 << 64, u128::from(value.to_bits()));
                });
                let expected = if value.is_nan() { value.to_bits() } else { rounded.to_bits() };
                assert_eq!(after.fpu.xmm[1], u128::from(expected) | 7 << 64, "roundsd {value:e} {imm:x} {mode}");
                let inexact = !value.is_nan() && rounded != value && imm & 8 == 0;
                assert_eq!(after.fpu.mxcsr & PRECISION != 0, inexact, "roundsd {value:e} {imm:x} {mode}");
            }
        }
        // Between the formats.
        let found = run(&mut bench, &[0xf2, 0x0f, 0x5a, 0xca], 0, u128::from(value.to_bits()));
        let narrow = if value.is_nan() {
            0x7fc0_0000 | (value.is_sign_negative() as u32) << 31
        } else {
            (value as f32).to_bits()
        };
        assert_eq!(found.0, u128::from(narrow), "cvtsd2ss {value:e}");
        let single = value as f32;
        let found = run(&mut bench, &[0xf3, 0x0f, 0x5a, 0xca], 0, u128::from(single.to_bits()));
        assert_eq!(found.0 as u64, f64::from(single).to_bits(), "cvtss2sd {value:e}");
    }
    let mut random = Random(31);
    let integers = edges(64).into_iter().chain((0..30).map(|_| random.number())).collect::<Vec<_>>();
    for value in integers {
        let cases: [(&[u8], u64); 4] = [
            (&[0xf2, 0x48, 0x0f, 0x2a, 0xcb], (value as i64 as f64).to_bits()),
            (&[0xf2, 0x0f, 0x2a, 0xcb], f64::from(value as i32).to_bits()),
            (&[0xf3, 0x48, 0x0f, 0x2a, 0xcb], u64::from((value as i64 as f32).to_bits())),
            (&[0xf3, 0x0f, 0x2a, 0xcb], u64::from((value as i32 as f32).to_bits())),
        ];
        for (code, expected) in cases {
            let after = bench.run(code, |registers| registers.gpr[3] = value);
            let bits = if code[0] == 0xf2 { 64 } else { 32 };
            assert_eq!(after.fpu.xmm[1] as u64 & mask(bits), expected, "{code:x?} of {value:x}");
        }
    }
    // Packed: four integers to singles and back, two to doubles; halves that aren't written are cleared.
    let integers = [1, -2, i32::MAX, i32::MIN].map(|value: i32| value);
    let packed = integers.iter().rev().fold(0, |packed, &value| packed << 32 | u128::from(value as u32));
    let found = run(&mut bench, &[0x0f, 0x5b, 0xca], 0, packed);
    assert_eq!(found.0, pack32(integers.map(|value| value as f32)));
    let found = run(&mut bench, &[0xf3, 0x0f, 0xe6, 0xca], 0, packed);
    assert_eq!(found.0, pack64([1.0, -2.0]));
    let found = run(&mut bench, &[0x66, 0x0f, 0x5b, 0xca], 0, pack32([1.5, -2.5, 3e9, f32::NAN]));
    assert_eq!(found.0, 0x8000_0000_8000_0000_ffff_fffe_0000_0002);
    let found = run(&mut bench, &[0xf3, 0x0f, 0x5b, 0xca], 0, pack32([1.5, -2.5, 3e9, f32::NAN]));
    assert_eq!(found.0, 0x8000_0000_8000_0000_ffff_fffe_0000_0001);
    for opcode in [&[0xf2, 0x0f, 0xe6, 0xca][..], &[0x66, 0x0f, 0xe6, 0xca]] {
        let found = run(&mut bench, opcode, u128::MAX, pack64([-7.0, 1e10]));
        assert_eq!(found.0, 0x8000_0000_ffff_fff9);
    }
    let found = run(&mut bench, &[0x66, 0x0f, 0x5a, 0xca], u128::MAX, pack64([0.5, -4.0]));
    assert_eq!(found.0, pack32([0.5, -4.0, 0.0, 0.0]));
    let found = run(&mut bench, &[0x0f, 0x5a, 0xca], 0, pack32([0.5, -4.0, 9.0, 9.0]));
    assert_eq!(found.0, pack64([0.5, -4.0]));
}

#[test]
fn horizontal_and_alternating_arithmetic() {
    let mut bench = Bench::long();
    let (a, b) = ([1.0_f32, 2.0, 4.0, 8.0], [16.0_f32, 32.0, 64.0, 128.0]);
    let (c, d) = ([1.0_f64, 2.0], [4.0_f64, 8.0]);
    // haddps, hsubps, addsubps, movsldup, movshdup; haddpd, hsubpd, addsubpd, movddup
    let singles: [(&[u8], [f32; 4]); 5] = [
        (&[0xf2, 0x0f, 0x7c, 0xca], [3.0, 12.0, 48.0, 192.0]),
        (&[0xf2, 0x0f, 0x7d, 0xca], [-1.0, -4.0, -16.0, -64.0]),
        (&[0xf2, 0x0f, 0xd0, 0xca], [-15.0, 34.0, -60.0, 136.0]),
        (&[0xf3, 0x0f, 0x12, 0xca], [16.0, 16.0, 64.0, 64.0]),
        (&[0xf3, 0x0f, 0x16, 0xca], [32.0, 32.0, 128.0, 128.0]),
    ];
    for (code, expected) in singles {
        assert_eq!(run(&mut bench, code, pack32(a), pack32(b)).0, pack32(expected), "{code:x?}");
    }
    let doubles: [(&[u8], [f64; 2]); 4] = [
        (&[0x66, 0x0f, 0x7c, 0xca], [3.0, 12.0]),
        (&[0x66, 0x0f, 0x7d, 0xca], [-1.0, -4.0]),
        (&[0x66, 0x0f, 0xd0, 0xca], [-3.0, 10.0]),
        (&[0xf2, 0x0f, 0x12, 0xca], [4.0, 4.0]),
    ];
    for (code, expected) in doubles {
        assert_eq!(run(&mut bench, code, pack64(c), pack64(d)).0, pack64(expected), "{code:x?}");
    }
    // Dot products: which lanes take part, and which get the sum.
    for imm in 0..=255_u8 {
        let sum: f32 = (0..4).map(|at| if imm >> (4 + at) & 1 != 0 { a[at] * b[at] } else { 0.0 }).sum();
        let lanes = [0, 1, 2, 3].map(|at| if imm >> at & 1 != 0 { sum } else { 0.0 });
        assert_eq!(
            run(&mut bench, &[0x66, 0x0f, 0x3a, 0x40, 0xca, imm], pack32(a), pack32(b)).0,
            pack32(lanes),
            "{imm:x}"
        );
        let sum: f64 = (0..2).map(|at| if imm >> (4 + at) & 1 != 0 { c[at] * d[at] } else { 0.0 }).sum();
        let lanes = [0, 1].map(|at| if imm >> at & 1 != 0 { sum } else { 0.0 });
        assert_eq!(
            run(&mut bench, &[0x66, 0x0f, 0x3a, 0x41, 0xca, imm], pack64(c), pack64(d)).0,
            pack64(lanes),
            "{imm:x}"
        );
    }
    // RCPSS and RSQRTSS are right to 1.5 * 2^-12.
    for value in [1.0_f32, 2.0, 3.0, 0.1, 1234.5, 1e-30, 1e30] {
        for (opcode, exact) in [(0x53, 1.0 / f64::from(value)), (0x52, 1.0 / f64::from(value).sqrt())] {
            let found = run(&mut bench, &[0xf3, 0x0f, opcode, 0xca], 0, u128::from(value.to_bits())).0 as u32;
            let error = (f64::from(f32::from_bits(found)) / exact - 1.0).abs();
            assert!(error <= 1.5 / 4096.0, "{opcode:x} of {value:e}: {error:e}");
        }
    }
}

/// PCMPxSTRx by the manual's tables (SDM volume 2, 4.1), with lengths given: (result bits, lane count, lengths).
fn compare_strings(a: u128, b: u128, a_len: usize, b_len: usize, imm: u8) -> u32 {
    let words = imm & 1 != 0;
    let count = if words { 8 } else { 16 };
    let lane = |value: u128, at: usize| {
        let raw = if words { (value >> (16 * at)) as u16 } else { (value >> (8 * at)) as u8 as u16 };
        match (imm & 2 != 0, words) {
            (false, _) => i64::from(raw),
            (true, true) => i64::from(raw as i16),
            (true, false) => i64::from(raw as u8 as i8),
        }
    };
    let mut result = 0;
    for j in 0..count {
        // Each comparison of element i of the first with element j (or i + j) of the second, overridden where invalid.
        let b_valid = |at: usize| at < b_len;
        let met = match imm >> 2 & 3 {
            0 => (0..count).any(|i| i < a_len && b_valid(j) && lane(a, i) == lane(b, j)),
            1 => (0..count).step_by(2).any(|i| {
                i < a_len && i + 1 < a_len && b_valid(j) && lane(b, j) >= lane(a, i) && lane(b, j) <= lane(a, i + 1)
            }),
            2 => {
                if j < a_len && b_valid(j) {
                    lane(a, j) == lane(b, j)
                } else {
                    j >= a_len && !b_valid(j)
                }
            }
            _ => (0..count - j).all(|i| i >= a_len || b_valid(i + j) && lane(a, i) == lane(b, i + j)),
        };
        let met = match imm >> 4 & 3 {
            1 => !met,
            3 if b_valid(j) => !met,
            _ => met,
        };
        result |= u32::from(met) << j;
    }
    result
}

#[test]
fn string_comparisons_of_sse4_2() {
    let mut bench = Bench::long();
    let texts: [&[u8; 16]; 5] = [
        b"hello\0world abcd",
        b"lo\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"azAZ09\0\0\0\0\0\0\0\0\0\0",
        b"hello world abcd",
        &[0x80, 0xff, 0x7f, 1, 0x41, 0, 0x42, 0, 0, 0, 1, 2, 3, 0xfe, 0xff, 0x10],
    ];
    let mut cases = 0;
    for imm in 0..0x80_u8 {
        let count = if imm & 1 != 0 { 8 } else { 16 };
        for (a, b) in
            texts.iter().flat_map(|&a| texts.iter().map(move |&b| (u128::from_le_bytes(*a), u128::from_le_bytes(*b))))
        {
            let implicit = |value: u128| {
                let width = 128 / count;
                (0..count).find(|at| value >> (width * at) & u128::from(mask(width)) == 0).unwrap_or(count) as usize
            };
            for (explicit, lengths) in [(false, (0, 0)), (true, (3_i64, 20)), (true, (-5, 0)), (true, (i64::MIN, 7))] {
                let size = |length: i64| (i64::from(length as i32).unsigned_abs()).min(count.into()) as usize;
                let (a_len, b_len) =
                    if explicit { (size(lengths.0), size(lengths.1)) } else { (implicit(a), implicit(b)) };
                let expected = compare_strings(a, b, a_len, b_len, imm);
                let flags = if expected != 0 { CF } else { 0 }
                    | if b_len < count as usize { ZF } else { 0 }
                    | if a_len < count as usize { SF } else { 0 }
                    | if expected & 1 != 0 { OF } else { 0 };
                let base = if explicit { 0x60 } else { 0x62 };
                for mask_form in [false, true] {
                    let code = [0x66, 0x0f, 0x3a, base | u8::from(!mask_form), 0xca, imm];
                    let after = bench.run(&code, |registers| {
                        (registers.gpr[0], registers.gpr[2]) = (lengths.0 as u64, lengths.1 as u64);
                        registers.gpr[1] = u64::MAX;
                        (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (a, b);
                        registers.rflags |= ALL;
                    });
                    let name = format!("{code:x?} of {a:x} ({a_len}), {b:x} ({b_len})");
                    assert_eq!(after.rflags & ALL, flags, "{name}");
                    if mask_form {
                        let lane = 128 / count;
                        let spread = (0..count).filter(|at| expected >> at & 1 != 0);
                        let spread = spread.fold(0, |all, at| all | u128::from(mask(lane)) << (lane * at));
                        let wanted = if imm & 0x40 != 0 { spread } else { u128::from(expected) };
                        assert_eq!(after.fpu.xmm[0], wanted, "{name}");
                    } else {
                        let index = match (expected, imm & 0x40) {
                            (0, _) => count,
                            (_, 0) => expected.trailing_zeros(),
                            _ => 31 - expected.leading_zeros(),
                        };
                        assert_eq!(after.gpr[1], u64::from(index), "{name}");
                    }
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} cases");
}
