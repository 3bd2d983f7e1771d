//! Code that is overwritten by every kind of store, at every distance, through another address or by a device, is
//! executed as it is in memory (SDM volume 3, 9.1.3: what a store changes, the same CPU executes after a jump; like
//! silicon this CPU doesn't even need that).

mod machine;

use ferro_cpu::{Activity, Exit};
use machine::{CODE, DATA, Machine, STACK};

/// Where the code to be overwritten is: `mov eax, 0x11111111` and many HLTs.
const TARGET: u64 = CODE + 0x10;
const OLD: [u8; 16] = [0xb8, 0x11, 0x11, 0x11, 0x11, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4];
/// What it is overwritten with: `mov r, 0x22222222` with another register, or the beginning of that.
const NEW: [u8; 16] = [0xbd, 0x22, 0x22, 0x22, 0x22, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4];
/// Another address of the page of code.
const ALIAS: u64 = 0x18_0000;

/// Stores to [rdi] from RCX, XMM0, MM0, [rsi] and the like, and how many bytes.
const STORES: [(&[u8], usize); 26] = [
    (&[0x88, 0x0f], 1),
    (&[0x66, 0x89, 0x0f], 2),
    (&[0x89, 0x0f], 4),
    (&[0x48, 0x89, 0x0f], 8),
    (&[0x86, 0x0f], 1),
    (&[0x48, 0x87, 0x0f], 8),
    (&[0x48, 0x0f, 0xb1, 0x0f], 8),
    (&[0xf0, 0x48, 0x0f, 0xb1, 0x0f], 8),
    (&[0x0f, 0xc7, 0x0f], 8),
    (&[0x48, 0x0f, 0xc7, 0x0f], 16),
    (&[0x48, 0x0f, 0xc3, 0x0f], 8),
    (&[0x0f, 0x11, 0x07], 16),
    (&[0x0f, 0x29, 0x07], 16),
    (&[0x66, 0x0f, 0xd6, 0x07], 8),
    (&[0x66, 0x0f, 0x7e, 0x07], 4),
    (&[0x66, 0x0f, 0x3a, 0x16, 0x07, 0], 4),
    (&[0x0f, 0x13, 0x07], 8),
    (&[0x0f, 0x7f, 0x07], 8),
    (&[0x66, 0x0f, 0xf7, 0xc1], 16),
    (&[0xa4], 1),
    (&[0x48, 0xa5], 8),
    (&[0x8f, 0x07], 8),
    (&[0xff, 0x36], 8),
    (&[0xf0, 0x48, 0x31, 0x17], 8),
    (&[0x48, 0x31, 0x17], 8),
    (&[0x48, 0x0f, 0xc1, 0x2f], 8),
];

