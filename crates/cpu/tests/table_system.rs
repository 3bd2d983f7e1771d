//! System instructions: fast system calls, segment bases, descriptor tables, queries about selectors, model-specific
//! registers (SDM volume 2, and volume 3, chapters 2 and 5).

mod machine;

use ferro_cpu::{CS, DS, ES, Exit, FS, GS, SS, SegmentRegister};
use machine::bench::*;
use machine::legacy::{
    ABSENT, CODE0, CODE3, CONFORMING, DATA0, DATA3, EXECUTE_ONLY, FREE, GDT, NARROW_TASK, OTHER_TASK, READ_ONLY, TASK,
    TASK_GATE, descriptor, gate,
};
use machine::{CODE, DATA, Machine, STACK};

#[test]
fn syscall_and_sysret() {
    let mut machine = Machine::new(&[0x0f, 0x05], true);
    machine.memory.store(CODE + 0x100, 0xf4_u8).unwrap();
    machine.edit(|registers| {
        registers.msr.star = 0x0010_0008 << 32;
        registers.msr.lstar = CODE + 0x100;
        registers.msr.fmask = 0x4_0600;
        registers.rflags = 0x4_0ed7;
    });
    let registers = machine.halts_at(0x100);
    assert_eq!((registers.gpr[1], registers.gpr[11], registers.rflags), (CODE + 2, 0x4_0ed7, 0x8d7));
    let flat = |selector, attributes| SegmentRegister { selector, base: 0, limit: u32::MAX, attributes };
    assert_eq!(registers.segments[CS], flat(8, 0xa09b));
    assert_eq!(registers.segments[SS], flat(0x10, 0xc093));
    assert_eq!(registers.gpr[4], STACK, "the stack pointer stays");
    // sysretq: CS is STAR[63:48] + 16, SS + 8, both of ring 3; RF and VM of R11 are dropped.
    for (code, selector, attributes) in [(&[0x48, 0x0f, 0x07][..], 0x23, 0xa0fb), (&[0x0f, 0x07], 0x13, 0xc0fb)] {
        let mut machine = Machine::new(code, false);
        machine.memory.store(CODE + 0x100, 0xf4_u8).unwrap();
        machine.edit(|registers| {
            registers.msr.star = 0x0010 << 48;
            registers.gpr[1] = CODE + 0x100;
            registers.gpr[11] = 0x3_0ad7;
        });
        assert_eq!(machine.run(1), Exit::Budget);
        let registers = machine.cpu.registers();
        assert_eq!((registers.rip, registers.rflags), (CODE + 0x100, 0xad7));
        assert_eq!(registers.segments[CS], flat(selector, attributes));
        assert_eq!(registers.segments[SS], flat(0x1b, 0xc0f3));
        assert_eq!(machine.vector(), 13, "the HLT is in ring 3");
    }
    // #UD where SCE is off, #GP for a return address that isn't canonical, with the privilege as it was.
    for code in [&[0x0f, 0x05][..], &[0x48, 0x0f, 0x07]] {
        let mut machine = Machine::new(code, false);
        machine.edit(|registers| registers.msr.efer &= !1);
        assert_eq!(machine.vector(), 6);
    }
    let mut machine = Machine::new(&[0x48, 0x0f, 0x07], false);
    machine.edit(|registers| registers.gpr[1] = 1 << 47);
    assert_eq!((machine.vector(), machine.handler().1), (13, [0, CODE, 8]));
}

