#![no_main]
#![doc = "Runs `grid_fuzz::rest_body`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::rest_body::run(data));
