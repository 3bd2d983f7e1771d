//! Integer instructions of MMX, SSE2, SSSE3, SSE4.1 and SSE4.2, lane by lane from their definitions (SDM volume 2), with
//! registers and memory as the second operand, on both kinds of registers where there are both.

mod machine;

use machine::DATA;
use machine::bench::*;

/// Lanes of `bits` bits of the lower `total` bits.
fn split(value: u128, bits: u32, signed: bool, total: u32) -> Vec<i128> {
    (0..total / bits)
        .map(|at| {
            let lane = (value >> (at * bits)) as u64 & mask(bits);
            if signed { machine::bench::signed(lane, bits) } else { i128::from(lane) }
        })
        .collect()
}

/// The other way round; lanes are cut.
fn join(lanes: &[i128], bits: u32) -> u128 {
    lanes
        .iter()
        .enumerate()
        .fold(0, |value, (at, &lane)| value | u128::from(lane as u64 & mask(bits)) << (at as u32 * bits))
}

fn clamp_signed(value: i128, bits: u32) -> i128 {
    value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
}

fn clamp_unsigned(value: i128, bits: u32) -> i128 {
    value.clamp(0, (1 << bits) - 1)
}

/// Executes `code` (prefix and opcode; ModRM follows, then `tail`) on registers 1 and 2 of either kind, or register 1 and
/// memory; gives register 1.
fn run(bench: &mut Bench, code: &[u8], tail: &[u8], mmx: bool, memory: bool, a: u128, b: u128) -> u128 {
    let mut code = code.to_vec();
    code.push(if memory { 0x0f } else { 0xca });
    code.extend(tail);
    bench.machine.put(DATA, b as u64);
    bench.machine.put(DATA + 8, (b >> 64) as u64);
    let after = bench.run(&code, |registers| {
        registers.gpr[7] = DATA;
        registers.fpu.xmm[1] = a;
        registers.fpu.xmm[2] = b;
        registers.fpu.st[1] = a & u128::from(u64::MAX);
        registers.fpu.st[2] = b & u128::from(u64::MAX);
        registers.fpu.fsw = 0;
    });
    if mmx {
        // The whole stack is in use, and the exponents of what was written are all ones.
        assert_eq!((after.fpu.fsw & 0x3800, after.fpu.st[1] >> 64), (0, 0xffff));
        assert_eq!(after.fpu.xmm[1], a, "XMM registers are untouched");
        after.fpu.st[1] & u128::from(u64::MAX)
    } else {
        after.fpu.xmm[1]
    }
}

/// Vectors with edges and random lanes.
fn vectors(count: usize) -> Vec<u128> {
    let mut random = Random(21);
    let mut values =
        vec![0, u128::MAX, 0x8000_7fff_8001_0001_ff80_7f01_0080_ffff_u128, 0x80 << 120 | 0x7f, 1 << 64 | 1];
    values.extend((0..count).map(|_| u128::from(random.number()) << 64 | u128::from(random.number())));
    values
}

/// What a binary instruction does with its operands and the number of their bits.
type Whole = fn(u128, u128, u32) -> u128;

fn check(
    bench: &mut Bench,
    name: &str,
    opcode: &[u8],
    tail: &[u8],
    both: bool,
    expected: &dyn Fn(u128, u128, u32) -> u128,
) -> usize {
    let values = vectors(6);
    let mut cases = 0;
    for (a, b) in values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))) {
        for memory in [false, true] {
            let code = [&[0x66], opcode].concat();
            let found = run(bench, &code, tail, false, memory, a, b);
            assert_eq!(found, expected(a, b, 128), "{name} of {a:x}, {b:x} memory {memory}");
            cases += 1;
            if both {
                let (a, b) = (a & u128::from(u64::MAX), b & u128::from(u64::MAX));
                let found = run(bench, opcode, tail, true, memory, a, b);
                assert_eq!(found, expected(a, b, 64), "{name} of {a:x}, {b:x} (MMX) memory {memory}");
                cases += 1;
            }
        }
    }
    cases
}

