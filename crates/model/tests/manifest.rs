//! What is said of whole manifests: the examples, one with ten mistakes, the schema and the reference.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

mod support;

use littoral_model::manifest::{Finding, Manifest, RouteTarget, parse, schema};
use serde_json::{Map, Value};

fn text(path: &str) -> String {
    String::from_utf8(support::read(path)).unwrap()
}

fn valid(file: &str, text: &str) -> Manifest {
    parse(file, text).unwrap_or_else(|findings| panic!("{}", findings.render(text)))
}

#[test]
fn the_example_and_the_template_are_valid() {
    let example = valid("littoral.toml", &text("examples/machine-health/littoral.toml"));
    assert_eq!((example.functions.len(), example.streams.len()), (2, 4));
    assert_eq!(example.routes.first().unwrap().target(), Some(RouteTarget::Stream("alerts".parse().unwrap())));
    let template = valid("littoral.toml", &text("templates/rust/littoral.toml").replace("{{name}}", "my-app"));
    let dev = template.dev.unwrap();
    assert_eq!((dev.nodes.len(), dev.links.len(), dev.sensors.len()), (2, 1, 0));
}

#[test]
fn ten_mistakes_are_ten_findings_each_at_its_line() {
    let text = include_str!("manifests/ten-mistakes.toml");
    let findings = parse("littoral.toml", text).unwrap_err();
    let lines: Vec<usize> = findings.iter().map(|finding| finding.line).collect();
    assert_eq!(lines, [1, 2, 5, 6, 7, 8, 11, 16, 20, 26], "{}", findings.render(text));
    insta::assert_snapshot!("ten_mistakes", findings.render(text));
    insta::assert_snapshot!("ten_mistakes_short", findings.to_string());
}

#[test]
fn findings_are_json_for_editors() {
    let findings = parse("app/littoral.toml", "name = \"a\"\nversion = \"1\"\ncolour = 1\n").unwrap_err();
    let json = serde_json::to_value(&findings).unwrap();
    let expected = serde_json::json!([{
        "code": "unknown-key",
        "message": "a manifest has no key `colour`",
        "expected": "one of name, version, description, functions, streams, flows, sql, sources, sinks, routes, mqtt, triggers and 3 more",
        "suggestion": null,
        "file": "app/littoral.toml",
        "line": 3,
        "column": 1,
        "span": { "start": 25, "end": 31 },
    }]);
    assert_eq!(json, expected);
    let read: Vec<Finding> = serde_json::from_value(json).unwrap();
    assert!(read.iter().eq(findings.iter()));
}

#[test]
fn the_schema_is_the_one_that_is_checked_in() {
    const PATH: &str = "docs/reference/littoral.schema.json";
    let now = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    let held = support::blessed(PATH, now.as_bytes());
    assert!(held == now.as_bytes(), "{PATH} is out of date; run this test with LITTORAL_BLESS=1");
}

const REFERENCE: &str = "docs/reference/manifest.md";

/// The sections of the reference and the parts of the schema that they are about.
const SECTIONS: [(&str, &str); 38] = [
    ("The app", "Manifest"),
    ("Functions", "Function"),
    ("Variants", "StageVariant"),
    ("Limits", "Limits"),
    ("Scale", "Scale"),
    ("Async", "Later"),
    ("Triggers", "Trigger"),
    ("Grants", "Grants"),
    ("Directory", "DirectoryAccess"),
    ("Placement", "Placement"),
    ("Within", "Within"),
    ("Affinity", "Affinity"),
    ("Objectives", "Objectives"),
    ("Streams", "Stream"),
    ("Retention", "RetentionLimits"),
    ("Flows", "Flow"),
    ("Sources", "SourceConnector"),
    ("Generator", "Generator"),
    ("Range", "GeneratorRange"),
    ("File", "FileSource"),
    ("URL", "HttpSource"),
    ("Subscribe", "MqttSource"),
    ("Broker", "Broker"),
    ("Consume", "KafkaSource"),
    ("Cluster", "KafkaCluster"),
    ("Sinks", "SinkConnector"),
    ("Post", "HttpSink"),
    ("Publish", "MqttSink"),
    ("Produce", "KafkaSink"),
    ("Files", "FileSink"),
    ("SQL", "Sql"),
    ("Routes", "Route"),
    ("MQTT", "Topic"),
    ("Partitions of the fabric", "StopAfter"),
    ("The continuum of `littoral dev`", "Dev"),
    ("Nodes", "DevNode"),
    ("Links", "DevLink"),
    ("Sensors", "Sensor"),
];

/// The part of the reference under a heading.
fn section<'t>(reference: &'t str, title: &str) -> &'t str {
    let heading = format!("\n## {title}\n");
    let (_, rest) = reference.split_once(&heading).unwrap_or_else(|| panic!("{REFERENCE} has no section {title}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

#[test]
fn the_reference_has_a_row_for_each_key() {
    let reference = text(REFERENCE);
    let schema = schema().to_value();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap();
    let tables = definitions.iter().map(|(name, definition)| (name.as_str(), definition));
    let tables: Vec<(&str, &Map<String, Value>)> = tables
        .chain([("Manifest", &schema)])
        .filter_map(|(name, definition)| Some((name, definition.get("properties")?.as_object()?)))
        .collect();
    assert_eq!(tables.len(), SECTIONS.len(), "each table of a manifest has a section");
    for (name, properties) in tables {
        let (title, _) = SECTIONS.iter().find(|(_, definition)| *definition == name).unwrap();
        let section = section(&reference, title);
        for (key, property) in properties {
            let start = format!("| `{key}` | ");
            let row = section.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("section {title} of {REFERENCE} has no row for `{key}`"));
            if let Some(default) = property.get("default").and_then(Value::as_str) {
                assert!(row.contains(&format!("`{default}`")), "the row of `{key}` does not say its default {default}");
            }
        }
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        for key in rows {
            assert!(
                properties.contains_key(key),
                "section {title} of {REFERENCE} has a row for `{key}`, which is no key"
            );
        }
    }
}

#[test]
fn the_examples_of_the_reference_make_a_valid_manifest() {
    let reference = text(REFERENCE);
    let blocks = reference.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let manifest = blocks.collect::<String>();
    valid(REFERENCE, &manifest);
}

#[test]
fn the_reference_names_each_code_of_a_finding() {
    let reference = text(REFERENCE);
    let codes = section(&reference, "Findings");
    let source = [
        include_str!("../src/manifest/mod.rs"),
        include_str!("../src/manifest/shape.rs"),
        include_str!("../src/manifest/meaning.rs"),
        include_str!("../src/manifest/meaning/connectors.rs"),
        include_str!("../src/manifest/meaning/grants.rs"),
        include_str!("../src/manifest/meaning/later.rs"),
        include_str!("../src/manifest/meaning/mqtt.rs"),
    ];
    for rest in source.iter().flat_map(|source| source.split("report.add(\"").skip(1)) {
        let code = rest.split('"').next().unwrap();
        assert!(codes.contains(&format!("| `{code}` | ")), "{REFERENCE} does not explain the finding {code}");
    }
}
