#![no_main]
#![doc = "Runs `grid_fuzz::frames`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::frames::run(data));