#[test]
fn lanes_with_lanes() {
    let mut bench = Bench::long();
    type Lane = fn(i128, i128) -> i128;
    // (name, opcode after 0F, bits, signed, both kinds of registers, what one lane does)
    let simple: [(&str, u8, u32, bool, bool, Lane); 40] = [
        ("paddb", 0xfc, 8, false, true, |a, b| a + b),
        ("paddw", 0xfd, 16, false, true, |a, b| a + b),
        ("paddd", 0xfe, 32, false, true, |a, b| a + b),
        ("paddq", 0xd4, 64, false, true, |a, b| a + b),
        ("psubb", 0xf8, 8, false, true, |a, b| a - b),
        ("psubw", 0xf9, 16, false, true, |a, b| a - b),
        ("psubd", 0xfa, 32, false, true, |a, b| a - b),
        ("psubq", 0xfb, 64, false, true, |a, b| a - b),
        ("paddsb", 0xec, 8, true, true, |a, b| clamp_signed(a + b, 8)),
        ("paddsw", 0xed, 16, true, true, |a, b| clamp_signed(a + b, 16)),
        ("paddusb", 0xdc, 8, false, true, |a, b| clamp_unsigned(a + b, 8)),
        ("paddusw", 0xdd, 16, false, true, |a, b| clamp_unsigned(a + b, 16)),
        ("psubsb", 0xe8, 8, true, true, |a, b| clamp_signed(a - b, 8)),
        ("psubsw", 0xe9, 16, true, true, |a, b| clamp_signed(a - b, 16)),
        ("psubusb", 0xd8, 8, false, true, |a, b| clamp_unsigned(a - b, 8)),
        ("psubusw", 0xd9, 16, false, true, |a, b| clamp_unsigned(a - b, 16)),
        ("pcmpeqb", 0x74, 8, true, true, |a, b| -i128::from(a == b)),
        ("pcmpeqw", 0x75, 16, true, true, |a, b| -i128::from(a == b)),
        ("pcmpeqd", 0x76, 32, true, true, |a, b| -i128::from(a == b)),
        ("pcmpgtb", 0x64, 8, true, true, |a, b| -i128::from(a > b)),
        ("pcmpgtw", 0x65, 16, true, true, |a, b| -i128::from(a > b)),
        ("pcmpgtd", 0x66, 32, true, true, |a, b| -i128::from(a > b)),
        ("pminub", 0xda, 8, false, true, |a, b| a.min(b)),
        ("pmaxub", 0xde, 8, false, true, |a, b| a.max(b)),
        ("pminsw", 0xea, 16, true, true, |a, b| a.min(b)),
        ("pmaxsw", 0xee, 16, true, true, |a, b| a.max(b)),
        ("pavgb", 0xe0, 8, false, true, |a, b| (a + b + 1) / 2),
        ("pavgw", 0xe3, 16, false, true, |a, b| (a + b + 1) / 2),
        ("pmullw", 0xd5, 16, true, true, |a, b| a * b),
        ("pmulhw", 0xe5, 16, true, true, |a, b| (a * b) >> 16),
        ("pmulhuw", 0xe4, 16, false, true, |a, b| (a * b) >> 16),
        ("pand", 0xdb, 64, false, true, |a, b| a & b),
        ("pandn", 0xdf, 64, false, true, |a, b| !a & b),
        ("por", 0xeb, 64, false, true, |a, b| a | b),
        ("pxor", 0xef, 64, false, true, |a, b| a ^ b),
        ("andpd", 0x54, 64, false, false, |a, b| a & b),
        ("andnpd", 0x55, 64, false, false, |a, b| !a & b),
        ("orpd", 0x56, 64, false, false, |a, b| a | b),
        ("xorpd", 0x57, 64, false, false, |a, b| a ^ b),
        ("pmuludq", 0xf4, 64, false, true, |a, b| (a & 0xffff_ffff) * (b & 0xffff_ffff)),
    ];
    let mut cases = 0;
    for (name, opcode, bits, signed, both, lane) in simple {
        cases += check(&mut bench, name, &[0x0f, opcode], &[], both, &|a, b, total| {
            let pairs = split(a, bits, signed, total).into_iter().zip(split(b, bits, signed, total));
            join(&pairs.map(|(a, b)| lane(a, b)).collect::<Vec<_>>(), bits)
        });
    }
    // After 0F 38.
    let more: [(&str, u8, u32, bool, bool, Lane); 18] = [
        ("pabsb", 0x1c, 8, true, true, |_, b| b.abs()),
        ("pabsw", 0x1d, 16, true, true, |_, b| b.abs()),
        ("pabsd", 0x1e, 32, true, true, |_, b| b.abs()),
        ("psignb", 0x08, 8, true, true, |a, b| a * b.signum()),
        ("psignw", 0x09, 16, true, true, |a, b| a * b.signum()),
        ("psignd", 0x0a, 32, true, true, |a, b| a * b.signum()),
        ("pmulhrsw", 0x0b, 16, true, true, |a, b| ((a * b >> 14) + 1) >> 1),
        ("pminsb", 0x38, 8, true, false, |a, b| a.min(b)),
        ("pminsd", 0x39, 32, true, false, |a, b| a.min(b)),
        ("pminuw", 0x3a, 16, false, false, |a, b| a.min(b)),
        ("pminud", 0x3b, 32, false, false, |a, b| a.min(b)),
        ("pmaxsb", 0x3c, 8, true, false, |a, b| a.max(b)),
        ("pmaxsd", 0x3d, 32, true, false, |a, b| a.max(b)),
        ("pmaxuw", 0x3e, 16, false, false, |a, b| a.max(b)),
        ("pmaxud", 0x3f, 32, false, false, |a, b| a.max(b)),
        ("pmulld", 0x40, 32, true, false, |a, b| a * b),
        ("pcmpeqq", 0x29, 64, true, false, |a, b| -i128::from(a == b)),
        ("pcmpgtq", 0x37, 64, true, false, |a, b| -i128::from(a > b)),
    ];
    for (name, opcode, bits, signed, both, lane) in more {
        cases += check(&mut bench, name, &[0x0f, 0x38, opcode], &[], both, &|a, b, total| {
            let pairs = split(a, bits, signed, total).into_iter().zip(split(b, bits, signed, total));
            join(&pairs.map(|(a, b)| lane(a, b)).collect::<Vec<_>>(), bits)
        });
    }
    println!("{cases} cases");
}

