//! Instructions that fault in the middle: nothing but what the manual allows has changed, and when the cause is gone,
//! executing them again comes to what they would have come to without the fault (SDM volume 3, 6.6).

mod machine;

use ferro_cpu::{Activity, Registers};
use machine::{CODE, DATA, HANDLERS, Machine, TABLE};

/// The end of a page; the next one comes and goes.
const EDGE: u64 = DATA + 0x1000;
/// Another such edge, where the stack is.
const STACK_EDGE: u64 = DATA + 0x5000;

/// Code, and whether registers may show progress when it faults.
type Case = (&'static [u8], bool);

/// 64-bit instructions with operands at RBX (straddling), strings from RSI to RDI, pushes and pops at RSP.
const CASES: [Case; 88] = [
    // ALU on memory, to and from.
    (&[0x48, 0x01, 0x03], false),
    (&[0x48, 0x03, 0x03], false),
    (&[0x48, 0x11, 0x03], false),
    (&[0x48, 0x29, 0x03], false),
    (&[0x48, 0x19, 0x03], false),
    (&[0x48, 0x21, 0x03], false),
    (&[0x48, 0x09, 0x03], false),
    (&[0x48, 0x31, 0x03], false),
    (&[0x48, 0x39, 0x03], false),
    (&[0x48, 0x85, 0x03], false),
    (&[0x48, 0x81, 0x03, 1, 2, 3, 4], false),
    (&[0xf0, 0x48, 0x01, 0x03], false),
    (&[0x48, 0xff, 0x03], false),
    (&[0x48, 0xff, 0x0b], false),
    (&[0x48, 0xf7, 0x13], false),
    (&[0x48, 0xf7, 0x1b], false),
    (&[0xf0, 0x48, 0xf7, 0x1b], false),
    // Shifts, double shifts, bits.
    (&[0x48, 0xc1, 0x23, 5], false),
    (&[0x48, 0xd1, 0x13], false),
    (&[0x48, 0xd3, 0x3b], false),
    (&[0x48, 0xc1, 0x03, 9], false),
    (&[0x48, 0x0f, 0xa4, 0x03, 7], false),
    (&[0x48, 0x0f, 0xad, 0x03], false),
    (&[0x48, 0x0f, 0xba, 0x2b, 60], false),
    (&[0x48, 0x0f, 0xbb, 0x0b], false),
    (&[0x48, 0x0f, 0xbc, 0x03], false),
    // Multiplication, division, exchange.
    (&[0x48, 0xf7, 0x23], false),
    (&[0x48, 0x0f, 0xaf, 0x03], false),
    (&[0x48, 0xf7, 0x33], false),
    (&[0x48, 0x87, 0x03], false),
    (&[0x48, 0x0f, 0xc1, 0x03], false),
    (&[0xf0, 0x48, 0x0f, 0xc1, 0x03], false),
    (&[0x48, 0x0f, 0xb1, 0x0b], false),
    (&[0xf0, 0x48, 0x0f, 0xb1, 0x0b], false),
    (&[0x0f, 0xc7, 0x0b], false),
    // Moves.
    (&[0x48, 0x8b, 0x03], false),
    (&[0x48, 0x89, 0x03], false),
    (&[0x48, 0xc7, 0x03, 1, 2, 3, 4], false),
    (&[0x48, 0x0f, 0x44, 0x03], false),
    (&[0x48, 0x63, 0x43, 2], false),
    (&[0x48, 0x0f, 0xb7, 0x43, 3], false),
    (&[0x48, 0x0f, 0xc3, 0x03], false),
    // The stack.
    (&[0x50], false),
    (&[0xff, 0x33], false),
    (&[0x68, 1, 2, 3, 4], false),
    (&[0x9c], false),
    (&[0x58], false),
    (&[0x8f, 0x03], false),
    (&[0x8f, 0x44, 0x24, 0xf8], false),
    (&[0x5c], false),
    (&[0x9d], false),
    (&[0xc9], false),
    (&[0xc8, 0x20, 0, 0], false),
    (&[0xc8, 0x20, 0, 1], false),
    (&[0xc8, 8, 0, 5], false),
    (&[0xe8, 0, 0, 0, 0], false),
    (&[0xff, 0xd6], false),
    (&[0x0f, 0xa0], false),
    // Strings.
    (&[0xa5], false),
    (&[0x48, 0xa5], false),
    (&[0x48, 0xab], false),
    (&[0x48, 0xad], false),
    (&[0x48, 0xa7], false),
    (&[0x48, 0xaf], false),
    (&[0xf3, 0xa4], true),
    (&[0xf3, 0x48, 0xa5], true),
    (&[0xf3, 0xaa], true),
    (&[0xf3, 0x48, 0xab], true),
    (&[0xf3, 0xac], true),
    (&[0xf3, 0xa6], true),
    (&[0xf2, 0xae], true),
    (&[0xf3, 0x66, 0xaf], true),
    (&[0x6d], false),
    (&[0xf3, 0x6c], true),
    (&[0x6f], false),
    (&[0xf3, 0x6e], true),
    (&[0x66, 0x0f, 0xf7, 0xc1], false),
    // SSE, MMX, x87.
    (&[0x0f, 0x10, 0x03], false),
    (&[0x0f, 0x11, 0x03], false),
    (&[0xf2, 0x0f, 0x58, 0x03], false),
    (&[0x0f, 0x7f, 0x03], false),
    (&[0x0f, 0xfc, 0x03], false),
    (&[0xdd, 0x03], false),
    (&[0xdd, 0x1b], false),
    (&[0xdb, 0x3b], false),
    (&[0xdf, 0x3b], false),
    (&[0xdd, 0x33], false),
    (&[0xd9, 0x33], false),
];

/// A machine about to execute `code`; `offset` before the edge is where operands begin.
fn prepared(code: &[u8], offset: u64, down: bool) -> Machine {
    let mut bytes = code.to_vec();
    bytes.push(0xf4);
    let mut machine = Machine::new(&bytes, false);
    // Page faults have a stack of their own.
    let handler = HANDLERS + 14 * 16;
    machine.put(0x7000 + 14 * 16, (handler & 0xffff) | 8 << 16 | 0x8e01 << 32);
    machine.put(0x8024, 0x9800);
    let pattern: Vec<u8> = (0..0x6000).map(|at| (at % 251) as u8 ^ 0x5a).collect();
    machine.memory.write(DATA, &pattern);
    // What a comparison meets is equal until late.
    machine.memory.write(DATA + 0x3000 - 64, &[7; 128]);
    machine.memory.write(EDGE - 64, &[7; 128]);
    // A stack that makes sense to POP RSP and POPF.
    let value = CODE + 0x800;
    let repeated = code[0] == 0xf3 || code[0] == 0xf2;
    machine.edit(|registers| {
        registers.gpr = std::array::from_fn(|index| 0x1111_1111_1111_1111 * index as u64 + 3);
        registers.gpr[0] = 0x0707_0707_0707_0707;
        registers.gpr[2] = 0;
        registers.gpr[1] = if repeated { 24 } else { 7 };
        registers.gpr[3] = EDGE - offset;
        registers.gpr[6] = if repeated { DATA + 0x3000 - 12 } else { DATA + 0x3000 - offset };
        registers.gpr[7] = EDGE - offset;
        registers.gpr[5] = STACK_EDGE - offset;
        // Pushes cross the edge downwards, pops upwards.
        registers.gpr[4] = STACK_EDGE + if pops(code) { 0_u64.wrapping_sub(offset) } else { 8 - offset };
        if code == [0xff, 0xd6] {
            registers.gpr[6] = CODE + 2;
        }
        registers.rflags = 0x8d7 | if down { 0x400 } else { 0 };
        if repeated && code.last() == Some(&0xae) {
            registers.gpr[0] = 0x55;
        }
        registers.fpu.st = std::array::from_fn(|index| 0x4005_8000_0000_0000_0000 + ((index as u128) << 56));
        registers.fpu.ftw = 0;
        registers.fpu.xmm = std::array::from_fn(|index| u128::MAX / (index as u128 + 3) | 0x80 << 120);
        registers.fpu.xmm[1] = u128::MAX;
    });
    if code == [0x5c] || code == [0x9d] {
        machine.put(STACK_EDGE - offset, if code == [0x5c] { value } else { 0x4d7 });
    }
    machine
}

fn pops(code: &[u8]) -> bool {
    matches!(code[0], 0x58 | 0x5c | 0x9d | 0xc9) || matches!(code, [0x8f, ..])
}

/// Memory of the data pages.
fn data(machine: &Machine) -> Vec<u8> {
    let mut bytes = vec![0; 0x6000];
    machine.memory.read(DATA, &mut bytes);
    bytes
}

/// The registers as the frame of a page fault has them.
fn faulted(machine: &Machine) -> Registers {
    let mut registers = machine.cpu.registers();
    let word = |at: u64| machine.memory.load::<u64>(registers.gpr[4] + at).unwrap();
    let (rip, flags, stack) = (word(8), word(24), word(32));
    registers.rip = rip;
    registers.rflags = flags & !(1 << 16);
    registers.gpr[4] = stack;
    registers.activity = Activity::Running;
    registers
}

fn comparable(mut registers: Registers) -> Registers {
    registers.cr2 = 0;
    registers.fpu.fip = 0;
    registers.fpu.fdp = 0;
    registers
}

#[test]
fn instructions_that_fault_can_be_executed_again() {
    let mut faults = 0;
    for (code, progresses) in CASES {
        for offset in [1, 4, 7, 8] {
            for down in [false, true] {
                let string = progresses || matches!(code.last(), Some(0xa4..=0xaf | 0x6c..=0x6f)) && code.len() < 4;
                if down && !string {
                    continue;
                }
                let mut whole = prepared(code, offset, down);
                let before = comparable(whole.cpu.registers());
                let expected = comparable(whole.halts_at(code.len() as u64));
                let memory = data(&whole);
                // The pages on either side of the edges and of the strings' source, absent or write-protected.
                let pages = [EDGE, EDGE - 0x1000, STACK_EDGE, STACK_EDGE - 0x1000, DATA + 0x3000, DATA + 0x2000];
                for (page, entry) in pages.into_iter().flat_map(|page| [(page, 0), (page, page | 5)]) {
                    let mut machine = prepared(code, offset, down);
                    machine.edit(|registers| registers.cr0 |= 0x1_0000);
                    machine.map(page, entry);
                    let untouched = data(&machine);
                    assert_eq!(machine.run(1000), ferro_cpu::Exit::Halted);
                    if machine.cpu.registers().rip == CODE + code.len() as u64 + 1 {
                        assert_eq!((comparable(machine.cpu.registers()), data(&machine) == memory), (expected, true));
                        continue;
                    }
                    faults += 1;
                    let name = format!("{code:x?} offset {offset} page {page:#x} entry {entry:#x} down {down}");
                    let registers = faulted(&machine);
                    assert_eq!(registers.rip, CODE, "{name}");
                    if !progresses {
                        let mut same = comparable(registers);
                        // MMX instructions that fault may have turned the stack (and do on silicon).
                        if code[0] == 0x0f && code[1] == 0x7f {
                            same.fpu = before.fpu;
                        }
                        assert_eq!(same, before, "{name}");
                        if !matches!(code[0], 0xc8) {
                            assert!(data(&machine) == untouched, "{name}: memory changed");
                        }
                    }
                    machine.put(TABLE + (page >> 12) * 8, page | 7);
                    machine.cpu.set_registers(&registers);
                    machine.cpu.flush_translations();
                    let after = comparable(machine.halts_at(code.len() as u64));
                    assert_eq!(after, expected, "{name}");
                    assert!(data(&machine) == memory, "{name}: memory differs");
                }
            }
        }
    }
    println!("{faults} faults");
    assert!(faults > 500);
}

#[test]
fn pusha_popa_and_enter_of_32_bits_change_nothing_when_they_fault() {
    // The stack's limit is hit in the middle: pushad, popad, pusha, popa, enter 8, 4
    let codes: [(&[u8], u64); 5] =
        [(&[0x60], 12), (&[0x61], 0xff0), (&[0x66, 0x60], 6), (&[0x66, 0x61], 0xff4), (&[0xc8, 8, 0, 4], 6)];
    for (code, pointer) in codes {
        use machine::legacy::{DATA0, DATA16, IDT, OTHER, OTHER_TASK, TSS, gate, register};
        let mut machine = Machine::legacy(code, false);
        machine.put(IDT + 12 * 8, gate(OTHER_TASK, 0, 5, 0, 0));
        for (at, value) in [(0x20, HANDLERS as u32), (0x24, 2), (0x38, 0x9000), (0x4c, 8)] {
            machine.memory.store(OTHER + at, value).unwrap();
        }
        for at in [0x48, 0x50, 0x54] {
            machine.memory.store(OTHER + at, u32::from(DATA0)).unwrap();
        }
        machine.edit(|registers| {
            registers.segments[ferro_cpu::SS] = register(DATA16, DATA, 0xfff, 0x4093);
            registers.gpr = std::array::from_fn(|index| 0x0101_0101 * index as u64);
            registers.gpr[4] = pointer;
            registers.gpr[5] = 0x800;
        });
        let before = machine.cpu.registers();
        machine.run(20);
        assert_eq!(machine.cpu.registers().tr.selector, OTHER_TASK, "{code:x?}");
        for index in 0..8 {
            let saved = u64::from(machine.word(TSS + 0x28 + 4 * index));
            assert_eq!(saved, before.gpr[index as usize] & 0xffff_ffff, "{code:x?} register {index}");
        }
        assert_eq!(u64::from(machine.word(TSS + 0x20)), CODE);
    }
}
