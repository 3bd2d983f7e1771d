//! Addition, subtraction, comparison, logic, INC, DEC, NEG and NOT in every width, operand order and form, with all flags
//! (SDM volume 2), against wide arithmetic.

mod machine;

use machine::DATA;
use machine::bench::*;

/// Result (of any width, to be cut) and flags of `a op b` by the number of the operation in the opcode, from the
/// definition: OF where the signed result doesn't fit, CF where the unsigned doesn't, AF of the low digits.
fn expected(operation: u8, a: u64, b: u64, carry: u64, bits: u32) -> (u64, u64) {
    let (x, y, c) = (i128::from(a), i128::from(b), i128::from(carry));
    let (sx, sy) = (signed(a, bits), signed(b, bits));
    let flag = |on: bool, bit| if on { bit } else { 0 };
    let (wide, wide_signed, low) = match operation {
        0 => (x + y, sx + sy, (x & 15) + (y & 15)),
        2 => (x + y + c, sx + sy + c, (x & 15) + (y & 15) + c),
        3 => (x - y - c, sx - sy - c, (x & 15) - (y & 15) - c),
        5 | 7 => (x - y, sx - sy, (x & 15) - (y & 15)),
        1 => return (a | b, result_flags(a | b, bits)),
        4 => return (a & b, result_flags(a & b, bits)),
        _ => return (a ^ b, result_flags(a ^ b, bits)),
    };
    let result = wide as u64 & mask(bits);
    let cut = signed(result, bits);
    let flags = flag(wide < 0 || wide > i128::from(mask(bits)), CF)
        | flag(cut != wide_signed, OF)
        | flag(!(0..=15).contains(&low), AF)
        | result_flags(result, bits);
    (result, flags)
}

