//! Segmentation of 32-bit protected mode: what may be loaded, what an access is checked for, and where far jumps may go
//! (SDM volume 3, chapter 5). Gates are in `gates`, tasks in `tasks`.

mod machine;

use ferro_cpu::{CS, DS, Exit, SS};
use machine::legacy::*;
use machine::{CODE, DATA, Machine, STACK};

/// Where far transfers of these tests go.
const TARGET: u64 = CODE + 0x100;

/// What came of running code: `None` if it got to its HLT at `offset`, or the vector and error code.
fn outcome(machine: &mut Machine, offset: u64, user: bool) -> Option<(u64, u32)> {
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    if !user && registers.rip == CODE + offset + 1 {
        return None;
    }
    let vector = (registers.rip - machine::HANDLERS) / 16;
    let [error, eip, ..] = machine.stack::<2>();
    // In ring 3 the HLT itself faults.
    if user && vector == 13 && u64::from(eip) == CODE + offset { None } else { Some((vector, error)) }
}

#[test]
fn data_segments_are_loaded_only_where_type_and_privilege_allow() {
    let cases = [
        (0, false, None),
        (3, false, None),
        (DATA0, false, None),
        (DATA3, false, None),
        (CODE0, false, None),
        (READ_ONLY, false, None),
        (EXECUTE_ONLY, false, Some((13, u32::from(EXECUTE_ONLY)))),
        (TASK, false, Some((13, u32::from(TASK)))),
        (TASK_GATE, false, Some((13, 0x90))),
        (ABSENT, false, Some((11, u32::from(ABSENT)))),
        (0x100, false, Some((13, 0x100))),
        (0xc, false, Some((13, 0xc))),
        (DATA1, false, None),
        (0, true, None),
        (DATA3, true, None),
        (CODE3, true, None),
        (CONFORMING, true, None),
        (CONFORMING | 3, true, None),
        (DATA0, true, Some((13, u32::from(DATA0)))),
        (DATA1, true, Some((13, u32::from(DATA1 & !3)))),
        (CODE0, true, Some((13, u32::from(CODE0)))),
    ];
    // mov Sreg, ax; hlt for ES, DS; FS and GS with 0F B4-like loads share the path.
    for modrm in [0xc0, 0xd8, 0xe0, 0xe8] {
        for (selector, user, expected) in cases {
            let mut machine = Machine::legacy(&[0x8e, modrm, 0xf4], user);
            machine.edit(|registers| registers.gpr[0] = u64::from(selector));
            assert_eq!(outcome(&mut machine, 2, user), expected, "{selector:#x} {modrm:#x} user {user}");
        }
    }
}

#[test]
fn stack_segments_must_be_writable_and_of_the_current_privilege() {
    let cases = [
        (DATA0, false, None),
        (0, false, Some((13, 0))),
        (DATA3, false, Some((13, 0x20))),
        (DATA0 | 3, false, Some((13, 0x10))),
        (READ_ONLY, false, Some((13, 0x80))),
        (CODE0, false, Some((13, 8))),
        (FREE, false, Some((12, u32::from(FREE)))),
        (DATA3, true, None),
        (DATA0, true, Some((13, 0x10))),
        (DATA3 & !3, true, Some((13, 0x20))),
    ];
    for (selector, user, expected) in cases {
        for pop in [false, true] {
            // mov ss, ax; hlt or pop ss; nop; hlt
            let mut machine = Machine::legacy(if pop { &[0x17, 0x90, 0xf4] } else { &[0x8e, 0xd0, 0xf4] }, user);
            machine.put(GDT + u64::from(FREE), descriptor(0, 0xfffff, 0xc013));
            machine.put(STACK, u64::from(selector));
            machine.edit(|registers| registers.gpr[0] = u64::from(selector));
            assert_eq!(outcome(&mut machine, 2, user), expected, "{selector:#x} user {user} pop {pop}");
            if let (true, Some(_)) = (pop && user, expected) {
                assert_eq!(u64::from(machine.stack::<6>()[4]), STACK, "a POP that faults leaves ESP");
            }
        }
    }
}

#[test]
fn loading_a_segment_marks_its_descriptor_accessed() {
    let mut machine = Machine::legacy(&[0x8e, 0xd8, 0xf4], false);
    machine.put(GDT + u64::from(FREE), descriptor(0x1234, 0xfff, 0x0092));
    machine.edit(|registers| registers.gpr[0] = u64::from(FREE));
    let registers = machine.halts_at(2);
    assert_eq!(machine.memory.load::<u8>(GDT + u64::from(FREE) + 5), Some(0x93));
    let segment = registers.segments[DS];
    assert_eq!((segment.base, segment.limit, segment.attributes), (0x1234, 0xfff, 0x93));
}

