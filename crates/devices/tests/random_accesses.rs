//! Resource control: random reads and writes to every chip's registers, and virtqueues of random bytes, never panic and
//! always return. Seeds are fixed here; the long run takes more of them.

use std::sync::{Arc, Mutex};

use ferro_devices::dma::Dma;
use ferro_devices::fuzzing::{CheckedDisk, Nothing, memory};
use ferro_devices::fw_cfg::FwCfg;
use ferro_devices::i8042::I8042;
use ferro_devices::ide::{IdeController, Position};
use ferro_devices::pci::{ConfigPorts, HostBridge, IsaBridge, PciBus, PciFunction, PirqRouter, SharedFunction};
use ferro_devices::power::PowerManagement;
use ferro_devices::rtc::Rtc;
use ferro_devices::serial::Uart16550;
use ferro_devices::sound::Ac97;
use ferro_devices::vga::{Surface, Vga, VideoMemory};
use ferro_devices::virtio::{Balloon, Block, Console, Net, Rng, Tablet, VirtioDevice, VirtioPci};
use ferro_guest::{BusDevice, GuestMemory, InterruptLine, NoInterrupt};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn size(&mut self) -> u8 {
        1 << self.below(4)
    }
}

fn poke(device: &mut dyn BusDevice, span: u64, rounds: u64, random: &mut Random) {
    for _ in 0..rounds {
        let (offset, size) = (random.below(span), random.size());
        if random.below(2) == 0 {
            device.read(offset, size);
        } else {
            device.write(offset, size, random.next());
        }
    }
}

#[test]
fn chips_at_ports_survive_random_accesses() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let line = || Arc::new(NoInterrupt);
        poke(&mut Uart16550::new(line(), Box::new(Nothing)), 8, 5000, &mut random);
        poke(&mut Rtc::new(line(), Arc::new(Nothing), Box::new(Nothing)), 2, 20_000, &mut random);
        poke(&mut I8042::new(Box::new(Nothing), line(), line()), 5, 5000, &mut random);
        poke(&mut Dma::default(), 0xe0, 5000, &mut random);
        poke(&mut FwCfg::new(memory()), 12, 5000, &mut random);
        poke(&mut PowerManagement::new(line(), Arc::new(Nothing), Box::new(Nothing)), 16, 5000, &mut random);
        let functions: Vec<(u8, SharedFunction)> =
            vec![(0, Arc::new(Mutex::new(HostBridge::default()))), (8, Arc::new(Mutex::new(isa_bridge())))];
        poke(&mut ConfigPorts::new(Arc::new(PciBus::new(functions))), 8, 20_000, &mut random);
    }
}

fn isa_bridge() -> IsaBridge {
    let lines = || Arc::new(NoInterrupt) as Arc<dyn InterruptLine>;
    IsaBridge::new(PirqRouter::new(std::array::from_fn(|_| lines()), std::array::from_fn(|_| lines())))
}

/// Reads and writes at random in a function's windows, and in its configuration space.
fn poke_function(function: &mut dyn PciFunction, windows: &[(usize, u64)], rounds: u64, random: &mut Random) {
    for _ in 0..rounds {
        let (bar, len) = windows[random.below(windows.len() as u64) as usize];
        let (offset, size) = (random.below(len), random.size());
        match random.below(20) {
            0 => function.write_config(random.below(256) as usize, 1 << random.below(3), random.next() as u32),
            1..9 => {
                function.read_bar(bar, offset, size);
            }
            _ => function.write_bar(bar, offset, size, random.next()),
        }
    }
}

#[test]
fn ide_survives_random_registers_packets_and_tables() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let memory = memory();
        for address in (0..0x10000).step_by(8) {
            memory.store(address, random.next() & 0x8000_ffff_0007_ffff).unwrap();
        }
        let line = || Arc::new(NoInterrupt) as Arc<dyn InterruptLine>;
        let mut ide = IdeController::new(memory, [line(), line()]);
        ide.attach_disk(Position { channel: 0, unit: 0 }, Box::new(CheckedDisk(1 << 20)), "disk");
        ide.attach_cdrom(Position { channel: 0, unit: 1 }, Some(Box::new(CheckedDisk(1 << 20))), "disc");
        for round in 0..200 {
            // Addresses small enough to be inside, often enough; then a command that means something.
            ide.write_bar(6, 6, 1, 0x40 | random.below(2) << 4);
            (1..6).for_each(|register| ide.write_bar(6, register, 1, random.next() & random.next() & 0xff));
            let commands =
                [0x20, 0x24, 0x25, 0x30, 0x34, 0x35, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xec, 0xa0, 0xa0, 0xa0, 0xa1];
            ide.write_bar(6, 7, 1, commands[random.below(16) as usize]);
            let packets = [0x00, 0x03, 0x12, 0x25, 0x28, 0x43, 0x46, 0x4a, 0x5a, 0xa8, 0xbe, 0xbd, 0x1b, 0x51];
            let mut packet = [0; 12].map(|_: u8| (random.next() & random.next() & random.next()) as u8);
            packet[0] = packets[random.below(14) as usize];
            packet.chunks(2).for_each(|pair| ide.write_bar(6, 0, 2, u64::from(u16::from_le_bytes([pair[0], pair[1]]))));
            ide.write_bar(4, 4, 4, random.below(0x8000) & !3);
            ide.write_bar(4, 0, 1, round % 2 * 9);
            (0..300).for_each(|_| _ = ide.read_bar(6, 0, 2));
            (0..300).for_each(|_| ide.write_bar(6, 0, 4, random.next()));
            poke_function(&mut ide, &[(4, 16), (6, 8), (7, 1), (8, 8), (9, 1)], 30, &mut random);
            if random.below(10) == 0 {
                let disc = Box::new(CheckedDisk(random.below(4) << 18));
                let _ = ide.insert(Position { channel: 0, unit: 1 }, disc, random.below(2) == 0);
            }
        }
    }
}

