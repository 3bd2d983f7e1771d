//! Task switches by jump, call, interrupt, exception and return, between 16- and 32-bit task states, and what they raise
//! (SDM volume 3, chapter 7).

mod machine;

use ferro_cpu::{CS, DS, ES, Exit, FS, SS};
use machine::legacy::*;
use machine::{CODE, Machine, STACK};

/// Where the other task's code is.
const TARGET: u64 = CODE + 0x200;

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut code = vec![opcode, 0xff, 0xff, 0xff, 0xff];
    code.extend(selector.to_le_bytes());
    code
}

/// A machine whose other tasks (32 and 16 bits) execute `target` in ring 0.
fn with_tasks(code: &[u8], user: bool, target: &[u8]) -> Machine {
    let machine = Machine::legacy(code, user);
    machine.memory.write(TARGET, target);
    let put = |at: u64, value: u32| machine.memory.store(at, value).unwrap();
    put(OTHER + 0x20, TARGET as u32);
    put(OTHER + 0x24, 0x8d7);
    for index in 0..8 {
        put(OTHER + 0x28 + 4 * index, 0x0101_0101 * (index as u32 + 1));
    }
    put(OTHER + 0x38, 0x9000);
    for (at, selector) in [(0x48, DATA0), (0x4c, CODE0), (0x50, DATA0), (0x54, READ_ONLY), (0x58, 0), (0x5c, DATA0)] {
        put(OTHER + at, u32::from(selector));
    }
    let put = |at: u64, value: u16| machine.memory.store(NARROW + at, value).unwrap();
    put(0x0e, 0x200);
    put(0x10, 2);
    for index in 0..8 {
        put(0x12 + 2 * index, 0x0101 * (index as u16 + 1));
    }
    put(0x1a, 0x9000);
    for (at, selector) in [(0x22, DATA0), (0x24, CODE16), (0x26, DATA0), (0x28, READ_ONLY)] {
        put(at, selector);
    }
    machine
}

fn busy(machine: &Machine, selector: u16) -> bool {
    machine.memory.load::<u8>(GDT + u64::from(selector & !7) + 5).unwrap() & 2 != 0
}

#[test]
fn a_jump_saves_one_task_and_loads_the_other() {
    for selector in [OTHER_TASK, TASK_GATE & !3] {
        let mut machine = with_tasks(&far(0xea, selector), false, &[0xf4]);
        machine.edit(|registers| {
            for index in 0..8 {
                registers.gpr[index] = 0xa0 + index as u64;
            }
            registers.rflags = 0x46;
            registers.dr7 = 0x4ff;
        });
        let registers = machine.halts_at(0x200);
        for index in [0, 1, 2, 3, 5, 6, 7] {
            assert_eq!(registers.gpr[index], 0x0101_0101 * (index as u64 + 1));
            assert_eq!(u64::from(machine.word(TSS + 0x28 + 4 * index as u64)), 0xa0 + index as u64);
        }
        assert_eq!(registers.gpr[4], 0x9000);
        assert_eq!(registers.rflags, 0x8d7);
        assert_eq!(registers.segments[DS].selector, READ_ONLY);
        assert_eq!(registers.segments[FS].selector, 0);
        assert_eq!(registers.tr.selector, OTHER_TASK);
        assert_eq!(registers.cr0 & 8, 8, "TS is set");
        assert_eq!(registers.dr7 & 0x155, 0, "local breakpoints are off");
        assert_eq!((machine.word(TSS + 0x20), machine.word(TSS + 0x24)), (CODE as u32 + 7, 0x46));
        assert_eq!(machine.word(TSS + 0x4c) as u16, CODE0);
        assert_eq!((busy(&machine, TASK), busy(&machine, OTHER_TASK)), (false, true));
        assert_eq!(machine.word(OTHER), 0, "a jump leaves no link");
    }
}

