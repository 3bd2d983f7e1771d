//! Feeds any bytes to [`ferro_devices::fuzzing::vga`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_devices::fuzzing::vga(bytes));
