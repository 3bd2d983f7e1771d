//! Virtual-8086 mode and real mode: how they are entered and left, what is sensitive to IOPL, and the I/O bitmap (SDM
//! volume 3, chapter 20).

mod machine;

use ferro_cpu::{Activity, CS, DS, ES, Exit, FS, GS, Registers, SS, SegmentRegister};
use machine::legacy::*;
use machine::{CODE, Machine};

const VM: u64 = 1 << 17;
/// Where the virtual machine's code begins: its CS is `CODE / 16`.
const SELECTOR: u16 = (CODE >> 4) as u16;
/// Its stack: SS 0x2000, so 0x2_0000 on.
const STACK: u16 = 0x2000;

fn real_segment(selector: u16, attributes: u32) -> SegmentRegister {
    register(selector, u64::from(selector) << 4, 0xffff, attributes)
}

fn enter(registers: &mut Registers, io_level: u64) {
    registers.rflags = VM | 2 | io_level << 12;
    for index in [ES, DS, FS, GS, CS, SS] {
        registers.segments[index] = real_segment(SELECTOR, 0xf3);
    }
    registers.segments[SS] = real_segment(STACK, 0xf3);
    registers.rip = 0;
    registers.gpr[4] = 0x1000;
}

/// A machine in virtual-8086 mode.
fn virtual_machine(code: &[u8], io_level: u64) -> Machine {
    let mut machine = Machine::legacy(code, true);
    machine.edit(|registers| enter(registers, io_level));
    machine
}

#[test]
fn iret_enters_and_an_exception_leaves_with_all_segments() {
    // iretd with the VM bit; in there: hlt, which faults.
    let mut machine = Machine::legacy(&[0xcf, 0xf4], false);
    let frame = [1, SELECTOR.into(), (VM | 0x202) as u32, 0x1234_0800, STACK.into(), 0x111, 0x222, 0x333, 0x444];
    for (index, word) in frame.into_iter().enumerate() {
        machine.memory.store(machine::STACK + 4 * index as u64, word).unwrap();
    }
    assert_eq!(machine.run(1), Exit::Budget);
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.gpr[4], registers.rflags), (1, 0x1234_0800, VM | 0x202));
    let bases = [ES, CS, SS, DS, FS, GS].map(|index| registers.segments[index].base);
    assert_eq!(bases, [0x1110, CODE, 0x2_0000, 0x2220, 0x3330, 0x4440]);
    assert_eq!(machine.vector(), 13);
    let registers = machine.cpu.registers();
    assert_eq!(registers.gpr[4], INNER[0] - 40);
    let found = machine.stack::<10>();
    let expected =
        [0, 1, SELECTOR.into(), (VM | 0x1_0202) as u32, 0x1234_0800, STACK.into(), 0x111, 0x222, 0x333, 0x444];
    assert_eq!(found, expected);
    for index in [ES, DS, FS, GS] {
        assert_eq!(registers.segments[index].selector, 0);
    }
    assert_eq!((registers.segments[SS].selector, registers.rflags & VM), (DATA0, 0));
}

#[test]
fn iret_to_virtual_8086_mode_keeps_eip_within_the_segment() {
    let mut machine = Machine::legacy(&[0xcf], false);
    for (index, word) in [0x1_0000, SELECTOR.into(), (VM | 2) as u32, 0, 0, 0, 0, 0, 0].into_iter().enumerate() {
        machine.memory.store(machine::STACK + 4 * index as u64, word).unwrap();
    }
    assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0, CODE as u32]));
}

