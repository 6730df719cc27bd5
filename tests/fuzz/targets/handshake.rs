#![no_main]
#![doc = "Runs `grid_fuzz::handshake`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::handshake::run(data));
