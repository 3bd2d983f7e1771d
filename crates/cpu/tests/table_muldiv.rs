//! Multiplication and division in every width and form, and the decimal adjustments, against wide arithmetic and the
//! manual's own steps (SDM volume 2).

mod machine;

use machine::DATA;
use machine::bench::*;

#[test]
fn products_and_quotients() {
    let mut bench = Bench::long();
    let mut random = Random(11);
    for bits in [8, 16, 32, 64] {
        let mut values = edges(bits);
        values.extend((0..6).map(|_| random.number() & mask(bits)));
        for (a, b) in values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))) {
            // MUL and IMUL of the accumulator by RCX; what doesn't fit sets CF and OF.
            let unsigned = u128::from(a) * u128::from(b);
            let product = signed(a, bits) * signed(b, bits);
            let half = u128::from(mask(bits));
            let cases = [
                (4, unsigned, unsigned > half),
                (5, product as u128, signed(product as u64 & mask(bits), bits) != product),
            ];
            for (digit, product, overflow) in cases {
                let mut code = sized(bits, 0xf7);
                code.push(0xc1 | digit << 3);
                let dirty = 0x9999_9999_9999_9999;
                let after = bench.run(&code, |registers| {
                    registers.gpr[0] = dirty & !mask(bits) | a;
                    registers.gpr[1] = dirty & !mask(bits) | b;
                    registers.gpr[2] = dirty;
                });
                let (low, high) = (product as u64 & mask(bits), (product >> bits) as u64 & mask(bits));
                let expected = if bits == 8 {
                    (written(dirty, low | high << 8, 16), dirty)
                } else {
                    (written(dirty, low, bits), written(dirty, high, bits))
                };
                assert_eq!((after.gpr[0], after.gpr[2]), expected, "{code:x?} {a:x} {b:x}");
                let flags = if overflow { CF | OF } else { 0 };
                assert_eq!(after.rflags & (CF | OF), flags, "{code:x?} {a:x} {b:x}");
            }
            // IMUL with two and three operands.
            if bits > 8 {
                let mut two = sized(bits, 0xaf);
                let at = two.len() - 1;
                two.insert(at, 0x0f);
                two.push(0xd9);
                let mut three = sized(bits, 0x69);
                three.push(0xd9);
                three.extend(&a.to_le_bytes()[..(bits as usize / 8).min(4)]);
                let mut short = sized(bits, 0x6b);
                short.extend([0xd9, a as u8]);
                let narrow = signed(a & 0xff, 8);
                let wide = if bits == 64 { signed(a & mask(32), 32) } else { signed(a, bits) };
                for (code, factor) in [(two, signed(a, bits)), (three, wide), (short, narrow)] {
                    let product = factor * signed(b, bits);
                    let after = bench.run(&code, |registers| (registers.gpr[3], registers.gpr[1]) = (a, b));
                    assert_eq!(after.gpr[3], written(a, product as u64 & mask(bits), bits), "{code:x?} {a:x} {b:x}");
                    let overflow = signed(product as u64 & mask(bits), bits) != product;
                    assert_eq!(after.rflags & (CF | OF), if overflow { CF | OF } else { 0 }, "{code:x?} {a:x} {b:x}");
                }
            }
        }
        for high in edges(bits) {
            for (low, divisor) in values.iter().flat_map(|&a| values.iter().map(move |&b| (a, b))) {
                let dividend = u128::from(high) << bits | u128::from(low);
                let shift = 128 - 2 * bits;
                let signed_dividend = (dividend << shift) as i128 >> shift;
                let y = signed(divisor, bits);
                let unsigned = (divisor != 0).then(|| (dividend / u128::from(divisor), dividend % u128::from(divisor)));
                let unsigned = unsigned.filter(|(quotient, _)| *quotient <= u128::from(mask(bits)));
                // The least dividend by -1 overflows even here; then the quotient doesn't fit either.
                let whole = (y != 0).then(|| (signed_dividend.wrapping_div(y), signed_dividend.wrapping_rem(y)));
                let whole = whole.filter(|(quotient, _)| {
                    let limit = 1_i128 << (bits - 1);
                    (-limit..limit).contains(quotient) && !(signed_dividend == i128::MIN && y == -1)
                });
                for (digit, expected) in [
                    (6, unsigned.map(|(q, r)| (q as u64, r as u64))),
                    (7, whole.map(|(q, r)| (q as u64 & mask(bits), r as u64 & mask(bits)))),
                ] {
                    let mut code = sized(bits, 0xf7);
                    code.push(0xc1 | digit << 3);
                    let found = bench.try_run(&code, |registers| {
                        registers.gpr[1] = divisor;
                        registers.gpr[2] = high;
                        registers.gpr[0] = if bits == 8 { high << 8 | low } else { low };
                    });
                    let found = found.map(|after| {
                        if bits == 8 {
                            (after.gpr[0] & 0xff, after.gpr[0] >> 8 & 0xff)
                        } else {
                            (after.gpr[0], after.gpr[2])
                        }
                    });
                    let expected = expected.ok_or((0, machine::CODE));
                    assert_eq!(found, expected, "/{digit} {high:x}:{low:x} by {divisor:x} of {bits}");
                }
            }
        }
    }
    // From memory; and a division that faults changes nothing.
    bench.machine.put(DATA, 7);
    let after = bench.run(&[0x48, 0xf7, 0x37], |registers| {
        (registers.gpr[0], registers.gpr[2], registers.gpr[7]) = (100, 0, DATA);
    });
    assert_eq!((after.gpr[0], after.gpr[2]), (14, 2));
}

