//! Feeds any bytes to [`ferro_machine::fuzzing::machine_state`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_machine::fuzzing::machine_state(bytes));
