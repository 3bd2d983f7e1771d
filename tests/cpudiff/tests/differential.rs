//! Random instructions on both CPUs. `FERRO_SEED` and `FERRO_SEQUENCES` say which and how many.

use std::collections::BTreeMap;

use ferro_cpudiff::{Choice, Generator, Mode, Native, Soft, State, Undefined, choice, differences};

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether KVM without hardware virtualization has emulated what `native` shows.
fn is_emulated(native: &State, soft: &State) -> bool {
    // It emulates what raises #GP: with another order of checks, and #UD for what it doesn't know.
    let protection = matches!(native.vector, 6 | 12 | 14) && matches!(soft.vector, 12 | 13) && native.rip == soft.rip;
    // Nor can it deliver to user code whose stack pointer isn't canonical without emulating some of that: then it
    // doesn't know the instruction, or forgets to check alignment.
    let canonical = (native.gpr[4] as i64) << 16 >> 16 == native.gpr[4] as i64;
    let differs = (soft.rip, soft.vector) != (native.rip, native.vector);
    protection || !canonical && differs && (native.vector == 6 || soft.vector == 17)
}

fn compare(sequences: u64, x87: bool, seed: u64) {
    let mut native = match Native::new() {
        Ok(native) => native,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let seed = from_environment("FERRO_SEED", seed);
    let sequences = from_environment("FERRO_SEQUENCES", sequences);
    let most = from_environment("FERRO_FAILURES", 1);
    println!("FERRO_SEED={seed}, {sequences} sequences");
    let mut generator = Generator::new(seed);
    generator.x87 = x87;
    let mut soft = Soft::new();
    let (mut instructions, mut failures, mut incomparable, mut unrepeatable) = (0, 0, 0, 0);
    let mut choices = BTreeMap::new();
    for number in 0..sequences {
        // KVM without hardware virtualization emulates 32-bit code (badly) instead of running it.
        let mode = Mode::Long;
        let sequence = generator.sequence(mode);
        let state = generator.state(mode);
        let Some(a) = native.run(mode, &sequence.code, &state) else {
            incomparable += 1;
            continue;
        };
        let b = soft.run(mode, &sequence.code, &state);
        if b.as_ref().is_some_and(|b| is_emulated(&a, b)) {
            incomparable += 1;
            continue;
        }
        let found = match &b {
            Some(b) => differences(&a, b, &sequence.undefined),
            None => vec!["the software CPU never came to a handler".to_owned()],
        };
        instructions += sequence.count;
        let counts = |choice: &Choice| !found.is_empty() && (!native.is_intel() || choice.is_open());
        if let Some(choice) = choice(&sequence, &a, &found).filter(counts) {
            *choices.entry(choice).or_insert(0) += 1;
            continue;
        }
        if !found.is_empty() && (0..3).any(|_| native.run(mode, &sequence.code, &state).as_ref() != Some(&a)) {
            // KVM without hardware virtualization emulates now and then what it has just executed.
            unrepeatable += 1;
            continue;
        }
        if !found.is_empty() {
            failures += 1;
            println!("sequence {number} ({mode:?}):\n{}{}", sequence.listing(mode), found.join("\n"));
            println!("start: gpr {:x?} rflags {:x} mxcsr {:x}", state.gpr, state.rflags, state.mxcsr);
            println!(
                "xmm {:x?}\nst {:x?} fcw {:x} fsw {:x} ftw {:x}",
                state.xmm, state.st, state.fcw, state.fsw, state.ftw
            );
            if failures >= most {
                break;
            }
        }
    }
    println!(
        "{instructions} instructions compared, {failures} sequences differ, {incomparable} could not run natively, {unrepeatable} didn't \
         repeat natively"
    );
    if !choices.is_empty() {
        println!("sequences that differ by the vendor's choice: {choices:?}");
    }
    assert_eq!(failures, 0, "the CPUs disagree");
    assert!(choices.values().sum::<u64>() * 200 <= sequences + 1000, "too much is left to the vendor");
    assert!(incomparable * 8 <= sequences, "too many sequences could not run natively");
}

/// A seed that nobody has tried: for the long run, which prints it.
fn fresh() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_nanos() as u64)
}

/// Blocks execute pairs of instructions as one and leave out what can't be seen; slices of one instruction don't.
#[test]
fn blocks_and_single_instructions_come_to_the_same() {
    let seed = from_environment("FERRO_SEED", 3);
    let sequences = from_environment("FERRO_SEQUENCES", 2_000);
    println!("FERRO_SEED={seed}, {sequences} sequences");
    let mut generator = Generator::new(seed);
    let (mut whole, mut single, mut sliced) = (Soft::new(), Soft::new(), Soft::new());
    for number in 0..sequences {
        let mode = if number % 4 == 0 { Mode::Compatible } else { Mode::Long };
        let sequence = generator.sequence(mode);
        let state = generator.state(mode);
        let a = whole.run(mode, &sequence.code, &state);
        let b = single.run_in_slices(mode, &sequence.code, &state, 1);
        let c = sliced.run_in_slices(mode, &sequence.code, &state, 3);
        let listing = || format!("sequence {number} ({mode:?}):\n{}", sequence.listing(mode));
        for other in [b, c] {
            match (&a, &other) {
                (Some(a), Some(b)) => {
                    let found = differences(a, b, &Undefined::default());
                    assert!(found.is_empty(), "{}{}", listing(), found.join("\n"));
                }
                (None, None) => {}
                _ => panic!("only one comes to a handler: {}", listing()),
            }
        }
        let counts = [whole.instructions(), single.instructions(), sliced.instructions()];
        assert!(counts.iter().all(|&count| count == counts[0]), "{counts:?}: {}", listing());
    }
}

#[test]
fn random_integer_and_sse_sequences_agree_with_silicon() {
    compare(20_000, false, 1);
}

#[test]
fn random_sequences_with_x87_agree_with_silicon() {
    compare(20_000, true, 2);
}

#[test]
#[ignore = "takes minutes"]
fn ten_million_instructions_agree_with_silicon() {
    compare(1_500_000, false, fresh());
    compare(1_500_000, true, fresh());
}
