//! Feeds any bytes to [`ferro_block::fuzzing::nbd_server`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_block::fuzzing::nbd_server(bytes));
