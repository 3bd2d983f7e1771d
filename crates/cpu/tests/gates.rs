//! Call, interrupt and trap gates in 16-, 32- and 64-bit form, returns through them, and the error codes of all that can
//! be wrong with them (SDM volume 3, chapters 5 and 6).

mod machine;

use ferro_cpu::{CS, DS, ES, Exit, SS, TableRegister};
use machine::legacy::*;
use machine::{CODE, DATA, HANDLERS, Machine, STACK};

const TARGET: u64 = CODE + 0x100;

/// `CALL` (0x9a) or `JMP` (0xea) with a far pointer whose offset counts for nothing.
fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut code = vec![opcode, 0xff, 0xff, 0xff, 0xff];
    code.extend(selector.to_le_bytes());
    code
}

/// A machine about to call or jump through a 32-bit call gate in `FREE`.
fn through_gate(opcode: u8, user: bool, gate: u64) -> Machine {
    let machine = Machine::legacy(&far(opcode, FREE | if user { 3 } else { 0 }), user);
    machine.put(GDT + u64::from(FREE), gate);
    machine.memory.store(TARGET, 0xf4_u8).unwrap();
    machine
}

#[test]
fn a_call_gate_to_an_inner_ring_switches_stacks_and_copies_parameters() {
    let mut machine = through_gate(0x9a, true, gate(CODE0, TARGET, 12, 3, 3));
    for index in 0..3 {
        machine.memory.store(STACK + 4 * index, 0x1111_u32 * (index as u32 + 1)).unwrap();
    }
    let registers = machine.halts_at(TARGET - CODE);
    assert_eq!((registers.segments[CS].selector, registers.segments[SS].selector), (CODE0, DATA0));
    assert_eq!(registers.gpr[4], INNER[0] - 4 * 7);
    let next = CODE as u32 + 7;
    let expected = [next, u32::from(CODE3), 0x1111, 0x2222, 0x3333, STACK as u32, u32::from(DATA3)];
    assert_eq!(machine.stack::<7>(), expected);
}

#[test]
fn a_sixteen_bit_call_gate_pushes_words() {
    let mut machine = through_gate(0x9a, true, gate(CODE0, TARGET & 0xffff, 4, 3, 1) & 0x0000_ffff_ffff_ffff);
    // Its offset has 16 bits: lead it to code with a base.
    machine.put(GDT + 8, descriptor(CODE, 0xffff, 0x409b));
    machine.put(GDT + u64::from(FREE), gate(CODE0, 0x100, 4, 3, 1));
    machine.memory.store(STACK, 0xbbbb_aaaa_u32).unwrap();
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.gpr[4]), (0x101, INNER[0] - 2 * 5));
    let word = |at: u64| machine.memory.load::<u16>(registers.gpr[4] + 2 * at).unwrap();
    let expected = [7, CODE3, 0xaaaa, STACK as u16, DATA3];
    assert_eq!([word(0), word(1), word(2), word(3), word(4)], expected);
}

#[test]
fn a_far_return_to_an_outer_ring_drops_parameters_and_inner_segments() {
    let mut machine = through_gate(0x9a, true, gate(CODE0, TARGET, 12, 3, 2));
    // mov ax, DATA0; mov ds, ax; mov ax, CONFORMING; mov es, ax; retf 8
    machine
        .memory
        .write(TARGET, &[0x66, 0xb8, 0x10, 0, 0x8e, 0xd8, 0x66, 0xb8, CONFORMING as u8, 0, 0x8e, 0xc0, 0xca, 8, 0]);
    // Back in ring 3: HLT faults.
    machine.memory.store(CODE + 7, 0xf4_u8).unwrap();
    assert_eq!(machine.vector(), 13);
    let registers = machine.cpu.registers();
    let frame = machine.stack::<6>();
    assert_eq!(frame[..3], [0, CODE as u32 + 7, u32::from(CODE3)]);
    assert_eq!(frame[4..], [STACK as u32 + 8, u32::from(DATA3)], "ESP is past the parameters");
    assert_eq!(registers.segments[DS].selector, 0, "ring 3 may not keep DATA0");
    assert_eq!(registers.segments[ES].selector, CONFORMING);
}

