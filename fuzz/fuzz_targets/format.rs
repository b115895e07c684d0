#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| keywal_fuzz::targets::format::run(data));