#[test]
fn sysenter_and_sysexit() {
    let mut machine = Machine::new(&[0x0f, 0x34], true);
    machine.memory.store(CODE + 0x100, 0xf4_u8).unwrap();
    machine.edit(|registers| {
        registers.msr.sysenter_cs = 0xb;
        registers.msr.sysenter_eip = CODE + 0x100;
        registers.msr.sysenter_esp = 0x9000;
        registers.rflags = 0x2_02d7 & !0x2_0000;
    });
    let registers = machine.halts_at(0x100);
    assert_eq!((registers.segments[CS].selector, registers.segments[SS].selector), (8, 0x10));
    assert_eq!((registers.gpr[4], registers.rflags), (0x9000, 0xd7));
    for (code, cs, ss) in [(&[0x0f, 0x35][..], 0x1b, 0x23), (&[0x48, 0x0f, 0x35], 0x2b, 0x33)] {
        let mut machine = Machine::new(code, false);
        machine.memory.store(CODE + 0x100, 0xf4_u8).unwrap();
        machine.edit(|registers| {
            registers.msr.sysenter_cs = 8;
            (registers.gpr[2], registers.gpr[1]) = (CODE + 0x100, 0x2_9000);
        });
        assert_eq!(machine.run(1), Exit::Budget);
        let registers = machine.cpu.registers();
        assert_eq!((registers.segments[CS].selector, registers.segments[SS].selector), (cs, ss));
        assert_eq!((registers.rip, registers.gpr[4]), (CODE + 0x100, 0x2_9000));
    }
    for code in [&[0x0f, 0x34][..], &[0x0f, 0x35]] {
        let mut machine = Machine::new(code, false);
        machine.edit(|registers| registers.msr.sysenter_cs = 3);
        assert_eq!((machine.vector(), machine.handler().1[0]), (13, 0));
    }
}

#[test]
fn bases_of_fs_and_gs() {
    let mut bench = Bench::long();
    let on = |registers: &mut ferro_cpu::Registers| {
        registers.cr4 |= 1 << 16;
        registers.segments[FS].base = 0x1_2345_6789;
        registers.segments[GS].base = 0xffff_8000_0000_0001;
        registers.msr.kernel_gs_base = 0x77;
        registers.gpr[3] = 0xffff_ffff_8000_0000;
    };
    assert_eq!(bench.run(&[0xf3, 0x48, 0x0f, 0xae, 0xc3], on).gpr[3], 0x1_2345_6789);
    assert_eq!(bench.run(&[0xf3, 0x0f, 0xae, 0xc3], on).gpr[3], 0x2345_6789);
    assert_eq!(bench.run(&[0xf3, 0x48, 0x0f, 0xae, 0xcb], on).gpr[3], 0xffff_8000_0000_0001);
    assert_eq!(bench.run(&[0xf3, 0x48, 0x0f, 0xae, 0xd3], on).segments[FS].base, 0xffff_ffff_8000_0000);
    assert_eq!(bench.run(&[0xf3, 0x0f, 0xae, 0xdb], on).segments[GS].base, 0x8000_0000);
    let after = bench.run(&[0x0f, 0x01, 0xf8], on);
    assert_eq!((after.segments[GS].base, after.msr.kernel_gs_base), (0x77, 0xffff_8000_0000_0001));
    assert_eq!(bench.try_run(&[0xf3, 0x48, 0x0f, 0xae, 0xc3], |_| ()).unwrap_err().0, 6, "needs CR4.FSGSBASE");
    let fault = bench.try_run(&[0xf3, 0x48, 0x0f, 0xae, 0xd3], |registers| {
        on(registers);
        registers.gpr[3] = 1 << 63;
    });
    assert_eq!(fault.unwrap_err(), (13, 0));
    // mov fs, ax with a null selector drops the base; with a descriptor it has 32 bits.
    let after = bench.run(&[0x8e, 0xe0], |registers| {
        on(registers);
        registers.gpr[0] = 0;
    });
    assert_eq!((after.segments[FS].base, after.segments[FS].selector), (0, 0));
    // Other segments' bases and limits don't count in 64-bit mode.
    bench.machine.memory.store(DATA, 0x5a_u8).unwrap();
    let after = bench.run(&[0x26, 0x8a, 0x03], |registers| {
        registers.segments[ES] = SegmentRegister { selector: 0, base: 0x5000, limit: 0, attributes: 0x1_0000 };
        registers.gpr[3] = DATA;
    });
    assert_eq!(after.gpr[0] as u8, 0x5a);
}