#[test]
fn instructions_sensitive_to_the_io_privilege_fault_below_it() {
    // cli, sti, pushf, popf, pushfd, popfd, int 0x40, iret, iretd
    let sensitive: [&[u8]; 9] =
        [&[0xfa], &[0xfb], &[0x9c], &[0x9d], &[0x66, 0x9c], &[0x66, 0x9d], &[0xcd, 0x40], &[0xcf], &[0x66, 0xcf]];
    for code in sensitive {
        for level in 0..3 {
            let mut machine = virtual_machine(code, level);
            machine.put(IDT + 0x200, gate(CODE0, machine::HANDLERS + 0x400, 14, 3, 0));
            assert_eq!(machine.vector(), 13, "{code:x?}");
            assert_eq!(machine.stack::<2>(), [0, 0], "{code:x?}");
            assert_eq!(machine.stack::<5>()[4], 0x1000, "{code:x?}: SP is as it was");
        }
    }
    // With IOPL 3 they work.
    let mut machine = virtual_machine(&[0xfb, 0x9c, 0xfa, 0x9d, 0xf4], 3);
    assert_eq!(machine.vector(), 13);
    let frame = machine.stack::<4>();
    assert_eq!((frame[1], frame[3] as u64 & 0xffff), (4, 0x3202), "POPF brought IF back");
    let mut machine = virtual_machine(&[0xcd, 0x40], 3);
    machine.put(IDT + 0x200, gate(CODE0, machine::HANDLERS + 0x400, 14, 3, 0));
    assert_eq!((machine.vector(), machine.stack::<2>()), (0x40, [2, SELECTOR.into()]));
    // INT3 isn't sensitive, its gate's privilege counts; and the gate's code must be of ring 0 and not conforming.
    let mut machine = virtual_machine(&[0xcc], 0);
    machine.put(IDT + 24, gate(CODE0, machine::HANDLERS + 0x30, 14, 3, 0));
    assert_eq!((machine.vector(), machine.stack::<1>()), (3, [1]));
    for (selector, error) in [(CONFORMING, u32::from(CONFORMING)), (CODE1, 0x40)] {
        let mut machine = virtual_machine(&[0xcd, 0x40], 3);
        machine.put(IDT + 0x200, gate(selector, 0, 14, 3, 0));
        assert_eq!((machine.vector(), machine.stack::<2>()), (13, [error, 0]));
    }
}

#[test]
fn flags_of_a_virtual_machine_keep_vm_and_iopl() {
    // popfd of all ones but TF, and iretd with the same: CS:IP 3, flags.
    let mut machine = virtual_machine(&[0x66, 0x9d, 0xf4], 3);
    machine.memory.store(0x2_1000, 0xffff_feff_u32).unwrap();
    assert_eq!(machine.vector(), 13);
    let flags = u64::from(machine.stack::<4>()[3]) & !(1 << 16);
    assert_eq!(flags, VM | 0x24_7ed7);
    let mut machine = virtual_machine(&[0x66, 0xcf, 0xf4], 3);
    for (index, word) in [2, u32::from(SELECTOR), 0xfffd_ceff].into_iter().enumerate() {
        machine.memory.store(0x2_1000 + 4 * index as u64, word).unwrap();
    }
    assert_eq!(machine.vector(), 13);
    let frame = machine.stack::<5>();
    assert_eq!((u64::from(frame[3]) & !(1 << 16), frame[4]), (VM | 0x24_7ed7, 0x100c));
}

#[test]
fn ports_follow_the_bitmap_whatever_the_privilege_level() {
    // (IOPL, bitmap offset, port, size, bits of the byte with the port, allowed)
    let cases = [
        (3, 0x68, 0x10, 1, 0, true),
        (3, 0x68, 0x10, 1, 1, false),
        (0, 0x68, 0x10, 1, 0xfe, true),
        (0, 0x68, 0x10, 2, 0xfe, false),
        (0, 0x68, 0x10, 2, 0xfc, true),
        (0, 0x68, 0x13, 4, 0x78, false),
        (0, 0x68, 0x13, 4, 0x87, true),
        (0, 0x68, 0x16, 4, 0, false),
        (0, 0x200, 0x10, 1, 0, false),
        (0, 0x68, 0x400, 1, 0, false),
    ];
    for (level, offset, port, size, bits, allowed) in cases {
        let code: &[u8] = match size {
            1 => &[0xee, 0xf4],
            2 => &[0xef, 0xf4],
            _ => &[0x66, 0xef, 0xf4],
        };
        let mut machine = virtual_machine(code, level);
        machine.memory.store(TSS + 0x66, offset as u16).unwrap();
        machine.memory.write(TSS + 0x68, &[0; 32]);
        machine.memory.store(TSS + 0x68 + 2, bits as u8).unwrap();
        machine.memory.store(TSS + 0x68 + 3, 0xff_u8).unwrap();
        if size == 4 && port == 0x13 {
            machine.memory.store(TSS + 0x68 + 3, 0_u8).unwrap();
        }
        machine.edit(|registers| {
            registers.tr.limit = 0x68 + 0x20;
            registers.gpr[2] = port;
        });
        assert_eq!(machine.vector(), 13);
        let eip = u64::from(machine.stack::<2>()[1]);
        assert_eq!(eip, if allowed { code.len() as u64 - 1 } else { 0 }, "IOPL {level} port {port:#x} size {size}");
        assert_eq!(machine.board.writes.len(), usize::from(allowed));
    }
    // In protected mode IOPL suffices, and a 16-bit task state has no bitmap.
    for (level, kind, allowed) in [(3, 0x8b, true), (0, 0x8b, false), (0, 0x83, false)] {
        let mut machine = Machine::legacy(&[0xee, 0xf4], true);
        if kind == 0x83 {
            machine.memory.store(TSS + 2, u32::from(DATA0) << 16 | 0xa000).unwrap();
        }
        machine.edit(|registers| {
            registers.rflags = 2 | level << 12;
            registers.tr.attributes = kind;
        });
        assert_eq!(machine.vector(), 13);
        assert_eq!(machine.stack::<2>()[1], CODE as u32 + u32::from(allowed));
    }
}