#[test]
fn a_call_gate_within_a_ring_stays_on_the_stack() {
    let mut machine = through_gate(0x9a, false, gate(CODE0, TARGET, 12, 0, 3));
    let registers = machine.halts_at(TARGET - CODE);
    assert_eq!(registers.gpr[4], STACK - 8);
    assert_eq!(machine.stack::<2>(), [CODE as u32 + 7, u32::from(CODE0)]);
    // And through a gate to conforming code ring 3 stays ring 3.
    let mut machine = through_gate(0x9a, true, gate(CONFORMING, TARGET, 12, 3, 3));
    assert_eq!(machine.vector(), 13);
    assert_eq!(machine.stack::<3>(), [0, TARGET as u32, u32::from(CONFORMING | 3)]);
    assert_eq!(u64::from(machine.stack::<5>()[4]), STACK - 8);
}

#[test]
fn call_gates_raise_what_the_manual_says() {
    let other = FREE + 8;
    let absent = 1 << 47;
    let code = u32::from;
    // (opcode, user, gate, SS0 in the task state, the descriptor after the gate, vector, error)
    let cases = [
        ("gate privilege", 0x9a, true, gate(CODE0, TARGET, 12, 2, 0), DATA0, 0, 13, code(FREE)),
        ("gate absent", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0) & !absent, DATA0, 0, 11, code(FREE)),
        ("null code", 0x9a, true, gate(0, TARGET, 12, 3, 0), DATA0, 0, 13, 0),
        ("code outside", 0x9a, true, gate(0x100, TARGET, 12, 3, 0), DATA0, 0, 13, 0x100),
        ("no code", 0x9a, true, gate(DATA0, TARGET, 12, 3, 0), DATA0, 0, 13, 0x10),
        ("outer code", 0x9a, false, gate(CODE3, TARGET, 12, 0, 0), DATA0, 0, 13, 0x18),
        (
            "code absent",
            0x9a,
            true,
            gate(other, TARGET, 12, 3, 0),
            DATA0,
            descriptor(0, 0xfffff, 0xc01b),
            11,
            code(other),
        ),
        ("offset", 0x9a, true, gate(other, TARGET, 12, 3, 0), DATA0, descriptor(0, 0xfff, 0x409b), 13, 0),
        ("null stack", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0), 0, 0, 10, 0),
        ("stack RPL", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0), DATA0 | 3, 0, 10, 0x10),
        ("stack DPL", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0), DATA3 & !3, 0, 10, 0x20),
        (
            "stack type",
            0x9a,
            true,
            gate(CODE0, TARGET, 12, 3, 0),
            other,
            descriptor(0, 0xfffff, 0xc091),
            10,
            code(other),
        ),
        ("stack outside", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0), 0x100, 0, 10, 0x100),
        (
            "stack absent",
            0x9a,
            true,
            gate(CODE0, TARGET, 12, 3, 0),
            other,
            descriptor(0, 0xfffff, 0xc013),
            12,
            code(other),
        ),
        ("no room", 0x9a, true, gate(CODE0, TARGET, 12, 3, 0), other, descriptor(0, 0xf, 0x4093), 12, code(other)),
        ("jump inwards", 0xea, true, gate(CODE0, TARGET, 12, 3, 0), DATA0, 0, 13, 8),
        ("LDT entry", 0x9a, true, descriptor(0, 0, 0x82 | 0x60), DATA0, 0, 13, code(FREE)),
        ("interrupt gate", 0x9a, true, gate(CODE0, TARGET, 14, 3, 0), DATA0, 0, 13, code(FREE)),
    ];
    for (name, opcode, user, gate, stack, next, vector, error) in cases {
        let mut machine = through_gate(opcode, user, gate);
        machine.put(GDT + u64::from(other), next);
        // Faults are taken in another task, which the stack doesn't matter to.
        machine.put(IDT + vector * 8, to_other_task());
        machine.memory.store(TSS + 8, u32::from(stack)).unwrap();
        prepare_task(&machine);
        let registers = machine.halts_at(0x200);
        assert_eq!(machine.stack::<1>(), [error], "{name}");
        assert_eq!(u64::from(machine.word(TSS + 0x20)), CODE, "{name}: EIP");
        assert_eq!(u64::from(machine.word(TSS + 0x38)), STACK, "{name}: ESP");
        assert_eq!(registers.tr.selector, OTHER_TASK, "{name}");
    }
}

