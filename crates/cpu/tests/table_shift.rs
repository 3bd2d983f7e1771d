//! Shifts, rotates and double shifts in every width by every count, bit by bit from their definition (SDM volume 2).

mod machine;

use machine::DATA;
use machine::bench::*;

/// What `count` single steps come to: value, CF, and OF as after the last step.
fn stepped(digit: u8, value: u64, count: u32, carry: bool, bits: u32) -> (u64, bool, bool) {
    let (mut value, mut cf, mut of) = (value, carry, false);
    let top = |value: u64| value >> (bits - 1) & 1 != 0;
    for _ in 0..count {
        let (out, old) = (if digit & 1 == 0 { top(value) } else { value & 1 != 0 }, value);
        let shifted = if digit & 1 == 0 { value << 1 & mask(bits) } else { value >> 1 };
        let fill = |on: bool| match (on, digit & 1) {
            (false, _) => 0,
            (true, 0) => 1,
            (true, _) => 1 << (bits - 1),
        };
        value = shifted
            | match digit {
                0 | 1 => fill(out),
                2 | 3 => fill(cf),
                7 => fill(top(old)),
                _ => 0,
            };
        cf = out;
        of = match digit {
            0 | 2 | 4 => top(value) != cf,
            1 | 3 => top(value) != (value >> (bits - 2) & 1 != 0),
            5 => top(old),
            _ => false,
        };
    }
    (value, cf, of)
}

#[test]
fn shifts_and_rotates_by_every_count() {
    let mut bench = Bench::long();
    let mut cases = 0;
    for digit in [0, 1, 2, 3, 4, 5, 7] {
        for bits in [8, 16, 32, 64] {
            let values = [0, 1, 0x5a & mask(bits), mask(bits), 1 << (bits - 1), 0x0123_4567_89ab_cdef & mask(bits)];
            for value in values {
                for raw in (0..=34_u32).chain([47, 48, 62, 63, 64, 65]) {
                    for carry in [0, CF] {
                        let count = raw & if bits == 64 { 63 } else { 31 };
                        let (result, cf, of) = stepped(digit, value, count, carry != 0, bits);
                        let before = carry | if digit & 1 == 0 { AF | ZF } else { SF | PF };
                        let mut flags = before;
                        let mut compared = ALL;
                        if count != 0 {
                            flags = if digit < 4 { before & !(CF | OF) } else { result_flags(result, bits) };
                            flags |= if cf { CF } else { 0 } | if of { OF } else { 0 };
                            // OF is defined for one step only; AF of shifts, and CF of those by more than the width, never.
                            compared &= !if count == 1 { 0 } else { OF };
                            compared &= !if digit >= 4 { AF } else { 0 };
                            compared &= !if matches!(digit, 4 | 5) && count >= bits { CF } else { 0 };
                        }
                        let shown = format!("/{digit} {value:x} of {bits} by {raw} carry {carry}");
                        // By CL, a register and memory; by an immediate; by one.
                        let mut forms = vec![(sized(bits, 0xd3), None), (sized(bits, 0xc1), Some(raw as u8))];
                        if raw == 1 {
                            forms.push((sized(bits, 0xd1), None));
                        }
                        for (mut code, immediate) in forms {
                            code.push(0xc3 | digit << 3);
                            code.extend(immediate);
                            let after = bench.run(&code, |registers| {
                                registers.gpr[3] = 0x3333_3333_3333_3333 & !mask(bits) | value;
                                registers.gpr[1] = u64::from(raw);
                                registers.rflags |= before;
                            });
                            let expected = written(0x3333_3333_3333_3333, result, bits);
                            assert_eq!(
                                (after.gpr[3], after.rflags & compared),
                                (expected, flags & compared),
                                "{shown}"
                            );
                            cases += 1;
                        }
                        if raw % 3 == 0 {
                            let mut code = sized(bits, 0xd3);
                            code.push(0x07 | digit << 3);
                            bench.machine.put(DATA, value);
                            let after = bench.run(&code, |registers| {
                                (registers.gpr[7], registers.gpr[1]) = (DATA, u64::from(raw));
                                registers.rflags |= before;
                            });
                            assert_eq!(bench.machine.memory.load(DATA), Some(result), "{shown}");
                            assert_eq!(after.rflags & compared, flags & compared, "{shown}");
                            cases += 1;
                        }
                    }
                }
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn double_shifts_take_bits_from_the_other_operand() {
    let mut bench = Bench::long();
    for left in [true, false] {
        for bits in [16, 32, 64] {
            for (value, other) in edges(bits).into_iter().flat_map(|a| edges(bits).into_iter().map(move |b| (a, b))) {
                for raw in [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 63] {
                    let count = raw & if bits == 64 { 63 } else { 31 };
                    if count > bits {
                        // Undefined.
                        continue;
                    }
                    let (mut result, mut rest, mut cf) = (value, other, false);
                    for _ in 0..count {
                        if left {
                            cf = result >> (bits - 1) & 1 != 0;
                            result = result << 1 & mask(bits) | rest >> (bits - 1) & 1;
                            rest = rest << 1 & mask(bits);
                        } else {
                            cf = result & 1 != 0;
                            result = result >> 1 | (rest & 1) << (bits - 1);
                            rest >>= 1;
                        }
                    }
                    let mut flags = ALL;
                    let mut compared = ALL;
                    if count != 0 {
                        let changed = (value ^ result) >> (bits - 1) & 1 != 0;
                        flags = result_flags(result, bits) | if cf { CF } else { 0 } | if changed { OF } else { 0 };
                        compared = ALL & !AF & !if count == 1 { 0 } else { OF };
                    }
                    for by_cl in [false, true] {
                        let mut code = match bits {
                            16 => vec![0x66],
                            32 => vec![],
                            _ => vec![0x48],
                        };
                        code.extend([0x0f, if left { 0xa4 } else { 0xac } | u8::from(by_cl), 0xd3]);
                        code.extend((!by_cl).then_some(raw as u8));
                        let after = bench.run(&code, |registers| {
                            registers.gpr[3] = value;
                            registers.gpr[2] = other;
                            registers.gpr[1] = u64::from(raw) | 0x100;
                            registers.rflags |= ALL;
                        });
                        assert_eq!(
                            (after.gpr[3], after.rflags & compared),
                            (result, flags & compared),
                            "{code:x?} {value:x} {other:x} by {raw}"
                        );
                    }
                }
            }
        }
    }
}
