//! When interrupts and traps are taken: the shadows of STI and of loads of SS, NMIs and their blocking, single steps,
//! breakpoints, halts, INIT (SDM volume 3, 6.8, 6.9 and chapter 18).

mod machine;

use ferro_cpu::{Activity, CS, Exit};
use machine::legacy::{CODE0, DATA0, IDT, TSS, gate};
use machine::{CODE, DATA, HANDLERS, Machine, STACK};

const TF: u64 = 0x100;
const IF: u64 = 0x200;

fn interrupted(machine: &mut Machine, vector: u8) {
    machine.board.vector = Some(vector);
    machine.cpu.signals().set_interrupt(true);
}

/// The RIPs at which debug traps are taken while `code` executes with TF set, up to a HLT or another vector; and
/// where it ends.
fn steps(code: &[u8], prepare: impl FnOnce(&mut ferro_cpu::Registers)) -> (Vec<u64>, u64) {
    let mut machine = Machine::new(code, false);
    // The handler of #DB is IRETQ, and HLT ends: it comes to be at its own address.
    machine.memory.write(HANDLERS + 16, &[0x48, 0xcf]);
    machine.edit(|registers| {
        registers.rflags |= TF;
        prepare(registers);
    });
    let mut taken = vec![];
    let mut halted = false;
    while !halted {
        halted = machine.cpu.activity() == Activity::Halted;
        if machine.run(1) == Exit::Halted {
            break;
        }
        let registers = machine.cpu.registers();
        if registers.rip == HANDLERS + 16 {
            assert_eq!(registers.rflags & TF, 0, "the handler isn't stepped");
            assert_eq!(registers.dr6 & 0xe00f, 0x4000);
            taken.push(machine.memory.load::<u64>(registers.gpr[4]).unwrap() - CODE);
            machine.edit(|registers| registers.dr6 = 0xffff_0ff0);
        }
    }
    (taken, machine.cpu.registers().rip)
}

#[test]
fn single_steps_follow_each_instruction() {
    // nop; inc eax; jmp +1; (nop); hlt
    let (taken, _) = steps(&[0x90, 0xff, 0xc0, 0xeb, 1, 0x90, 0xf4], |_| ());
    assert_eq!(taken, [1, 3, 6, 7]);
    // mov ss, ax; nop; nop; hlt: no trap right after the load of SS.
    let (taken, _) = steps(&[0x8e, 0xd0, 0x90, 0x90, 0xf4], |registers| registers.gpr[0] = 0x10);
    assert_eq!(taken, [3, 4, 5]);
    // sti; nop; hlt: STI's shadow doesn't hold off traps.
    let (taken, _) = steps(&[0xfb, 0x90, 0xf4], |_| ());
    assert_eq!(taken, [1, 2, 3]);
    // rep movsb of three: after each element, at the instruction itself until the last.
    let (taken, _) = steps(&[0xf3, 0xa4, 0x90, 0xf4], |registers| {
        registers.gpr[1] = 3;
        registers.gpr[6] = DATA;
        registers.gpr[7] = DATA + 0x100;
    });
    assert_eq!(taken, [0, 0, 2, 3, 4]);
    // rep stosb of none.
    let (taken, _) = steps(&[0xf3, 0xaa, 0x90, 0xf4], |registers| registers.gpr[1] = 0);
    assert_eq!(taken, [2, 3, 4]);
    // pushf; and qword [rsp], ~TF; popf; nop; hlt: a POPF that clears TF still traps, and then no more.
    let (taken, _) = steps(&[0x9c, 0x48, 0x81, 0x24, 0x24, 0xff, 0xfe, 0xff, 0xff, 0x9d, 0x90, 0xf4], |_| ());
    assert_eq!(taken, [1, 9, 10]);
    // ud2: the fault comes instead of a trap, and its frame has TF.
    let (taken, at) = steps(&[0x90, 0x0f, 0x0b], |_| ());
    assert_eq!((taken, at), (vec![1], HANDLERS + 6 * 16 + 1));
    // int3: its handler isn't stepped, nor does a trap follow.
    let (taken, at) = steps(&[0x90, 0xcc], |_| ());
    assert_eq!((taken, at), (vec![1], HANDLERS + 3 * 16 + 1));
}

