//! Page tables of every format: rights, error codes, accessed and dirty bits, reserved bits, and when a changed
//! translation must be seen (SDM volume 3, chapter 4).

mod machine;

use ferro_cpu::{CS, Exit, Registers};
use machine::legacy::GDT;
use machine::{CODE, DATA, Machine, TABLE};

const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const PD: u64 = 0x3000;
/// A page table for the second 2 MiB.
const SECOND: u64 = 0x5000;
/// The linear address of its first page.
const WINDOW: u64 = 0x20_0000;

const P: u64 = 1;
const W: u64 = 2;
const U: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const G: u64 = 0x100;
const NX: u64 = 1 << 63;

const READ: [u8; 3] = [0x8b, 0x03, 0xf4];
const WRITE: [u8; 3] = [0x89, 0x03, 0xf4];
const JUMP: [u8; 3] = [0xff, 0xe3, 0xf4];

/// A machine with `code` that has `WINDOW` in RBX, mapped by these entries.
fn window(code: &[u8], user: bool, directory: u64, entry: u64) -> Machine {
    let mut machine = Machine::new(code, user);
    machine.put(PD + 8, directory);
    machine.put(SECOND, entry);
    machine.memory.store(DATA, 0xf4_u8).unwrap();
    machine.edit(|registers| registers.gpr[3] = WINDOW);
    machine
}

/// Error code of the page fault that comes of running, if one does; CR2 must be `address`.
fn page_fault(machine: &mut Machine, address: u64) -> Option<u64> {
    assert_eq!(machine.run(100), Exit::Halted);
    let (vector, frame) = machine.handler();
    if vector != 14 {
        return None;
    }
    let registers = machine.cpu.registers();
    assert_eq!((registers.cr2, frame[1] == CODE || frame[1] == address), (address, true));
    Some(frame[0])
}

#[test]
fn rights_are_those_of_all_levels_together() {
    for bits in 0..1 << 6 {
        let flag = |index: u32, value: u64| if bits >> index & 1 != 0 { value } else { 0 };
        let directory = flag(0, U) | flag(1, W);
        let entry = flag(2, U) | flag(3, W);
        let (user, protect) = (bits >> 4 & 1 != 0, bits >> 5 & 1 != 0);
        let (all_user, all_write) = (directory & entry & U != 0, directory & entry & W != 0);
        for (code, write) in [(READ, false), (WRITE, true)] {
            let mut machine = window(&code, user, SECOND | directory | P, DATA | entry | P);
            machine.edit(|registers| registers.cr0 = 0x8000_0033 | if protect { 0x1_0000 } else { 0 });
            let refused = if user { !all_user || write && !all_write } else { write && !all_write && protect };
            let error = 1 | if write { 2 } else { 0 } | if user { 4 } else { 0 };
            let expected = refused.then_some(error);
            assert_eq!(
                page_fault(&mut machine, WINDOW),
                expected,
                "{directory:#x} {entry:#x} {user} {write} {protect}"
            );
        }
    }
}

#[test]
fn execution_is_refused_by_nx_at_any_level_and_by_smep() {
    // (directory, entry, user, SMEP, expected)
    let cases = [
        (U, U, true, false, None),
        (U | NX, U, true, false, Some(0x15)),
        (U, U | NX, true, false, Some(0x15)),
        (U, U | NX, false, false, Some(0x11)),
        (U, U, false, false, None),
        (U, U, false, true, Some(0x11)),
        (U, 0, false, true, None),
        (0, U, false, true, None),
        (0, U, true, true, Some(0x15)),
        (U, U, true, true, None),
    ];
    for (directory, entry, user, smep, expected) in cases {
        let mut machine = window(&JUMP, user, SECOND | directory | P, DATA | entry | P);
        if smep {
            // The supervisor's own code has to be in pages of the supervisor.
            for page in (0..512).filter(|&page| !user || page == machine::HANDLERS >> 12) {
                machine.put(TABLE + page * 8, page << 12 | 3);
            }
            machine.edit(|registers| registers.cr4 |= 1 << 20);
        }
        assert_eq!(page_fault(&mut machine, WINDOW), expected, "{directory:#x} {entry:#x} user {user} SMEP {smep}");
    }
    // Data may be read from where nothing may be executed.
    let mut machine = window(&READ, true, SECOND | U | P | NX, DATA | U | P | NX);
    assert_eq!(page_fault(&mut machine, WINDOW), None);
}