#[test]
fn accesses_are_held_to_limit_and_type() {
    // (segment, offset, size in bytes, write, vector of the fault)
    let cases = [
        (DATA0, DATA, 4, true, None),
        (READ_ONLY, DATA, 4, false, None),
        (READ_ONLY, DATA, 4, true, Some(13)),
        (CODE0, DATA, 4, false, None),
        (CODE0, DATA, 4, true, Some(13)),
        (0, DATA, 1, false, Some(13)),
        (DATA16, 0xfffc, 4, true, None),
        (DATA16, 0xfffd, 4, true, Some(13)),
        (DATA16, 0xffff, 1, false, None),
        (DATA16, 0x1_0000, 1, false, Some(13)),
        (DATA16, 0xffff, 2, false, Some(13)),
        (DOWN32, 0xffff, 1, false, Some(13)),
        (DOWN32, 0x1_0000, 1, true, None),
        (DOWN32, 0xfffe, 4, true, Some(13)),
        (DOWN16, 0xfff, 1, false, Some(13)),
        (DOWN16, 0x1000, 4, true, None),
        (DOWN16, 0xfffc, 4, false, None),
        (DOWN16, 0xfffe, 4, false, Some(13)),
        (DOWN16, 0x1_0000, 1, false, Some(13)),
    ];
    for (selector, offset, size, write, expected) in cases {
        let mut code = vec![0x8e, 0xd8];
        if size == 2 {
            code.push(0x66);
        }
        // mov eax, [ebx] and the like
        code.push(if write { 0x88 } else { 0x8a } | u8::from(size > 1));
        code.extend([0x03, 0xf4]);
        let mut machine = Machine::legacy(&code, false);
        machine.edit(|registers| {
            registers.gpr[0] = u64::from(selector);
            registers.gpr[3] = offset;
        });
        let found = outcome(&mut machine, code.len() as u64 - 1, false);
        assert_eq!(found, expected.map(|vector| (vector, 0)), "{selector:#x}:{offset:#x} size {size} write {write}");
    }
}

#[test]
fn accesses_through_the_stack_segment_raise_stack_faults() {
    // mov eax, [esp+..]; mov eax, [ebp]; push eax; call; enter; with SS:ESP outside of the segment
    for code in [&[0x8b, 0x04, 0x24][..], &[0x8b, 0x45, 0], &[0x50], &[0xe8, 0, 0, 0, 0], &[0xc8, 0, 0, 0], &[0x60]] {
        let mut machine = Machine::legacy(code, false);
        // A task gate for #SS: the stack is unusable. Rather: a 32-bit handler in another task.
        machine.put(IDT + 12 * 8, gate(OTHER_TASK, 0, 5, 0, 0));
        task_state(&machine, OTHER, CODE + 0x200);
        machine.memory.store(CODE + 0x200, 0xf4_u8).unwrap();
        machine.edit(|registers| {
            registers.segments[SS] = register(DOWN32, 0, 0xffff, 0xc097);
            registers.gpr[4] = 0x1_0002;
            registers.gpr[5] = 0xfffe;
            if code[0] == 0x8b {
                registers.gpr[4] = 0xfffe;
            }
        });
        let before = machine.cpu.registers();
        machine.halts_at(0x200);
        assert_eq!(machine.stack::<1>(), [0], "{code:x?}: error code");
        // The state that the fault found is in the old task's segment.
        assert_eq!(u64::from(machine.word(TSS + 0x20)), CODE, "{code:x?}: EIP");
        assert_eq!(u64::from(machine.word(TSS + 0x38)), before.gpr[4], "{code:x?}: ESP");
        assert_eq!(u64::from(machine.word(TSS + 0x3c)), before.gpr[5], "{code:x?}: EBP");
    }
}

/// Fills a 32-bit task state for ring 0 code at `eip`.
fn task_state(machine: &Machine, at: u64, eip: u64) {
    let words = [(0x20, eip as u32), (0x24, 2), (0x38, 0x9000), (0x48, u32::from(DATA0)), (0x4c, u32::from(CODE0))];
    for (offset, value) in words.into_iter().chain([(0x50, u32::from(DATA0)), (0x54, u32::from(DATA0))]) {
        machine.memory.store(at + offset, value).unwrap();
    }
}

