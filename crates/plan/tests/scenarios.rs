//! Scenarios as text: what is given, a line of dashes, what comes out. `UPDATE_SCENARIOS=1` writes the second part anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use littoral_plan::{Placement, compile};

const RULE: &str = "----\n";

#[test]
fn every_scenario_comes_out_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let (given, expected) = text.split_once(RULE).unwrap_or((&text, ""));
        let actual = answer(given);
        if std::env::var_os("UPDATE_SCENARIOS").is_some() {
            std::fs::write(&path, format!("{given}{RULE}{actual}")).unwrap();
        } else {
            assert_eq!(actual, expected, "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 8, "only {seen} scenarios were found");
}

fn answer(given: &str) -> String {
    let scenario = common::parse(given);
    match compile(&scenario.spec, &scenario.fabric, &scenario.existing) {
        Ok(placement) => {
            let json = serde_json::to_string(&placement).unwrap();
            assert_eq!(serde_json::from_str::<Placement>(&json).unwrap(), placement);
            let binary = postcard::to_stdvec(&placement).unwrap();
            assert_eq!(postcard::from_bytes::<Placement>(&binary).unwrap(), placement);
            for prediction in &placement.predictions {
                assert_eq!(prediction.p95_us, prediction.hops.iter().map(|hop| hop.p95_us).sum::<u64>());
            }
            format!("{}{}", placement.to_text(), wiring(&placement))
        }
        Err(refusal) => refusal.findings.iter().map(|finding| format!("{finding}\n")).collect(),
    }
}

/// Who reads what.
fn wiring(placement: &Placement) -> String {
    let mut text = String::new();
    let mut reads = |reader: &str, source: &littoral_plan::Source| {
        writeln!(text, "{reader} reads {} of {}", source.port, short(&source.work.to_string())).unwrap();
    };
    for placed in &placement.works {
        let reader = short(&placed.work.to_string());
        placed.role.inputs().for_each(|source| reads(&reader, source));
    }
    for work in &placement.retired {
        writeln!(text, "{} is retired", short(&work.to_string())).unwrap();
    }
    text
}

fn short(work: &str) -> String {
    work.trim_start_matches("default/demo/").to_owned()
}
