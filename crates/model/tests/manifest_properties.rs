//! No text makes the manifest's parser panic, and what it says of a text always points into it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use littoral_model::manifest::{FINDINGS_MAX, parse};
use proptest::prelude::*;
use proptest::sample::Index;

const MANIFESTS: [&str; 3] = [
    include_str!("../../../examples/machine-health/littoral.toml"),
    include_str!("../../../templates/rust/littoral.toml"),
    include_str!("manifests/ten-mistakes.toml"),
];

/// A change of a text.
#[derive(Clone, Debug)]
enum Mutation {
    Insert(Index, String),
    Remove(Index, usize),
    Repeat(Index, usize),
    SwapLines(Index, Index),
    DropLine(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let bits = prop_oneof![
        3 => proptest::sample::select(vec![
            "\"", "'''", "[", "]", "[[", "{", "}", "=", ".", ",", "\n", "#", "\\u", "0", "-1", "1e999", "0x7ff", "nan",
            "1979-05-27", "true", "\t", "\r\n", "placement.tier", "near = \"alerts\"", "secret:", "7d", "💥", "\u{feff}",
        ]).prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    prop_oneof![
        3 => (any::<Index>(), bits).prop_map(|(at, bits)| Mutation::Insert(at, bits)),
        2 => (any::<Index>(), 1..20_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        1 => (any::<Index>(), 1..80_usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Mutation::SwapLines(one, other)),
        1 => any::<Index>().prop_map(Mutation::DropLine),
    ]
}

fn mutated(text: &str, mutation: &Mutation) -> String {
    let mut chars: Vec<char> = text.chars().chain(['\n']).collect();
    let mut lines: Vec<&str> = text.split('\n').collect();
    match mutation {
        Mutation::Insert(at, bits) => {
            let at = at.index(chars.len());
            chars.splice(at..at, bits.chars());
        }
        Mutation::Remove(at, count) => {
            let at = at.index(chars.len());
            chars.drain(at..(at + count).min(chars.len()));
        }
        Mutation::Repeat(at, count) => {
            let at = at.index(chars.len());
            let part: Vec<char> = chars.iter().skip(at).take(*count).copied().collect();
            chars.splice(at..at, part);
        }
        Mutation::SwapLines(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            return lines.join("\n");
        }
        Mutation::DropLine(at) => {
            lines.remove(at.index(lines.len()));
            return lines.join("\n");
        }
    }
    chars.into_iter().collect()
}

fn check(text: &str) -> Result<(), TestCaseError> {
    match parse("littoral.toml", text) {
        Ok(manifest) => {
            for route in &manifest.routes {
                prop_assert!(route.target().is_some());
            }
            // What is valid can be written and read again.
            let written = toml::to_string(&manifest).unwrap();
            prop_assert_eq!(parse("again.toml", &written).map_err(|findings| findings.render(&written)), Ok(manifest));
        }
        Err(findings) => {
            prop_assert!(!findings.is_empty() && findings.len() <= FINDINGS_MAX);
            prop_assert!(!findings.render(text).is_empty());
            for finding in findings.iter() {
                prop_assert!(finding.line >= 1 && finding.column >= 1);
                prop_assert!(finding.line <= text.split('\n').count(), "{finding:?}");
                prop_assert!(text.get(finding.span.clone()).is_some(), "{finding:?}");
                // Reading what a clean shape admits never fails in a way that only serde knows.
                prop_assert!(finding.code != "invalid", "{finding:?}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_manifests(base in 0..3_usize, mutations in proptest::collection::vec(mutation(), 0..6)) {
        let text = MANIFESTS.get(base).unwrap().replace("{{name}}", "my-app");
        check(&mutations.iter().fold(text, |text, mutation| mutated(&text, mutation)))?;
    }

    #[test]
    fn any_text(text in "(?s).{0,200}") {
        check(&text)?;
    }
}

#[test]
fn a_hostile_text_gives_a_bounded_report_soon() {
    let keys: String = (0..20_000).map(|n| format!("k{n} = 1\n")).collect();
    let deep = format!("name = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let flows: String = (0..5_000)
        .map(|n| format!("[streams.s{n}]\n[flows.f{n}]\nsource = \"s{n}\"\nstages = [\"x\"]\nsink = \"s{}\"\n", n + 1))
        .collect();
    let long = format!("name = \"{}\"\n", "x".repeat(1 << 19));
    let large = "#".repeat((1 << 20) + 1);
    let errors = format!("name = [{}]", "x ".repeat(400_000));
    let open = "name = [\n".repeat(100_000);
    let headers = "[x\n".repeat(200_000);
    for text in [keys, deep, flows, long, large, errors, open, headers] {
        let findings = parse("littoral.toml", &text).unwrap_err();
        assert!(findings.len() <= FINDINGS_MAX);
        assert!(findings.render(&text).len() < 1 << 20, "a report stays shorter than what it is about may be");
    }
}