#[test]
fn a_call_nests_and_iret_returns() {
    // iret; nop; hlt: the second time the task is entered, it goes on after the IRET.
    let mut machine = with_tasks(&far(0x9a, OTHER_TASK), false, &[0xcf, 0x90, 0xf4]);
    machine.memory.write(CODE + 7, &[0xf4]);
    assert_eq!(machine.run(1), Exit::Budget);
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.rflags & 0x4000), (TARGET, 0x4000), "NT is set");
    assert_eq!(machine.word(OTHER) as u16, TASK, "the link leads back");
    assert_eq!((busy(&machine, TASK), busy(&machine, OTHER_TASK)), (true, true));
    let registers = machine.halts_at(7);
    assert_eq!((registers.tr.selector, registers.gpr[4]), (TASK, STACK));
    assert_eq!((busy(&machine, TASK), busy(&machine, OTHER_TASK)), (true, false));
    assert_eq!(machine.word(OTHER + 0x20), TARGET as u32 + 1);
    assert_eq!(machine.word(OTHER + 0x24) & 0x4000, 0, "NT is saved clear");
}

#[test]
fn sixteen_bit_tasks_save_and_load_words() {
    let mut machine = with_tasks(&far(0x9a, NARROW_TASK), false, &[0xcf]);
    machine.memory.write(CODE + 7, &[0xf4]);
    assert_eq!(machine.run(1), Exit::Budget);
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.segments[CS].selector, registers.gpr[0] as u16), (0x200, CODE16, 0x0101));
    assert_eq!((registers.gpr[4] as u16, registers.segments[DS].selector), (0x9000, READ_ONLY));
    let registers = machine.halts_at(7);
    assert_eq!((registers.tr.selector, registers.segments[SS].selector), (TASK, DATA0));
    assert_eq!(machine.memory.load::<u16>(NARROW + 0xe), Some(0x201));
    // And from a 16-bit task by a jump: words are saved in it.
    let mut machine = with_tasks(&far(0xea, OTHER_TASK), false, &[0xf4]);
    machine.edit(|registers| {
        registers.tr = register(NARROW_TASK, NARROW, 0x2b, 0x83);
        registers.gpr[0] = 0x1234_5678;
    });
    machine.halts_at(0x200);
    assert_eq!(machine.memory.load::<u16>(NARROW + 0x12), Some(0x5678));
    assert_eq!(machine.memory.load::<u16>(NARROW + 0x0e), Some(7));
}

#[test]
fn exceptions_and_interrupts_through_task_gates() {
    // #GP with its error code on the new task's stack; EIP saved is the instruction's.
    let mut machine = with_tasks(&[0xf4], true, &[0xf4]);
    machine.put(IDT + 13 * 8, gate(OTHER_TASK, 0, 5, 0, 0));
    let registers = machine.halts_at(0x200);
    assert_eq!((registers.gpr[4], machine.stack::<1>()), (0x9000 - 4, [0]));
    assert_eq!((machine.word(TSS + 0x20), machine.word(TSS + 0x4c) as u16), (CODE as u32, CODE3));
    assert_eq!(registers.rflags & 0x4000, 0x4000);
    // INT n needs the gate's privilege, and saves the EIP after it.
    let mut machine = with_tasks(&[0xcd, 0x40], true, &[0xf4]);
    machine.put(IDT + 0x200, gate(OTHER_TASK, 0, 5, 3, 0));
    machine.halts_at(0x200);
    assert_eq!(machine.word(TSS + 0x20), CODE as u32 + 2);
    let mut machine = with_tasks(&[0xcd, 0x40], true, &[0xf4]);
    machine.put(IDT + 0x200, gate(OTHER_TASK, 0, 5, 0, 0));
    assert_eq!((machine.vector(), machine.stack::<1>()), (13, [0x202]));
    // An external interrupt ends a halt in another task, whose IRET goes on after the HLT.
    let mut machine = with_tasks(&[0xf4, 0x90, 0xf4], false, &[0xcf]);
    machine.put(IDT + 0x200, gate(OTHER_TASK, 0, 5, 0, 0));
    machine.edit(|registers| registers.rflags = 0x202);
    machine.board.vector = Some(0x40);
    assert_eq!(machine.run(10), Exit::Halted);
    machine.cpu.signals().set_interrupt(true);
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, TARGET);
    machine.cpu.signals().set_interrupt(false);
    machine.halts_at(2);
}