#[test]
fn reserved_bits_are_told() {
    let big = 0x20_0000 | U | W | P | PS;
    // (table, index, entry, NXE, reserved?)
    let cases = [
        (SECOND, 0, DATA | U | P | 1 << 40, true, true),
        (SECOND, 0, DATA | U | P | 1 << 51, true, true),
        (SECOND, 0, DATA | U | P | 0x7f << 52, true, false),
        (SECOND, 0, DATA | U | P | 0xe00, true, false),
        (SECOND, 0, DATA | U | P | NX, false, true),
        (PD, 1, big, true, false),
        (PD, 1, big | 1 << 12, true, false),
        (PD, 1, big | 1 << 13, true, true),
        (PD, 1, big | 1 << 20, true, true),
        (PD, 1, SECOND | U | P | 1 << 44, true, true),
        (PD, 1, SECOND | U | P | 1 << 8, true, false),
    ];
    for (table, index, entry, nxe, reserved) in cases {
        let mut machine = window(&READ, true, SECOND | U | W | P, DATA | U | W | P);
        machine.put(table + index * 8, entry);
        machine.edit(|registers| registers.msr.efer = if nxe { 0xd01 } else { 0x501 });
        assert_eq!(page_fault(&mut machine, WINDOW), reserved.then_some(0xd), "{table:#x} {entry:#x}");
    }
    // One level up, where 1 GiB is at stake, and at the root, which has no big pages.
    for (table, entry, reserved) in [(PDPT, U | P | PS, false), (PDPT, 1 << 29 | U | P | PS, true)] {
        let mut machine = window(&READ, true, 0, 0);
        machine.put(table + 8, entry);
        machine.edit(|registers| registers.gpr[3] = 0x4000_0000);
        assert_eq!(page_fault(&mut machine, 0x4000_0000), reserved.then_some(0xd), "{entry:#x}");
    }
    let mut machine = window(&READ, true, 0, 0);
    machine.put(PML4 + 8, PDPT | U | P | PS);
    machine.edit(|registers| registers.gpr[3] = 1 << 39);
    assert_eq!(page_fault(&mut machine, 1 << 39), Some(0xd));
}

#[test]
fn accessed_and_dirty_bits_follow_each_kind_of_access() {
    let bits = |machine: &Machine, at: u64| machine.memory.load::<u64>(at).unwrap() & (A | D);
    for (code, leaf) in [(READ, A), (WRITE, A | D), (JUMP, A)] {
        let mut machine = window(&code, false, SECOND | U | W | P, DATA | U | W | P);
        machine.run(100);
        assert_eq!([PML4, PDPT, PD + 8, SECOND].map(|at| bits(&machine, at)), [A, A, A, leaf]);
        // The same in a page of 2 MiB and one of 1 GiB.
        let mut machine = window(&code, false, 0x20_0000 | PS | W | P, 0);
        machine.memory.store(WINDOW, 0xf4_u8).unwrap();
        machine.run(100);
        assert_eq!(bits(&machine, PD + 8), leaf);
        let mut machine = window(&code, false, 0, 0);
        machine.put(PDPT + 8, PS | W | P);
        machine.edit(|registers| registers.gpr[3] = 0x4000_0000 + DATA);
        machine.run(100);
        assert_eq!(bits(&machine, PDPT + 8), leaf);
    }
    // mov eax, [rbx]; mov [rbx], eax: the dirty bit comes although the translation is cached; and again after INVLPG.
    let mut machine =
        window(&[0x8b, 0x03, 0x89, 0x03, 0x0f, 0x01, 0x3b, 0x89, 0x03, 0xf4], false, SECOND | W | P, DATA | W | P);
    machine.run(1);
    assert_eq!(bits(&machine, SECOND), A);
    machine.run(1);
    assert_eq!(bits(&machine, SECOND), A | D);
    machine.put(SECOND, DATA | W | P);
    machine.run(100);
    assert_eq!(bits(&machine, SECOND), A | D);
    // A write that is refused leaves the page clean.
    let mut machine = window(&WRITE, false, SECOND | W | P, DATA | P);
    assert_eq!(page_fault(&mut machine, WINDOW), Some(3));
    assert_eq!(bits(&machine, SECOND) & D, 0);
}