fn to_other_task() -> u64 {
    gate(OTHER_TASK, 0, 5, 0, 0)
}

/// Makes `OTHER` a task of ring 0 that halts at `CODE + 0x200`.
fn prepare_task(machine: &Machine) {
    machine.memory.store(CODE + 0x200, 0xf4_u8).unwrap();
    let words = [(0x20, CODE as u32 + 0x200), (0x24, 2), (0x38, 0x9000), (0x4c, u32::from(CODE0))];
    for (offset, value) in words.into_iter().chain([0x48, 0x50, 0x54].map(|at| (at, u32::from(DATA0)))) {
        machine.memory.store(OTHER + offset, value).unwrap();
    }
}

#[test]
fn interrupts_and_exceptions_from_ring_3_push_the_whole_frame() {
    // int 0x40 through an interrupt gate of ring 3, and through a trap gate, with IF set.
    for (kind, flag) in [(14, 0), (15, 0x200)] {
        let mut machine = Machine::legacy(&[0xcd, 0x40], true);
        machine.put(IDT + 0x40 * 8, gate(CODE0, HANDLERS + 0x400, kind, 3, 0));
        machine.edit(|registers| registers.rflags = 0x4ad7);
        assert_eq!(machine.vector(), 0x40);
        let registers = machine.cpu.registers();
        let expected = [CODE as u32 + 2, u32::from(CODE3), 0x4ad7, STACK as u32, u32::from(DATA3)];
        assert_eq!(machine.stack::<5>(), expected);
        assert_eq!(registers.rflags, 0x8d7 | flag, "NT, and IF by the kind of gate, are cleared");
        assert_eq!((registers.segments[SS].selector, registers.gpr[4]), (DATA0, INNER[0] - 20));
    }
}

#[test]
fn interrupts_reach_ring_1_conforming_code_and_sixteen_bit_gates() {
    let mut machine = Machine::legacy(&[0xcd, 0x40], true);
    machine.put(IDT + 0x40 * 8, gate(CODE1, CODE + 2, 14, 3, 0));
    machine.memory.store(CODE + 2, 0xf4_u8).unwrap();
    // HLT in ring 1 faults to ring 0; the frame of the interrupt is on ring 1's stack.
    assert_eq!(machine.vector(), 13);
    let frame = machine.stack::<6>();
    assert_eq!((frame[1], frame[2], frame[4], frame[5]), (CODE as u32 + 2, 0x41, INNER[1] as u32 - 20, 0x49));
    assert_eq!(machine.word(INNER[1] - 4), u32::from(DATA3));
    let mut machine = Machine::legacy(&[0xcd, 0x40], true);
    machine.put(IDT + 0x40 * 8, gate(CONFORMING, CODE + 2, 14, 3, 0));
    machine.memory.store(CODE + 2, 0xf4_u8).unwrap();
    assert_eq!(machine.vector(), 13);
    assert_eq!(machine.stack::<6>()[2], u32::from(CONFORMING | 3));
    assert_eq!(u64::from(machine.stack::<6>()[4]), STACK - 12);
    let mut machine = Machine::legacy(&[0xcd, 0x40], true);
    machine.put(IDT + 0x40 * 8, gate(CODE0, HANDLERS + 0x400, 6, 3, 0));
    assert_eq!(machine.vector(), 0x40);
    assert_eq!(machine.cpu.registers().gpr[4], INNER[0] - 10);
    assert_eq!(machine.stack::<2>(), [0x001b_0002, 2]);
}

