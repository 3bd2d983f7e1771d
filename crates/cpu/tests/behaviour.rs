//! What random instructions don't reach: code that changes itself, page tables that change, interrupts and traps,
//! faults in the middle of instructions.

mod machine;

use ferro_cpu::{DebugStop, Exit, Watchpoint};
use ferro_guest::{SaveState, StateReader, StateWriter};
use machine::{CODE, DATA, Machine, STACK};

#[test]
fn code_that_overwrites_the_next_instruction_executes_the_new_one() {
    // mov byte [rip], 0x90 ... overwrites the immediate of the mov that follows: mov eax, 1; hlt
    let code = [0xc6, 0x05, 1, 0, 0, 0, 42, 0xb8, 1, 0, 0, 0, 0xf4];
    let mut machine = Machine::new(&code, false);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!(machine.cpu.registers().gpr[0], 42);
    // And again, now with the code cached.
    machine.memory.store(CODE + 6, 43_u8).unwrap();
    machine.edit(|registers| {
        registers.rip = CODE;
        registers.activity = ferro_cpu::Activity::Running;
    });
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!(machine.cpu.registers().gpr[0], 43);
}

#[test]
fn a_budget_stops_exactly_and_repeats() {
    // inc rax; inc rax; inc rax; jmp back
    let code = [0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0x48, 0xff, 0xc0, 0xeb, 0xf5];
    let mut machine = Machine::new(&code, false);
    for step in 1..50 {
        assert_eq!(machine.run(step), Exit::Budget);
    }
    assert_eq!(machine.cpu.instructions(), 1225);
    assert_eq!(machine.cpu.registers().gpr[0], 1225 / 4 * 3 + 1);
}

#[test]
fn page_faults_tell_their_cause() {
    // (entry, user, what, error code or none). Code: mov eax, [rbx] / mov [rbx], eax
    let read = [0x8b, 0x03, 0xf4];
    let write = [0x89, 0x03, 0xf4];
    let target = 0x5_0000_u64;
    let cases = [
        (target | 7, true, 0, None),
        (target | 7, true, 2, None),
        (0, true, 0, Some(4)),
        (0, true, 2, Some(6)),
        (0, false, 0, Some(0)),
        (target | 3, true, 0, Some(5)),
        (target | 3, true, 2, Some(7)),
        (target | 3, false, 2, None),
        (target | 5, true, 0, None),
        (target | 5, true, 2, Some(7)),
        (target | 5, false, 2, Some(3)),
        (target | 7 | 1 << 45, true, 0, Some(13)),
        (target | 7 | 1 << 63, true, 0, None),
    ];
    for (entry, user, access, expected) in cases {
        let mut machine = Machine::new(if access == 0 { &read } else { &write }, user);
        machine.map(target, entry);
        machine.edit(|registers| registers.gpr[3] = target);
        assert_eq!(machine.run(100), Exit::Halted);
        let (vector, frame) = machine.handler();
        match expected {
            Some(error) => {
                assert_eq!((vector, frame[0], frame[1]), (14, error, CODE), "{entry:#x} {user} {access}");
                assert_eq!(machine.cpu.registers().cr2, target);
            }
            // In ring 3 the HLT raises #GP.
            None if user => assert_eq!(vector, 13, "{entry:#x} {user} {access}"),
            None => assert_eq!(machine.cpu.registers().rip, CODE + 3),
        }
    }
}

#[test]
fn fetching_from_a_no_execute_page_faults_with_the_fetch_bit() {
    let mut machine = Machine::new(&[0xff, 0xe3], true);
    machine.map(DATA, DATA | 7 | 1 << 63);
    machine.edit(|registers| registers.gpr[3] = DATA);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!((machine.handler().0, machine.handler().1[0]), (14, 0x15));
}

#[test]
fn a_changed_translation_is_seen_after_invlpg() {
    // mov eax, [rbx]; invlpg [rbx]; mov ecx, [rbx]; hlt
    let mut machine = Machine::new(&[0x8b, 0x03, 0x0f, 0x01, 0x3b, 0x8b, 0x0b, 0xf4], false);
    machine.memory.store(DATA, 1_u32).unwrap();
    machine.memory.store(DATA + 0x1000, 2_u32).unwrap();
    machine.edit(|registers| registers.gpr[3] = DATA);
    assert_eq!(machine.run(1), Exit::Budget);
    machine.map(DATA, (DATA + 0x1000) | 7);
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0], registers.gpr[1]), (1, 2));
}