/// `mov eax, [rbx]; mov [rsi], eax; (flush); mov ecx, [rbx]; mov [rsi], ecx; hlt` where the page behind RBX is replaced
/// before the flush; says whether the second half uses the new one, to read and to write.
fn sees_new_page(flush: &[u8], global: u64, cr4: u64, prepare: impl Fn(&mut Registers)) -> (bool, bool) {
    let mut code = vec![0x8b, 0x03, 0x89, 0x43, 4];
    code.extend(flush);
    code.extend([0x8b, 0x0b, 0x89, 0x4b, 8, 0xf4]);
    let mut machine = window(&code, false, SECOND | U | W | P, DATA | U | W | P | global);
    machine.memory.store(DATA, 1_u32).unwrap();
    machine.memory.store(DATA + 0x1000, 2_u32).unwrap();
    machine.edit(|registers| {
        registers.cr4 |= cr4;
        prepare(registers);
    });
    assert_eq!(machine.run(2), Exit::Budget);
    machine.put(SECOND, (DATA + 0x1000) | U | W | P | global);
    let registers = machine.halts_at(code.len() as u64 - 1);
    (registers.gpr[1] == 2, machine.memory.load::<u32>(DATA + 0x1008) == Some(2))
}

#[test]
fn flushes_of_every_kind_bring_changed_translations() {
    let reload: &[u8] = &[0x0f, 0x22, 0xd8];
    let invlpg: &[u8] = &[0x0f, 0x01, 0x3b];
    // mov cr4, rdx; mov cr4, rax would need both values: RDX has CR4 without PGE, RBP with.
    let toggle: &[u8] = &[0x0f, 0x22, 0xe2, 0x0f, 0x22, 0xe5];
    let pge = 0x80;
    let set = |registers: &mut Registers| {
        registers.gpr[0] = 0x1000;
        registers.gpr[2] = 0x620;
        registers.gpr[5] = 0x6a0;
    };
    // `mov eax, [rbx]` overwrites RAX: reload CR3 from R8 instead (41 0f 22 d8).
    let reload = [&[0x41], reload].concat();
    let with_root = |registers: &mut Registers| {
        set(registers);
        registers.gpr[8] = 0x1000;
    };
    assert_eq!(sees_new_page(&reload, 0, 0, with_root), (true, true));
    assert_eq!(sees_new_page(&reload, 0, pge, with_root), (true, true));
    assert_eq!(sees_new_page(&reload, G, 0, with_root), (true, true), "global without PGE is nothing");
    assert_eq!(sees_new_page(invlpg, 0, 0, set), (true, true));
    assert_eq!(sees_new_page(invlpg, G, pge, set), (true, true));
    assert_eq!(sees_new_page(toggle, G, pge, set), (true, true));
    assert_eq!(sees_new_page(toggle, G, 0, set), (true, true));
    // WRMSR of EFER (RCX, RDX:RAX): mov ecx, edi; mov eax, ebp; wrmsr. And CR0.WP off.
    let cr0 = |registers: &mut Registers| registers.gpr[5] = 0x8000_0033;
    assert_eq!(sees_new_page(&[0x0f, 0x22, 0xc5], 0, 0, cr0), (true, true));
    // INVLPG with a segment base, and of any byte of the page.
    let based = |registers: &mut Registers| registers.segments[ferro_cpu::FS].base = WINDOW + 0x800;
    assert_eq!(sees_new_page(&[0x64, 0x0f, 0x01, 0x3c, 0x25, 0xff, 7, 0, 0], 0, 0, based), (true, true));
}

