//! Resource control: guests that execute random bytes in every mode, with a bus that answers anything, take nothing down
//! but themselves. `FERRO_SEED` repeats one seed; it is printed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferro_guest::{GuestMemory, Ram, Range, RangeKind};
use ferro_hypervisor::soft::SoftVm;
use ferro_hypervisor::{Bus, CS, Exit, HostClock, Registers, SegmentRegister, Vm, VmClock};

const MEMORY: u64 = 1 << 20;
const PAGE_TABLES: u64 = 0x1000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// Answers every read with something else.
struct Anything(AtomicU64);

impl Bus for Anything {
    fn port_read(&self, port: u16, _size: u8) -> u32 {
        (self.0.fetch_add(0x1234_5677, Ordering::Relaxed) ^ u64::from(port)) as u32
    }
    fn port_write(&self, _port: u16, _size: u8, _value: u32) {}
    fn mmio_read(&self, address: u64, _size: u8) -> u64 {
        self.0.fetch_add(0x9876_5431, Ordering::Relaxed) ^ address
    }
    fn mmio_write(&self, _address: u64, _size: u8, _value: u64) {}
}

fn memory(random: &mut Random) -> Arc<GuestMemory> {
    let memory = GuestMemory::new(
        Ram::new(MEMORY).unwrap(),
        &[Range { start: 0, len: MEMORY, offset: 0, kind: RangeKind::Ram }],
    )
    .unwrap();
    for address in (0..MEMORY).step_by(8) {
        // A good part of zeros, so that descriptors and page tables come out valid now and then.
        let word = if random.next().is_multiple_of(4) { 0 } else { random.next() };
        memory.store(address, word).unwrap();
    }
    Arc::new(memory)
}

/// Real mode, flat 32-bit protected mode, or long mode with the first gigabyte mapped one to one.
fn enter(mode: u64, registers: &mut Registers, memory: &GuestMemory, random: &mut Random) {
    registers.gpr = std::array::from_fn(|_| random.next() & 0xf_ffff);
    registers.rip = 0x8000 + (random.next() & 0x7fff);
    registers.rflags = 2 | random.next() & 0xcd5;
    let flat = |attributes| SegmentRegister { selector: 8, base: 0, limit: u32::MAX, attributes };
    match mode {
        0 => {
            registers.segments[CS] = SegmentRegister { selector: 0, base: 0, limit: 0xffff, attributes: 0x9b };
        }
        1 => {
            registers.segments = [flat(0xc093); 6];
            registers.segments[CS] = flat(0xc09b);
            registers.cr0 = 0x11;
        }
        _ => {
            memory.store(PAGE_TABLES, (PAGE_TABLES + 0x1000) | 7).unwrap();
            memory.store(PAGE_TABLES + 0x1000, (PAGE_TABLES + 0x2000) | 7).unwrap();
            for page in 0..512_u64 {
                memory.store(PAGE_TABLES + 0x2000 + 8 * page, page << 21 | 0x87).unwrap();
            }
            registers.segments = [flat(0xc093); 6];
            registers.segments[CS] = flat(0xa09b);
            registers.cr3 = PAGE_TABLES;
            registers.cr4 = 0x620;
            registers.msr.efer = 0x500;
            registers.cr0 = 0x8000_0011;
        }
    }
}

/// Runs one random guest for at most a fraction of a second; says whether it ended by itself.
fn run(seed: u64) -> bool {
    let mut random = Random(seed);
    let memory = memory(&mut random);
    let clock = Arc::new(VmClock::Host(HostClock::default()));
    let vm = SoftVm::new(memory.clone(), 1, clock, seed).unwrap();
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut registers = vcpu.registers().unwrap();
    enter(seed % 3, &mut registers, &memory, &mut random);
    vcpu.set_registers(&registers).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..60 {
                std::thread::sleep(Duration::from_millis(1));
                if done.load(Ordering::Acquire) {
                    return;
                }
            }
            vm.kick(0);
        });
        let exit = vcpu.run(&Anything(AtomicU64::new(seed)));
        done.store(true, Ordering::Release);
        assert!(matches!(exit, Exit::Kicked | Exit::Shutdown), "seed {seed}: {exit:?}");
        exit == Exit::Shutdown
    })
}

fn run_many(count: u64) {
    if let Ok(seed) = std::env::var("FERRO_SEED") {
        run(seed.parse().expect("FERRO_SEED is a number"));
        return;
    }
    let first = 1_000_000;
    let ended = (first..first + count).filter(|&seed| {
        println!("seed {seed}");
        run(seed)
    });
    println!("{} of {count} random guests ended by a triple fault", ended.count());
}

#[test]
fn random_guests_take_nothing_down_but_themselves() {
    run_many(150);
}

#[test]
#[ignore = "takes minutes"]
fn many_random_guests_take_nothing_down_but_themselves() {
    run_many(20_000);
}
