//! Feeds any bytes to [`ferro_console::fuzzing::rfb_client_messages`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ferro_console::fuzzing::rfb_client_messages(bytes));
