//! Feeds any bytes to [`ferro_console::fuzzing::monitor_hmp`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_console::fuzzing::monitor_hmp(bytes));