#[test]
fn bad_gates_of_the_idt_say_so_and_whether_the_program_asked() {
    let absent = 1 << 47;
    let good = gate(CODE0, HANDLERS, 14, 3, 0);
    // INT 0x40 and UD2 through the same gate: (gate, limit of the IDT, vector, error without EXT, only for INT)
    let cases = [
        (gate(CODE0, 0, 14, 0, 0), 0x7ff, 13, 2, true),
        (good & !absent, 0x7ff, 11, 2, false),
        (gate(CODE0, 0, 12, 3, 0), 0x7ff, 13, 2, false),
        (descriptor(0, 0, 0x00fb), 0x7ff, 13, 2, false),
        (gate(0, 0, 14, 3, 0), 0x7ff, 13, 0, false),
        (gate(DATA0, 0, 14, 3, 0), 0x7ff, 13, 0x10, false),
        (gate(0x100, 0, 14, 3, 0), 0x7ff, 13, 0x100, false),
        (gate(FREE, 0, 14, 3, 0), 0x7ff, 11, u32::from(FREE), false),
    ];
    for (entry, limit, vector, error, only_int) in cases {
        for software in [true, false] {
            if only_int && !software {
                continue;
            }
            let number: u32 = if software { 0x40 } else { 6 };
            let mut machine = Machine::legacy(if software { &[0xcd, 0x40] } else { &[0x0f, 0x0b] }, true);
            machine.put(GDT + u64::from(FREE), descriptor(0, 0xfffff, 0xc01b));
            machine.put(IDT + u64::from(number) * 8, entry);
            machine.edit(|registers| registers.idtr = TableRegister { base: IDT, limit });
            assert_eq!(machine.vector(), vector, "{entry:#x}");
            let own = if error == 2 { number * 8 + 2 } else { error };
            assert_eq!(machine.stack::<2>(), [own | u32::from(!software), CODE as u32], "{entry:#x} {software}");
        }
    }
    // Beyond the table, and INT3 and INTO, whose gates need the privilege, and INT1, whose gate doesn't.
    let mut machine = Machine::legacy(&[0xcd, 0x40], true);
    machine.edit(|registers| registers.idtr.limit = 0x40 * 8 + 6);
    assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0x202, CODE as u32]));
    for (code, vector, error) in [(0xcc, 13, 3 * 8 + 2), (0xce, 13, 4 * 8 + 2), (0xf1, 1, CODE as u32 + 1)] {
        let mut machine = Machine::legacy(&[code], true);
        machine.edit(|registers| registers.rflags = 0x802);
        assert_eq!((machine.vector(), machine.stack::<1>()), (vector, [error]));
    }
}

#[test]
fn contributory_exceptions_double_and_others_follow_each_other() {
    // #DE whose gate is absent gives #NP, and two contributory exceptions are a double fault.
    let mut machine = Machine::legacy(&[0xf6, 0xf3], false);
    machine.put(IDT, 0);
    assert_eq!((machine.vector(), machine.stack::<2>()), (8, [0, CODE as u32]));
    // #UD is benign: its #GP (of type 0, which is no gate) comes through.
    let mut machine = Machine::legacy(&[0x0f, 0x0b], false);
    machine.put(IDT + 48, 0);
    assert_eq!((machine.vector(), machine.stack::<2>()), (13, [6 * 8 + 3, CODE as u32]));
    // A double fault that can't be delivered shuts down.
    let mut machine = Machine::legacy(&[0xf6, 0xf3], false);
    machine.put(IDT, 0);
    machine.put(IDT + 64, 0);
    assert_eq!(machine.run(10), Exit::Shutdown);
}

