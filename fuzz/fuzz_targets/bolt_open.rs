#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bolt::fuzz::bolt_open(bytes));