#[test]
fn descriptors_that_are_no_available_task_fault_in_the_old_task() {
    let other = u32::from(OTHER_TASK);
    // (opcode, selector, user, descriptor of OTHER_TASK, vector, error)
    let available = descriptor(OTHER, 0x67, 0x89);
    let cases = [
        (0xea, OTHER_TASK, false, descriptor(OTHER, 0x67, 0x8b), 13, other),
        (0x9a, OTHER_TASK, false, descriptor(OTHER, 0x67, 0x8b), 13, other),
        (0x9a, TASK, false, available, 13, u32::from(TASK)),
        (0xea, OTHER_TASK, false, descriptor(OTHER, 0x67, 0x09), 11, other),
        (0xea, OTHER_TASK, false, descriptor(OTHER, 0x66, 0x89), 10, other),
        (0xea, OTHER_TASK, true, available, 13, other),
        (0xea, OTHER_TASK | 3, false, available, 13, other),
        (0x9a, TASK_GATE, true, descriptor(OTHER, 0x67, 0x8b), 13, other),
        (0x9a, TASK_GATE, true, descriptor(OTHER, 0x67, 0x82), 13, other),
    ];
    for (opcode, selector, user, descriptor, vector, error) in cases {
        let mut machine = with_tasks(&far(opcode, selector), user, &[0xf4]);
        machine.put(GDT + u64::from(OTHER_TASK), descriptor);
        assert_eq!(machine.vector(), vector, "{opcode:#x} {selector:#x}");
        assert_eq!(machine.stack::<2>(), [error, CODE as u32], "{opcode:#x} {selector:#x}");
        assert_eq!(machine.cpu.registers().tr.selector, TASK);
    }
    // IRET with NT set to a task that isn't busy: #TS.
    let mut machine = with_tasks(&[0xcf], false, &[0xf4]);
    machine.memory.store(TSS, OTHER_TASK).unwrap();
    machine.edit(|registers| registers.rflags = 0x4002);
    assert_eq!((machine.vector(), machine.stack::<2>()), (10, [other, CODE as u32]));
}

#[test]
fn faults_while_the_new_task_is_loaded_are_the_new_tasks() {
    // (offset in the task state, value, descriptor in FREE, vector, error)
    let code = u32::from;
    let cases = [
        (0x4c, DATA0, 0, 10, 0x10),
        (0x4c, 0, 0, 10, 0),
        (0x4c, CODE3 & !3, 0, 10, 0x18),
        (0x4c, FREE, descriptor(0, 0xfffff, 0xc01b), 11, code(FREE)),
        (0x50, DATA3, 0, 10, 0x20),
        (0x50, 0, 0, 10, 0),
        (0x50, FREE, descriptor(0, 0xfffff, 0xc013), 12, code(FREE)),
        (0x54, EXECUTE_ONLY, 0, 10, code(EXECUTE_ONLY)),
        (0x54, ABSENT, 0, 11, code(ABSENT)),
        (0x48, 0x100, 0, 10, 0x100),
        (0x60, DATA0, 0, 10, 0x10),
        (0x60, FREE, descriptor(0, 0xf, 0x02), 10, code(FREE)),
    ];
    // By a jump, INT n (EXT clear) and an exception (EXT set).
    for how in 0..3 {
        for (at, selector, descriptor, vector, error) in cases {
            let source = match how {
                0 => far(0xea, OTHER_TASK),
                1 => vec![0xcd, 0x40],
                _ => vec![0x0f, 0x0b],
            };
            let mut machine = with_tasks(&source, false, &[0xf4]);
            machine.put(GDT + u64::from(FREE), descriptor);
            machine.memory.store(OTHER + at, u32::from(selector)).unwrap();
            machine.put(IDT + 0x200, gate(OTHER_TASK, 0, 5, 0, 0));
            machine.put(IDT + 48, gate(OTHER_TASK, 0, 5, 0, 0));
            // The fault is taken in a third task: the new one's segments may be unusable.
            machine.put(IDT + vector * 8, gate(NARROW_TASK, 0, 5, 0, 0));
            assert_eq!(machine.run(20), Exit::Halted);
            let registers = machine.cpu.registers();
            assert_eq!((registers.tr.selector, registers.rip), (NARROW_TASK, 0x201), "{how} {at:#x} {selector:#x}");
            let found = machine.memory.load::<u16>(registers.gpr[4]).unwrap();
            assert_eq!(u32::from(found), error | u32::from(how == 2), "{how} {at:#x} {selector:#x}: error");
            assert_eq!(machine.word(OTHER + 0x20), TARGET as u32, "{how}: EIP is the new task's");
            assert_eq!(machine.memory.load::<u16>(NARROW), Some(OTHER_TASK));
        }
    }
}