#[test]
fn invlpg_of_any_part_of_a_big_page_drops_all_of_it() {
    // mov eax, [rbx]; invlpg [rsi]; mov ecx, [rbx]; hlt: RSI is elsewhere in the same 2 MiB.
    let mut machine = window(&[0x8b, 0x03, 0x0f, 0x01, 0x3e, 0x8b, 0x0b, 0xf4], false, PS | W | P, 0);
    machine.memory.store(DATA, 1_u32).unwrap();
    machine.memory.store(WINDOW + DATA, 2_u32).unwrap();
    machine.edit(|registers| {
        registers.gpr[3] = WINDOW + DATA;
        registers.gpr[6] = WINDOW + 0x1f_f000;
    });
    machine.run(1);
    machine.put(PD + 8, 0x20_0000 | PS | W | P);
    let registers = machine.halts_at(7);
    assert_eq!((registers.gpr[0], registers.gpr[1]), (1, 2));
}

#[test]
fn a_page_that_appears_is_seen_without_any_flush() {
    // mov eax, [rbx] faults; the handler returns after the page was made present.
    let mut machine = window(&READ, false, SECOND | W | P, 0);
    assert_eq!(page_fault(&mut machine, WINDOW), Some(0));
    machine.put(SECOND, DATA | W | P);
    machine.memory.store(DATA, 0x77_u32).unwrap();
    machine.edit(|registers| {
        registers.rip = CODE;
        registers.gpr[4] = machine::STACK;
        registers.activity = ferro_cpu::Activity::Running;
    });
    assert_eq!(machine.halts_at(2).gpr[0], 0x77);
    // And after a fault for want of rights, more rights are seen: the fault dropped the translation.
    let mut machine = window(&WRITE, true, SECOND | U | W | P, DATA | U | P);
    let before = machine.cpu.registers();
    assert_eq!(page_fault(&mut machine, WINDOW), Some(7));
    machine.put(SECOND, DATA | U | W | P);
    machine.cpu.set_registers(&before);
    machine.edit(|registers| registers.gpr[0] = 0x55);
    assert_eq!(machine.vector(), 13, "the HLT after the write");
    assert_eq!(machine.memory.load::<u32>(DATA), Some(0x55));
}

#[test]
fn code_follows_its_translation() {
    // jmp rbx to a page with code; after INVLPG the same address has other code.
    let mut machine = window(&[0xff, 0xd3, 0x0f, 0x01, 0x3b, 0xff, 0xd3, 0xf4], false, SECOND | W | P, DATA | W | P);
    // mov eax, 1; ret and mov ecx, 2; ret
    machine.memory.write(DATA, &[0xb8, 1, 0, 0, 0, 0xc3]);
    machine.memory.write(DATA + 0x1000, &[0xb9, 2, 0, 0, 0, 0xc3]);
    assert_eq!(machine.run(3), Exit::Budget);
    machine.put(SECOND, (DATA + 0x1000) | W | P);
    let registers = machine.halts_at(7);
    assert_eq!((registers.gpr[0], registers.gpr[1]), (1, 2));
}

#[test]
fn accesses_across_pages_fault_as_a_whole() {
    // mov [rbx], rax four bytes before a page that can't be written.
    let mut machine = window(&[0x48, 0x89, 0x03, 0xf4], false, SECOND | W | P, DATA | W | P);
    machine.put(SECOND + 8, (DATA + 0x1000) | P);
    machine.edit(|registers| {
        registers.gpr[3] = WINDOW + 0xffc;
        registers.gpr[0] = u64::MAX;
    });
    assert_eq!(machine.vector(), 14);
    assert_eq!((machine.cpu.registers().cr2, machine.handler().1[0]), (WINDOW + 0x1000, 3));
    assert_eq!(machine.memory.load::<u32>(DATA + 0xffc), Some(0), "the first half isn't written");
    // The pages needn't be neighbours in memory.
    let mut machine = window(&[0x48, 0x8b, 0x03, 0xf4], false, SECOND | W | P, (DATA + 0x3000) | W | P);
    machine.put(SECOND + 8, DATA | W | P);
    machine.memory.store(DATA + 0x3ffc, 0x1111_1111_u32).unwrap();
    machine.memory.store(DATA, 0x2222_2222_u32).unwrap();
    machine.edit(|registers| registers.gpr[3] = WINDOW + 0xffc);
    assert_eq!(machine.halts_at(3).gpr[0], 0x2222_2222_1111_1111);
    // An instruction whose second half isn't there: CR2 is where the second page begins, RIP the instruction.
    let mut machine = window(&[0xff, 0xe3], false, SECOND | W | P, DATA | W | P);
    machine.memory.write(DATA + 0xffe, &[0xb8, 1]);
    machine.edit(|registers| registers.gpr[3] = WINDOW + 0xffe);
    assert_eq!(machine.vector(), 14);
    assert_eq!((machine.cpu.registers().cr2, machine.handler().1), (WINDOW + 0x1000, [0x10, WINDOW + 0xffe, 8]));
}

