//! Random bytes as code, in every mode: nothing may panic, and nothing may run on forever.

mod machine;

use ferro_cpu::{CS, SS};
use machine::{CODE, Machine};

struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

#[test]
fn random_bytes_never_panic_in_any_mode() {
    let seed = std::env::var("FERRO_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(12345);
    println!("FERRO_SEED={seed}");
    let mut random = Random(seed * 2 + 1);
    for round in 0..1500 {
        let mut code = [0_u8; 256];
        for chunk in code.chunks_exact_mut(8) {
            chunk.copy_from_slice(&random.number().to_le_bytes());
        }
        // Half of the rounds stress two-byte opcodes and x87.
        if round % 2 == 0 {
            for at in (0..256).step_by(6) {
                code[at] = [0x0f, 0xdb, 0xd9, 0x66, 0xf3, 0xdd][random.number() as usize % 6];
            }
        }
        let mode = round % 5;
        let mut machine = Machine::new(&code, mode == 1);
        let values: Vec<u64> = (0..16).map(|_| random.number() >> (random.number() % 64)).collect();
        machine.edit(|registers| {
            registers.gpr.copy_from_slice(&values);
            registers.gpr[4] = machine::STACK;
            // Repetitions over gigabytes of nothing are right, but slow.
            registers.gpr[1] &= 0xffff;
            registers.rflags = values[3] & 0x3f_7fd5 & !(1 << 17) | 2;
            match mode {
                2 => {
                    // Real mode.
                    registers.cr0 = 0x10;
                    registers.msr.efer = 0;
                    for segment in &mut registers.segments {
                        segment.limit = 0xffff;
                        segment.attributes = 0x93;
                    }
                    registers.segments[CS].base = CODE;
                    registers.rip = 0;
                    registers.gpr[4] = 0xfff0;
                }
                3 => {
                    // 32-bit protected mode without paging.
                    registers.cr0 = 0x11;
                    registers.msr.efer = 0;
                    registers.segments[CS].attributes = 0xc09b;
                    registers.segments[SS].attributes = 0xc093;
                }
                4 => {
                    // Virtual-8086.
                    registers.cr0 = 0x11;
                    registers.msr.efer = 0;
                    registers.rflags |= 1 << 17;
                    for segment in &mut registers.segments {
                        segment.limit = 0xffff;
                        segment.attributes = 0xf3;
                        segment.base = CODE;
                        segment.selector = (CODE >> 4) as u16;
                    }
                    registers.rip = 0;
                    registers.gpr[4] = 0xfff0;
                }
                _ => {}
            }
        });
        let before = machine.cpu.instructions();
        for _ in 0..20 {
            machine.run(50);
        }
        assert!(machine.cpu.instructions() - before <= 1000);
    }
}
