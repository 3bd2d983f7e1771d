//! Every chip, driven at random, goes on after it was saved and loaded as if it hadn't been; and what is damaged on the way is
//! refused, or is at least no harm to the host.

use ferro_devices::fuzzing::{CHIPS, chip_state};
use proptest::collection::vec;
use proptest::prelude::*;

/// An access of eight bytes, as `fuzzing` reads them: target, direction and size, offset, value.
fn access() -> impl Strategy<Value = [u8; 8]> {
    let small = prop_oneof![any::<u16>(), 0..64_u16];
    let value = prop_oneof![any::<u32>(), 0..256_u32, (0..32_u32).prop_map(|bit| 1 << bit)];
    (any::<u8>(), 0..8_u8, small, value).prop_map(|(target, how, offset, value)| {
        let ([low, high], [a, b, c, d]) = (offset.to_le_bytes(), value.to_le_bytes());
        [target, how, low, high, a, b, c, d]
    })
}

fn accesses(chip: u8) -> impl Strategy<Value = Vec<u8>> {
    // Both halves have as many accesses: the input is split in the middle.
    vec((access(), access()), 1..150).prop_map(move |pairs| {
        let before = pairs.iter().flat_map(|pair| pair.0);
        let after = pairs.iter().flat_map(|pair| pair.1);
        let head = std::iter::once(chip);
        head.chain(before).chain(after).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_loaded_chip_goes_on_as_the_saved_one(input in (0..CHIPS).prop_flat_map(accesses)) {
        chip_state(&input);
    }
}