#[test]
fn the_cpu_reads_its_tables_as_the_supervisor() {
    // Ring 3 loads a segment: the table's page is the supervisor's, then absent, then can't be marked.
    let code = [0x8e, 0xd8, 0xf4];
    let run = |entry: u64, descriptor: u64| {
        let mut machine = Machine::new(&code, true);
        machine.put(GDT + 0x28, descriptor);
        machine.map(GDT, GDT | entry);
        machine.edit(|registers| registers.gpr[0] = 0x2b);
        machine.vector();
        (machine.handler(), machine.cpu.registers().cr2)
    };
    let used = 0x00cf_f300_0000_ffff;
    assert_eq!(run(W | P, used).0.1[1], CODE + 2, "supervisor pages do");
    let fresh = 0x00cf_f200_0000_ffff;
    assert_eq!(run(W | P, fresh).0.1[1], CODE + 2);
    // The handler's own code segment comes from the same table: without it all is lost, so fault on the LDT instead.
    let mut machine = Machine::new(&code, true);
    machine.map(DATA, 0);
    machine.edit(|registers| {
        registers.ldtr = ferro_cpu::SegmentRegister { selector: 0x28, base: DATA, limit: 0xff, attributes: 0x82 };
        registers.gpr[0] = 0xf;
    });
    assert_eq!((machine.vector(), machine.handler().1), (14, [0, CODE, 0x23]));
    assert_eq!(machine.cpu.registers().cr2, DATA + 8);
    machine.map(DATA, DATA | P);
    machine.put(DATA + 8, fresh);
    machine.edit(|registers| {
        registers.rip = CODE;
        registers.activity = ferro_cpu::Activity::Running;
        registers.segments[CS].attributes = 0xa0fb;
        registers.segments[CS].selector = 0x23;
        registers.segments[ferro_cpu::SS].attributes = 0xc0f3;
        registers.gpr[4] = machine::STACK;
    });
    assert_eq!((machine.vector(), machine.handler().1[0]), (14, 3), "the accessed bit is a write");
}

#[test]
fn addresses_that_are_not_canonical_are_no_page_faults() {
    for (code, vector) in [(&READ[..], 13), (&[0x8b, 0x45, 0], 12), (&[0x8b, 0x04, 0x24], 12), (&JUMP, 13)] {
        for address in [0x8000_0000_0000, 0xffff_7fff_ffff_ffff, 0x7fff_ffff_fffe_u64] {
            if address == 0x7fff_ffff_fffe && code == JUMP {
                continue;
            }
            let mut machine = Machine::new(code, true);
            machine
                .edit(|registers| (registers.gpr[3], registers.gpr[4], registers.gpr[5]) = (address, address, address));
            assert_eq!(machine.vector(), vector, "{code:x?} {address:#x}");
            assert_eq!(machine.handler().1[..2], [0, CODE]);
        }
    }
}

/// A machine in 32-bit mode with these CR3 and CR4 and paging, at `CODE`.
fn paged_32(code: &[u8], root: u64, cr4: u64) -> Machine {
    let mut machine = Machine::legacy(code, false);
    machine.edit(|registers| {
        registers.cr0 = 0x8001_0011;
        registers.cr3 = root;
        registers.cr4 = cr4;
        registers.msr.efer = if cr4 & 0x20 != 0 { 0x800 } else { 0 };
        registers.gpr[3] = 0x40_0000;
    });
    machine
}