/// AF after logic is undefined; here as on silicon, cleared, it is compared too.
#[test]
fn binary_operations_in_every_form() {
    let mut bench = Bench::long();
    let mut cases = 0;
    for operation in 0..8_u8 {
        for bits in [8, 16, 32, 64] {
            for (a, b) in edges(bits).into_iter().flat_map(|a| edges(bits).into_iter().map(move |b| (a, b))) {
                for carry in [0, CF] {
                    let (value, flags) = expected(operation, a, b, carry, bits);
                    let dirty = 0xa5a5_a5a5_a5a5_a5a5;
                    let kept =
                        if operation == 7 { written(dirty, a, bits.max(8)) } else { written(dirty, value, bits) };
                    let kept = if operation == 7 { dirty & !mask(bits) | a } else { kept };
                    // r/m, r and r, r/m between registers: RBX op RCX.
                    for (opcode, modrm) in [(operation << 3 | 1, 0xcb), (operation << 3 | 3, 0xd9)] {
                        let mut code = sized(bits, opcode);
                        code.push(modrm);
                        let after = bench.run(&code, |registers| {
                            registers.gpr[3] = dirty & !mask(bits) | a;
                            registers.gpr[1] = dirty & !mask(bits) | b;
                            registers.rflags |= carry;
                        });
                        assert_eq!((after.gpr[3], after.rflags & ALL), (kept, flags), "{code:x?} {a:x} {b:x} {carry}");
                        cases += 1;
                    }
                    // Memory first and memory second; the other operand in RCX.
                    for (opcode, first) in [(operation << 3 | 1, true), (operation << 3 | 3, false)] {
                        let mut code = sized(bits, opcode);
                        code.push(0x0f);
                        let (memory, register) = if first { (a, b) } else { (b, a) };
                        bench.machine.put(DATA, !mask(bits) & dirty | memory);
                        let after = bench.run(&code, |registers| {
                            registers.gpr[7] = DATA;
                            registers.gpr[1] = dirty & !mask(bits) | register;
                            registers.rflags |= carry;
                        });
                        let found = bench.machine.memory.load::<u64>(DATA).unwrap();
                        let stored = if first && operation != 7 { value } else { memory };
                        assert_eq!(found, !mask(bits) & dirty | stored, "{code:x?} {a:x} {b:x}");
                        assert_eq!(after.rflags & ALL, flags, "{code:x?} {a:x} {b:x}");
                        if !first {
                            assert_eq!(after.gpr[1], kept);
                        }
                        cases += 1;
                    }
                    // An immediate, for memory with LOCK where that is allowed, and for the accumulator.
                    let wide = match bits {
                        8 => 1,
                        16 => 2,
                        _ => 4,
                    };
                    if bits == 64 && signed(b, 64) != signed(b & mask(32), 32) {
                        continue;
                    }
                    let immediate = &b.to_le_bytes()[..wide];
                    let mut code = if operation == 7 { vec![] } else { vec![0xf0] };
                    code.extend(sized(bits, 0x81));
                    code.push(0x07 | operation << 3);
                    code.extend(immediate);
                    bench.machine.put(DATA, a);
                    let after = bench.run(&code, |registers| {
                        registers.gpr[7] = DATA;
                        registers.rflags |= carry;
                    });
                    let stored = if operation == 7 { a } else { value };
                    assert_eq!(
                        (bench.machine.memory.load(DATA), after.rflags & ALL),
                        (Some(stored), flags),
                        "{code:x?} {a:x}"
                    );
                    let mut code = sized(bits, operation << 3 | 5);
                    code.extend(immediate);
                    let after = bench.run(&code, |registers| {
                        registers.gpr[0] = dirty & !mask(bits) | a;
                        registers.rflags |= carry;
                    });
                    assert_eq!((after.gpr[0], after.rflags & ALL), (kept, flags), "{code:x?} {a:x}");
                    cases += 2;
                }
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn test_and_the_operations_on_one_operand() {
    let mut bench = Bench::long();
    for bits in [8, 16, 32, 64] {
        for a in edges(bits) {
            for carry in [0, CF] {
                // NOT, NEG, INC, DEC of RBX, and of memory with LOCK.
                let (negated, negated_flags) = expected(5, 0, a, 0, bits);
                let (more, more_flags) = expected(0, a, 1, 0, bits);
                let (less, less_flags) = expected(5, a, 1, 0, bits);
                let cases = [
                    (0xf7, 2, !a & mask(bits), carry),
                    (0xf7, 3, negated, negated_flags),
                    (0xff, 0, more, more_flags & !CF | carry),
                    (0xff, 1, less, less_flags & !CF | carry),
                ];
                for (opcode, digit, value, flags) in cases {
                    let mut code = sized(bits, opcode);
                    code.push(0xc3 | digit << 3);
                    let after = bench.run(&code, |registers| {
                        registers.gpr[3] = 0x7777_7777_7777_7777 & !mask(bits) | a;
                        registers.rflags |= carry;
                    });
                    let expected = written(0x7777_7777_7777_7777, value, bits);
                    assert_eq!((after.gpr[3], after.rflags & ALL), (expected, flags), "{code:x?} {a:x} {carry}");
                    let mut code = vec![0xf0];
                    code.extend(sized(bits, opcode));
                    code.push(0x07 | digit << 3);
                    bench.machine.put(DATA, a);
                    let after = bench.run(&code, |registers| {
                        registers.gpr[7] = DATA;
                        registers.rflags |= carry;
                    });
                    assert_eq!(
                        (bench.machine.memory.load(DATA), after.rflags & ALL),
                        (Some(value), flags),
                        "{code:x?}"
                    );
                }
                for b in edges(bits) {
                    let mut code = sized(bits, 0x85);
                    code.push(0xcb);
                    let after = bench.run(&code, |registers| (registers.gpr[3], registers.gpr[1]) = (a, b));
                    assert_eq!((after.gpr[3], after.rflags & ALL), (a, result_flags(a & b, bits)));
                }
            }
        }
    }
}

#[test]
fn high_bytes_are_bytes_of_their_own() {
    let mut bench = Bench::long();
    // add ah, bl; add bl, ah; xchg ch, dl; with REX the same numbers are SPL to DIL.
    let after = bench.run(&[0x00, 0xdc], |registers| (registers.gpr[0], registers.gpr[3]) = (0x12_80ff, 0x90));
    assert_eq!((after.gpr[0], after.rflags & ALL), (0x12_10ff, CF | OF));
    let after = bench.run(&[0x00, 0xe3], |registers| (registers.gpr[0], registers.gpr[3]) = (0x8000, 0xff90));
    assert_eq!(after.gpr[3], 0xff10);
    let after = bench.run(&[0x86, 0xd5], |registers| (registers.gpr[1], registers.gpr[2]) = (0x1234, 0x5678));
    assert_eq!((after.gpr[1], after.gpr[2]), (0x7834, 0x5612));
    let after = bench.run(&[0x40, 0x00, 0xdc], |registers| registers.gpr[3] = 5);
    assert_eq!(after.gpr[4], machine::STACK + 5);
}

#[test]
fn exchanges_and_compare_and_exchange() {
    let mut bench = Bench::long();
    for bits in [8, 16, 32, 64] {
        for a in edges(bits) {
            for b in edges(bits) {
                let old = 0x6666_6666_6666_6666 & !mask(bits);
                // xadd [rdi], rcx
                let mut code = vec![0xf0];
                code.extend(sized(bits, 0xc1));
                let at = code.len() - 1;
                code.insert(at, 0x0f);
                code.push(0x0f);
                bench.machine.put(DATA, a);
                let (sum, flags) = expected(0, a, b, 0, bits);
                let after = bench.run(&code, |registers| (registers.gpr[7], registers.gpr[1]) = (DATA, old | b));
                assert_eq!((bench.machine.memory.load(DATA), after.rflags & ALL), (Some(sum), flags), "{code:x?}");
                assert_eq!(after.gpr[1], written(old, a, bits));
                // cmpxchg [rdi], rcx with b in RAX
                let at = code.len() - 2;
                code[at] &= 0xf1;
                code[at] = 0xb0 | code[at] & 1;
                bench.machine.put(DATA, a);
                let (_, flags) = expected(7, b, a, 0, bits);
                let after = bench.run(&code, |registers| {
                    (registers.gpr[7], registers.gpr[0], registers.gpr[1]) = (DATA, old | b, 0x33);
                });
                let stored = if a == b { 0x33 } else { a };
                assert_eq!((bench.machine.memory.load(DATA), after.rflags & ALL), (Some(stored), flags), "{code:x?}");
                let accumulator = if a == b { old | b } else { written(old, a, bits) };
                assert_eq!(after.gpr[0], accumulator, "{code:x?} {a:x} {b:x}");
            }
        }
    }
    // CMPXCHG8B and CMPXCHG16B: only ZF changes.
    for equal in [false, true] {
        bench.machine.put(DATA, 0x2222_2222_1111_1111);
        bench.machine.put(DATA + 8, 0x4444_4444_4444_4444);
        let after = bench.run(&[0xf0, 0x0f, 0xc7, 0x0f], |registers| {
            registers.gpr = [0x9_1111_1111, 8, 0x9_2222_2222, 7, registers.gpr[4], 0, 0, DATA, 0, 0, 0, 0, 0, 0, 0, 0];
            registers.gpr[0] += u64::from(!equal);
            registers.rflags |= ALL & !ZF;
        });
        let stored = if equal { 0x8_0000_0007 } else { 0x2222_2222_1111_1111_u64 };
        assert_eq!(bench.machine.memory.load(DATA), Some(stored));
        assert_eq!(after.rflags & ALL, if equal { ALL } else { ALL & !ZF });
        let pair = if equal { (0x9_1111_1111, 0x9_2222_2222) } else { (0x1111_1111, 0x2222_2222) };
        assert_eq!((after.gpr[0], after.gpr[2]), pair);
        bench.machine.put(DATA, 1);
        bench.machine.put(DATA + 8, 2);
        let after = bench.run(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f], |registers| {
            registers.gpr = [1, 8, 2, 7, registers.gpr[4], 0, 0, DATA, 0, 0, 0, 0, 0, 0, 0, 0];
            registers.gpr[2] += u64::from(!equal);
        });
        let stored = if equal { (7, 8) } else { (1, 2) };
        let memory = &bench.machine.memory;
        assert_eq!((memory.load::<u64>(DATA), memory.load::<u64>(DATA + 8)), (Some(stored.0), Some(stored.1)));
        assert_eq!((after.gpr[0], after.gpr[2], after.rflags & ZF != 0), (1, 2, equal));
    }
    assert_eq!(bench.try_run(&[0x48, 0x0f, 0xc7, 0x0f], |registers| registers.gpr[7] = DATA + 8).unwrap_err().0, 13);
}