#[test]
fn iret_checks_what_it_returns_to() {
    let other = FREE;
    let frame = |eip: u32, cs: u16, flags: u32, esp: u32, ss: u16| [eip, cs.into(), flags, esp, ss.into()];
    let good = frame(TARGET as u32, CODE3, 2, 0x1_5000, DATA3);
    // (frame, descriptor in FREE, vector, error)
    let cases = [
        (good, 0, 13, 0),
        (frame(0, 0, 2, 0, 0), 0, 13, 0),
        (frame(0, 3, 2, 0, 0), 0, 13, 0),
        (frame(0, 0x100, 2, 0, 0), 0, 13, 0x100),
        (frame(0, DATA0, 2, 0, 0), 0, 13, 0x10),
        (frame(0, CODE0 | 3, 2, 0, 0), 0, 13, 8),
        (frame(0, CODE3 & !3, 2, 0, 0), 0, 13, 0x18),
        (frame(0, other, 2, 0, 0), descriptor(0, 0xfffff, 0xc01b), 11, u32::from(other)),
        (frame(0x1000, other, 2, 0, 0), descriptor(0, 0xfff, 0x409b), 13, 0),
        (frame(0, CODE3, 2, 0, 0), 0, 13, 0),
        (frame(0, CODE3, 2, 0, DATA0), 0, 13, 0x10),
        (frame(0, CODE3, 2, 0, DATA0 | 3), 0, 13, 0x10),
        (frame(0, CODE3, 2, 0, CODE3), 0, 13, 0x18),
        (frame(0, CODE3, 2, 0, other | 3), descriptor(0, 0xfffff, 0xc073), 12, u32::from(other)),
    ];
    for (frame, descriptor, vector, error) in cases {
        let mut machine = Machine::legacy(&[0xcf], false);
        machine.put(GDT + u64::from(other), descriptor);
        machine.memory.store(TARGET, 0xf4_u8).unwrap();
        for (index, word) in frame.into_iter().enumerate() {
            machine.memory.store(STACK + 4 * index as u64, word).unwrap();
        }
        assert_eq!(machine.vector(), vector, "{frame:x?}");
        let found = machine.stack::<6>();
        if frame == good {
            // The HLT in ring 3 faulted.
            assert_eq!(found, [0, frame[0], frame[1], frame[2] | 0x1_0000, frame[3], frame[4]]);
        } else {
            assert_eq!(found[..3], [error, CODE as u32, u32::from(CODE0)], "{frame:x?}");
            assert_eq!(machine.cpu.registers().gpr[4], STACK - 16, "{frame:x?}: ESP is where it was");
        }
    }
}

#[test]
fn flags_popped_are_those_that_the_privilege_may_change() {
    // (CPL 3?, flags before, code, flags after): POPFD and IRETD of all ones but VM and TF, and POPF of 16 bits.
    let all = 0x003c_fed5_u32;
    let cases = [
        (false, 0x2, &[0x9d, 0xf4][..], 0x0024_7ed7),
        (true, 0x2, &[0x9d, 0xf4], 0x0024_4cd7),
        (true, 0x3002, &[0x9d, 0xf4], 0x0024_7ed7),
        (false, 0x2, &[0x66, 0x9d, 0xf4], 0x7ed7),
        (true, 0x2, &[0x66, 0x9d, 0xf4], 0x4cd7),
    ];
    for (user, before, code, after) in cases {
        let mut machine = Machine::legacy(code, user);
        machine.memory.store(STACK, all).unwrap();
        machine.edit(|registers| registers.rflags = before);
        assert_eq!(machine.run(100), Exit::Halted);
        let found = if user { u64::from(machine.stack::<4>()[3]) & !0x1_0000 } else { machine.cpu.registers().rflags };
        assert_eq!(found, after, "user {user} before {before:#x} {code:x?}");
    }
}

/// 64-bit ring 3 with a call gate at 0x28.
fn long(code: &[u8], low: u64, high: u64) -> Machine {
    let mut machine = Machine::new(code, true);
    machine.put(GDT + 0x28, low);
    machine.put(GDT + 0x30, high);
    // m16:32: the offset counts for nothing.
    machine.put(DATA, 0x2b_0000_1234);
    machine.edit(|registers| registers.gpr[3] = DATA);
    machine
}

