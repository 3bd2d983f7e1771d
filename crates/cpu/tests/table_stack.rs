//! Pushes, pops, frames, near calls and returns in every width of stack and operand (SDM volume 2).

mod machine;

use ferro_cpu::{CS, Exit, Registers, SS};
use machine::bench::*;
use machine::legacy::{CODE16, DATA16, register};
use machine::{CODE, Machine, STACK};

/// Registers after one instruction of 64-, 32- or 16-bit code (0x66 not counted), and the bytes just above ESP.
fn run(bits: u32, code: &[u8], prepare: impl FnOnce(&mut Registers)) -> (Registers, [u8; 16]) {
    let mut bytes = code.to_vec();
    bytes.resize(bytes.len() + 4, 0xf4);
    let mut machine = if bits == 64 { Machine::new(&bytes, false) } else { Machine::legacy(&bytes, false) };
    machine.memory.write(STACK - 0x40, &(0..0x80).collect::<Vec<u8>>());
    machine.edit(|registers| {
        if bits == 16 {
            registers.segments[CS] = register(CODE16, CODE, 0xffff, 0x009b);
            registers.segments[SS] = register(DATA16, STACK - 0x1000, 0xffff, 0x0093);
            registers.rip = 0;
            registers.gpr[4] = 0xdddd_1000;
        }
        registers.gpr[3] = 0x8877_6655_4433_2211 & if bits == 64 { u64::MAX } else { mask(32) };
        registers.gpr[5] = if bits == 16 { 0x1010 } else { STACK + 0x10 };
        prepare(registers);
    });
    assert_eq!(machine.run(1), Exit::Budget);
    let registers = machine.cpu.registers();
    let top = if bits == 16 { STACK - 0x1000 + (registers.gpr[4] & 0xffff) } else { registers.gpr[4] };
    let mut found = [0; 16];
    machine.memory.read(top, &mut found);
    (registers, found)
}

/// How far the stack pointer moved.
fn moved(registers: &Registers, bits: u32) -> i64 {
    let start = if bits == 16 { 0xdddd_1000 } else { STACK };
    registers.gpr[4].wrapping_sub(start) as i64
}

