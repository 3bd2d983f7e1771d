//! Feeds any bytes to [`ferro_mirror::fuzzing::messages`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_mirror::fuzzing::messages(bytes));
