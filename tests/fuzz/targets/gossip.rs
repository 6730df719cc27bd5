#![no_main]
#![doc = "Runs `grid_fuzz::gossip`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::gossip::run(data));
