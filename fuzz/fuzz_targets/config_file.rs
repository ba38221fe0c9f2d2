#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| etcd_program::fuzz::config_file(bytes));
