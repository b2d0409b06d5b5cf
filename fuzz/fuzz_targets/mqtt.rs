#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| littoral_fuzz::mqtt::run(bytes));

#[cfg(not(fuzzing))]
fn main() {}
