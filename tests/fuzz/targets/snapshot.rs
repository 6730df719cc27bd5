#![no_main]
#![doc = "Runs `grid_fuzz::snapshot`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::snapshot::run(data));