/// Sums of neighbours, `bits` wide, first of `a` and then of `b`.
fn pairs(a: u128, b: u128, bits: u32, total: u32, sum: impl Fn(i128, i128) -> i128) -> u128 {
    let lanes = [split(a, bits, true, total), split(b, bits, true, total)].concat();
    join(&lanes.chunks(2).map(|pair| sum(pair[0], pair[1])).collect::<Vec<_>>(), bits)
}

/// Alternates lanes of the lower or upper halves.
fn unpack(a: u128, b: u128, bits: u32, total: u32, high: bool) -> u128 {
    let (a, b) = (split(a, bits, false, total), split(b, bits, false, total));
    let half = a.len() / 2;
    let range = if high { half..a.len() } else { 0..half };
    join(&range.flat_map(|at| [a[at], b[at]]).collect::<Vec<_>>(), bits)
}

fn pack(a: u128, b: u128, bits: u32, total: u32, clamp: fn(i128, u32) -> i128) -> u128 {
    let lanes = [split(a, bits, true, total), split(b, bits, true, total)].concat();
    join(&lanes.into_iter().map(|lane| clamp(lane, bits / 2)).collect::<Vec<_>>(), bits / 2)
}

#[test]
fn lanes_across_each_other() {
    let mut bench = Bench::long();
    let cases: [(&str, &[u8], bool, Whole); 33] = [
        ("punpcklbw", &[0x0f, 0x60], true, |a, b, t| unpack(a, b, 8, t, false)),
        ("punpcklwd", &[0x0f, 0x61], true, |a, b, t| unpack(a, b, 16, t, false)),
        ("punpckldq", &[0x0f, 0x62], true, |a, b, t| unpack(a, b, 32, t, false)),
        ("punpckhbw", &[0x0f, 0x68], true, |a, b, t| unpack(a, b, 8, t, true)),
        ("punpckhwd", &[0x0f, 0x69], true, |a, b, t| unpack(a, b, 16, t, true)),
        ("punpckhdq", &[0x0f, 0x6a], true, |a, b, t| unpack(a, b, 32, t, true)),
        ("punpcklqdq", &[0x0f, 0x6c], false, |a, b, t| unpack(a, b, 64, t, false)),
        ("punpckhqdq", &[0x0f, 0x6d], false, |a, b, t| unpack(a, b, 64, t, true)),
        ("unpcklpd", &[0x0f, 0x14], false, |a, b, t| unpack(a, b, 64, t, false)),
        ("unpckhpd", &[0x0f, 0x15], false, |a, b, t| unpack(a, b, 64, t, true)),
        ("packsswb", &[0x0f, 0x63], true, |a, b, t| pack(a, b, 16, t, clamp_signed)),
        ("packuswb", &[0x0f, 0x67], true, |a, b, t| pack(a, b, 16, t, clamp_unsigned)),
        ("packssdw", &[0x0f, 0x6b], true, |a, b, t| pack(a, b, 32, t, clamp_signed)),
        ("packusdw", &[0x0f, 0x38, 0x2b], false, |a, b, t| pack(a, b, 32, t, clamp_unsigned)),
        ("phaddw", &[0x0f, 0x38, 0x01], true, |a, b, t| pairs(a, b, 16, t, |a, b| a + b)),
        ("phaddd", &[0x0f, 0x38, 0x02], true, |a, b, t| pairs(a, b, 32, t, |a, b| a + b)),
        ("phaddsw", &[0x0f, 0x38, 0x03], true, |a, b, t| pairs(a, b, 16, t, |a, b| clamp_signed(a + b, 16))),
        ("phsubw", &[0x0f, 0x38, 0x05], true, |a, b, t| pairs(a, b, 16, t, |a, b| a - b)),
        ("phsubd", &[0x0f, 0x38, 0x06], true, |a, b, t| pairs(a, b, 32, t, |a, b| a - b)),
        ("phsubsw", &[0x0f, 0x38, 0x07], true, |a, b, t| pairs(a, b, 16, t, |a, b| clamp_signed(a - b, 16))),
        ("pmaddwd", &[0x0f, 0xf5], true, |a, b, t| {
            let products = split(a, 16, true, t).into_iter().zip(split(b, 16, true, t)).map(|(a, b)| a * b);
            join(&products.collect::<Vec<_>>().chunks(2).map(|pair| pair[0] + pair[1]).collect::<Vec<_>>(), 32)
        }),
        ("pmaddubsw", &[0x0f, 0x38, 0x04], true, |a, b, t| {
            let products = split(a, 8, false, t).into_iter().zip(split(b, 8, true, t)).map(|(a, b)| a * b);
            let sums = products.collect::<Vec<_>>();
            join(&sums.chunks(2).map(|pair| clamp_signed(pair[0] + pair[1], 16)).collect::<Vec<_>>(), 16)
        }),
        ("pmuldq", &[0x0f, 0x38, 0x28], false, |a, b, t| {
            let products = split(a, 32, true, t).into_iter().zip(split(b, 32, true, t)).step_by(2).map(|(a, b)| a * b);
            join(&products.collect::<Vec<_>>(), 64)
        }),
        ("psadbw", &[0x0f, 0xf6], true, |a, b, t| {
            let distances = split(a, 8, false, t).into_iter().zip(split(b, 8, false, t)).map(|(a, b)| (a - b).abs());
            join(&distances.collect::<Vec<_>>().chunks(8).map(|eight| eight.iter().sum()).collect::<Vec<_>>(), 64)
        }),
        ("pshufb", &[0x0f, 0x38, 0x00], true, |a, b, t| {
            let bytes = split(a, 8, false, t);
            let pick = |by: i128| if by & 0x80 != 0 { 0 } else { bytes[by as usize % bytes.len()] };
            join(&split(b, 8, false, t).into_iter().map(pick).collect::<Vec<_>>(), 8)
        }),
        ("phminposuw", &[0x0f, 0x38, 0x41], false, |_, b, t| {
            let lanes = split(b, 16, false, t);
            let least = *lanes.iter().min().unwrap();
            let at = lanes.iter().position(|&lane| lane == least).unwrap();
            least as u128 | (at as u128) << 16
        }),
        ("pmovsxbw", &[0x0f, 0x38, 0x20], false, |_, b, _| join(&split(b, 8, true, 64), 16)),
        ("pmovsxbd", &[0x0f, 0x38, 0x21], false, |_, b, _| join(&split(b, 8, true, 32), 32)),
        ("pmovsxbq", &[0x0f, 0x38, 0x22], false, |_, b, _| join(&split(b, 8, true, 16), 64)),
        ("pmovsxdq", &[0x0f, 0x38, 0x25], false, |_, b, _| join(&split(b, 32, true, 64), 64)),
        ("pmovzxbw", &[0x0f, 0x38, 0x30], false, |_, b, _| join(&split(b, 8, false, 64), 16)),
        ("pmovzxwd", &[0x0f, 0x38, 0x33], false, |_, b, _| join(&split(b, 16, false, 64), 32)),
        ("pmovzxwq", &[0x0f, 0x38, 0x34], false, |_, b, _| join(&split(b, 16, false, 32), 64)),
    ];
    let count: usize =
        cases.into_iter().map(|(name, code, both, whole)| check(&mut bench, name, code, &[], both, &whole)).sum();
    println!("{count} cases");
}

