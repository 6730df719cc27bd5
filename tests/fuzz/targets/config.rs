#![no_main]
#![doc = "Runs `grid_fuzz::config`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::config::run(data));