#[test]
fn descriptor_table_registers() {
    // sgdt, sidt [rbx]; lgdt, lidt [rbx] in 64-bit mode: ten bytes.
    let mut bench = Bench::long();
    bench.run(&[0x0f, 0x01, 0x03], |registers| registers.gpr[3] = DATA);
    assert_eq!(bench.machine.memory.load::<u16>(DATA), Some(0x3f));
    assert_eq!(bench.machine.memory.load::<u64>(DATA + 2), Some(0x6000));
    bench.machine.memory.store(DATA, 0x1234_u16).unwrap();
    bench.machine.put(DATA + 2, 0xffff_8000_1234_5678);
    let after = bench.run(&[0x0f, 0x01, 0x1b], |registers| registers.gpr[3] = DATA);
    assert_eq!((after.idtr.base, after.idtr.limit), (0xffff_8000_1234_5678, 0x1234));
    let after = bench.run(&[0x66, 0x0f, 0x01, 0x1b], |registers| registers.gpr[3] = DATA);
    assert_eq!(after.idtr.base, 0xffff_8000_1234_5678, "the operand size doesn't count");
    bench.machine.put(DATA + 2, 1 << 60);
    assert_eq!(bench.try_run(&[0x0f, 0x01, 0x13], |registers| registers.gpr[3] = DATA).unwrap_err(), (13, 0));
    // In 32-bit code six bytes, with a 16-bit operand 24 bits of base.
    let mut bench = Bench::legacy();
    bench.machine.put(DATA, 0x89ab_cdef_0123);
    let after = bench.run(&[0x0f, 0x01, 0x1b], |registers| registers.gpr[3] = DATA);
    assert_eq!((after.idtr.base, after.idtr.limit), (0x89ab_cdef, 0x123));
    let after = bench.run(&[0x66, 0x0f, 0x01, 0x1b], |registers| registers.gpr[3] = DATA);
    assert_eq!(after.idtr.base, 0xab_cdef);
    // smsw, str, sldt
    let after = bench.run(&[0x0f, 0x01, 0xe3], |_| ());
    assert_eq!(after.gpr[3], 0x11);
    let after = bench.run(&[0x66, 0x0f, 0x00, 0xcb], |registers| registers.gpr[3] = 0xaaaa_aaaa);
    assert_eq!(after.gpr[3], 0xaaaa_0000 | u64::from(TASK));
    bench.run(&[0x0f, 0x00, 0x0b], |registers| registers.gpr[3] = DATA + 8);
    assert_eq!(bench.machine.memory.load::<u32>(DATA + 8), Some(u32::from(TASK)));
    // lmsw sets PE, MP, EM and TS, but never clears PE.
    let after = bench.run(&[0x0f, 0x01, 0xf3], |registers| registers.gpr[3] = 0xfff0 | 0xe);
    assert_eq!(after.cr0, 0x1f);
    let after = bench.run(&[0x0f, 0x06], |registers| registers.cr0 |= 8);
    assert_eq!(after.cr0 & 8, 0, "CLTS");
}