#[test]
fn system_instructions_are_invalid_or_forbidden() {
    // #UD: arpl, sldt, str, lldt, ltr, lar, lsl, verr, verw; #GP: hlt, lgdt, lidt, lmsw, mov cr, mov dr, clts, wrmsr
    let undefined: [&[u8]; 9] = [
        &[0x63, 0xc0],
        &[0x0f, 0, 0xc0],
        &[0x0f, 0, 0xc8],
        &[0x0f, 0, 0xd0],
        &[0x0f, 0, 0xd8],
        &[0x0f, 2, 0xc0],
        &[0x0f, 3, 0xc0],
        &[0x0f, 0, 0xe0],
        &[0x0f, 0, 0xe8],
    ];
    for code in undefined {
        let mut machine = virtual_machine(code, 3);
        assert_eq!(machine.vector(), 6, "{code:x?}");
    }
    let forbidden: [&[u8]; 11] = [
        &[0xf4],
        &[0x0f, 1, 0x17],
        &[0x0f, 1, 0x1f],
        &[0x0f, 1, 0xf0],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x06],
        &[0x0f, 0x30],
        &[0x0f, 0x08],
        &[0x0f, 1, 0x3f],
    ];
    for code in forbidden {
        let mut machine = virtual_machine(code, 3);
        assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0, 0]), "{code:x?}");
    }
}

#[test]
fn a_call_through_segments_of_a_virtual_machine_is_real_mode_style() {
    // call 0x1100:0x0010 -> hlt
    let mut machine = virtual_machine(&[0x9a, 0x10, 0, 0, 0x11], 0);
    machine.memory.store(0x1_1010, 0xf4_u8).unwrap();
    assert_eq!(machine.vector(), 13);
    let frame = machine.stack::<5>();
    assert_eq!((frame[1], frame[2], frame[4]), (0x10, 0x1100, 0xffc));
    assert_eq!(machine.word(0x2_0ffc), u32::from(SELECTOR) << 16 | 5);
}

#[test]
fn a_task_state_can_bring_virtual_8086_mode() {
    let mut machine = Machine::legacy(&[0xea, 0, 0, 0, 0, OTHER_TASK as u8, 0], false);
    let put = |at: u64, value: u32| machine.memory.store(OTHER + at, value).unwrap();
    put(0x20, 0x100);
    put(0x24, (VM | 2) as u32);
    put(0x38, 0x800);
    for (at, selector) in [(0x48, 1), (0x4c, u32::from(SELECTOR)), (0x50, 0x2000), (0x54, 2), (0x58, 3), (0x5c, 4)] {
        put(at, selector);
    }
    put(8, u32::from(DATA0));
    put(4, 0x9000);
    machine.memory.store(CODE + 0x100, 0xf4_u8).unwrap();
    assert_eq!(machine.vector(), 13);
    let frame = machine.stack::<10>();
    assert_eq!((frame[1], frame[2], frame[4], frame[5]), (0x100, SELECTOR.into(), 0x800, 0x2000));
    assert_eq!(frame[6..], [1, 2, 3, 4]);
}

/// A machine in real mode.
fn real_machine(code: &[u8]) -> Machine {
    let mut machine = Machine::legacy(code, false);
    machine.edit(|registers| {
        enter(registers, 0);
        registers.rflags = 2;
        registers.cr0 = 0x10;
        for segment in &mut registers.segments {
            segment.attributes = 0x93;
        }
        registers.idtr.base = 0;
        registers.idtr.limit = 0x3ff;
    });
    // Every vector leads to 0x500:vector * 16, where it halts.
    for vector in 0..256_u64 {
        machine.memory.store(vector * 4, 0x0500_0000 | (vector as u32) << 4).unwrap();
        machine.memory.store(0x5000 + vector * 16, 0xf4_u8).unwrap();
    }
    machine
}