#[test]
fn accessed_and_dirty_bits_are_set_by_use() {
    // mov eax, [rbx]; mov [rcx], eax; hlt
    let mut machine = Machine::new(&[0x8b, 0x03, 0x89, 0x01, 0xf4], false);
    machine.edit(|registers| {
        registers.gpr[3] = DATA;
        registers.gpr[1] = DATA + 0x1000;
    });
    assert_eq!(machine.run(100), Exit::Halted);
    let entry = |address: u64| machine.memory.load::<u64>(machine::TABLE + (address >> 12) * 8).unwrap() & 0x60;
    assert_eq!((entry(DATA), entry(DATA + 0x1000), entry(DATA + 0x2000)), (0x20, 0x60, 0));
}

#[test]
fn a_repeated_move_that_faults_can_be_restarted() {
    // rep movsb; hlt
    let mut machine = Machine::new(&[0xf3, 0xa4, 0xf4], false);
    machine.memory.write(DATA, &[7; 0x2000]);
    machine.map(DATA + 0x5000, 0);
    machine.edit(|registers| {
        registers.gpr[1] = 0x1800;
        registers.gpr[6] = DATA;
        registers.gpr[7] = DATA + 0x4000;
    });
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((machine.handler().0, registers.cr2), (14, DATA + 0x5000));
    assert_eq!((registers.gpr[1], registers.gpr[6], registers.gpr[7]), (0x800, DATA + 0x1000, DATA + 0x5000));
}

#[test]
fn a_push_that_faults_leaves_the_stack_pointer() {
    let mut machine = Machine::new(&[0x50, 0xf4], true);
    machine.map(STACK - 0x1000, 0);
    assert_eq!(machine.run(100), Exit::Halted);
    let (vector, _) = machine.handler();
    let rsp = machine.memory.load::<u64>(machine.cpu.registers().gpr[4] + 32).unwrap();
    assert_eq!((vector, rsp), (14, STACK));
}

#[test]
fn interrupts_wait_for_the_flag_and_its_shadow() {
    // nop; sti; nop; nop; hlt
    let mut machine = Machine::new(&[0x90, 0xfb, 0x90, 0x90, 0xf4], false);
    machine.board.vector = Some(0x40);
    machine.cpu.signals().set_interrupt(true);
    assert_eq!(machine.run(3), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, CODE + 3, "one instruction after STI comes first");
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.handler().0, 0x40);
    assert_eq!(machine.handler().1[0], CODE + 3);
}

#[test]
fn a_halt_ends_with_an_interrupt() {
    let mut machine = Machine::new(&[0xfb, 0xf4, 0x90], false);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!(machine.run(100), Exit::Halted);
    machine.board.vector = Some(0x41);
    machine.cpu.signals().set_interrupt(true);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!((machine.handler().0, machine.handler().1[0]), (0x41, CODE + 2));
}

#[test]
fn single_steps_trap_after_each_instruction() {
    // pushf; or qword [rsp], 0x100; popf; nop; nop
    let mut machine = Machine::new(&[0x9c, 0x48, 0x81, 0x0c, 0x24, 0, 1, 0, 0, 0x9d, 0x90, 0x90], false);
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((machine.handler().0, machine.handler().1[0]), (1, CODE + 11));
    assert_eq!(registers.dr6 & 0x4000, 0x4000);
}

#[test]
fn a_triple_fault_shuts_down() {
    let mut machine = Machine::new(&[0x0f, 0x0b], false);
    machine.edit(|registers| registers.idtr.limit = 0);
    assert_eq!(machine.run(100), Exit::Shutdown);
    assert_eq!(machine.run(100), Exit::Shutdown);
}

#[test]
fn a_fault_while_delivering_a_page_fault_is_a_double_fault() {
    let mut machine = Machine::new(&[0x8b, 0x03], false);
    machine.map(DATA, 0);
    machine.memory.store(0x7000 + 14 * 16, 0_u64).unwrap();
    machine.edit(|registers| registers.gpr[3] = DATA);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!((machine.handler().0, machine.handler().1[0]), (8, 0));
}

