//! Bit tests, scans, counts, CRC32, byte swaps, extensions, and everything that looks at a condition (SDM volume 2).

mod machine;

use machine::DATA;
use machine::bench::*;

fn prefix(bits: u32) -> Vec<u8> {
    match bits {
        16 => vec![0x66],
        32 => vec![],
        _ => vec![0x48],
    }
}

#[test]
fn bit_tests_of_registers_and_of_strings_in_memory() {
    let mut bench = Bench::long();
    for (digit, name) in [(4, "bt"), (5, "bts"), (6, "btr"), (7, "btc")] {
        let change = |word: u64, bit: u64| match digit {
            4 => word,
            5 => word | bit,
            6 => word & !bit,
            _ => word ^ bit,
        };
        for bits in [16, 32, 64] {
            for value in edges(bits) {
                for number in [0_i64, 1, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 1000, -1, -8, -64, -65] {
                    let index = number.rem_euclid(i64::from(bits)) as u64;
                    let was = value >> index & 1 != 0;
                    let flags = ALL & !CF | if was { CF } else { 0 };
                    let expected = change(value, 1 << index);
                    for immediate in [false, true] {
                        let mut code = prefix(bits);
                        code.extend(if immediate { [0x0f, 0xba] } else { [0x0f, 0x83 | digit << 3] });
                        code.push(if immediate { 0xc3 | digit << 3 } else { 0xcb });
                        code.extend(immediate.then_some(number as u8));
                        if immediate && i64::from(number as u8).rem_euclid(i64::from(bits)) as u64 != index {
                            continue;
                        }
                        let after = bench.run(&code, |registers| {
                            (registers.gpr[3], registers.gpr[1]) = (value, number as u64);
                            registers.rflags |= ALL;
                        });
                        assert_eq!((after.gpr[3], after.rflags & ALL), (expected, flags), "{name} {value:x} {number}");
                    }
                    // In memory the number reaches beyond the operand, both ways; LOCK where something is written.
                    if bits == 16 && number > 0x7fff {
                        continue;
                    }
                    let byte = (DATA + 0x800).wrapping_add((number >> 3) as u64);
                    let mut code = if digit == 4 { vec![] } else { vec![0xf0] };
                    code.extend(prefix(bits));
                    code.extend([0x0f, 0x83 | digit << 3, 0x0f]);
                    bench.machine.memory.write(DATA, &[0x5a; 0x1000]);
                    let old = 0x5a_u8;
                    let after = bench.run(&code, |registers| {
                        (registers.gpr[7], registers.gpr[1]) = (DATA + 0x800, number as u64 & mask(bits));
                    });
                    let bit = 1 << (number & 7);
                    let new = change(u64::from(old), bit) as u8;
                    assert_eq!(bench.machine.memory.load(byte), Some(new), "{name} {number} of {bits}");
                    assert_eq!(after.rflags & CF != 0, u64::from(old) & bit != 0, "{name} {number} of {bits}");
                    bench.machine.memory.store(byte, old).unwrap();
                    let mut all = [0; 0x1000];
                    bench.machine.memory.read(DATA, &mut all);
                    assert!(all.iter().all(|&byte| byte == 0x5a), "{name} {number} of {bits} touched more");
                }
            }
        }
    }
}

#[test]
fn scans_counts_and_swaps() {
    let mut bench = Bench::long();
    let mut random = Random(5);
    for bits in [16, 32, 64] {
        let mut values = edges(bits);
        values.extend((0..20).map(|_| random.number() & mask(bits)));
        for value in values {
            let digits: Vec<u64> = (0..u64::from(bits)).filter(|bit| value >> bit & 1 != 0).collect();
            let old = 0x8888_8888_8888_8888;
            for (opcode, found) in [(0xbc, digits.first()), (0xbd, digits.last())] {
                let code = [&prefix(bits)[..], &[0x0f, opcode, 0xd9]].concat();
                let after = bench.run(&code, |registers| (registers.gpr[3], registers.gpr[1]) = (old, value));
                assert_eq!(after.rflags & ZF != 0, value == 0);
                let expected = found.map_or(old, |&index| written(old, index, bits));
                assert_eq!(after.gpr[3], expected, "{opcode:x} {value:x}");
            }
            let mut code = vec![0xf3];
            code.splice(0..0, if bits == 16 { vec![0x66] } else { vec![] });
            code.extend(if bits == 64 { vec![0x48] } else { vec![] });
            code.extend([0x0f, 0xb8, 0xd9]);
            let after = bench.run(&code, |registers| {
                (registers.gpr[3], registers.gpr[1]) = (old, value);
                registers.rflags |= ALL;
            });
            assert_eq!(after.gpr[3], written(old, digits.len() as u64, bits));
            assert_eq!(after.rflags & ALL, if value == 0 { ZF } else { 0 });
            if bits > 16 {
                let bytes = bits as usize / 8;
                let mut swapped = value.to_le_bytes()[..bytes].to_vec();
                swapped.reverse();
                swapped.resize(8, 0);
                let code = [&prefix(bits)[..], &[0x0f, 0xcb]].concat();
                let after = bench.run(&code, |registers| registers.gpr[3] = value);
                assert_eq!(after.gpr[3], u64::from_le_bytes(swapped.try_into().unwrap()));
            }
        }
    }
}