#[test]
fn a_step_comes_before_an_interrupt_and_the_interrupt_in_its_handler() {
    // nop with TF and IF set and an interrupt arriving during it: #DB first. Its gate clears IF.
    let mut machine = Machine::new(&[0x90, 0x90], false);
    machine.edit(|registers| registers.rflags |= TF | IF);
    assert_eq!(machine.run(1), Exit::Budget);
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.vector(), 1);
    assert_eq!(machine.handler().1[0], CODE + 1);
}

#[test]
fn loads_of_ss_hold_interrupts_off_for_one_instruction() {
    // mov ss, ax; nop; nop. And mov ds, ax, which doesn't.
    for (modrm, at) in [(0xd0, 3), (0xd8, 2)] {
        let mut machine = Machine::new(&[0x8e, modrm, 0x90, 0x90], false);
        machine.edit(|registers| {
            registers.gpr[0] = 0x10;
            registers.rflags |= IF;
        });
        machine.run(0);
        assert_eq!(machine.run(1), Exit::Budget);
        interrupted(&mut machine, 0x40);
        assert_eq!(machine.vector(), 0x40);
        assert_eq!(machine.handler().1[0], CODE + at, "{modrm:#x}");
    }
    // pop ss in 32-bit code.
    let mut machine = Machine::legacy(&[0x17, 0x90, 0x90], false);
    machine.put(STACK, u64::from(DATA0));
    machine.edit(|registers| registers.rflags |= IF);
    assert_eq!(machine.run(1), Exit::Budget);
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.vector(), 0x40);
    assert_eq!(machine.stack::<1>(), [CODE as u32 + 2]);
    // NMIs are held off, too.
    let mut machine = Machine::new(&[0x8e, 0xd0, 0x90, 0x90], false);
    machine.edit(|registers| registers.gpr[0] = 0x10);
    assert_eq!(machine.run(1), Exit::Budget);
    machine.cpu.signals().raise_nmi();
    assert_eq!((machine.vector(), machine.handler().1[0]), (2, CODE + 3));
}

#[test]
fn sti_has_a_shadow_only_where_it_changes_if() {
    // nop; sti; nop; nop
    for (flags, at) in [(0, 3), (IF, 0)] {
        let mut machine = Machine::new(&[0x90, 0xfb, 0x90, 0x90], false);
        machine.edit(|registers| registers.rflags |= flags);
        interrupted(&mut machine, 0x40);
        assert_eq!((machine.vector(), machine.handler().1[0]), (0x40, CODE + at));
    }
    // sti; cli: never.
    let mut machine = Machine::new(&[0xfb, 0xfa, 0x90, 0xf4], false);
    interrupted(&mut machine, 0x40);
    machine.halts_at(3);
    // sti; hlt: the interrupt comes after the HLT, which it wakes.
    let mut machine = Machine::new(&[0xfb, 0xf4, 0x90], false);
    interrupted(&mut machine, 0x40);
    assert_eq!((machine.vector(), machine.handler().1[0]), (0x40, CODE + 2));
}

#[test]
fn nmis_are_blocked_until_iret_even_one_that_faults() {
    // The NMI's handler: nop; iretq. A second NMI during it waits for the IRET.
    let mut machine = Machine::new(&[0x90, 0x90, 0x90, 0xf4], false);
    machine.memory.write(HANDLERS + 32, &[0x90, 0x48, 0xcf]);
    machine.cpu.signals().raise_nmi();
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, HANDLERS + 32);
    assert!(machine.cpu.registers().nmi_blocked);
    machine.cpu.signals().raise_nmi();
    assert_eq!(machine.run(2), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, CODE, "back, and the second one not yet taken");
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, HANDLERS + 32);
    machine.halts_at(3);
    // An IRET that faults (CS null) unblocks: the NMI comes in the fault's handler.
    let mut machine = Machine::new(&[0x48, 0xcf], false);
    machine.memory.write(STACK, &[0; 40]);
    machine.edit(|registers| registers.nmi_blocked = true);
    machine.cpu.signals().raise_nmi();
    assert_eq!(machine.vector(), 2);
    assert_eq!(machine.handler().1[0], HANDLERS + 13 * 16);
    // NMIs come before interrupts, whatever IF.
    let mut machine = Machine::new(&[0x90], false);
    machine.edit(|registers| registers.rflags |= IF);
    interrupted(&mut machine, 0x40);
    machine.cpu.signals().raise_nmi();
    assert_eq!((machine.vector(), machine.handler().1[0]), (2, CODE));
}