#[test]
fn the_trap_bit_of_a_task_state_traps_before_its_first_instruction() {
    let mut machine = with_tasks(&far(0xea, OTHER_TASK), false, &[0x90, 0xf4]);
    machine.memory.store(OTHER + 0x64, 1_u16).unwrap();
    assert_eq!(machine.vector(), 1);
    assert_eq!(machine.stack::<1>(), [TARGET as u32]);
    assert_eq!(machine.cpu.registers().dr6 & 0xe00f, 0x8000);
}

#[test]
fn long_mode_has_no_task_switches() {
    // jmp far [rbx] to a task state; IRET with NT.
    let mut machine = Machine::new(&[0xff, 0x2b], false);
    machine.put(GDT + 0x28, descriptor(OTHER, 0x67, 0x89));
    machine.put(machine::DATA, 0x28_0000_0000);
    machine.edit(|registers| registers.gpr[3] = machine::DATA);
    assert_eq!((machine.vector(), machine.handler().1), (13, [0x28, CODE, 8]));
    let mut machine = Machine::new(&[0x48, 0xcf], false);
    machine.edit(|registers| registers.rflags = 0x4002);
    assert_eq!((machine.vector(), machine.handler().1), (13, [0, CODE, 8]));
}

#[test]
fn ltr_and_lldt_take_the_right_descriptors_only() {
    let ltr: &[u8] = &[0x0f, 0x00, 0xd8, 0xf4];
    let lldt: &[u8] = &[0x0f, 0x00, 0xd0, 0xf4];
    let table = descriptor(0x1234, 0x1f, 0x82);
    // (code, selector, user, descriptor in FREE, fault)
    let free = u32::from(FREE);
    let cases = [
        (ltr, OTHER_TASK, false, 0, None),
        (ltr, NARROW_TASK, false, 0, None),
        (ltr, TASK, false, 0, Some((13, u32::from(TASK)))),
        (ltr, 0, false, 0, Some((13, 0))),
        (ltr, OTHER_TASK | 4, false, 0, Some((13, u32::from(OTHER_TASK) | 4))),
        (ltr, FREE, false, descriptor(0, 0x67, 0x09), Some((11, free))),
        (ltr, OTHER_TASK, true, 0, Some((13, 0))),
        (lldt, FREE, false, table, None),
        (lldt, 0, false, table, None),
        (lldt, FREE, false, table & !(1 << 47), Some((11, free))),
        (lldt, OTHER_TASK, false, table, Some((13, u32::from(OTHER_TASK)))),
        (lldt, FREE, true, table, Some((13, 0))),
    ];
    for (code, selector, user, descriptor, expected) in cases {
        let mut machine = Machine::legacy(code, user);
        machine.put(GDT + u64::from(FREE), descriptor);
        machine.edit(|registers| registers.gpr[0] = u64::from(selector));
        match expected {
            Some((vector, error)) => {
                assert_eq!((machine.vector(), machine.stack::<2>()), (vector, [error, CODE as u32]), "{selector:#x}");
            }
            None => {
                let registers = machine.halts_at(3);
                if code == ltr {
                    assert_eq!(registers.tr.selector, selector);
                    assert!(busy(&machine, selector));
                } else {
                    assert_eq!(registers.ldtr.selector, selector);
                }
            }
        }
    }
    // An LDT's entries can be used; outside of it they can't.
    let mut machine = Machine::legacy(&[0x8e, 0xc0, 0x8e, 0xc1, 0xf4], false);
    machine.put(0x5000, descriptor(0x77, 0xfff, 0x93));
    machine.edit(|registers| {
        registers.ldtr = register(FREE, 0x5000, 0xf, 0x82);
        registers.gpr[0] = 4;
        registers.gpr[1] = 0x14;
    });
    assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0x14, CODE as u32 + 2]));
    assert_eq!(machine.cpu.registers().segments[ES].base, 0x77);
}