/// CRC-32C of bytes, one bit at a time, from the polynomial 0x11EDC6F41.
fn crc(mut value: u32, bytes: &[u8]) -> u32 {
    for byte in bytes {
        for bit in 0..8 {
            let out = (value ^ u32::from(byte >> bit)) & 1;
            value = value >> 1 ^ if out != 0 { 0x1edc_6f41_u32.reverse_bits() } else { 0 };
        }
    }
    value
}

#[test]
fn crc32_of_every_width() {
    assert_eq!(!crc(!0, b"123456789"), 0xe306_9283, "the check value of CRC-32C");
    let mut bench = Bench::long();
    let mut random = Random(6);
    for _ in 0..50 {
        let (start, data) = (random.number() as u32, random.number());
        let codes: [(&[u8], usize); 5] = [
            (&[0xf2, 0x0f, 0x38, 0xf0, 0xd9], 1),
            (&[0x66, 0xf2, 0x0f, 0x38, 0xf1, 0xd9], 2),
            (&[0xf2, 0x0f, 0x38, 0xf1, 0xd9], 4),
            (&[0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xd9], 8),
            (&[0xf2, 0x48, 0x0f, 0x38, 0xf0, 0xd9], 1),
        ];
        for (code, size) in codes {
            let after = bench.run(code, |registers| {
                (registers.gpr[3], registers.gpr[1]) = (0xffff_ffff_0000_0000 | u64::from(start), data);
                registers.rflags |= ALL;
            });
            assert_eq!(after.gpr[3], u64::from(crc(start, &data.to_le_bytes()[..size])), "{code:x?}");
            assert_eq!(after.rflags & ALL, ALL);
        }
    }
}

/// Whether condition `code` (the low four bits of the opcode) is met, from the manual's table.
fn met(code: u8, flags: u64) -> bool {
    let on = |flag: u64| flags & flag != 0;
    let less = on(SF) != on(OF);
    let result = match code / 2 {
        0 => on(OF),
        1 => on(CF),
        2 => on(ZF),
        3 => on(CF) || on(ZF),
        4 => on(SF),
        5 => on(PF),
        6 => less,
        _ => on(ZF) || less,
    };
    result != (code % 2 == 1)
}

