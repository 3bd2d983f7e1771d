//! Every string instruction with 32- and 64-bit addresses, with every kind of repetition, whose registers have upper
//! halves and whose first, second or no access faults: what is left in the registers must be what silicon leaves.

use ferro_cpudiff::{DATA, DATA_LEN, Generator, Mode, Native, Soft, State, Undefined, differences};

const UPPER: u64 = 0xdead_beef << 32;

/// Addresses for RSI and RDI: good; the first element faults; the second does (upwards), with an element of 4 bytes.
fn addresses() -> [u64; 5] {
    let end = DATA + DATA_LEN as u64;
    // After the data comes a page that can only be read, and then nothing.
    [DATA + 0x800, end + 0x1000, end + 0xffc, end - 4, end + 0x800]
}

/// Forgives what other silicon than Intel's does: a fault in a repeated comparison gives the flags back.
fn give_flags_back(native: &mut State, before: &State) {
    if native.vector != 6 {
        native.rflags = native.rflags & !0x8d5 | before.rflags & 0x8d5;
    }
}

/// Whether a repetition with 32-bit addresses of which little or nothing came clears the upper halves of RCX, RSI and RDI
/// differs among processors, Intel's own too: either will do, where the lower halves are right.
fn leave_upper_halves(native: &mut State, soft: &State, before: &State) {
    for index in [1, 6, 7] {
        let (a, b, upper) = (native.gpr[index], soft.gpr[index], before.gpr[index] >> 32);
        let allowed = |value: u64| value >> 32 == 0 || value >> 32 == upper;
        if a & 0xffff_ffff == b & 0xffff_ffff && allowed(a) && allowed(b) {
            native.gpr[index] = b;
        }
    }
}

#[test]
fn string_instructions_leave_what_silicon_leaves() {
    let mut native = match Native::new() {
        Ok(native) => native,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let mut soft = Soft::new();
    let mut state = Generator::new(7).state(Mode::Long);
    state.gpr[0] = 0x1122_3344_5566_7788;
    let (mut cases, mut failures) = (0, 0);
    let opcodes = [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf];
    for opcode in opcodes {
        for repeat in [None, Some(0xf2), Some(0xf3)] {
            for narrow in [false, true] {
                for width in [None, Some(0x66), Some(0x48)] {
                    if opcode & 1 == 0 && width.is_some() {
                        continue;
                    }
                    let mut code = vec![];
                    code.extend(repeat);
                    code.extend(narrow.then_some(0x67));
                    code.extend(width);
                    code.extend([opcode, 0x0f, 0x0b]);
                    let upper = if narrow { UPPER } else { 0 };
                    for (rsi, rdi) in addresses().into_iter().flat_map(|a| addresses().map(|b| (a, b))) {
                        for count in [0, 1, 2, 5] {
                            for flags in [0x202, 0x602] {
                                state.gpr[1] = count | upper;
                                state.gpr[6] = rsi | upper;
                                state.gpr[7] = rdi | upper;
                                state.rflags = flags;
                                let Some(a) = native.run(Mode::Long, &code, &state) else { continue };
                                let b = soft.run(Mode::Long, &code, &state).expect("every run ends in a handler");
                                cases += 1;
                                let mut a = a;
                                if !native.is_intel() {
                                    give_flags_back(&mut a, &state);
                                }
                                if narrow {
                                    leave_upper_halves(&mut a, &b, &state);
                                }
                                let found = differences(&a, &b, &Undefined::default());
                                if !found.is_empty() {
                                    failures += 1;
                                    if failures < 20 {
                                        println!(
                                            "{code:02x?} rcx {:x} rsi {:x} rdi {:x} flags {flags:x}: {found:?}",
                                            state.gpr[1], state.gpr[6], state.gpr[7]
                                        );
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    println!("{cases} cases, {failures} differ");
    assert!(cases > 10_000);
    assert_eq!(failures, 0, "the CPUs disagree");
}