#[test]
fn two_level_tables_and_their_big_pages() {
    let store = |machine: &Machine, at: u64, value: u64| machine.memory.store(at, value as u32).unwrap();
    let identity = |machine: &Machine| {
        store(machine, 0x1000, 0x2007);
        (0..1024).for_each(|page| store(machine, 0x2000 + page * 4, page << 12 | 7));
    };
    // Small pages.
    let build = |code: &[u8], cr4: u64| {
        let machine = Machine::legacy(code, false);
        drop(machine);
        let machine = paged_32(code, 0x1000, cr4);
        identity(&machine);
        store(&machine, 0x1004, 0x4007);
        store(&machine, 0x4000, DATA | 3);
        machine
    };
    let mut machine = build(&WRITE, 0);
    machine.edit(|registers| registers.gpr[0] = 0x99);
    machine.halts_at(2);
    assert_eq!(machine.memory.load::<u32>(DATA), Some(0x99));
    assert_eq!((machine.word(0x1004) & 0xfff, machine.word(0x4000) & 0xfff), (0x27, 0x63));
    // Big pages need PSE; without it the bit is ignored and the entry is a table.
    let mut machine = build(&READ, 0x10);
    store(&machine, 0x1004, 0x87);
    machine.edit(|registers| registers.gpr[3] = 0x40_0000 + DATA);
    machine.memory.store(DATA, 0x42_u32).unwrap();
    assert_eq!(machine.halts_at(2).gpr[0], 0x42);
    assert_eq!(machine.word(0x1004) & 0xfff, 0xa7);
    let mut machine = build(&READ, 0);
    store(&machine, 0x1004, 0x4087);
    machine.memory.store(DATA, 0x43_u32).unwrap();
    assert_eq!(machine.halts_at(2).gpr[0], 0x43);
    // Bits 13 to 20 of a big page are address bits 32 to 39 (here: nothing there, so the bus), bit 21 is reserved.
    let mut machine = build(&READ, 0x10);
    store(&machine, 0x1004, 0x2087);
    machine.halts_at(2);
    let mut machine = build(&READ, 0x10);
    store(&machine, 0x1004, 1 << 21 | 0x87);
    assert_eq!((machine.vector(), machine.stack::<2>()), (14, [9, CODE as u32]));
    // Without NX the fetch bit isn't told.
    let mut machine = build(&JUMP, 0);
    store(&machine, 0x4000, 0);
    assert_eq!((machine.vector(), machine.stack::<2>()), (14, [0, 0x40_0000]));
}