#[test]
fn decimal_adjustments_of_all_bytes() {
    let mut bench = Bench::legacy();
    for al in 0..=255_u64 {
        for flags in [0, CF, AF, CF | AF] {
            let (cf, af) = (flags & CF != 0, flags & AF != 0);
            for (opcode, sign) in [(0x27, 1_i64), (0x2f, -1)] {
                // The manual's operation, step by step.
                let (mut value, mut carry, mut half) = (al as i64, false, false);
                if al & 15 > 9 || af {
                    value += 6 * sign;
                    carry = cf || !(0..=255).contains(&value);
                    half = true;
                }
                if al > 0x99 || cf {
                    value += 0x60 * sign;
                    carry = true;
                } else if sign > 0 {
                    carry = false;
                }
                let value = value as u64 & 0xff;
                let expected = result_flags(value, 8) | if carry { CF } else { 0 } | if half { AF } else { 0 };
                let after = bench.run(&[opcode], |registers| {
                    registers.gpr[0] = 0x1234_5600 | al;
                    registers.rflags |= flags;
                });
                assert_eq!(after.gpr[0], 0x1234_5600 | value, "{opcode:x} {al:x} {flags:x}");
                assert_eq!(after.rflags & ALL & !OF, expected, "{opcode:x} {al:x} {flags:x}");
            }
            for (opcode, sign) in [(0x37, 1_i64), (0x3f, -1)] {
                let adjusts = al & 15 > 9 || af;
                let ax = 0x4500 | al as i64;
                let ax = if adjusts { ax + 0x106 * sign } else { ax } & 0xff0f;
                let after = bench.run(&[opcode], |registers| {
                    registers.gpr[0] = 0x1234_4500 | al;
                    registers.rflags |= flags;
                });
                assert_eq!(after.gpr[0], 0x1234_0000 | ax as u64, "{opcode:x} {al:x} {flags:x}");
                assert_eq!(after.rflags & (CF | AF), if adjusts { CF | AF } else { 0 }, "{opcode:x} {al:x}");
            }
        }
        for base in [1_u64, 2, 7, 10, 16, 255] {
            let after = bench.run(&[0xd4, base as u8], |registers| registers.gpr[0] = 0x7700 | al);
            assert_eq!(after.gpr[0], (al / base) << 8 | al % base);
            assert_eq!(after.rflags & (SF | ZF | PF), result_flags(al % base, 8));
            for ah in [0, 1, 9, 0x80, 0xff] {
                let after = bench.run(&[0xd5, base as u8], |registers| registers.gpr[0] = 0xab_0000 | ah << 8 | al);
                let value = (al + ah * base) & 0xff;
                assert_eq!(after.gpr[0], 0xab_0000 | value);
                assert_eq!(after.rflags & (SF | ZF | PF), result_flags(value, 8));
            }
        }
    }
    assert_eq!(bench.try_run(&[0xd4, 0], |_| ()).unwrap_err().0, 0, "AAM 0 divides by zero");
}