#[test]
fn ports_and_mmio_reach_the_platform() {
    // in al, 0x12; out 0x34, eax; mov [rbx], rax; mov rcx, [rbx]; hlt
    let code = [0xe4, 0x12, 0xe7, 0x34, 0x48, 0x89, 0x03, 0x48, 0x8b, 0x0b, 0xf4];
    let mut machine = Machine::new(&code, false);
    machine.map(DATA, 0xfee0_0007);
    machine.edit(|registers| registers.gpr[3] = DATA + 0x20);
    assert_eq!(machine.run(100), Exit::Halted);
    assert_eq!(machine.board.writes, [(0x34, 4, 0x12)]);
    assert_eq!(machine.board.mmio, [(0xfee0_0020, 8, 0x12)]);
    assert_eq!(machine.cpu.registers().gpr[1], 0xfee0_0020);
}

#[test]
fn the_debugger_stops_at_breakpoints_watchpoints_and_steps() {
    // nop; mov [rbx], al; nop; hlt
    let mut machine = Machine::new(&[0x90, 0x88, 0x03, 0x90, 0xf4], false);
    machine.edit(|registers| registers.gpr[3] = DATA);
    machine.cpu.set_breakpoints(&[CODE + 1]);
    assert_eq!(machine.run(100), Exit::Debug(DebugStop::Breakpoint));
    assert_eq!(machine.cpu.registers().rip, CODE + 1);
    machine.cpu.set_watchpoints(&[Watchpoint { address: DATA, len: 4, read: false, write: true }]);
    assert_eq!(machine.run(100), Exit::Debug(DebugStop::Watchpoint { address: DATA, write: true }));
    machine.cpu.set_single_step(true);
    assert_eq!(machine.run(100), Exit::Debug(DebugStop::Step));
    assert_eq!(machine.cpu.registers().rip, CODE + 4);
}

#[test]
fn a_saved_cpu_goes_on_where_it_was() {
    let code = [0x48, 0xff, 0xc0, 0xeb, 0xfb];
    let mut machine = Machine::new(&code, false);
    machine.run(1001);
    let mut writer = StateWriter::new();
    machine.cpu.save(&mut writer);
    let bytes = writer.finish();
    let mut other = Machine::new(&code, false);
    let mut reader = StateReader::new(&bytes);
    other.cpu.load(1, &mut reader).unwrap();
    reader.finish().unwrap();
    assert_eq!(other.cpu.registers(), machine.cpu.registers());
    assert_eq!(other.cpu.instructions(), 1001);
    machine.run(500);
    other.run(500);
    assert_eq!(other.cpu.registers(), machine.cpu.registers());
    assert!(other.cpu.load(1, &mut StateReader::new(&bytes[..100])).is_err());
    assert!(other.cpu.load(2, &mut StateReader::new(&bytes)).is_err());
}

#[test]
fn the_boot_cpu_begins_at_the_reset_vector_in_real_mode() {
    let mut machine = Machine::new(&[], false);
    machine.cpu.reset();
    let registers = machine.cpu.registers();
    assert_eq!((registers.rip, registers.segments[ferro_cpu::CS].base), (0xfff0, 0xffff_0000));
    // Real-mode code elsewhere: mov ax, 0x1234; int 0x20 with the vector at 0x300:0x5 -> hlt
    machine.memory.write(0x2000, &[0xb8, 0x34, 0x12, 0xcd, 0x20]);
    machine.memory.store(0x80, 0x0300_0005_u32).unwrap();
    machine.memory.store(0x3005, 0xf4_u8).unwrap();
    machine.edit(|registers| {
        registers.segments[ferro_cpu::CS].base = 0x2000;
        registers.segments[ferro_cpu::CS].selector = 0x200;
        registers.rip = 0;
        registers.gpr[4] = 0x1000;
    });
    assert_eq!(machine.run(100), Exit::Halted);
    let registers = machine.cpu.registers();
    assert_eq!((registers.gpr[0], registers.rip, registers.segments[ferro_cpu::CS].base), (0x1234, 6, 0x3000));
    assert_eq!(machine.memory.load::<u16>(0xffa), Some(5));
}