#[test]
fn conditions_with_every_combination_of_flags() {
    let mut bench = Bench::long();
    let combinations: Vec<u64> = (0..64_u64)
        .map(|bits| [CF, PF, AF, ZF, SF, OF].iter().enumerate().map(|(at, flag)| (bits >> at & 1) * flag).sum())
        .collect();
    for code in 0..16_u8 {
        for &flags in &combinations {
            let expected = met(code, flags);
            // setcc bl; cmovcc rbx, rcx; cmovcc ebx, ecx (which clears the upper half anyway); jcc over inc ebx, both forms
            let after = bench.run(&[0x0f, 0x90 | code, 0xc3], |registers| {
                registers.gpr[3] = 0x55ff;
                registers.rflags |= flags;
            });
            assert_eq!(after.gpr[3], 0x5500 | u64::from(expected), "{code:x} {flags:x}");
            for (wide, untaken) in [(true, 0x1_0000_0003), (false, 3)] {
                let instr = [0x48, 0x0f, 0x40 | code, 0xd9];
                let after = bench.run(&instr[usize::from(!wide)..], |registers| {
                    (registers.gpr[3], registers.gpr[1]) = (0x1_0000_0003, 7);
                    registers.rflags |= flags;
                });
                assert_eq!(after.gpr[3], if expected { 7 } else { untaken }, "{code:x} {flags:x}");
            }
            for jump in [&[0x70 | code, 2, 0xff, 0xc3][..], &[0x0f, 0x80 | code, 2, 0, 0, 0, 0xff, 0xc3]] {
                let after = bench.run(jump, |registers| {
                    registers.gpr[3] = 0;
                    registers.rflags |= flags;
                });
                assert_eq!(after.gpr[3], u64::from(!expected), "{code:x} {flags:x}");
            }
        }
    }
    // LOOPNE, LOOPE, LOOP, JRCXZ, and with ECX.
    for opcode in 0xe0..=0xe3_u8 {
        for narrow in [false, true] {
            for count in [0, 1, 2, 0x1_0000_0000, 0x1_0000_0001_u64] {
                for zero in [0, ZF] {
                    let mut code = if narrow { vec![0x67] } else { vec![] };
                    code.extend([opcode, 2, 0xff, 0xc3]);
                    let after = bench.run(&code, |registers| {
                        (registers.gpr[1], registers.gpr[3]) = (count, 0);
                        registers.rflags |= zero;
                    });
                    let width = if narrow { 32 } else { 64 };
                    let left = if opcode == 0xe3 { count } else { count.wrapping_sub(1) & mask(width) };
                    let taken = match opcode {
                        0xe0 => left != 0 && zero == 0,
                        0xe1 => left != 0 && zero != 0,
                        0xe2 => left != 0,
                        _ => count & mask(width) == 0,
                    };
                    assert_eq!((after.gpr[1], after.gpr[3]), (left, u64::from(!taken)), "{code:x?} {count:x} {zero:x}");
                }
            }
        }
    }
}

#[test]
fn extensions_and_flag_instructions() {
    let mut bench = Bench::long();
    let value = 0x8182_8384_8586_8788_u64;
    // movzx and movsx of bytes and words, movsxd; cbw, cwde, cdqe, cwd, cdq, cqo
    let codes: [(&[u8], u64); 10] = [
        (&[0x0f, 0xb6, 0xd9], 0x88),
        (&[0x66, 0x0f, 0xb6, 0xd9], 0x1111_1111_1111_0088),
        (&[0x48, 0x0f, 0xb7, 0xd9], 0x8788),
        (&[0x0f, 0xbe, 0xd9], 0xffff_ff88),
        (&[0x48, 0x0f, 0xbe, 0xd9], 0xffff_ffff_ffff_ff88),
        (&[0x66, 0x0f, 0xbe, 0xd9], 0x1111_1111_1111_ff88),
        (&[0x48, 0x0f, 0xbf, 0xd9], 0xffff_ffff_ffff_8788),
        (&[0x48, 0x63, 0xd9], 0xffff_ffff_8586_8788),
        (&[0x63, 0xd9], 0x8586_8788),
        (&[0x0f, 0xb6, 0xdd], 0x87),
    ];
    for (code, expected) in codes {
        let after = bench.run(code, |registers| (registers.gpr[3], registers.gpr[1]) = (0x1111_1111_1111_1111, value));
        assert_eq!(after.gpr[3], expected, "{code:x?}");
    }
    let codes: [(&[u8], u64, u64); 6] = [
        (&[0x66, 0x98], 0x8182_8384_8586_ff88, 5),
        (&[0x98], 0xffff_8788, 5),
        (&[0x48, 0x98], 0xffff_ffff_8586_8788, 5),
        (&[0x66, 0x99], value, 0xffff),
        (&[0x99], value, 0xffff_ffff),
        (&[0x48, 0x99], value, u64::MAX),
    ];
    for (code, rax, rdx) in codes {
        let after = bench.run(code, |registers| (registers.gpr[0], registers.gpr[2]) = (value, 5));
        assert_eq!((after.gpr[0], after.gpr[2]), (rax, rdx), "{code:x?}");
    }
    // clc, stc, cmc, cld, std, lahf, sahf
    for flags in [0, ALL, CF | SF, AF | OF] {
        let run = |bench: &mut Bench, code: u8| {
            bench.run(&[code], |registers| {
                registers.gpr[0] = 0x9200;
                registers.rflags |= flags | 0x400;
            })
        };
        assert_eq!(run(&mut bench, 0xf8).rflags & ALL, flags & !CF);
        assert_eq!(run(&mut bench, 0xf9).rflags & ALL, flags | CF);
        assert_eq!(run(&mut bench, 0xf5).rflags & ALL, flags ^ CF);
        assert_eq!(run(&mut bench, 0xfc).rflags & 0xcd5, flags);
        assert_eq!(run(&mut bench, 0xfd).rflags & 0xcd5, flags | 0x400);
        assert_eq!(run(&mut bench, 0x9f).gpr[0], (flags & 0xd5 | 2) << 8);
        assert_eq!(run(&mut bench, 0x9e).rflags & ALL, 0x90 | flags & OF);
    }
    // xlat: [rbx + al] with every address size
    bench.machine.memory.store(DATA + 0xfe, 0x66_u8).unwrap();
    let after = bench.run(&[0xd7], |registers| (registers.gpr[3], registers.gpr[0]) = (DATA, 0xaafe));
    assert_eq!(after.gpr[0], 0xaa66);
    let after = bench.run(&[0x67, 0xd7], |registers| (registers.gpr[3], registers.gpr[0]) = (DATA | 1 << 40, 0xfe));
    assert_eq!(after.gpr[0], 0x66);
}