#[test]
fn the_sound_card_survives_random_registers_and_rings() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let memory = memory();
        for address in (0..0x10000).step_by(8) {
            memory.store(address, random.next() & 0xc000_00ff_000f_ffff).unwrap();
        }
        let mut card = Ac97::new(memory, Arc::new(NoInterrupt));
        for _ in 0..100 {
            poke_function(&mut card, &[(0, 1024), (1, 0x40), (1, 0x40), (1, 256)], 30, &mut random);
            card.write_bar(1, 0x10, 4, random.below(0x10000));
            card.write_bar(1, 0x1b, 1, random.next() & 0xfd);
            card.play(&mut [[0; 2]; 480]);
        }
    }
}

#[test]
fn the_vga_survives_random_registers_and_renders_what_they_say() {
    for seed in 0..30 {
        let mut random = Random(seed);
        let memory = memory();
        let mut vga = Vga::new(VideoMemory::new(memory, 0x4_0000, 0x4_0000, seed % 2 == 0));
        let mut surface = Surface::default();
        for round in 0..60 {
            poke_function(&mut vga, &[(2, 4096), (6, 0x2_0000), (7, 0x30), (7, 0x30), (8, 3)], 200, &mut random);
            if round % 3 == 0 {
                // A mode that is plausible, or not set at all.
                let sizes = [(1, 8 * random.below(200)), (2, random.below(1200)), (3, 8 * random.below(5))];
                for (register, value) in sizes.into_iter().chain([(4, random.below(4) | 0x40)]) {
                    vga.write_bar(8, 0, 2, register);
                    vga.write_bar(8, 1, 2, value);
                }
            }
            for rect in vga.update(&mut surface) {
                assert!(rect.x + rect.width <= surface.width() && rect.y + rect.height <= surface.height());
            }
            vga.contents();
        }
    }
}

/// Brings the device up with queues at random or plausible places full of random bytes, and rings.
fn torture<D: VirtioDevice>(device: D, random: &mut Random) {
    let memory = memory();
    let mut function = VirtioPci::new(device, memory.clone(), Arc::new(Nothing), Arc::new(NoInterrupt));
    for _ in 0..40 {
        bring_up(&mut function, &memory, random);
        for _ in 0..60 {
            match random.below(6) {
                0 => function.write_bar(4, 0x3000 + 4 * random.below(5), 2, random.next()),
                1 => {
                    function.read_bar(4, random.below(0x4000), random.size());
                }
                2 => function.write_bar(4, random.below(0x4000), random.size(), random.next()),
                3 => function.write_bar(1, random.below(0x1000), random.size(), random.next()),
                4 => function.write_config(random.below(256) as usize, 1 << random.below(3), random.next() as u32),
                _ => {
                    memory.store(0x2002 + 0x4000 * random.below(3), random.below(9) as u16).unwrap();
                }
            }
        }
        PciFunction::reset(&mut function);
    }
}

fn bring_up<D: VirtioDevice>(function: &mut VirtioPci<D>, memory: &GuestMemory, random: &mut Random) {
    for address in (0..0x10000).step_by(8) {
        // Addresses, lengths and flags that are plausible often enough.
        memory.store(address, random.next() & 0x0003_0003_0000_ffff).unwrap();
    }
    for (select, features) in [(0, random.next() & 0xffff_ffff), (1, 1)] {
        let offered = offered(function, select);
        function.write_bar(4, 0x08, 4, select);
        function.write_bar(4, 0x0c, 4, features & offered);
    }
    function.write_bar(4, 0x14, 1, 0x0b);
    for queue in 0..3 {
        function.write_bar(4, 0x16, 2, queue);
        function.write_bar(4, 0x18, 2, 8);
        let base = if random.below(8) == 0 { random.next() } else { 0x4000 * queue };
        for (register, at) in [(0x20, 0x1000), (0x28, 0x2000), (0x30, 0x3000)] {
            function.write_bar(4, register, 8, base.wrapping_add(at));
        }
        memory.store(0x2002 + 0x4000 * queue, random.below(9) as u16).unwrap();
        function.write_bar(4, 0x1c, 2, 1);
    }
    function.write_bar(4, 0x14, 1, 0x0f);
    (0..3).for_each(|queue| function.write_bar(4, 0x3000 + 4 * queue, 2, queue));
}

fn offered<D: VirtioDevice>(function: &mut VirtioPci<D>, select: u64) -> u64 {
    function.write_bar(4, 0x00, 4, select);
    function.read_bar(4, 0x04, 4)
}

#[test]
fn virtio_devices_survive_random_queues_and_registers() {
    for seed in 0..15 {
        let mut random = Random(seed);
        torture(Block::new(Box::new(CheckedDisk(1 << 20)), "x", 2), &mut random);
        torture(Net::new([2, 0, 0, 0, 0, 1], 1, Box::new(Nothing)), &mut random);
        torture(Console::new(Box::new(Nothing)), &mut random);
        torture(Rng::new(Box::new(Nothing)), &mut random);
        torture(Balloon::new(Box::new(Nothing)), &mut random);
        torture(Tablet::default(), &mut random);
    }
}
