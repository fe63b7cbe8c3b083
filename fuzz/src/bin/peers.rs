//! The fuzz target of the peers' packets, for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::peers(data));