#[test]
fn addresses_of_every_form() {
    let mut bench = Bench::long();
    let set = |registers: &mut ferro_cpu::Registers| {
        registers.gpr = std::array::from_fn(|index| 0x1_0000_0001 << index);
    };
    let register = |index: usize| 0x1_0000_0001_u64 << index;
    // lea rbx, [...]: base and index with every scale, disp8 and disp32, no base, RIP, and 32-bit addresses
    for scale in 0..4 {
        let code = [0x48, 0x8d, 0x5c, scale << 6 | 0x0e, 0xf0];
        assert_eq!(bench.run(&code, set).gpr[3], register(6) + (register(1) << scale) - 16);
        let code = [0x4a, 0x8d, 0x9c, scale << 6 | 0x20, 4, 3, 2, 1];
        assert_eq!(bench.run(&code, set).gpr[3], register(0) + (register(12) << scale) + 0x0102_0304);
    }
    assert_eq!(bench.run(&[0x48, 0x8d, 0x1c, 0x25, 0xff, 0xff, 0xff, 0xff], set).gpr[3], u64::MAX);
    assert_eq!(bench.run(&[0x48, 0x8d, 0x1d, 0x10, 0, 0, 0], set).gpr[3], machine::CODE + 7 + 0x10);
    assert_eq!(bench.run(&[0x67, 0x48, 0x8d, 0x1c, 0x0e], set).gpr[3], (register(6) + register(1)) & mask(32));
    assert_eq!(bench.run(&[0x8d, 0x1c, 0x0e], set).gpr[3], (register(6) + register(1)) & mask(32));
    assert_eq!(
        bench.run(&[0x66, 0x8d, 0x1c, 0x0e], set).gpr[3],
        register(3) & !0xffff | (register(6) + register(1)) & 0xffff
    );
    assert_eq!(bench.run(&[0x49, 0x8d, 0x1c, 0x24], set).gpr[3], register(12), "R12 needs a SIB byte");
    assert_eq!(bench.run(&[0x49, 0x8d, 0x5d, 0], set).gpr[3], register(13), "R13 needs a displacement");
    // 16-bit addresses in 32-bit code: all eight forms.
    let mut bench = Bench::legacy();
    let values = [(3, 0xf000), (5, 0x0123), (6, 0x2222), (7, 0x4444_u64)];
    let forms = [(3, 6), (3, 7), (5, 6), (5, 7), (6, 8), (7, 8), (5, 8), (3, 8)];
    for (rm, (base, index)) in forms.into_iter().enumerate() {
        let after = bench.run(&[0x67, 0x8d, 0x80 | rm as u8 | 2 << 3, 0x10, 0x20], |registers| {
            values.iter().for_each(|&(at, value)| registers.gpr[at] = value | 0xdead_0000);
        });
        let find = |wanted: usize| values.iter().find(|(at, _)| *at == wanted).map_or(0, |(_, value)| *value);
        assert_eq!(after.gpr[2], (find(base) + find(index) + 0x2010) & 0xffff, "form {rm}");
    }
}