#[test]
fn a_halt_is_ended_by_what_may_interrupt_it_only() {
    // cli; hlt; then an interrupt: nothing. An NMI: yes.
    let mut machine = Machine::new(&[0xfa, 0xf4, 0x90], false);
    assert_eq!(machine.run(10), Exit::Halted);
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.run(10), Exit::Halted);
    assert_eq!(machine.cpu.activity(), Activity::Halted);
    assert_eq!(machine.cpu.registers().rip, CODE + 2);
    machine.cpu.signals().raise_nmi();
    assert_eq!((machine.vector(), machine.handler().1[0]), (2, CODE + 2));
    // hlt with TF: the trap comes after it, without any interrupt.
    let mut machine = Machine::new(&[0xf4, 0x90], false);
    machine.edit(|registers| registers.rflags |= TF);
    assert_eq!((machine.vector(), machine.handler().1[0]), (1, CODE + 1));
}

#[test]
fn waking_counts_and_a_budget_stops_before_it() {
    // The budget ends with the HLT, though an interrupt (or a trap) is there to end it.
    for trap in [false, true] {
        let mut machine = Machine::new(&[0xf4, 0x90], false);
        machine.edit(|registers| registers.rflags |= if trap { TF } else { IF });
        assert_eq!(machine.run(0), Exit::Budget);
        // The interrupt comes when the HLT has begun: raise it while interrupts are off for an instruction.
        if !trap {
            machine.edit(|registers| registers.shadow = true);
            interrupted(&mut machine, 0x40);
        }
        assert_eq!(machine.run(1), Exit::Budget);
        assert_eq!((machine.cpu.instructions(), machine.cpu.registers().rip), (1, CODE + 1));
        assert_eq!(machine.run(1), Exit::Budget);
        let vector = if trap { 1 } else { 0x40 };
        assert_eq!((machine.cpu.instructions(), machine.cpu.registers().rip), (2, HANDLERS + vector * 16));
    }
}

#[test]
fn a_repeated_instruction_is_interrupted_between_elements() {
    // rep stosb over pages while an interrupt waits: it comes before the first element or after some, and then the rest.
    let mut machine = Machine::new(&[0xf3, 0xaa, 0xf4], false);
    machine.memory.write(HANDLERS + 0x400, &[0x48, 0xcf]);
    machine.edit(|registers| {
        registers.rflags |= IF | 0x400;
        registers.gpr[0] = 0x5a;
        registers.gpr[1] = 0x1800;
        registers.gpr[7] = DATA + 0x1800 - 1;
    });
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.cpu.registers().rip, HANDLERS + 0x400);
    machine.cpu.signals().set_interrupt(false);
    let registers = machine.halts_at(2);
    assert_eq!((registers.gpr[1], registers.gpr[7]), (0, DATA - 1));
    let mut bytes = [0; 0x1800];
    machine.memory.read(DATA, &mut bytes);
    assert!(bytes.iter().all(|&byte| byte == 0x5a));
}