#[test]
fn a_call_gate_of_64_bits_switches_to_a_null_stack_segment_and_back() {
    // call far [rbx] (16:32); hlt
    let mut machine = long(&[0xff, 0x1b, 0xf4], gate(8, TARGET, 12, 3, 0), 0);
    // hlt; retfq
    machine.memory.write(TARGET, &[0xf4, 0x48, 0xcb]);
    let registers = machine.halts_at(TARGET - CODE);
    assert_eq!((registers.segments[CS].selector, registers.segments[SS].selector), (8, 0));
    assert_eq!(registers.gpr[4], 0xa000 - 32);
    let word = |at: u64| machine.memory.load::<u64>(registers.gpr[4] + 8 * at).unwrap();
    assert_eq!([word(0), word(1), word(2), word(3)], [CODE + 2, 0x23, STACK, 0x1b]);
    machine.edit(|registers| registers.activity = ferro_cpu::Activity::Running);
    assert_eq!(machine.vector(), 13);
    let (_, frame) = machine.handler();
    assert_eq!(frame, [0, CODE + 2, 0x23]);
}

#[test]
fn call_gates_of_64_bits_raise_what_the_manual_says() {
    let cases = [
        ("32-bit code", gate(0x10, TARGET, 12, 3, 0), 0, 13, 0x10),
        ("type above", gate(8, TARGET, 12, 3, 0), 0xc00 << 32, 13, 0x28),
        ("privilege", gate(8, TARGET, 12, 0, 0), 0, 13, 0x28),
        ("16 bits", gate(8, TARGET, 4, 3, 0), 0, 13, 0x28),
        ("not canonical", gate(8, TARGET, 12, 3, 0), 0x8000_0000, 13, 0),
        ("absent", gate(8, TARGET, 12, 3, 0) & !(1 << 47), 0, 11, 0x28),
        ("task state", descriptor(0, 0x67, 0xe9), 0, 13, 0x28),
    ];
    for (name, low, high, vector, error) in cases {
        let mut machine = long(&[0xff, 0x1b], low, high);
        assert_eq!(machine.vector(), vector, "{name}");
        assert_eq!(machine.handler().1, [error, CODE, 0x23], "{name}");
    }
}

#[test]
fn an_interrupt_stack_is_taken_whatever_the_privilege_and_aligned() {
    for user in [false, true] {
        let mut machine = Machine::new(&[0xcc], user);
        let handler = HANDLERS + 3 * 16;
        machine.put(IDT + 48, (handler & 0xffff) | 8 << 16 | 0xee02 << 32);
        // IST 2
        machine.put(0x8000 + 0x2c, 0x9007);
        assert_eq!(machine.vector(), 3);
        let registers = machine.cpu.registers();
        assert_eq!(registers.gpr[4], 0x9000 - 40);
        let word = |at: u64| machine.memory.load::<u64>(registers.gpr[4] + 8 * at).unwrap();
        assert_eq!((word(0), word(3)), (CODE + 1, STACK));
        assert_eq!(registers.segments[SS].selector, if user { 0 } else { 0x10 });
    }
}

#[test]
fn stacks_that_are_not_canonical_or_not_there_fail_the_delivery() {
    // RSP0 not canonical: #SS(0) with EXT during #UD, which has the same stack: double, then shutdown without IST.
    let mut machine = Machine::new(&[0x0f, 0x0b], true);
    machine.put(0x8004, 1 << 60);
    assert_eq!(machine.run(10), Exit::Shutdown);
    // With a stack of its own the double fault comes through: #UD, #SS, #DF.
    let mut machine = Machine::new(&[0x0f, 0x0b], true);
    machine.put(0x8004, 1 << 60);
    machine.put(0x8024, 0x9000);
    let handler = HANDLERS + 8 * 16;
    machine.put(IDT + 8 * 16, (handler & 0xffff) | 8 << 16 | 0x8e01 << 32);
    assert_eq!(machine.vector(), 8);
    // And if #SS itself has one, it comes: the error code has EXT alone.
    let mut machine = Machine::new(&[0x0f, 0x0b], true);
    machine.put(0x8004, 1 << 60);
    machine.put(0x8024, 0x9000);
    let handler = HANDLERS + 12 * 16;
    machine.put(IDT + 12 * 16, (handler & 0xffff) | 8 << 16 | 0x8e01 << 32);
    assert_eq!((machine.vector(), machine.handler().1), (12, [1, CODE, 0x23]));
}