#[test]
fn shifts_of_lanes() {
    let mut bench = Bench::long();
    let shift = |value: u128, bits: u32, kind: u8, count: u64, total: u32| {
        let lanes = split(value, bits, kind == 2, total).into_iter().map(|lane| match (kind, count) {
            (2, _) => lane >> count.min(u64::from(bits) - 1),
            (_, count) if count >= u64::from(bits) => 0,
            (0, _) => lane << count,
            _ => lane >> count,
        });
        join(&lanes.collect::<Vec<_>>(), bits)
    };
    // (bits, kind: left, right, arithmetic, opcode by register, opcode and digit by immediate)
    let cases = [
        (16, 0, 0xf1, 0x71, 6),
        (32, 0, 0xf2, 0x72, 6),
        (64, 0, 0xf3, 0x73, 6),
        (16, 1, 0xd1, 0x71, 2),
        (32, 1, 0xd2, 0x72, 2),
        (64, 1, 0xd3, 0x73, 2),
        (16, 2, 0xe1, 0x71, 4),
        (32, 2, 0xe2, 0x72, 4),
    ];
    for (bits, kind, by_register, by_immediate, digit) in cases {
        for value in vectors(4) {
            for count in [0_u64, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1 << 32, u64::MAX] {
                let by = u128::from(count) | 0xabcd << 64;
                for memory in [false, true] {
                    let found = run(&mut bench, &[0x66, 0x0f, by_register], &[], false, memory, value, by);
                    assert_eq!(found, shift(value, bits, kind, count, 128), "{bits} {kind} {value:x} by {count}");
                    let low = value & u128::from(u64::MAX);
                    let found =
                        run(&mut bench, &[0x0f, by_register], &[], true, memory, low, by & u128::from(u64::MAX));
                    assert_eq!(found, shift(low, bits, kind, count, 64), "{bits} {kind} {value:x} by {count}");
                }
                if let Ok(immediate) = u8::try_from(count) {
                    let code = [0x66, 0x0f, by_immediate, 0xc1 | digit << 3, immediate];
                    let after = bench.run(&code, |registers| registers.fpu.xmm[1] = value);
                    assert_eq!(after.fpu.xmm[1], shift(value, bits, kind, count, 128), "{code:x?}");
                }
            }
        }
    }
    for value in vectors(4) {
        for count in [0_u8, 1, 7, 8, 15, 16, 17, 255] {
            for (digit, expected) in [
                (7, if count > 15 { 0 } else { value << (8 * count) }),
                (3, if count > 15 { 0 } else { value >> (8 * count) }),
            ] {
                let code = [0x66, 0x0f, 0x73, 0xc1 | digit << 3, count];
                assert_eq!(bench.run(&code, |registers| registers.fpu.xmm[1] = value).fpu.xmm[1], expected);
            }
        }
    }
}

