//! Feeds any bytes to [`ferro_cluster::fuzzing::heartbeat`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_cluster::fuzzing::heartbeat(bytes));
