#![no_main]
#![doc = "Runs `grid_fuzz::calls`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::calls::run(data));