#[test]
fn what_a_selector_would_allow() {
    let mut bench = Bench::legacy();
    let table = descriptor(0, 0xf, 0x82);
    bench.machine.put(GDT + u64::from(FREE), table);
    bench.machine.put(GDT + u64::from(FREE) + 8, gate(CODE0, 0, 12, 3, 0));
    bench.machine.put(GDT + u64::from(FREE) + 16, gate(CODE0, 0, 14, 3, 0));
    // (selector, access rights by LAR, limit by LSL, VERR, VERW) for ring 0
    let cases = [
        (0, None, None, false, false),
        (3, None, None, false, false),
        (0x100, None, None, false, false),
        (CODE0, Some(0x00cf_9b00), Some(u32::MAX), true, false),
        (DATA0, Some(0x00cf_9300), Some(u32::MAX), true, true),
        (DATA0 | 3, None, None, false, false),
        (DATA3, Some(0x00cf_f300), Some(u32::MAX), true, true),
        (CODE3, Some(0x00cf_fb00), Some(u32::MAX), true, false),
        (CONFORMING | 3, Some(0x00cf_9f00), Some(u32::MAX), true, false),
        (EXECUTE_ONLY, Some(0x00cf_f900), Some(u32::MAX), false, false),
        (READ_ONLY, Some(0x00cf_f100), Some(u32::MAX), true, false),
        (ABSENT, Some(0x00cf_7300), Some(u32::MAX), true, true),
        (TASK, Some(0x8b00), Some(0x67), false, false),
        (OTHER_TASK, Some(0x8900), Some(0x67), false, false),
        (NARROW_TASK, Some(0x8100), Some(0x2b), false, false),
        (TASK_GATE, Some(0xe500), None, false, false),
        (FREE, Some(0x8200), Some(0xf), false, false),
        (FREE + 8, Some(0xec00), None, false, false),
        (FREE + 16, None, None, false, false),
    ];
    for (selector, rights, limit, readable, writable) in cases {
        let mut ask = |code: &[u8]| {
            let after = bench.run(code, |registers| {
                (registers.gpr[3], registers.gpr[1]) = (0x5555, u64::from(selector));
                registers.rflags |= ALL & !ZF;
            });
            let set = after.rflags & ZF != 0;
            assert_eq!(after.rflags & ALL & !ZF, ALL & !ZF, "only ZF changes");
            assert!(set || after.gpr[3] == 0x5555, "nothing is written without ZF");
            (set, after.gpr[3] as u32)
        };
        // Bits 16 to 19 are the limit's, which LAR leaves undefined.
        let (set, value) = ask(&[0x0f, 0x02, 0xd9]);
        assert_eq!(
            set.then_some(value & 0x00f0_ff00),
            rights.map(|value: u32| value & 0x00f0_ff00),
            "lar {selector:#x}"
        );
        let (set, value) = ask(&[0x0f, 0x03, 0xd9]);
        assert_eq!(set.then_some(value), limit, "lsl {selector:#x}");
        assert_eq!(ask(&[0x0f, 0x00, 0xe1]).0, readable, "verr {selector:#x}");
        assert_eq!(ask(&[0x0f, 0x00, 0xe9]).0, writable, "verw {selector:#x}");
    }
    // arpl: raises the RPL of RBX to RCX's.
    for (a, b) in (0..4).flat_map(|a| (0..4).map(move |b| (a, b))) {
        let after =
            bench.run(&[0x63, 0xcb], |registers| (registers.gpr[3], registers.gpr[1]) = (0x1230 | a, 0x4440 | b));
        assert_eq!((after.gpr[3], after.rflags & ZF != 0), (0x1230 | a.max(b), a < b));
    }
    // Far pointers load both; a bad selector neither.
    bench.machine.put(DATA, u64::from(DATA3) << 32 | 0x1234_5678);
    bench.machine.put(DATA + 8, u64::from(EXECUTE_ONLY) << 32 | 0x1234_5678);
    for (code, index) in
        [(&[0xc4, 0x13][..], ES), (&[0xc5, 0x13], DS), (&[0x0f, 0xb4, 0x13], FS), (&[0x0f, 0xb5, 0x13], GS)]
    {
        let after = bench.run(code, |registers| registers.gpr[3] = DATA);
        assert_eq!((after.gpr[2], after.segments[index].selector), (0x1234_5678, DATA3));
        let fault = bench.try_run(code, |registers| (registers.gpr[3], registers.gpr[2]) = (DATA + 8, 7));
        assert_eq!(fault.unwrap_err(), (13, u64::from(EXECUTE_ONLY)));
        assert_eq!(bench.machine.cpu.registers().gpr[2], 7);
    }
}

