//! Feeds any bytes to [`ferro_net::fuzzing::user_network`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_net::fuzzing::user_network(bytes));