#[test]
fn far_jumps_and_calls_go_where_type_and_privilege_allow() {
    let absent_code = FREE;
    let short_code = FREE + 8;
    let cases = [
        (CODE0, false, None),
        (CODE0 | 3, false, Some((13, 8))),
        (CODE3, false, Some((13, 0x18))),
        (CONFORMING, false, None),
        (DATA0, false, Some((13, 0x10))),
        (0, false, Some((13, 0))),
        (0x100, false, Some((13, 0x100))),
        (absent_code, false, Some((11, u32::from(absent_code)))),
        (short_code, false, Some((13, 0))),
        (CODE3, true, None),
        (CODE3 & !3, true, None),
        (CONFORMING, true, None),
        (CONFORMING | 3, true, None),
        (CODE0, true, Some((13, 8))),
        (CODE1, true, Some((13, 0x40))),
    ];
    for opcode in [0xea, 0x9a] {
        for (selector, user, expected) in cases {
            let mut code = vec![opcode];
            code.extend((TARGET as u32).to_le_bytes());
            code.extend(selector.to_le_bytes());
            let mut machine = Machine::legacy(&code, user);
            machine.put(GDT + u64::from(absent_code), descriptor(0, 0xfffff, 0xc01b));
            machine.put(GDT + u64::from(short_code), descriptor(0, 0xfff, 0x409b));
            machine.memory.store(TARGET, 0xf4_u8).unwrap();
            let found = outcome(&mut machine, TARGET - CODE, user);
            assert_eq!(found, expected, "{opcode:#x} {selector:#x} user {user}");
            let registers = machine.cpu.registers();
            if expected.is_none() && !user {
                assert_eq!(registers.segments[CS].selector, selector & !3);
                if opcode == 0x9a {
                    assert_eq!(machine.stack::<2>(), [CODE as u32 + 7, u32::from(CODE0)]);
                }
            }
            if expected.is_none() && user {
                // A conforming segment doesn't change the privilege.
                assert_eq!(machine.stack::<3>()[2], u32::from(selector | 3));
            }
            if expected.is_some() && opcode == 0x9a && user {
                assert_eq!(u64::from(machine.stack::<6>()[4]), STACK, "nothing is pushed");
            }
        }
    }
}

#[test]
fn near_branches_beyond_the_limit_fault_at_the_branch() {
    // The code segment ends at CODE + 0xff. jmp, call, jz (taken), loop, jmp eax, call eax, ret
    let codes: [&[u8]; 7] = [
        &[0xe9, 0, 1, 0, 0],
        &[0xe8, 0, 1, 0, 0],
        &[0x0f, 0x84, 0, 1, 0, 0],
        &[0xe2, 0x90],
        &[0xff, 0xe0],
        &[0xff, 0xd0],
        &[0xc3],
    ];
    for code in codes {
        let mut machine = Machine::legacy(code, false);
        machine.put(STACK, CODE + 0x100);
        machine.edit(|registers| {
            registers.segments[CS].limit = CODE as u32 + 0xff;
            registers.segments[CS].attributes = 0x409b;
            registers.gpr[0] = CODE + 0x100;
            registers.gpr[1] = 2;
            registers.rflags = 0x46;
            if code[0] == 0xe2 {
                // Back below zero.
                registers.segments[CS].base = CODE;
                registers.segments[CS].limit = 0xff;
                registers.rip = 0;
            }
        });
        assert_eq!(machine.vector(), 13, "{code:x?}");
        let registers = machine.cpu.registers();
        let [error, eip, ..] = machine.stack::<2>();
        assert_eq!((error, u64::from(eip)), (0, if code[0] == 0xe2 { 0 } else { CODE }), "{code:x?}");
        assert_eq!((registers.gpr[4], registers.gpr[1]), (STACK - 16, 2), "{code:x?}: nothing is pushed or counted");
    }
}

#[test]
fn code_runs_to_its_limit_and_not_beyond() {
    // nop up to the limit, then the fault is at the first byte outside; an instruction across the limit faults itself.
    for (code, at) in [(&[0x90, 0x90, 0x90][..], 2), (&[0x90, 0xb8, 0, 0, 0, 0], 1)] {
        let mut machine = Machine::legacy(code, false);
        machine.edit(|registers| {
            registers.segments[CS].limit = CODE as u32 + 1;
            registers.segments[CS].attributes = 0x409b;
        });
        assert_eq!(machine.vector(), 13);
        assert_eq!(machine.stack::<2>(), [0, CODE as u32 + at]);
    }
}

#[test]
fn sixteen_bit_code_wraps_its_offsets() {
    // In 16-bit code: mov ax, [bx+si] with the sum wrapping at 64 KiB; push ax with SP 0 wraps to 0xfffe; hlt
    let mut machine = Machine::legacy(&[0x8b, 0x00, 0x50, 0xf4], false);
    machine.memory.store(CODE + 0x20, 0x1234_u16).unwrap();
    machine.edit(|registers| {
        registers.segments[CS] = register(CODE16, CODE, 0xffff, 0x009b);
        registers.segments[DS] = register(DATA16, CODE, 0xffff, 0x0093);
        registers.segments[SS] = register(DATA16, CODE, 0xffff, 0x0093);
        registers.rip = 0;
        registers.gpr[3] = 0xfff0;
        registers.gpr[6] = 0x30;
        registers.gpr[4] = 0xabcd_0000;
    });
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0] as u16, registers.gpr[4], registers.rip), (0x1234, 0xabcd_fffe, 4));
    assert_eq!(machine.memory.load::<u16>(CODE + 0xfffe), Some(0x1234));
}
