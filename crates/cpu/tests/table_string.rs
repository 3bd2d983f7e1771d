//! String instructions: every width, both directions, every size of address and kind of repetition, against a plain loop
//! over bytes (SDM volume 2: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS, REP).

mod machine;

use ferro_cpu::{DS, ES};
use machine::bench::*;
use machine::legacy::{DATA16, register};
use machine::{CODE, DATA};

const SOURCE: u64 = DATA + 0x100;
const TARGET: u64 = DATA + 0x300;
const LEN: usize = 0x400;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Kind {
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
}

/// What a plain loop makes of it.
struct Outcome {
    memory: Vec<u8>,
    rax: u64,
    rcx: u64,
    rsi: u64,
    rdi: u64,
    /// Operands of the last comparison.
    compared: Option<(u64, u64)>,
}

fn load(memory: &[u8], at: u64, size: u64) -> u64 {
    (0..size).fold(0, |value, byte| value | u64::from(memory[(at + byte - DATA) as usize]) << (8 * byte))
}

fn simulate(kind: Kind, memory: &[u8], size: u64, down: bool, repeat: Option<u8>, rax: u64, count: u64) -> Outcome {
    let mut outcome = Outcome { memory: memory.to_vec(), rax, rcx: count, rsi: SOURCE, rdi: TARGET, compared: None };
    let step = |at: u64| if down { at - size } else { at + size };
    let times = if repeat.is_some() { count } else { 1 };
    for _ in 0..times {
        let bits = 8 * size as u32;
        match kind {
            Kind::Movs | Kind::Stos => {
                let value = if kind == Kind::Movs { load(&outcome.memory, outcome.rsi, size) } else { rax };
                let at = (outcome.rdi - DATA) as usize;
                outcome.memory[at..at + size as usize].copy_from_slice(&value.to_le_bytes()[..size as usize]);
            }
            Kind::Lods => outcome.rax = written(outcome.rax, load(&outcome.memory, outcome.rsi, size), bits),
            Kind::Cmps => {
                outcome.compared =
                    Some((load(&outcome.memory, outcome.rsi, size), load(&outcome.memory, outcome.rdi, size)));
            }
            Kind::Scas => outcome.compared = Some((rax & mask(bits), load(&outcome.memory, outcome.rdi, size))),
        }
        if matches!(kind, Kind::Movs | Kind::Lods | Kind::Cmps) {
            outcome.rsi = step(outcome.rsi);
        }
        if kind != Kind::Lods {
            outcome.rdi = step(outcome.rdi);
        }
        if repeat.is_some() {
            outcome.rcx -= 1;
            let equal = outcome.compared.is_some_and(|(a, b)| a == b);
            if outcome.compared.is_some() && equal != (repeat == Some(0xf3)) {
                break;
            }
        }
    }
    outcome
}

#[test]
fn strings_in_every_width_direction_and_repetition() {
    let mut bench = Bench::long();
    let kinds = [(0xa4, Kind::Movs), (0xa6, Kind::Cmps), (0xaa, Kind::Stos), (0xac, Kind::Lods), (0xae, Kind::Scas)];
    let mut cases = 0;
    // Memory that is equal for a while, and memory that differs for a while.
    let alike: Vec<u8> = (0..LEN).map(|at| if at % 0x200 == 0x114 { 9 } else { 7 }).collect();
    let unlike: Vec<u8> = (0..LEN).map(|at| if at == 0x310 || at == 0x2f0 { 7 } else { at as u8 }).collect();
    for (opcode, kind) in kinds {
        for bits in [8, 16, 32, 64] {
            for (repeat, down) in [None, Some(0xf2), Some(0xf3)].into_iter().flat_map(|by| [(by, false), (by, true)]) {
                for (count, memory) in
                    [0, 1, 2, 5, 30].into_iter().flat_map(|count| [(count, &alike), (count, &unlike)])
                {
                    for narrow in [false, true] {
                        let rax = 0x0707_0707_0707_0707;
                        let expected = simulate(kind, memory, u64::from(bits) / 8, down, repeat, rax, count);
                        let mut code: Vec<u8> = repeat.into_iter().collect();
                        code.extend(narrow.then_some(0x67));
                        code.extend(sized(bits, opcode));
                        bench.machine.memory.write(DATA, memory);
                        let after = bench.run(&code, |registers| {
                            registers.gpr[0] = rax;
                            (registers.gpr[1], registers.gpr[6], registers.gpr[7]) = (count, SOURCE, TARGET);
                            registers.rflags |= if down { 0x400 } else { 0 } | ALL;
                        });
                        let name = format!("{kind:?} {code:x?} count {count} down {down}");
                        let found = (after.gpr[0], after.gpr[1], after.gpr[6], after.gpr[7]);
                        assert_eq!(found, (expected.rax, expected.rcx, expected.rsi, expected.rdi), "{name}");
                        let mut bytes = vec![0; LEN];
                        bench.machine.memory.read(DATA, &mut bytes);
                        assert!(bytes == expected.memory, "{name}: memory");
                        let flags = expected.compared.map_or(ALL, |(a, b)| {
                            let result = a.wrapping_sub(b) & mask(bits);
                            let overflow = signed(a, bits) - signed(b, bits) != signed(result, bits);
                            result_flags(result, bits)
                                | if a < b { CF } else { 0 }
                                | if overflow { OF } else { 0 }
                                | if a & 15 < b & 15 { AF } else { 0 }
                        });
                        assert_eq!(after.rflags & ALL, flags, "{name}: flags");
                        cases += 1;
                    }
                }
            }
        }
    }
    println!("{cases} cases");
}

