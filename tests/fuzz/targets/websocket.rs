#![no_main]
#![doc = "Runs `grid_fuzz::websocket`."]

libfuzzer_sys::fuzz_target!(|data: &[u8]| grid_fuzz::websocket::run(data));