fn low(bytes: &[u8; 16]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// The code with a store at its beginning and the target 16 bytes on.
fn code(store: &[u8]) -> Vec<u8> {
    let mut code = store.to_vec();
    code.resize(16, 0x90);
    code.extend(OLD);
    code
}

/// Sets the registers for a store to `to`.
fn set(machine: &mut Machine, store: &[u8], to: u64) {
    let old = machine.memory.load::<u64>(DATA + 0x800).unwrap();
    let place = if to == DATA + 0x800 { old } else { low(&OLD) };
    machine.memory.write(DATA, &NEW);
    machine.memory.write(STACK, &NEW);
    machine.edit(|registers| {
        registers.activity = Activity::Running;
        registers.rip = CODE;
        registers.gpr = [0; 16];
        registers.gpr[7] = to;
        registers.gpr[6] = DATA;
        registers.gpr[4] = if store == [0xff, 0x36] { to + 8 } else { STACK };
        registers.gpr[1] = low(&NEW);
        registers.gpr[2] = low(&OLD) ^ low(&NEW);
        registers.gpr[5] = low(&NEW).wrapping_sub(place);
        match store {
            // CMPXCHG8B compares EDX:EAX and stores ECX:EBX; CMPXCHG16B all of them; CMPXCHG compares RAX.
            [0x0f, 0xc7, _] => {
                (registers.gpr[0], registers.gpr[2]) = (place & 0xffff_ffff, place >> 32);
                (registers.gpr[3], registers.gpr[1]) = (low(&NEW) & 0xffff_ffff, low(&NEW) >> 32);
            }
            [0x48, 0x0f, 0xc7, _] => {
                (registers.gpr[0], registers.gpr[2]) = (place, u64::from_le_bytes([0xf4; 8]));
                (registers.gpr[3], registers.gpr[1]) = (low(&NEW), u64::from_le_bytes([0xf4; 8]));
            }
            _ => registers.gpr[0] = place,
        }
        registers.fpu.xmm[0] = u128::from_le_bytes(NEW);
        registers.fpu.xmm[1] = u128::MAX;
        registers.fpu.st[0] = u128::from(low(&NEW)) | 0xffff << 64;
        registers.fpu.ftw = 0;
        registers.fpu.fsw = 0;
    });
}

#[test]
fn every_kind_of_store_changes_the_code_that_follows_it() {
    for (store, size) in STORES {
        for to in [TARGET, ALIAS + TARGET - CODE] {
            let mut machine = Machine::new(&code(store), false);
            machine.map(ALIAS, CODE | 7);
            // Once with the store elsewhere, so that the code is in every cache.
            for _ in 0..2 {
                machine.memory.write(DATA + 0x800, &OLD);
                set(&mut machine, store, DATA + 0x800);
                let registers = machine.halts_at(0x15);
                assert_eq!(registers.gpr[0], 0x1111_1111, "{store:x?}");
                assert_eq!(machine.memory.load::<u8>(DATA + 0x800), Some(NEW[0]), "{store:x?}");
            }
            set(&mut machine, store, to);
            let registers = machine.halts_at(0x15);
            let mut expected = OLD;
            expected[..size].copy_from_slice(&NEW[..size]);
            let value = u32::from_le_bytes(expected[1..5].try_into().unwrap());
            assert_eq!(registers.gpr[5], u64::from(value), "{store:x?} to {to:#x}");
        }
    }
}

#[test]
fn repeated_string_instructions_change_the_code_after_them() {
    // rep movsb and rep stosq
    for (store, count) in [(&[0xf3, 0xa4][..], 16), (&[0xf3, 0x48, 0xa5], 2), (&[0xf3, 0x48, 0xab], 1)] {
        let mut machine = Machine::new(&code(store), false);
        for to in [DATA + 0x800, TARGET] {
            set(&mut machine, store, to);
            machine.edit(|registers| {
                registers.gpr[0] = low(&NEW);
                registers.gpr[1] = count;
            });
            let registers = machine.halts_at(0x15);
            let changed = to == TARGET;
            assert_eq!(registers.gpr[5] == 0x2222_2222, changed, "{store:x?}");
        }
    }
}

#[test]
fn code_of_another_page_and_across_pages_changes() {
    // call rbx; mov [rdi], cl; call rbx; hlt; at the callee mov eax, imm32; add edx, eax; ret
    for callee in [DATA + 0x100, DATA + 0xffd, DATA + 0xffb] {
        let mut machine = Machine::new(&[0xff, 0xd3, 0x88, 0x0f, 0xff, 0xd3, 0xf4], false);
        machine.memory.write(callee, &[0xb8, 1, 0, 0, 0, 0x01, 0xc2, 0xc3]);
        machine.edit(|registers| {
            registers.gpr[2] = 0;
            registers.gpr[3] = callee;
            registers.gpr[7] = callee + 4;
            registers.gpr[1] = 1;
        });
        assert_eq!(machine.halts_at(6).gpr[2], 0x0100_0002, "{callee:#x}");
    }
}

#[test]
fn a_loop_that_changes_itself_each_time_counts_right() {
    // inc byte [rip+1]; add eax, imm8 (83 c0 ib: the operand of the INC); loop
    let mut machine = Machine::new(&[0xfe, 0x05, 2, 0, 0, 0, 0x83, 0xc0, 0, 0xe2, 0xf5, 0xf4], false);
    machine.edit(|registers| registers.gpr[1] = 100);
    let registers = machine.halts_at(11);
    assert_eq!(registers.gpr[0], (1..=100).sum::<u64>());
}

#[test]
fn a_call_may_overwrite_the_code_it_leads_to() {
    // call +0 with the stack so that the return address becomes the beginning of what is called: it is decoded anew.
    let mut machine = Machine::new(&[0xe8, 0, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0xf4], false);
    machine.edit(|registers| registers.gpr[4] = CODE + 13);
    // The return address, 0x10005, is at CODE + 5: add eax, 0x01000000 ...
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.memory.load::<u64>(CODE + 5), Some(CODE + 5));
    assert_eq!(machine.cpu.registers().rip, CODE + 5);
    // 05 00 01 00 00: add eax, 0x100; 00 00: add [rax], al; 00 f4: add ah, dh
    machine.edit(|registers| registers.gpr[0] = DATA);
    assert_eq!(machine.run(1), Exit::Budget);
    assert_eq!(machine.cpu.registers().gpr[0], DATA + 0x100);
}

#[test]
fn a_device_may_write_code() {
    // out 0x10, al; mov eax, 0x11111111; hlt: the device writes the MOV while the OUT executes.
    let mut machine = Machine::new(&[0xe6, 0x10, 0xb8, 0x11, 0x11, 0x11, 0x11, 0xf4], false);
    for pass in 0..2 {
        if pass == 1 {
            machine.board.dma = Some((machine.memory.clone(), CODE + 2, NEW[..5].to_vec()));
        }
        machine.edit(|registers| {
            registers.rip = CODE;
            registers.activity = Activity::Running;
        });
        let registers = machine.halts_at(7);
        assert_eq!((registers.gpr[0], registers.gpr[5]), (0x1111_1111, if pass == 0 { 0 } else { 0x2222_2222 }));
    }
    // And between two runs.
    machine.memory.write(CODE + 2, &[0xb9, 3, 0, 0, 0]);
    machine.board.dma = None;
    machine.edit(|registers| {
        registers.rip = CODE;
        registers.activity = Activity::Running;
    });
    assert_eq!(machine.halts_at(7).gpr[1], 3);
}

#[test]
fn data_next_to_code_may_change_without_harm() {
    // The counter lies in the page of the code: mov ecx, 400; inc dword [rip+..]; loop; hlt
    let mut machine = Machine::new(&[0xb9, 0x90, 1, 0, 0, 0xff, 5, 5, 0, 0, 0, 0xe2, 0xf8, 0xf4], false);
    machine.halts_at(13);
    assert_eq!(machine.memory.load::<u32>(CODE + 0x10), Some(400));
}
