//! Feeds any bytes to [`ferro_devices::fuzzing::ide`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_devices::fuzzing::ide(bytes));
