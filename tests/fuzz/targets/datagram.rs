#![no_main]
#![doc = "Runs `grid_fuzz::datagram`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::datagram::run(data));