#[test]
fn pushes_of_every_width() {
    // (bits of code, code, bytes pushed)
    let cases: [(u32, &[u8], &[u8]); 20] = [
        (64, &[0x53], &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
        (64, &[0x66, 0x53], &[0x11, 0x22]),
        (64, &[0x6a, 0x80], &[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (64, &[0x66, 0x6a, 0x80], &[0x80, 0xff]),
        (64, &[0x68, 1, 2, 3, 0x84], &[1, 2, 3, 0x84, 0xff, 0xff, 0xff, 0xff]),
        (64, &[0xff, 0xf3], &[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]),
        (64, &[0xff, 0x75, 0x0], &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57]),
        (64, &[0xff, 0x34, 0x24], &[0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47]),
        (64, &[0x9c], &[0x02, 0, 0, 0, 0, 0, 0, 0]),
        (64, &[0xe8, 0, 0, 0, 0], &[5, 0, 1, 0, 0, 0, 0, 0]),
        (32, &[0x53], &[0x11, 0x22, 0x33, 0x44]),
        (32, &[0x66, 0x53], &[0x11, 0x22]),
        (32, &[0x6a, 0x80], &[0x80, 0xff, 0xff, 0xff]),
        (32, &[0x66, 0x68, 1, 0x82], &[1, 0x82]),
        (32, &[0xff, 0x75, 0], &[0x50, 0x51, 0x52, 0x53]),
        (32, &[0xe8, 0, 0, 0, 0], &[5, 0, 1, 0]),
        (16, &[0x53], &[0x11, 0x22]),
        (16, &[0x66, 0x53], &[0x11, 0x22, 0x33, 0x44]),
        (16, &[0x6a, 0x80], &[0x80, 0xff]),
        (16, &[0xe8, 0, 0], &[3, 0]),
    ];
    for (bits, code, pushed) in cases {
        let (registers, found) = run(bits, code, |_| ());
        assert_eq!(moved(&registers, bits), -(pushed.len() as i64), "{bits} {code:x?}");
        assert_eq!(&found[..pushed.len()], pushed, "{bits} {code:x?}");
    }
    // PUSH of the stack pointer is of its value before.
    let (_, found) = run(64, &[0x54], |_| ());
    assert_eq!(found[..8], STACK.to_le_bytes());
    // A segment register: the slot's upper part stays as it was with 32 bits, and is cleared with 64.
    let (registers, found) = run(32, &[0x1e], |_| ());
    assert_eq!((moved(&registers, 32), &found[..4]), (-4, &[0x10, 0, 0x3e, 0x3f][..]));
    let (registers, found) = run(64, &[0x0f, 0xa0], |_| ());
    assert_eq!((moved(&registers, 64), &found[..8]), (-8, &[0x10, 0, 0, 0, 0, 0, 0, 0][..]));
    // The lower and the upper register come last and first.
    let (registers, found) = run(32, &[0x60], |registers| registers.gpr[7] = 0x1234_5678);
    assert_eq!((moved(&registers, 32), &found[..4]), (-32, &[0x78, 0x56, 0x34, 0x12][..]));
    let (registers, _) = run(16, &[0x60], |_| ());
    assert_eq!(moved(&registers, 16), -16);
}

#[test]
fn pops_of_every_width() {
    // (bits, code, RBX, movement)
    let cases: [(u32, &[u8], u64, i64); 8] = [
        (64, &[0x5b], 0x4746_4544_4342_4140, 8),
        (64, &[0x66, 0x5b], 0x8877_6655_4433_4140, 2),
        (64, &[0x8f, 0xc3], 0x4746_4544_4342_4140, 8),
        (32, &[0x5b], 0x4342_4140, 4),
        (32, &[0x66, 0x5b], 0x4433_4140, 2),
        (16, &[0x5b], 0x4433_4140, 2),
        (16, &[0x66, 0x5b], 0x4342_4140, 4),
        (64, &[0x0f, 0xa1], 0x8877_6655_4433_2211, 8),
    ];
    for (bits, code, rbx, by) in cases {
        if code == [0x0f, 0xa1] {
            // pop fs of a null selector
            let mut machine = Machine::new(code, false);
            machine.put(STACK, 0xffff_0003);
            assert_eq!(machine.run(1), Exit::Budget);
            assert_eq!(moved(&machine.cpu.registers(), 64), by);
            continue;
        }
        let (registers, _) = run(bits, code, |_| ());
        assert_eq!((registers.gpr[3], moved(&registers, bits)), (rbx, by), "{bits} {code:x?}");
    }
    // POP RSP takes the value; POP [RSP] addresses with the stack pointer already moved.
    let (registers, _) = run(64, &[0x5c], |_| ());
    assert_eq!(registers.gpr[4], 0x4746_4544_4342_4140);
    let (registers, found) = run(64, &[0x8f, 0x04, 0x24], |_| ());
    assert_eq!((moved(&registers, 64), &found[..8]), (8, &[0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47][..]));
    let (registers, found) = run(32, &[0x8f, 0x44, 0x24, 4], |_| ());
    assert_eq!((moved(&registers, 32), &found[4..8]), (4, &[0x40, 0x41, 0x42, 0x43][..]));
    // POPA skips the stack pointer's slot.
    let (registers, _) = run(32, &[0x61], |_| ());
    assert_eq!(moved(&registers, 32), 32);
    assert_eq!((registers.gpr[7], registers.gpr[0], registers.gpr[3]), (0x4342_4140, 0x5f5e_5d5c, 0x5352_5150));
}

#[test]
fn frames() {
    // LEAVE and ENTER: (bits, code, RBP, movement)
    let (registers, _) = run(64, &[0xc9], |_| ());
    assert_eq!((registers.gpr[5], registers.gpr[4]), (0x5756_5554_5352_5150, STACK + 0x18));
    let (registers, _) = run(32, &[0x66, 0xc9], |_| ());
    assert_eq!((registers.gpr[5], registers.gpr[4]), ((STACK & !0xffff) | 0x5150, STACK + 0x12));
    let (registers, _) = run(16, &[0xc9], |registers| registers.gpr[5] = 0xeeee_1010);
    assert_eq!((registers.gpr[5], registers.gpr[4]), (0xeeee_5150, 0xdddd_1012));
    let (registers, found) = run(64, &[0xc8, 0x10, 0, 0], |_| ());
    assert_eq!((registers.gpr[5], moved(&registers, 64)), (STACK - 8, -0x18));
    assert_eq!(found[..8], (0x28..0x30).collect::<Vec<u8>>()[..], "what is allocated isn't touched");
    // Level 3: the old RBP, two pointers copied from below it, and the new frame's.
    let (registers, found) = run(64, &[0xc8, 0, 0, 3], |_| ());
    assert_eq!((registers.gpr[5], moved(&registers, 64)), (STACK - 8, -32));
    assert_eq!(found[..8], (STACK - 8).to_le_bytes());
    assert_eq!(found[8..], (0x40..0x48).collect::<Vec<u8>>()[..]);
    let (registers, found) = run(16, &[0xc8, 4, 0, 2], |_| ());
    assert_eq!((registers.gpr[5], moved(&registers, 16)), (0xffe, -10));
    assert_eq!(found[4..10], [0xfe, 0x0f, 0x4e, 0x4f, 0x10, 0x10]);
}

#[test]
fn near_returns_and_indirect_branches() {
    let target = CODE + 0x50;
    let (registers, _) = run(64, &[0xc3], |registers| registers.gpr[4] = STACK - 0x800);
    assert_eq!((registers.rip, registers.gpr[4]), (0, STACK - 0x7f8));
    for (bits, code, size) in
        [(64, &[0xc2, 0x10, 0][..], 8), (32, &[0xc2, 0x10, 0], 4), (32, &[0x66, 0xc2, 0x10, 0], 2)]
    {
        let (registers, _) = run(bits, code, |registers| registers.gpr[4] = STACK - 0x800);
        assert_eq!((registers.rip, registers.gpr[4]), (0, STACK - 0x800 + size + 0x10), "{bits} {code:x?}");
    }
    let jump = |registers: &mut Registers| registers.gpr[3] = target;
    assert_eq!(run(64, &[0xff, 0xe3], jump).0.rip, target);
    assert_eq!(run(32, &[0x66, 0xff, 0xe3], jump).0.rip, target & 0xffff);
    let (registers, found) = run(64, &[0xff, 0xd3], jump);
    assert_eq!((registers.rip, &found[..8]), (target, &(CODE + 2).to_le_bytes()[..]));
    // CALL [RSP] reads before it pushes.
    let (registers, found) = run(64, &[0xff, 0x14, 0x24], |registers| registers.gpr[4] = STACK - 0x800);
    assert_eq!((registers.rip, &found[..8]), (0, &(CODE + 3).to_le_bytes()[..]));
    // A relative jump of 16 bits in 32-bit code cuts EIP.
    assert_eq!(run(32, &[0x66, 0xe9, 0x10, 0], |_| ()).0.rip, 0x14);
    assert_eq!(run(32, &[0xeb, 0xfe], |_| ()).0.rip, CODE);
    assert_eq!(run(16, &[0xe9, 0xfe, 0xff], |_| ()).0.rip, 1);
}
