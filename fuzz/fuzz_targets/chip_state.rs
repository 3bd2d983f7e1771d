//! Feeds any bytes to [`ferro_devices::fuzzing::chip_state`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_devices::fuzzing::chip_state(bytes));
