//! Feeds any bytes to [`ferro_net::fuzzing::dhcp_server`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_net::fuzzing::dhcp_server(bytes));