#[test]
fn execution_breakpoints_fault_before_and_data_breakpoints_trap_after() {
    // nop; mov [rbx], eax; mov ecx, [rbx+4]; nop; hlt
    let code = [0x90, 0x89, 0x03, 0x8b, 0x4b, 4, 0x90, 0xf4];
    // (DR0, DR7, RIP in the frame, DR6); lengths: 0 one byte, 1 two, 3 four; kinds: 0 execute, 1 write, 3 both.
    let cases = [
        (CODE + 1, 0x401, Some(1), 1),
        (CODE + 1, 0x402, Some(1), 1),
        (CODE, 0x401, Some(0), 1),
        (CODE + 2, 0x401, None, 0),
        (DATA, 0xd_0401, Some(3), 1),
        (DATA + 3, 0x1_0401, Some(3), 1),
        (DATA + 4, 0xd_0401, None, 0),
        (DATA + 4, 0xf_0401, Some(6), 1),
        (DATA + 5, 0x3_0401, Some(6), 1),
        (DATA + 5, 0xf_0401, Some(6), 1),
        (DATA, 0xd_0400, None, 0),
    ];
    for (address, control, at, status) in cases {
        let mut machine = Machine::new(&code, false);
        machine.edit(|registers| {
            registers.gpr[3] = DATA;
            registers.dr[0] = address;
            registers.dr7 = control;
        });
        let name = format!("{address:#x} {control:#x}");
        match at {
            Some(at) => {
                assert_eq!((machine.vector(), machine.handler().1[0]), (1, CODE + at), "{name}");
                assert_eq!(machine.cpu.registers().dr6 & 0xe00f, status, "{name}");
                // A fault's frame has RF only if no instruction breakpoint caused it.
                assert_eq!(machine.handler().1[2] & 0x1_0000, 0, "{name}");
            }
            None => drop(machine.halts_at(7)),
        }
    }
    // With RF set the breakpoint passes once; IRET sets RF.
    let mut machine = Machine::new(&[0x90, 0xf4], false);
    machine.edit(|registers| {
        registers.rflags |= 1 << 16;
        registers.dr[0] = CODE;
        registers.dr7 = 0x401;
    });
    assert_eq!(machine.halts_at(1).rflags & 1 << 16, 0);
    // General detect: MOV DR faults, and the handler may use the registers.
    let mut machine = Machine::new(&[0x0f, 0x21, 0xc0], false);
    machine.edit(|registers| registers.dr7 = 0x2400);
    assert_eq!((machine.vector(), machine.handler().1[0]), (1, CODE));
    let registers = machine.cpu.registers();
    assert_eq!((registers.dr6 & 0xe00f, registers.dr7 & 0x2000), (0x2000, 0));
}

#[test]
fn other_faults_set_rf_in_their_frame_and_interrupts_and_traps_dont() {
    let flags = |code: &[u8], vector: u64| {
        let mut machine = Machine::new(code, true);
        machine.put(IDT + 3 * 16 + 4, 0xee00);
        assert_eq!(machine.vector(), vector);
        let (_, frame) = machine.handler();
        let word = machine.memory.load::<u64>(machine.cpu.registers().gpr[4] + 24).unwrap();
        (frame[2], word)
    };
    assert_eq!(flags(&[0x0f, 0x0b], 6).0 & 0x1_0000, 0x1_0000);
    assert_eq!(flags(&[0xf4], 13).1 & 0x1_0000, 0x1_0000);
    assert_eq!(flags(&[0xcc], 3).0 & 0x1_0000, 0);
}

#[test]
fn init_and_startup_messages() {
    // The boot CPU starts over at the reset vector; the XMM registers and MSRs stay.
    let mut machine = Machine::new(&[0x90, 0x90], false);
    machine.edit(|registers| {
        registers.fpu.xmm[3] = 77;
        registers.msr.lstar = 88;
    });
    machine.cpu.signals().raise_init();
    // There is no memory: #UD, by way of the vector table at 0.
    assert_eq!(machine.run(1), Exit::Budget);
    let registers = machine.cpu.registers();
    assert_eq!(machine.memory.load::<u32>(0xfffa), Some(0xf000_fff0), "CS:IP");
    assert_eq!((registers.segments[CS].selector, registers.cr3, registers.msr.efer), (0, 0, 0));
    assert_eq!((registers.fpu.xmm[3], registers.msr.lstar, registers.cr0 & 0x8000_0001), (77, 88, 0));
}

#[test]
fn interrupts_of_a_program_without_privilege_are_not_lost() {
    // In ring 3 an external interrupt needs no privilege of its gate, and its EXT bit is set if the gate is bad.
    let mut machine = Machine::legacy(&[0x90, 0xf4], true);
    machine.edit(|registers| registers.rflags |= IF);
    machine.put(IDT + 0x200, gate(CODE0, HANDLERS + 0x400, 14, 0, 0));
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.vector(), 0x40);
    let mut machine = Machine::legacy(&[0x90, 0xf4], true);
    machine.edit(|registers| registers.rflags |= IF);
    machine.put(IDT + 0x200, 0);
    interrupted(&mut machine, 0x40);
    assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0x203, CODE as u32]));
    // A stack that faults during delivery: #PF pushes onto it again, so: double, triple.
    let mut machine = Machine::new(&[0x90], true);
    machine.edit(|registers| registers.rflags |= IF);
    machine.put(TSS + 4, 0x10_0000_0000);
    interrupted(&mut machine, 0x40);
    assert_eq!(machine.run(10), Exit::Shutdown);
}
