#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wal::fuzz::wal_records(bytes));
