//! The committed inputs, without libFuzzer: what the fuzzers found worth keeping, and what once failed.

use std::path::Path;

#[test]
fn every_committed_input_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, run) in littoral_fuzz::TARGETS {
        let inputs: Vec<_> = std::fs::read_dir(folder.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!inputs.is_empty(), "the corpus of {name} is empty");
        for input in inputs {
            let bytes = std::fs::read(&input).unwrap();
            let passed = std::panic::catch_unwind(|| run(&bytes));
            assert!(passed.is_ok(), "{} fails", input.display());
        }
    }
}