#[test]
fn model_specific_registers() {
    let mut bench = Bench::long();
    // (index, value, kept?)
    let cases = [
        (0xc000_0080_u32, 0xd01_u64, true),
        (0xc000_0080, 0xd00, true),
        (0xc000_0080, 0xc01, false),
        (0xc000_0080, 0xd01 | 1 << 12, false),
        (0xc000_0081, u64::MAX, true),
        (0xc000_0082, 0xffff_8000_0000_0000, true),
        (0xc000_0082, 0x8000_0000_0000, false),
        (0xc000_0084, 0x4_7700, true),
        (0xc000_0100, 0x1234, true),
        (0xc000_0101, 1 << 47, false),
        (0xc000_0102, 0x5678, true),
        (0xc000_0103, 0xffff_ffff, true),
        (0xc000_0103, 1 << 32, false),
        (0x174, 0x10, true),
        (0x175, 0x7fff_ffff_ffff, true),
        (0x176, 1 << 63, false),
        (0x277, 0x0007_0406_0007_0406, true),
        (0x277, 2, false),
        (0x277, 8, false),
        (0x1234_5678, 0, false),
    ];
    for (index, value, kept) in cases {
        let set = |registers: &mut ferro_cpu::Registers| {
            registers.gpr[1] = 0xdead_0000_0000 | u64::from(index);
            (registers.gpr[0], registers.gpr[2]) = (value | 0xabcd << 32, value >> 32 | 0xabcd << 32);
        };
        // wrmsr; rdmsr
        let found = bench.try_run(&[0x0f, 0x30, 0x0f, 0x32], set);
        match found {
            Ok(after) => {
                assert!(kept, "{index:#x} takes {value:#x}");
                assert_eq!((after.gpr[0], after.gpr[2]), (value & mask(32), value >> 32), "{index:#x}");
            }
            Err(fault) => assert_eq!((kept, fault), (false, (13, 0)), "{index:#x} {value:#x}"),
        }
    }
    // The time stamp: RDTSC, RDTSCP with its number, and its offset by WRMSR.
    bench.machine.board.time = 0x1_2345_6789;
    let after = bench.run(&[0x0f, 0x31], |registers| (registers.gpr[0], registers.gpr[2]) = (u64::MAX, u64::MAX));
    assert_eq!((after.gpr[0], after.gpr[2]), (0x2345_6789, 1));
    let after = bench.run(&[0x0f, 0x01, 0xf9], |registers| registers.msr.tsc_aux = 9);
    assert_eq!((after.gpr[0], after.gpr[2], after.gpr[1]), (0x2345_6789, 1, 9));
    let after = bench.run(&[0x0f, 0x30, 0x0f, 0x31], |registers| {
        (registers.gpr[0], registers.gpr[1], registers.gpr[2]) = (5, 0x10, 0);
    });
    assert_eq!((after.gpr[0], after.gpr[2]), (5, 0));
    // CPUID clears upper halves and tells x86-64-v2.
    let after = bench.run(&[0x0f, 0xa2], |registers| {
        registers.gpr = [
            0xffff_ffff_0000_0001,
            u64::MAX << 32,
            u64::MAX,
            u64::MAX,
            registers.gpr[4],
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
    });
    let v2 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;
    assert_eq!(after.gpr[1] & v2, v2);
    assert!([0, 1, 2, 3].iter().all(|&index: &usize| after.gpr[index] >> 32 == 0));
    // RDRAND: CF set, the other five clear.
    let after = bench.run(&[0x48, 0x0f, 0xc7, 0xf3], |registers| registers.rflags |= ALL);
    assert_eq!((after.gpr[3], after.rflags & ALL), (7, CF));
}