#[test]
fn pae_keeps_its_four_pointers_until_cr3_is_loaded() {
    // Pointers at 0x1000, directory at 0x2000 with big pages for the first 2 MiB.
    let build = |code: &[u8], first: u64| {
        let machine = Machine::legacy(code, false);
        machine.put(0x1000, first);
        for index in 1..4 {
            machine.put(0x1000 + 8 * index, 0);
        }
        machine.put(0x2000, 0x87);
        machine.put(0x2008, 0x87);
        machine.put(0x2010, 0x20_0087);
        machine.put(0x3000, 0x20_0087);
        for index in 1..3 {
            machine.put(0x3000 + 8 * index, 0x87);
        }
        let registers = machine.cpu.registers();
        let mut machine = machine;
        machine.edit(|edited| {
            *edited = Registers { cr0: 0x8001_0011, cr3: 0x1000, cr4: 0x20, ..registers };
            edited.msr.efer = 0x800;
            edited.gpr[3] = 0x40_0000 + DATA;
        });
        machine
    };
    // mov eax, [ebx]; mov cr3, ecx; mov edx, [ebx]
    let code = [0x8b, 0x03, 0x8b, 0x33, 0x0f, 0x22, 0xd9, 0x8b, 0x13, 0xf4];
    let mut machine = build(&code, 0x2001);
    machine.memory.store(DATA, 2_u32).unwrap();
    machine.memory.store(0x20_0000 + DATA, 1_u32).unwrap();
    machine.edit(|registers| registers.gpr[1] = 0x1000);
    assert_eq!(machine.run(1), Exit::Budget);
    // 0x3000 maps the third 2 MiB to the first; the first itself moves away, so code goes with it.
    machine.memory.write(0x20_0000 + CODE, &code);
    machine.put(0x3000, 0x87);
    machine.put(0x1000, 0x3001);
    let registers = machine.halts_at(9);
    assert_eq!((registers.gpr[0], registers.gpr[6], registers.gpr[2]), (1, 1, 2));
    // A pointer with a reserved bit: loading CR3 raises #GP and changes nothing.
    for bit in [2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 40, 1 << 63] {
        let mut machine = build(&[0x0f, 0x22, 0xd9, 0xf4], 0x2001);
        machine.put(0x5000, 0x2001);
        machine.put(0x5018, 0x2001 | bit);
        machine.edit(|registers| registers.gpr[1] = 0x5000);
        assert_eq!((machine.vector(), machine.stack::<2>()), (13, [0, CODE as u32]), "{bit:#x}");
        assert_eq!(machine.cpu.registers().cr3, 0x1000);
    }
    // NX and the bits above the physical address in PAE entries.
    for (entry, error) in
        [(1 << 63 | 0x87, None), (1 << 62 | 0x87, Some(9)), (1 << 52 | 0x87, Some(9)), (1 << 40 | 0x87, Some(9))]
    {
        let mut machine = build(&READ, 0x2001);
        machine.put(0x2010, entry);
        match error {
            Some(error) => assert_eq!((machine.vector(), machine.stack::<1>()), (14, [error]), "{entry:#x}"),
            None => drop(machine.halts_at(2)),
        }
    }
}

#[test]
fn control_registers_refuse_what_makes_no_sense() {
    // mov cr0/cr3/cr4, rax in 64-bit mode: (register, value, fine?)
    let cases = [
        (0, 0x8001_0033_u64, true),
        (0, 0x0001_0033, false),
        (0, 0x8001_0032, false),
        (0, 0x1_8001_0033, false),
        (0, 0xa001_0033, false),
        (0, 0xe001_0033, true),
        (3, 0x1000, true),
        (3, 1 << 40 | 0x1000, false),
        (3, 1 << 52, false),
        (4, 0x6a0, true),
        (4, 0x600, false),
        (4, 0x620 | 1 << 11, false),
        (4, 0x620 | 1 << 21, false),
        (4, 0x620 | 1 << 32, false),
        (4, 0x10_0620 & !(1 << 20), true),
        (8, 15, true),
        (8, 16, false),
    ];
    for (register, value, fine) in cases {
        let code: &[u8] = match register {
            0 => &[0x0f, 0x22, 0xc0, 0xf4],
            3 => &[0x0f, 0x22, 0xd8, 0xf4],
            4 => &[0x0f, 0x22, 0xe0, 0xf4],
            _ => &[0x44, 0x0f, 0x22, 0xc0, 0xf4],
        };
        let mut machine = Machine::new(code, false);
        machine.edit(|registers| registers.gpr[0] = value);
        if fine {
            machine.halts_at(code.len() as u64 - 1);
        } else {
            assert_eq!((machine.vector(), machine.handler().1), (13, [0, CODE, 8]), "CR{register} {value:#x}");
        }
        let mut machine = Machine::new(code, true);
        assert_eq!(machine.vector(), 13, "CR{register} in ring 3");
    }
    // CR1 and the others don't exist.
    for modrm in [0xc8, 0xe8, 0xf0, 0xf8] {
        let mut machine = Machine::new(&[0x0f, 0x22, modrm], false);
        assert_eq!(machine.vector(), 6);
    }
    // INVLPG is the supervisor's.
    let mut machine = Machine::new(&[0x0f, 0x01, 0x3b], true);
    assert_eq!((machine.vector(), machine.handler().1), (13, [0, CODE, 0x23]));
}