#[test]
fn shuffles_and_blends_by_an_immediate() {
    let mut bench = Bench::long();
    let pick = |lanes: &[i128], imm: u8| (0..4).map(|at| lanes[usize::from(imm >> (2 * at) & 3)]).collect::<Vec<_>>();
    for imm in (0..=255_u8).step_by(7).chain([0x1b, 0xe4, 0xff]) {
        for (a, b) in vectors(3).into_iter().zip(vectors(5).into_iter().skip(2)) {
            for memory in [false, true] {
                let mut xmm = |code: &[u8], expected: u128| {
                    let found = run(&mut bench, code, &[imm], false, memory, a, b);
                    assert_eq!(found, expected, "{code:x?} {imm:x} of {a:x}, {b:x}");
                };
                let (low, high) = (split(b, 16, false, 64), split(b >> 64, 16, false, 64));
                xmm(&[0x66, 0x0f, 0x70], join(&pick(&split(b, 32, false, 128), imm), 32));
                xmm(&[0xf2, 0x0f, 0x70], join(&[pick(&low, imm), high.clone()].concat(), 16));
                xmm(&[0xf3, 0x0f, 0x70], join(&[low, pick(&high, imm)].concat(), 16));
                let (x, y) = (split(a, 32, false, 128), split(b, 32, false, 128));
                xmm(&[0x0f, 0xc6], join(&[&pick(&x, imm)[..2], &pick(&y, imm)[2..]].concat(), 32));
                let (x, y) = (split(a, 64, false, 128), split(b, 64, false, 128));
                xmm(&[0x66, 0x0f, 0xc6], join(&[x[usize::from(imm & 1)], y[usize::from(imm >> 1 & 1)]], 64));
                // palignr: b below a, moved down by bytes.
                let bytes = [split(b, 8, false, 128), split(a, 8, false, 128), vec![0; 256]].concat();
                xmm(&[0x66, 0x0f, 0x3a, 0x0f], join(&bytes[usize::from(imm)..usize::from(imm) + 16], 8));
                for (opcode, bits) in [(0x0e, 16), (0x0c, 32), (0x0d, 64)] {
                    let lanes = split(a, bits, false, 128).into_iter().zip(split(b, bits, false, 128)).enumerate();
                    let lanes = lanes.map(|(at, (x, y))| if imm >> at & 1 != 0 { y } else { x });
                    xmm(&[0x66, 0x0f, 0x3a, opcode], join(&lanes.collect::<Vec<_>>(), bits));
                }
                // mpsadbw: eight sums of four distances.
                let (first, second) = (usize::from(imm >> 2 & 1) * 4, usize::from(imm & 3) * 4);
                let (x, y) = (split(a, 8, false, 128), split(b, 8, false, 128));
                let sums = (0..8).map(|at| (0..4).map(|k| (x[first + at + k] - y[second + k]).abs()).sum::<i128>());
                xmm(&[0x66, 0x0f, 0x3a, 0x42], join(&sums.collect::<Vec<_>>(), 16));
                // insertps: of memory the lane at the address, of a register the one that the top bits name.
                let lane = if memory { 0 } else { usize::from(imm >> 6) };
                let mut lanes = split(a, 32, false, 128);
                lanes[usize::from(imm >> 4 & 3)] = split(b, 32, false, 128)[lane];
                (0..4).filter(|at| imm >> at & 1 != 0).for_each(|at| lanes[at] = 0);
                xmm(&[0x66, 0x0f, 0x3a, 0x21], join(&lanes, 32));
                let (a, b) = (a & u128::from(u64::MAX), b & u128::from(u64::MAX));
                let found = run(&mut bench, &[0x0f, 0x70], &[imm], true, memory, a, b);
                assert_eq!(found, join(&pick(&split(b, 16, false, 64), imm), 16), "pshufw {imm:x}");
                let found = run(&mut bench, &[0x0f, 0x3a, 0x0f], &[imm], true, memory, a, b);
                let bytes = [split(b, 8, false, 64), split(a, 8, false, 64), vec![0; 256]].concat();
                assert_eq!(found, join(&bytes[usize::from(imm)..usize::from(imm) + 8], 8), "palignr {imm:x}");
            }
        }
    }
    // Blends by XMM0's top bits.
    for (opcode, bits) in [(0x10, 8), (0x14, 32), (0x15, 64)] {
        for chooser in vectors(8) {
            let (a, b) = (u128::MAX / 3, u128::MAX / 7);
            let lanes = split(a, bits, false, 128).into_iter().zip(split(b, bits, false, 128));
            let lanes = lanes.zip(split(chooser, bits, true, 128)).map(|((x, y), by)| if by < 0 { y } else { x });
            let expected = join(&lanes.collect::<Vec<_>>(), bits);
            let after = bench.run(&[0x66, 0x0f, 0x38, opcode, 0xca], |registers| {
                (registers.fpu.xmm[0], registers.fpu.xmm[1], registers.fpu.xmm[2]) = (chooser, a, b);
            });
            assert_eq!(after.fpu.xmm[1], expected, "{opcode:x} {chooser:x}");
        }
    }
}

