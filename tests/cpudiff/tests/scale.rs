//! FSCALE by every size of scale with every mask and rounding: where the result doesn't fit even with its exponent
//! wrapped, it becomes infinity or zero (SDM volume 1, 4.9.1.4 and 4.9.1.5), which random sequences hardly ever reach.

use ferro_cpudiff::{Generator, Mode, Native, Soft, Undefined, differences};

#[test]
fn scaling_out_of_range_agrees_with_silicon() {
    let mut native = match Native::new() {
        Ok(native) => native,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let mut soft = Soft::new();
    let mut state = Generator::new(3).state(Mode::Long);
    let one = 0x8000_0000_0000_0000_u128;
    let values = [0x3fff, 0x0001, 0x7ffe, 0x3fe7, 0xbfff, 0x8001, 0xfffe].map(|exponent: u128| exponent << 64 | one);
    let values = values.into_iter().chain([0x3fff << 64 | 0xffff_ffff_ffff_ffff, 1, 0x8000 << 64 | 0x7fff_ffff]);
    // 2, 14, 15, 16, 20 and many bits, both signs; and exactly where wrapping begins and ends.
    let scales = [0x4000_u128, 0x400c, 0x400d, 0x400e, 0x400f, 0x4013, 0x53b2].map(|exponent| exponent << 64 | one);
    let integers = [24_575_u128, 24_576, 24_577, 40_958, 40_959, 40_960, 41_022, 41_023, 57_343, 57_344].map(|value| {
        let top = u128::from(value.ilog2());
        (0x3fff + top) << 64 | value << (63 - top)
    });
    let scales: Vec<u128> = scales.into_iter().chain(integers).flat_map(|scale| [scale, scale | 1 << 79]).collect();
    let (mut cases, mut failures) = (0, 0);
    for x in values {
        for &y in &scales {
            for masks in [0x7f, 0x77, 0x6f, 0x67, 0x5f, 0x47] {
                for rounding in 0..4 {
                    state.st = [0; 8];
                    (state.st[0], state.st[1]) = (x, y);
                    state.fcw = 0x300 | masks | rounding << 10;
                    (state.fsw, state.ftw) = (0, 3);
                    let code = [0xd9, 0xfd, 0x0f, 0x0b];
                    let Some(a) = native.run(Mode::Long, &code, &state) else { continue };
                    let b = soft.run(Mode::Long, &code, &state).expect("every run ends in a handler");
                    cases += 1;
                    let found = differences(&a, &b, &Undefined::default());
                    if !found.is_empty() {
                        failures += 1;
                        if failures < 30 {
                            println!("{x:x} by {y:x}, control {:x}: {found:x?}", state.fcw);
                        }
                    }
                }
            }
        }
    }
    println!("{cases} cases, {failures} differ");
    assert!(cases > 4000);
    assert_eq!(failures, 0, "the CPUs disagree");
}