#[test]
fn overlapping_moves_go_element_by_element() {
    let mut bench = Bench::long();
    for (distance, size, opcode) in [(1, 1, 0xa4), (3, 1, 0xa4), (4, 8, 0xa5), (8, 8, 0xa5), (12, 8, 0xa5)] {
        let pattern: Vec<u8> = (0..LEN).map(|at| at as u8).collect();
        bench.machine.memory.write(DATA, &pattern);
        let code: &[u8] = if size == 8 { &[0xf3, 0x48, opcode] } else { &[0xf3, opcode] };
        bench.run(code, |registers| {
            (registers.gpr[1], registers.gpr[6], registers.gpr[7]) = (20, SOURCE, SOURCE + distance);
        });
        let mut expected = pattern;
        for at in 0..20 {
            let from = 0x100 + at * size;
            let element = expected[from..from + size].to_vec();
            let to = from + distance as usize;
            expected[to..to + size].copy_from_slice(&element);
        }
        let mut found = vec![0; LEN];
        bench.machine.memory.read(DATA, &mut found);
        assert!(found == expected, "distance {distance} size {size}");
    }
}

#[test]
fn addresses_of_32_and_16_bits_wrap_and_leave_other_registers() {
    // With 32-bit addresses in 64-bit code: LODS and SCAS leave the pointer that they don't use.
    let mut bench = Bench::long();
    let upper = 0xdead_beef << 32;
    bench.machine.memory.write(DATA, &[5; LEN]);
    for (opcode, uses_source, uses_target) in
        [(0xa4, true, true), (0xaa, false, true), (0xac, true, false), (0xae, false, true)]
    {
        let after = bench.run(&[0xf3, 0x67, opcode], |registers| {
            registers.gpr[0] = 5;
            (registers.gpr[1], registers.gpr[6], registers.gpr[7]) = (upper | 3, upper | SOURCE, upper | TARGET);
        });
        let expected = |used: bool, at: u64| if used { at + 3 } else { upper | at };
        let found = (after.gpr[1], after.gpr[6], after.gpr[7]);
        assert_eq!(found, (0, expected(uses_source, SOURCE), expected(uses_target, TARGET)), "{opcode:x}");
    }
    // With 16-bit addresses in 32-bit code only CX, SI and DI count, and they wrap; ES isn't overridden, DS is.
    let mut bench = Bench::legacy();
    bench.machine.memory.store(CODE + 0xffff, 0x66_u8).unwrap();
    bench.machine.memory.store(CODE + 0x2000, 0x77_u8).unwrap();
    let after = bench.run(&[0xf3, 0x67, 0xa4], |registers| {
        registers.segments[DS] = register(DATA16, CODE, 0xffff, 0x0093);
        registers.segments[ES] = register(DATA16, DATA, 0xffff, 0x0093);
        (registers.gpr[1], registers.gpr[6], registers.gpr[7]) = (0xabcd_0001, 0x1234_ffff, 0x5678_0010);
    });
    assert_eq!((after.gpr[1], after.gpr[6], after.gpr[7]), (0xabcd_0000, 0x1234_0000, 0x5678_0011));
    assert_eq!(bench.machine.memory.load::<u8>(DATA + 0x10), Some(0x66));
    let after = bench.run(&[0x26, 0xac], |registers| {
        registers.segments[ES] = register(DATA16, CODE, 0xffff, 0x0093);
        registers.gpr[6] = 0x2000;
    });
    assert_eq!(after.gpr[0] as u8, 0x77, "ES override of LODS");
    // An element that reaches past the segment's end faults, and the ones before it are done.
    let fault = bench.try_run(&[0xf3, 0xab], |registers| {
        registers.segments[ES] = register(DATA16, DATA, 0x1001, 0x4093);
        (registers.gpr[1], registers.gpr[7]) = (4, 0xff8);
    });
    assert_eq!(fault.unwrap_err(), (13, 0));
    let registers = bench.machine.cpu.registers();
    assert_eq!((registers.gpr[1], registers.gpr[7]), (2, 0x1000));
}

#[test]
fn port_strings() {
    let mut bench = Bench::long();
    // The board gives the port number times 0x0101, whatever the size.
    for (opcode, bits) in [(0x6c, 8), (0x6d, 16), (0x6d, 32)] {
        let size = u64::from(bits) / 8;
        let mut code = vec![0xf3];
        code.extend(sized(bits, opcode));
        bench.machine.memory.write(DATA, &[0; 64]);
        let after = bench.run(&code, |registers| {
            (registers.gpr[1], registers.gpr[2], registers.gpr[7]) = (3, 0x7b, DATA);
        });
        assert_eq!((after.gpr[1], after.gpr[7]), (0, DATA + 3 * size));
        for at in 0..3 {
            let found = bench.machine.memory.load::<u64>(DATA + at * size).unwrap() & mask(bits);
            assert_eq!(found, 0x7b7b & mask(bits));
        }
        let mut code = vec![0xf3];
        code.extend(sized(bits, opcode + 2));
        bench.machine.memory.write(DATA, &[1, 2, 3, 4, 5, 6, 7, 8]);
        bench.machine.board.writes.clear();
        let after = bench.run(&code, |registers| {
            (registers.gpr[1], registers.gpr[2], registers.gpr[6]) = (2, 0x80, DATA + size);
            registers.rflags |= 0x400;
        });
        assert_eq!((after.gpr[1], after.gpr[6]), (0, DATA.wrapping_sub(size)));
        let value = |at: u64| (0..size).fold(0, |all, byte| all | ((at + byte + 1) as u32) << (8 * byte));
        let expected = [(0x80, size as u8, value(size)), (0x80, size as u8, value(0))];
        assert_eq!(bench.machine.board.writes, expected);
    }
}