fn real_vector(machine: &mut Machine) -> u64 {
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!(registers.segments[CS].base, 0x5000);
    registers.rip >> 4
}

#[test]
fn real_mode_interrupts_push_three_words_and_return() {
    // int 0x21; back from it hlt
    let mut machine = real_machine(&[0xcd, 0x21, 0xf4]);
    machine.memory.write(0x5210, &[0xf4, 0xcf]);
    machine.edit(|registers| registers.rflags = 0x3ad7);
    assert_eq!(real_vector(&mut machine), 0x21);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[4], registers.rflags), (0xffa, 0x38d7));
    let words = [0, 2, 4].map(|at| machine.memory.load::<u16>(0x2_0ffa + at).unwrap());
    assert_eq!(words, [2, SELECTOR, 0x3ad7]);
    machine.edit(|registers| registers.activity = Activity::Running);
    assert_eq!(machine.run(10), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.segments[CS].base, registers.rflags), (3, CODE, 0x3ad7));
}

#[test]
fn real_mode_faults_have_no_error_code() {
    // A word across 0xffff: #GP; with SS: #SS; system instructions of protected mode: #UD; a short vector table: #DF.
    let cases: [(&[u8], u64); 5] = [
        (&[0xa1, 0xff, 0xff], 13),
        (&[0x36, 0xa1, 0xff, 0xff], 12),
        (&[0x0f, 0, 0xc0], 6),
        (&[0xf6, 0xf3], 0),
        (&[0x63, 0xc0], 6),
    ];
    for (code, vector) in cases {
        let mut machine = real_machine(code);
        assert_eq!(real_vector(&mut machine), vector, "{code:x?}");
        assert_eq!(machine.cpu.registers().gpr[4], 0xffa);
        assert_eq!(machine.memory.load::<u16>(0x2_0ffa), Some(0));
    }
    let mut machine = real_machine(&[0xcd, 0x40]);
    machine.edit(|registers| registers.idtr.limit = 0x3f);
    assert_eq!(real_vector(&mut machine), 13);
}

#[test]
fn real_mode_keeps_limits_that_protected_mode_left() {
    // mov ax, 0x1200; mov ds, ax; mov al, [ebx]; hlt with DS's limit of 4 GiB
    let mut machine = real_machine(&[0xb8, 0, 0x12, 0x8e, 0xd8, 0x67, 0x8a, 0x03, 0xf4]);
    machine.memory.store(0x12_2345, 0x5a_u8).unwrap();
    machine.edit(|registers| {
        registers.segments[DS].limit = u32::MAX;
        registers.segments[DS].attributes = 0x8093;
        registers.gpr[3] = 0x11_0345;
    });
    assert_eq!(machine.run(10), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0] as u8, registers.segments[DS].base), (0x5a, 0x1_2000));
}

#[test]
fn protected_mode_is_entered_and_left() {
    // mov eax, cr0; or al, 1; mov cr0, eax; jmp 8:CODE+0x40 (32-bit offset); there: in 16-bit code again and back.
    let mut code = vec![0x0f, 0x20, 0xc0, 0x0c, 1, 0x0f, 0x22, 0xc0, 0x66, 0xea];
    code.extend((CODE as u32 + 0x40).to_le_bytes());
    code.extend([8, 0]);
    let mut machine = real_machine(&code);
    // mov eax, 0x12345678; jmp CODE16:0x80
    machine.memory.write(CODE + 0x40, &[0xb8, 0x78, 0x56, 0x34, 0x12, 0xea, 0x80, 0, 0, 0, CODE16 as u8, 0]);
    // mov ecx, cr0; and cl, 0xfe; mov cr0, ecx; jmp SELECTOR:0xa0; hlt
    machine.memory.write(CODE + 0x80, &[0x0f, 0x20, 0xc1, 0x80, 0xe1, 0xfe, 0x0f, 0x22, 0xc1, 0xea, 0xa0, 0, 0, 0x10]);
    machine.memory.write(CODE + 0xa0, &[0xf4]);
    assert_eq!(machine.run(50), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0], registers.rip, registers.segments[CS].selector), (0x1234_5678, 0xa1, 0x1000));
    assert_eq!((registers.segments[CS].base, registers.cr0 & 1), (CODE, 0));
}
