#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| server::fuzz::rpc_requests(bytes));
