//! Feeds any bytes to [`ferro_block::fuzzing::qcow2_open`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_block::fuzzing::qcow2_open(bytes));