#[test]
fn lanes_from_and_to_general_registers() {
    let mut bench = Bench::long();
    let value = 0xffee_ddcc_bbaa_9988_7766_5544_3322_1100_u128;
    for imm in 0..=16_u8 {
        let at = |bits: u32| u32::from(imm) % (128 / bits) * bits;
        let with = |bits: u32| {
            value & !(u128::from(mask(bits)) << at(bits)) | (0x0123_4567_89ab_cdef & u128::from(mask(bits))) << at(bits)
        };
        // pextrb, pextrw (both), pextrd, pextrq, extractps to RBX; pinsrb, pinsrw, pinsrd, pinsrq from RCX
        let extract: [(&[u8], u32); 6] = [
            (&[0x66, 0x0f, 0x3a, 0x14, 0xcb], 8),
            (&[0x66, 0x0f, 0xc5, 0xd9], 16),
            (&[0x66, 0x0f, 0x3a, 0x15, 0xcb], 16),
            (&[0x66, 0x0f, 0x3a, 0x16, 0xcb], 32),
            (&[0x66, 0x48, 0x0f, 0x3a, 0x16, 0xcb], 64),
            (&[0x66, 0x0f, 0x3a, 0x17, 0xcb], 32),
        ];
        for (code, bits) in extract {
            let code = [code, &[imm]].concat();
            let after = bench.run(&code, |registers| (registers.gpr[3], registers.fpu.xmm[1]) = (u64::MAX, value));
            assert_eq!(after.gpr[3], (value >> at(bits)) as u64 & mask(bits), "{code:x?}");
        }
        let insert: [(&[u8], u32); 4] = [
            (&[0x66, 0x0f, 0x3a, 0x20, 0xc9], 8),
            (&[0x66, 0x0f, 0xc4, 0xc9], 16),
            (&[0x66, 0x0f, 0x3a, 0x22, 0xc9], 32),
            (&[0x66, 0x48, 0x0f, 0x3a, 0x22, 0xc9], 64),
        ];
        for (code, bits) in insert {
            let code = [code, &[imm]].concat();
            let after = bench.run(&code, |registers| {
                (registers.gpr[1], registers.fpu.xmm[1]) = (0x0123_4567_89ab_cdef, value);
            });
            assert_eq!(after.fpu.xmm[1], with(bits), "{code:x?}");
            // From memory.
            let mut code = code;
            let modrm = code.len() - 2;
            code[modrm] = 0x0f;
            bench.machine.put(DATA, 0x0123_4567_89ab_cdef);
            let after = bench.run(&code, |registers| (registers.gpr[7], registers.fpu.xmm[1]) = (DATA, value));
            assert_eq!(after.fpu.xmm[1], with(bits), "{code:x?}");
        }
    }
    for value in vectors(6) {
        let mut general = |code: &[u8]| {
            bench.run(code, |registers| (registers.gpr[3], registers.fpu.xmm[1]) = (u64::MAX, value)).gpr[3]
        };
        let tops = |bits: u32| {
            let lanes = split(value, bits, true, 128);
            lanes.iter().enumerate().map(|(at, &lane)| u64::from(lane < 0) << at).sum::<u64>()
        };
        assert_eq!(general(&[0x66, 0x0f, 0xd7, 0xd9]), tops(8), "pmovmskb");
        assert_eq!(general(&[0x0f, 0x50, 0xd9]), tops(32), "movmskps");
        assert_eq!(general(&[0x66, 0x0f, 0x50, 0xd9]), tops(64), "movmskpd");
        assert_eq!(general(&[0x66, 0x0f, 0x7e, 0xcb]), value as u64 & mask(32), "movd");
        assert_eq!(general(&[0x66, 0x48, 0x0f, 0x7e, 0xcb]), value as u64, "movq");
        for other in vectors(3) {
            // ptest: ZF of the conjunction, CF of the other operand alone, the rest cleared.
            let after = bench.run(&[0x66, 0x0f, 0x38, 0x17, 0xca], |registers| {
                (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (value, other);
                registers.rflags |= ALL;
            });
            let flags = if value & other == 0 { ZF } else { 0 } | if !value & other == 0 { CF } else { 0 };
            assert_eq!(after.rflags & ALL, flags);
        }
    }
    // movd and movq to XMM and MMX clear what is above; movq2dq and movdq2q.
    let after = bench.run(&[0x66, 0x0f, 0x6e, 0xcb], |registers| {
        (registers.gpr[3], registers.fpu.xmm[1]) = (u64::MAX, value);
    });
    assert_eq!(after.fpu.xmm[1], u128::from(mask(32)));
    let after = bench.run(&[0xf3, 0x0f, 0xd6, 0xca], |registers| {
        (registers.fpu.st[2], registers.fpu.xmm[1]) = (0x1122_3344_5566_7788, value);
        registers.fpu.fsw = 0;
    });
    assert_eq!(after.fpu.xmm[1], 0x1122_3344_5566_7788);
    let after = bench.run(&[0x0f, 0x77], |registers| registers.fpu.ftw = 0);
    assert_eq!(after.fpu.ftw, 0xffff, "EMMS");
}

#[test]
fn masked_stores_write_chosen_bytes_in_any_segment() {
    let value = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100_u128;
    for chooser in vectors(6) {
        let bytes = value.to_le_bytes().into_iter().zip(chooser.to_le_bytes());
        let expected: Vec<u8> = bytes.map(|(byte, by)| if by & 0x80 != 0 { byte } else { 0xee }).collect();
        // maskmovdqu xmm1, xmm2 to [rdi], maskmovq mm1, mm2, and with an ES prefix in 32-bit code.
        let run = |bench: &mut Bench, code: &[u8], len: usize, offset: u64| {
            bench.machine.memory.write(DATA, &[0xee; 16]);
            bench.run(code, |registers| {
                registers.gpr[7] = DATA - offset;
                registers.segments[ferro_cpu::ES].base = offset;
                (registers.fpu.xmm[1], registers.fpu.xmm[2]) = (value, chooser);
                (registers.fpu.st[1], registers.fpu.st[2]) =
                    (value & u128::from(u64::MAX), chooser & u128::from(u64::MAX));
                registers.fpu.fsw = 0;
            });
            let mut found = [0; 16];
            bench.machine.memory.read(DATA, &mut found);
            assert_eq!(found[..len], expected[..len], "{code:x?} {chooser:x}");
            assert!(found[len..].iter().all(|&byte| byte == 0xee));
        };
        let mut bench = Bench::long();
        run(&mut bench, &[0x66, 0x0f, 0xf7, 0xca], 16, 0);
        run(&mut bench, &[0x0f, 0xf7, 0xca], 8, 0);
        let mut bench = Bench::legacy();
        run(&mut bench, &[0x66, 0x0f, 0xf7, 0xca], 16, 0);
        run(&mut bench, &[0x26, 0x66, 0x0f, 0xf7, 0xca], 16, 0x1000);
    }
}
