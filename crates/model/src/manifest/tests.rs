//! Tests of [`super`]: one mistake at a time.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::unit::{Cpus, Size, Time};

/// The lines of [`BASE`].
const BASE_LINES: usize = 8;
const BASE: &str = "\
name = \"app\"
version = \"0.1.0\"
[functions]
clean = { component = \"clean.wasm\" }
hello = { component = \"hello.wasm\" }
[streams]
readings = { placement = { tier = \"device\" } }
alerts = { placement = { tier = [\"edge\", \"cloud\"], labels = { gpu = \"yes\" } } }
";

/// The findings of [`BASE`] with more lines, as `line code: message`; lines are counted after the base.
fn findings(more: &str) -> Vec<String> {
    findings_of(&format!("{BASE}{more}"), BASE_LINES)
}

fn findings_of(text: &str, skip: usize) -> Vec<String> {
    let Err(findings) = parse("littoral.toml", text) else { return Vec::new() };
    let line = |finding: &Finding| finding.line.wrapping_sub(skip);
    findings.iter().map(|finding| format!("{} {}: {}", line(finding), finding.code, finding.message)).collect()
}

/// Checks that there is one finding, and how it begins.
fn one(more: &str, expected: &str) {
    match findings(more).as_slice() {
        [only] if only.starts_with(expected) => {}
        other => panic!("expected `{expected}`, got {other:#?} from\n{more}"),
    }
}

fn with_flow(more: &str) -> String {
    format!("[flows.f]\nsource = \"readings\"\nstages = [\"clean\"]\n{more}")
}

#[test]
fn the_base_is_valid_and_has_defaults() {
    let manifest = parse("littoral.toml", BASE).unwrap();
    let function = manifest.functions.get(&"clean".parse().unwrap()).unwrap();
    assert_eq!((function.memory, function.timeout), (Size::from_bytes(64 << 20), Time::from_micros(1_000_000)));
    assert_eq!((function.slo, &function.placement), (None, &Placement::default()));
    let stream = manifest.streams.get(&"alerts".parse().unwrap()).unwrap();
    assert_eq!((stream.retention.clone(), stream.ack, stream.partitions), (Retention::default(), None, None));
    assert_eq!(stream.placement.tier.iter().map(|tier| tier.as_str()).collect::<Vec<_>>(), ["edge", "cloud"]);
}

#[test]
fn retention_is_an_age_a_size_or_both() {
    let retention = |text: &str| {
        let manifest = parse("littoral.toml", &format!("{BASE}[streams.s]\nretention = {text}\n"));
        manifest
            .unwrap_or_else(|findings| panic!("{findings}"))
            .streams
            .get(&"s".parse().unwrap())
            .unwrap()
            .retention
            .clone()
    };
    let (age, size) = (Some(Time::from_micros(3_600_000_000)), Some(Size::from_bytes(1 << 30)));
    assert_eq!(retention("\"1h\""), Retention { age, size: None });
    assert_eq!(retention("\"1GiB\""), Retention { age: None, size });
    assert_eq!(retention("{ size = \"1GiB\" }"), Retention { age: None, size });
    assert_eq!(retention("{ age = \"60min\", size = \"1024MiB\" }"), Retention { age, size });
    one("[streams.s]\nretention = \"0s\"", "2 out-of-range: `retention` cannot be 0s");
    one("[streams.s]\nretention = { size = \"0B\" }", "2 out-of-range: `size` cannot be 0B");
    one("[streams.s]\nretention = {}", "2 missing-key: `retention` has no limit");
    one(
        "[streams.s]\nretention = \"7 days\"",
        "2 invalid-unit: `retention` cannot be `7 days`: there is no unit `days`",
    );
    one("[streams.s]\nretention = \"7\"", "2 invalid-unit: `retention` cannot be `7`: it has no unit");
    one("[streams.s]\nretention = \"0.5B\"", "2 invalid-unit: `retention` cannot be `0.5B`: it is finer than");
    one("[streams.s]\nretention = 7", "2 wrong-type: `retention` is a whole number");
    one("[streams.s]\nretention = { agee = \"7d\" }", "2 unknown-key: `retention` has no key `agee`");
}

#[test]
fn limits_have_ranges() {
    let limits = |keys: &str| format!("[functions.x]\ncomponent = \"x\"\nlimits = {{ {keys} }}");
    one(&limits("cpu = \"0s\""), "3 out-of-range: `cpu` cannot be 0s");
    one(&limits("concurrency = 0"), "3 out-of-range: `concurrency` cannot be 0");
    one(&limits("request = \"9MiB\""), "3 out-of-range: the body of a request cannot have 9MiB");
    one(&limits("response = \"0B\""), "3 out-of-range: the body of a response cannot have 0B");
    one(&limits("table-elements = 40_000"), "3 out-of-range: `table-elements` cannot be 40000");
    one(&limits("cpuz = \"1s\""), "3 unknown-key: `limits` has no key `cpuz`");
}

#[test]
fn shapes_are_checked() {
    one("[functions.x]", "1 missing-key: function x lacks the key `component`");
    one("[functions.X]\ncomponent = \"x\"", "1 invalid-name: `X` is not a name");
    one("[streams.s]\npartitions = 0", "2 out-of-range: `partitions` cannot be 0");
    one("[streams.s]\npartitions = 0x999", "2 out-of-range: `partitions` cannot be 0x999");
    one("[streams.s]\npartitions = 1.5", "2 wrong-type: `partitions` is a number");
    one("[streams.s]\nack = \"sites\"", "2 unknown-value: `ack` cannot be `sites`");
    one("[streams.s]\nack = 1", "2 wrong-type: `ack` is a whole number");
    one("[streams.s]\nplacement.tier = [\"edge\", \"clod\"]", "2 unknown-value: an item of `tier` cannot be `clod`");
    one("[streams.s]\nplacement.site = [\"hall-7\", \"Hall 8\"]", "2 invalid-name: an item of `site`: `Hall 8`");
    one("[streams.s]\nplacement.site = 7", "2 wrong-type: `site` is a whole number");
    one("[streams]\ns = {}", "1 syntax: duplicate key");
    one("[flows.f]\nsource = \"readings\"\nstages = []", "3 wrong-length: `stages` has 0 items");
    one(
        "[dev]\nlinks = [{ between = [\"a\", \"b\", \"c\"] }]\nnodes = [\n{ name = \"a\", tier = \"edge\", site = \"b\" },\n{ name = \"c\", tier = \"edge\", site = \"x\" }]",
        "2 wrong-length: `between` has 3 items",
    );
    assert_eq!(parse("f", &format!("{BASE}[streams.s]\npartitions = 0x400")).map(drop), Ok(()));
}

/// Checks the places and codes of the findings of a text.
fn are(text: &str, expected: &[&str]) {
    let found = findings_of(text, 0);
    let codes: Vec<&str> = found.iter().filter_map(|finding| finding.split(':').next()).collect();
    assert_eq!(codes, expected, "{found:#?} from\n{text}");
}

#[test]
fn several_syntax_errors_do_not_hide_what_else_is_wrong() {
    let clean = "[functions.clean]\ncomponent = \"clean.wasm\nmemroy = \"32MiB\"\ntimeout = \"0s\"\n";
    let text = format!("name = \"app\"\nversion = 0.1.0\n{clean}");
    are(&text, &["2 syntax", "4 syntax", "5 unknown-key", "6 out-of-range"]);
}

#[test]
fn what_is_left_open_is_said_once() {
    let open = "[flows.f]\nsource = \"s\"\nstages = [\"clean\", \"x\"\nsink = \"alert\"\n[streams.s]\npartitions = 0\n[functions.x]\n";
    let text = format!("{BASE}{open}");
    are(&text, &["12 syntax", "12 unknown-name", "14 out-of-range", "15 missing-key"]);
    let findings = parse("littoral.toml", &text).unwrap_err();
    assert_eq!(findings.iter().next().unwrap().suggestion.as_deref(), Some("or close what begins in line 11"));
    let nodes =
        "[dev]\nnodes = [\n{ name = \"a\", tier = \"edge\", site = \"x\" },\nlinks = [{ between = [\"a\", \"b\"] }]\n";
    are(&format!("{BASE}{nodes}[streams.s]\npartitions = 0\n"), &["12 syntax", "12 unknown-name", "14 out-of-range"]);
    are(
        &format!("{BASE}[functions.x\ncomponent = \"x\"\n[streams.s]\npartitions = 0\n"),
        &["9 syntax", "12 out-of-range"],
    );
    are(&format!("{BASE}[functions.x]\ncomponent \"x\"\n"), &["10 syntax"]);
    are(&format!("{BASE}[functions.x]\ncomponent = \"\"\"x\n[flows.f]\nstages = [\"y\"]\n"), &["13 syntax"]);
}

#[test]
fn names_lead_somewhere() {
    let flow = with_flow("sink = \"alert\"\ndead-letter = \"reject\"\noutputs = { scored = \"scores\" }");
    let found = findings(&flow);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert!(found.iter().all(|finding| finding.contains("unknown-name")), "{found:#?}");
    one("[flows.f]\nsource = \"readings\"\nstages = [\"claen\"]", "3 unknown-name: there is no function `claen`");
    one(
        "[functions.x]\ncomponent = \"x\"\nplacement.near = \"reading\"",
        "3 unknown-name: there is no stream `reading`",
    );
    one("[[routes]]\npath = \"/x\"\nfunction = \"helo\"", "3 unknown-name: there is no function `helo`");
    let suggestion = parse("f", &format!("{BASE}{}", with_flow("sink = \"alert\""))).unwrap_err();
    assert_eq!(suggestion.iter().next().unwrap().suggestion.as_deref(), Some("did you mean `alerts`?"));
}

#[test]
fn a_sink_is_a_stream_or_a_function() {
    let sink = |name: &str| {
        let manifest = parse("f", &format!("{BASE}{}", with_flow(&format!("sink = \"{name}\"")))).unwrap();
        manifest.flows.values().next().unwrap().sink.clone()
    };
    assert_eq!(sink("alerts"), Some(Sink::Stream("alerts".parse().unwrap())));
    assert_eq!(sink("hello"), Some(Sink::Function("hello".parse().unwrap())));
    let both = format!("[functions.both]\ncomponent = \"x\"\n[streams.both]\n{}", with_flow("sink = \"both\""));
    one(&both, "7 ambiguous: `both` is a stream and a function");
}

#[test]
fn cycles_are_found_once() {
    one(&with_flow("sink = \"readings\""), "4 cycle: flow f feeds readings, from which its own source readings is fed");
    one(&with_flow("dead-letter = \"readings\""), "4 cycle");
    let second = "[flows.g]\nsource = \"alerts\"\nstages = [\"clean\"]\noutputs = { back = \"readings\" }";
    let both = with_flow(&format!("sink = \"alerts\"\n{second}"));
    one(
        &both,
        "4 cycle: flow f feeds alerts, from which its own source readings is fed: readings -> alerts -> readings",
    );
}

#[test]
fn contradictions_are_found() {
    let near = |constraint: &str| {
        format!(
            "[functions.x]\ncomponent = \"x\"\nplacement = {{ near = \"s\", {constraint} }}\n\
             [streams.s]\nplacement = {{ site = \"hall-7\", tier = \"device\" }}"
        )
    };
    one(
        &near("site = \"hall-8\""),
        "3 contradiction: function x cannot be near stream s: it is of site hall-8, the stream of hall-7",
    );
    assert_eq!(findings(&near("site = [\"hall-7\", \"hall-8\"]")), Vec::<String>::new());
    // Another tier may be near.
    assert_eq!(findings(&near("tier = \"edge\"")), Vec::<String>::new());
    let route = with_flow("[[routes]]\npath = \"/x\"\nfunction = \"clean\"");
    one(&route, "6 contradiction: function clean is a stage of flow f");
}

#[test]
fn flows_are_checked() {
    one(&with_flow("outputs = { main = \"alerts\" }"), "4 reserved-port: every stage has a port `main`");
    one(&with_flow("slo = \"0ms\""), "4 out-of-range: `slo` cannot be 0ms");
    one(
        &with_flow("shed = true"),
        "4 no-objective: `shed` says what to do when `slo` does not hold, and there is none",
    );
    one(&with_flow("sink = \"clean\""), "4 duplicate: function clean stands twice in flow f");
}

#[test]
fn functions_are_checked() {
    let function = |setting: &str| format!("[functions.x]\ncomponent = \"x\"\n{setting}");
    one(&function("memory = \"1000KiB\""), "3 out-of-range: an instance cannot have 1000KiB");
    one(&function("memory = \"5GiB\""), "3 out-of-range: an instance cannot have 5GiB");
    one(&function("timeout = \"0s\""), "3 out-of-range: `timeout` cannot be 0s");
    one(&function("config = { key = \"secret:\" }"), "3 invalid-secret: `key` names no secret: `` is not a name");
    one(&function("config = { key = \"secret:My Key\" }"), "3 invalid-secret");
    one(&function("config = { key = 1 }"), "3 wrong-type: `key` is a whole number");
    assert_eq!(findings(&function("config = { a = \"secret:key-1\", b = \"hunter2\" }")), Vec::<String>::new());
    for path in ["../x.wasm", "/x.wasm", "a/../../x.wasm", ""] {
        one(&format!("[functions.x]\ncomponent = \"{path}\""), "2 invalid-path");
    }
}

#[test]
fn routes_are_checked() {
    let route = |path: &str| format!("[[routes]]\npath = \"{path}\"\nstream = \"alerts\"\n");
    assert_eq!(findings(&format!("{}{}", route("/x"), route("/x/*"))), Vec::<String>::new());
    one(&format!("{}{}", route("/x"), route("/x")), "5 duplicate: there are two routes at /x");
    for path in ["x", "/x*", "/*/x", "/x?y=1", "/x y", ""] {
        one(&route(path), "2 invalid-path");
    }
    one("[[routes]]\npath = \"/x\"", "1 route-target: a route leads to exactly one");
    one("[[routes]]\npath = \"/x\"\nstream = \"alerts\"\nfunction = \"hello\"", "1 route-target");
    one(&format!("{}hedge = true", route("/x")), "4 contradiction: a stream has no instances");
    let sticky =
        |header: &str| format!("[[routes]]\npath = \"/x\"\nfunction = \"hello\"\nsticky = \"{header}\"\nhedge = true");
    assert_eq!(findings(&sticky("X-Session")), Vec::<String>::new());
    for header in ["", "x session", "x:y"] {
        one(&sticky(header), "4 invalid-header");
    }
}

#[test]
fn the_continuum_of_dev_is_checked() {
    let dev = |more: &str| {
        format!(
            "[dev]\nnodes = [{{ name = \"a\", tier = \"edge\", site = \"x\" }}, {{ name = \"b\", tier = \"cloud\", site = \"y\" }}]\n{more}"
        )
    };
    let link = |one: &str, other: &str| dev(&format!("links = [{{ between = [\"{one}\", \"{other}\"] }}]"));
    for (one, other) in [("a", "b"), ("edge", "cloud"), ("x", "cloud"), ("edge", "edge")] {
        assert_eq!(findings(&link(one, other)), Vec::<String>::new());
    }
    one(&link("a", "device"), "3 unknown-name: no node of `dev` is named `device`");
    one(&link("a", "a"), "3 contradiction: a link leads from one node to another");
    one(
        &dev("links = [{ between = [\"a\", \"b\"], loss = \"101%\" }]"),
        "3 invalid-unit: `loss` cannot be `101%`: it is more than 100%",
    );
    let sensor = |node: &str, stream: &str, file: &str| {
        format!("[[dev.sensors]]\nname = \"s\"\nnode = \"{node}\"\nstream = \"{stream}\"\nfile = \"{file}\"\n")
    };
    one(&dev(&sensor("c", "readings", "x.csv")), "5 unknown-name: `dev` has no node `c`");
    one(&dev(&sensor("a", "reading", "x.csv")), "6 unknown-name: there is no stream `reading`");
    one(&dev(&sensor("a", "readings", "../x.csv")), "7 invalid-path");
    let twice = sensor("a", "readings", "x.csv");
    one(&dev(&format!("{twice}{twice}")), "9 duplicate: there are two sensors named s");
    let ambiguous = "[dev]\nlinks = [{ between = [\"a\", \"b\"] }]\nnodes = [{ name = \"a\", tier = \"edge\", site = \"b\" }, { name = \"b\", tier = \"cloud\", site = \"y\" }]";
    one(ambiguous, "2 ambiguous: `b` is the name of a node and of a site with other nodes");
}

#[test]
fn places_are_counted_in_characters_and_shown() {
    let text = "# Größe\r\nname = \"app\"\r\nversion = \"ä\"\r\ndescription = 1 # über\r\n";
    let findings = parse("littoral.toml", text).unwrap_err();
    let finding = findings.iter().next().unwrap();
    assert_eq!((finding.line, finding.column), (4, 15));
    let expected = "error[wrong-type]: `description` is a whole number\n --> littoral.toml:4:15\n  |\n4 | description = 1 # über\n  |               ^ expected a text\n\n";
    assert_eq!(findings.render(text), expected);
}

#[test]
fn a_text_without_anything_lacks_name_and_version() {
    let found = findings_of("", 0);
    assert_eq!(
        found,
        ["1 missing-key: a manifest lacks the key `name`", "1 missing-key: a manifest lacks the key `version`"]
    );
}

#[test]
fn an_operator_of_a_library_has_a_name_and_a_version_and_is_built_there() {
    let function = |component: &str, more: &str| format!("[functions.x]\ncomponent = \"{component}\"\n{more}");
    assert_eq!(findings(&function("library:anomaly@1", "")), [""; 0]);
    one(
        &function("library:anomaly", ""),
        "2 invalid-reference: `library:anomaly` names no operator of a library: it has no version",
    );
    let built = function("library:anomaly@1", "build = \"make\"");
    one(&built, "3 contradiction: function x comes from a library and cannot be built");
}

#[test]
fn a_component_in_a_registry_is_pinned_by_its_digest() {
    let function = |component: &str, more: &str| format!("[functions.x]\ncomponent = \"{component}\"\n{more}");
    let digest = "0123456789abcdef".repeat(4);
    let pinned = format!("oci://ghcr.io/acme/score@sha256:{digest}");
    let manifest = parse("littoral.toml", &format!("{BASE}{}", function(&pinned, ""))).unwrap();
    let registry = |name: &str| manifest.functions.get(&name.parse().unwrap()).unwrap().registry();
    assert_eq!(registry("x").unwrap().digest.as_deref(), Some(digest.as_str()));
    assert_eq!(registry("clean"), None);
    for tagged in ["oci://ghcr.io/acme/score:1.2", "oci://ghcr.io/acme/score"] {
        one(&function(tagged, ""), &format!("2 missing-digest: `{tagged}` has no digest"));
    }
    one(
        &function("oci://ghcr.io", ""),
        "2 invalid-reference: `oci://ghcr.io` is no component in a registry: it names no",
    );
    one(&function("oci://u:p@ghcr.io/a", ""), "2 invalid-reference: `oci://u:p@ghcr.io/a` is no component");
    one(&function(&pinned, "build = \"make\""), "3 contradiction: function x comes from a registry");
    let Err(findings) = parse("littoral.toml", &format!("{BASE}{}", function("oci://ghcr.io/a:1", ""))) else {
        panic!("it has no digest")
    };
    let finding = findings.iter().next().unwrap();
    assert_eq!((finding.line, finding.column), (BASE_LINES + 2, 13));
    assert!(finding.suggestion.as_ref().unwrap().starts_with("`littoral pull oci://ghcr.io/a:1`"), "{findings}");
}

#[test]
fn grants_name_what_there_is() {
    let grants = |text: &str| format!("[functions.f]\ncomponent = \"f.wasm\"\ngrants = {{ {text} }}\n");
    let valid = grants("call = [\"f\", \"hello\"], publish = [\"alerts\"], keyvalue = [\"any-name\"]");
    assert_eq!(findings(&valid), [""; 0]);
    one(&grants("call = [\"helo\"]"), "3 unknown-name: there is no function `helo`");
    one(&grants("publish = [\"alert\"]"), "3 unknown-name: there is no stream `alert`");
    one(&grants("keyvalue = [\"Any Name\"]"), "3 invalid-name: ");
    let stage = with_flow("sink = \"alerts\"\n") + &grants("call = [\"clean\"]");
    let found = findings(&stage);
    assert!(
        matches!(found.as_slice(), [only] if only.contains("clean is a stage of flow f and cannot be called")),
        "{found:?}"
    );
    let text = format!("{BASE}{}", grants("call = [\"helo\"]"));
    let findings = parse("littoral.toml", &text).unwrap_err();
    let suggestion = findings.iter().next().unwrap().suggestion.clone();
    assert!(suggestion.as_ref().is_some_and(|hint| hint.contains("hello")), "{suggestion:?}");
}

#[test]
fn an_import_is_another_function_of_the_app() {
    let with = |function: &str| {
        format!("[functions.web]\ncomponent = \"web.wasm\"\nimports = {{ \"a:b/c@1.0.0\" = {function} }}\n")
    };
    assert_eq!(findings(&with("\"clean\"")), [""; 0]);
    one(&with("\"clear\""), "3 unknown-name: there is no function `clear`");
    one(&with("\"web\""), "3 contradiction: function web cannot import `a:b/c@1.0.0` from itself");
    one(&with("1"), "3 wrong-type: ");
}

#[test]
fn constraints_say_what_is_wrong_with_them() {
    let placed = |placement: &str| format!("[functions.f]\ncomponent = \"f.wasm\"\nplacement = {{ {placement} }}\n");
    let fine = "region = \"eu\", accelerators = [\"gpu\"], within = { position = \"1,2\", radius = \"5km\" }, \
        battery-above = \"30%\", mains-only = true, stationary = true, spread = [\"power\", \"uplink\"], \
        affinity = [{ with = \"alerts\", scope = \"site\" }], anti-affinity = [{ with = \"alerts\" }]";
    assert_eq!(findings(&placed(fine)), [""; 0]);
    for (placement, expected) in [
        ("battery-over = \"30%\"", "3 unknown-key: `placement` has no key `battery-over`"),
        ("battery-above = \"130%\"", "3 invalid-unit: `battery-above` cannot be `130%`"),
        ("battery-above = 30", "3 wrong-type: `battery-above` is a whole number"),
        (
            "within = { position = \"here\", radius = \"5km\" }",
            "3 invalid-position: `position` cannot be `here`: it has no comma",
        ),
        ("within = { position = \"1,2\", radius = \"0m\" }", "3 out-of-range: `radius` cannot be 0m"),
        ("within = { position = \"1,2\", radius = \"5miles\" }", "3 invalid-unit: `radius` cannot be `5miles`"),
        ("within = { position = \"1,2\" }", "3 missing-key: `within` lacks the key `radius`"),
        ("spread = [\"powr\"]", "3 unknown-value: an item of `spread` cannot be `powr`"),
        ("affinity = [{ with = \"alert\" }]", "3 unknown-name: there is no stream and no function `alert`"),
        ("affinity = [{ with = \"f\" }]", "3 contradiction: function f cannot be with or apart from itself"),
        (
            "affinity = [{ with = \"clean\" }], anti-affinity = [{ with = \"clean\", scope = \"site\" }]",
            "3 contradiction: function f cannot be both with clean and apart from it",
        ),
    ] {
        one(&placed(placement), expected);
    }
    one(
        "[streams.s]\nack = \"local\"\nplacement = { spread = [\"power\"] }\n",
        "3 contradiction: stream s has one copy with `ack = \"local\"`",
    );
    one("[objectives]\nlatency = 0\n", "1 out-of-range: the objectives weigh nothing");
    one("[objectives]\nlatency = 1\ncarbn = 1\n", "3 unknown-key: `objectives` has no key `carbn`");
    one("[objectives]\ncarbon = 1001\n", "2 out-of-range: `carbon` cannot be 1001");
}

#[test]
fn what_is_said_of_instances_has_an_effect_and_can_be() {
    let image = |scale: &str| format!("[functions.web]\nimage = \"image\"\nscale = {{ {scale} }}\n");
    let component = |scale: &str| format!("[functions.page]\ncomponent = \"p.wasm\"\nscale = {{ {scale} }}\n");
    assert_eq!(findings(&image("min = 0, max = 4, target = 10, idle = \"30s\"")), [""; 0]);
    assert_eq!(findings(&image("min = 2")), [""; 0]);
    assert_eq!(findings(&component("min = 0, idle = \"30s\"")), [""; 0]);
    one(&image("min = 3, max = 2"), "3 contradiction: there cannot be at least 3 instances and at most 2");
    one(&image("min = 9"), "3 contradiction: there cannot be at least 9 instances and at most 8");
    one(&image("max = 0"), "3 out-of-range: `max` cannot be 0");
    one(&image("max = 65"), "3 out-of-range: `max` cannot be 65");
    one(&image("target = 0"), "3 out-of-range: `target` cannot be 0");
    one(&image("idle = \"0s\""), "3 out-of-range: `idle` cannot be 0s");
    one(&image("min = 1, idle = \"1s\""), "3 contradiction: `idle` has no effect where an instance always stays");
    one(&component("min = 2"), "3 out-of-range: a component is loaded once on a node, or not");
    one(&component("max = 2"), "3 contradiction: `max` does not concern a component");
    one(&component("target = 2"), "3 contradiction: `target` does not concern a component");
    one(&component("idle = \"1s\""), "3 contradiction: `idle` has no effect where an instance always stays");
    one(
        &format!("{}{}", with_flow("sink = \"alerts\"\n").replace("clean", "page"), component("min = 0")),
        "7 contradiction: function page is a stage of flow",
    );
}

#[test]
fn triggers_have_a_source_and_a_queue() {
    let with =
        |trigger: &str| format!("[functions.later]\ncomponent = \"l.wasm\"\nasync = {{}}\n[[triggers]]\n{trigger}");
    assert_eq!(findings(&with("function = \"later\"\nschedule = \"*/5 * * * *\"\nzone = \"+02:00\"\n")), [""; 0]);
    assert_eq!(findings(&with("function = \"later\"\nstream = \"readings\"\n")), [""; 0]);
    one(&with("function = \"hello\"\nstream = \"readings\"\n"), "5 missing-key: function hello has no queue");
    one(&with("function = \"later\"\n"), "4 trigger-source: a trigger has exactly one of a schedule and a stream");
    one(&with("function = \"later\"\nstream = \"other\"\n"), "6 unknown-name: there is no stream `other`");
    one(&with("function = \"later\"\nschedule = \"60 * * * *\"\n"), "6 invalid-schedule: ");
    one(&with("function = \"later\"\nschedule = \"* * * * *\"\nzone = \"Berlin\"\n"), "7 invalid-zone: `Berlin`");
    one(&with("function = \"later\"\nstream = \"readings\"\nzone = \"UTC\"\n"), "7 contradiction: ");
    one("[functions.late]\ncomponent = \"l.wasm\"\nasync = { max-age = \"0s\" }\n", "3 out-of-range: ");
    one("[functions.late]\ncomponent = \"l.wasm\"\nasync = { attempts = 0 }\n", "3 out-of-range: ");
    let stage = with_flow("sink = \"alerts\"\n").replace("clean", "late");
    one(
        &format!("{stage}[functions.late]\ncomponent = \"l.wasm\"\nasync = {{}}\n"),
        "7 contradiction: function late is a stage",
    );
}

#[test]
fn a_stage_has_cheaper_variants() {
    let head = "name = \"app\"\nversion = \"0.1.0\"\n[streams.readings]\n[flows.f]\nsource = \"readings\"\nstages = [\"fine\"]\n";
    let coarse = "{ name = \"coarse\", component = \"coarse.wasm\" }";
    let variants = |more: &str| format!("component = \"fine.wasm\"\nvariants = [{coarse}{more}]\n");
    let name: FunctionName = "fine".parse().unwrap();
    let read = |text: &str| parse("littoral.toml", text).unwrap_or_else(|findings| panic!("{findings}"));
    let manifest =
        read(&format!("{head}[functions.fine]\n{}", variants(", { name = \"rough\", component = \"r.wasm\" }")));
    let fine = manifest.functions.get(&name).unwrap();
    let artifacts: Vec<String> = fine.fidelities(&name).map(|of| of.artifact).collect();
    assert_eq!(artifacts, ["fine", "fine@coarse", "fine@rough"]);
    assert_eq!(fine.chosen_artifact(&name), "fine");
    let again: Manifest = toml::from_str(&toml::to_string(&manifest).unwrap()).unwrap();
    assert_eq!(again.functions, manifest.functions);
    // Another one is chosen in whatever way the text is written, and the rest of it stays as it is.
    for text in [
        format!("[functions.fine]\n{} # the end\n", variants("")),
        format!("[functions]\nfine.component = \"fine.wasm\" # dotted\nfine.variants = [{coarse}]\n"),
        format!("[functions]\nfine = {{ component = \"fine.wasm\", variants = [{coarse}] }}\n"),
    ] {
        let text = format!("{head}{text}");
        let chosen = with_variant(&text, &name, &"coarse".parse().unwrap()).unwrap();
        let fine = |text: &str| read(text).functions.remove(&name).unwrap();
        assert_eq!(fine(&chosen).chosen_artifact(&name), "fine@coarse");
        let back = with_variant(&chosen, &name, &name).unwrap();
        assert_eq!(fine(&back).chosen_artifact(&name), "fine");
        assert_eq!(back, chosen.replace("variant = \"coarse\"", "variant = \"fine\""));
    }
    let stage = with_flow("").replace("clean", "fine") + "[functions.fine]\n";
    let wrong = |more: &str, expected: &str| one(&format!("{stage}{}", variants(more)), expected);
    wrong(
        ", { name = \"coarse\", component = \"c\" }",
        "6 duplicate: there are two variants `coarse` of function fine",
    );
    wrong(", { name = \"fine\", component = \"c\" }", "6 duplicate: `fine` is the function's own component");
    wrong(
        ", { name = \"c\", component = \"fine.wasm\" }",
        "6 duplicate: `fine.wasm` is a component of function fine already",
    );
    wrong(", { name = \"c\", component = \"../c\" }", "6 invalid-path: `../c` is no path inside the app's folder");
    wrong(
        ", { name = \"c\", component = \"library:anomaly@1\" }",
        "6 contradiction: a variant cannot be an operator of a library",
    );
    one(
        &format!("{stage}{}variant = \"coarser\"", variants("")),
        "7 unknown-name: function fine has no variant `coarser`",
    );
    let alone = format!("[functions.fine]\n{}", variants(""));
    one(&alone, "3 contradiction: function fine is no stage of a flow, and only stages run variants");
    one(
        &alone.replace("component = \"fine.wasm\"", "process = \"f\""),
        "3 contradiction: function fine is no component alone, and only such a one has variants",
    );
    let called = format!("{alone}[sql.f]\ntext = \"CREATE FUNCTION f (a double) RETURNS double AS 'fine';\"\n");
    assert_eq!(findings(&called), Vec::<String>::new());
}

#[test]
fn a_function_has_a_component_an_image_or_a_process() {
    let process = "[functions.f]\nprocess = \"server\"\n";
    let manifest = parse("littoral.toml", &format!("{BASE}{process}arguments = [\"-v\"]\nhealth = \"/ready\"\n"));
    let manifest = manifest.unwrap_or_else(|findings| panic!("{findings}"));
    let function = manifest.functions.get(&"f".parse().unwrap()).unwrap();
    assert_eq!((function.process.as_deref(), function.arguments.as_slice()), (Some("server"), &["-v".to_owned()][..]));
    one(&format!("{process}priority = \"urgent\""), "3 unknown-value: `priority` cannot be `urgent`");
    one("[functions.f]\nmemory = \"8MiB\"", "1 missing-key: function f lacks the key `component`");
    one(&format!("{process}image = \"i\""), "2 contradiction: function f has an image and a process");
    let both = format!("{BASE}{process}component = \"c.wasm\"\nlimits = {{ cpu = \"1s\" }}\n");
    let manifest = parse("littoral.toml", &both).unwrap_or_else(|findings| panic!("{findings}"));
    let name = "f".parse().unwrap();
    let function = manifest.functions.get(&name).unwrap();
    assert!(function.is_hybrid() && function.container_artifact(&name).as_deref() == Some("f@container"));
    one(
        &format!("{process}component = \"c.wasm\"\nimage = \"i\""),
        "2 contradiction: function f has an image and a process",
    );
    one(&process.replace("server", "../server"), "2 invalid-path: `../server` is no path inside the app's folder");
    one(&format!("{process}health = \"ready\""), "3 invalid-path: `ready` is no path of a request");
    one(
        &format!("{process}limits = {{ cpu = \"1s\" }}"),
        "3 contradiction: `cpu` does not concern a container or process",
    );
    let image = |image: &str| format!("[functions.f]\nimage = \"{image}\"\n");
    let pinned = format!("oci://registry.example/shop@sha256:{}", "a".repeat(64));
    let manifest =
        parse("littoral.toml", &format!("{BASE}{}", image(&pinned))).unwrap_or_else(|findings| panic!("{findings}"));
    let registry = manifest.functions.get(&"f".parse().unwrap()).unwrap().image_registry();
    assert_eq!(registry.map(|reference| reference.to_string()), Some(pinned.clone()));
    let tagged = "oci://registry.example/shop:1";
    one(
        &image(tagged),
        &format!("2 missing-digest: `{tagged}` has no digest, so that it may be another image tomorrow"),
    );
    one(&image("oci://shop"), "2 invalid-reference: `oci://shop` is no image in a registry: it names no registry");
    one(
        &format!("{}build = \"make\"", image(&pinned)),
        "3 contradiction: function f comes from a registry and cannot be built",
    );
    let grants = |grants: &str| format!("{process}grants = {{ {grants} }}");
    assert_eq!(findings(&grants("http = [\"api.example.com:443\"]")), Vec::<String>::new());
    one(&grants("sockets = [\"10.0.0.1:53\"]"), "3 contradiction: `sockets` does not concern a container or process");
    let cpus = |cpus: &str| format!("{process}limits = {{ cpus = \"{cpus}\" }}");
    let manifest =
        parse("littoral.toml", &format!("{BASE}{}", cpus("1.5"))).unwrap_or_else(|findings| panic!("{findings}"));
    let limits = manifest.functions.get(&"f".parse().unwrap()).unwrap().limits;
    assert_eq!(limits.cpus.map(Cpus::as_millis), Some(1_500));
    one(&cpus("5m"), "3 out-of-range: an instance cannot have 5m processors");
    one(&cpus("1s"), "3 invalid-unit: `cpus` cannot be `1s`: there is no unit `s`");
    one(
        &cpus("1").replace("process = \"server\"", "component = \"c.wasm\""),
        "3 contradiction: `cpus` is of images and processes; a component runs on one processor at a time",
    );
    one("[functions.f]\nimage = \"i\"\narguments = [\"-v\"]", "3 contradiction: `arguments` are of a process");
    one(
        "[functions.f]\ncomponent = \"c.wasm\"\nhealth = \"/\"",
        "3 contradiction: `health` is of images and processes",
    );
    let stage = process.to_owned() + &with_flow("").replace("[\"clean\"]", "[\"f\"]");
    one(&stage, "5 contradiction: function f is no component and cannot be a stage of flow f");
}

#[test]
fn a_broker_is_reached_as_it_is_granted_and_its_topics_can_be_records() {
    let source = |more: &str| format!("[sources.s]\nstream = \"readings\"\n{more}");
    let sink = |more: &str| format!("[sinks.s]\nstream = \"readings\"\n{more}");
    let broker = "broker = { url = \"mqtts://b.example\", grants = [\"b.example:8883\"]";
    let topics = |topics: &str| source(&format!("[sources.s.mqtt]\n{broker} }}\ntopics = [{topics}]"));
    let all = "version = \"3.1.1\", client-id = \"c\", user = \"u\", password = \"secret:p\", ca = \"secret:ca\", \
               certificate = \"secret:c\", key = \"secret:k\"";
    let good = source(&format!("[sources.s.mqtt]\n{broker}, {all} }}\ntopics = [\"a/{{key}}\", \"b/#\"]\nqos = 0"));
    assert_eq!(findings(&good), Vec::<String>::new());
    one(&topics(""), "5 wrong-length: it cannot have 0 topics");
    one(&topics("\"a/#/b\""), "5 invalid-topic: `a/#/b` is no pattern of topics");
    one(&topics("\"a/{machine}\""), "5 contradiction: a message of `a/{machine}` is a record that has no such column");
    one(&topics("\"a/+\", \"a/{key}\""), "5 ambiguous: a message may match both `a/{key}` and `a/+`");
    one(&(topics("\"a\"") + "\nqos = 2"), "6 out-of-range: `qos` cannot be 2");
    one(&(topics("\"a\"") + "\nsession-expiry = \"0s\""), "6 out-of-range: `session-expiry` cannot be 0s");
    let said = |more: &str| sink(&format!("[sinks.s.mqtt]\n{broker}, {more} }}\ntopic = \"alerts/{{machine}}\""));
    assert_eq!(findings(&said("user = \"u\"")), Vec::<String>::new());
    one(&said("password = \"p\""), "4 contradiction: `password` is of no use without `user`");
    one(&said("key = \"secret:k\""), "4 contradiction: `key` is of no use without `certificate`");
    one(&said("ca = \"secret:\""), "4 invalid-secret: `ca` names no secret");
    one(&said("client-id = \"\""), "4 invalid-name: no client is named so");
    one(&said("version = \"4\""), "4 unknown-value: `version` cannot be `4`");
    one(&said("user = \"u\"").replace("{machine}", "{"), "5 invalid-topic: `alerts/{` is no pattern of topics");
    let plain = |more: &str| said(more).replace("mqtts://", "mqtt://").replace(":8883", "");
    one(&plain("ca = \"secret:c\""), "4 contradiction: `ca` is for TLS, which `mqtt://` is without");
    one(
        &said("user = \"u\"").replace("b.example\",", "b.example/a\","),
        "4 invalid-url: `mqtts://b.example/a` has a path",
    );
    one(
        &said("user = \"u\"").replace(":8883", ":1"),
        "4 contradiction: it is not granted b.example:8883, where its URL leads",
    );
    let expiry = topics("\"a\"").replace(" }", ", version = \"3.1.1\" }") + "\nsession-expiry = \"1h\"";
    one(&expiry, "6 contradiction: version 3.1.1 cannot say for how long messages are kept");
}

#[test]
fn sources_and_sinks_are_of_one_kind_each() {
    let node = |more: &str| if more.contains("file = ") { "\nnode = \"edge-1\"\n" } else { "" };
    let source = |more: &str| format!("[sources.s]\nstream = \"readings\"\n{more}{}", node(more));
    let sink = |more: &str| format!("[sinks.s]\nstream = \"readings\"\n{more}{}", node(more));
    let generator = |more: &str| source(&format!("[sources.s.generator]\n{more}"));
    let good = generator("fields = { n = \"sequence\", m = [\"a\", \"b\"], t = { from = -3, to = 3 } }\nkey = \"m\"")
        + "\n[sources.f]\nstream = \"readings\"\nnode = \"edge-1\"\nfile = { path = \"/in/a.csv\", format = \"csv\" }\n"
        + &sink(
            "placement = { near = \"readings\", affinity = [{ with = \"readings\" }] }\nfile = { path = \"/out\", rotate = \"1MiB\" }",
        );
    assert_eq!(findings(&good), Vec::<String>::new());
    one(&source(""), "1 connector-kind: source s is of exactly one kind");
    one(
        &source("file = { path = \"/a\" }\ngenerator = { fields = { n = \"sequence\" } }"),
        "1 connector-kind: source s is of exactly one kind",
    );
    one(&sink(""), "1 connector-kind: sink s is of exactly one kind");
    one(
        "[sinks.s]\nstream = \"reading\"\nnode = \"edge-1\"\nfile = { path = \"/out\" }",
        "2 unknown-name: there is no stream `reading`",
    );
    one(&source("files = 1\nfile = { path = \"/a\" }"), "3 unknown-key: `s` has no key `files`");
    one(&source("file = { path = \"a/b\" }"), "3 invalid-path: `a/b` is no absolute path");
    one(&source("file = { path = \"/a/\" }"), "3 invalid-path: `/a/` is a folder");
    one(&source("file = { path = \"/a\", format = \"xml\" }"), "3 unknown-value: `format` cannot be `xml`");
    one(&sink("file = { path = \"/out\", rotate = \"1B\" }"), "3 out-of-range: a file cannot end at 1B");
    let parquet = |more: &str| sink(&format!("file = {{ path = \"/out\", format = \"parquet\"{more} }}"));
    let folder = source("file = { path = \"/in/\", format = \"parquet\" }");
    assert_eq!(findings(&(parquet(", rotate-every = \"1d\"") + &folder)), Vec::<String>::new());
    one(&parquet(", rotate-every = \"25h\""), "3 out-of-range: a file cannot be written to for 25h");
    one(&sink("file = { path = \"/out\", rotate-every = \"5s\" }"), "3 contradiction: `rotate-every` is for Parquet");
    one(
        "[sinks.s]\nstream = \"readings\"\nfile = { path = \"/out\" }",
        "1 contradiction: sink s is of files, and of no node",
    );
    let http = |more: &str| sink(&format!("[sinks.s.http]\n{more}"));
    assert_eq!(findings(&http("url = \"http://[::1]:8080/a?b\"\ngrants = [\"[::1]:8080\"]")), Vec::<String>::new());
    one(
        &http("url = \"https://a.example/b\"\ngrants = [\"b.example\"]"),
        "4 contradiction: it is not granted a.example:443, where its URL leads",
    );
    for none in ["ftp://a", "http://", "http://a@b/", "http://a:x/", "a.example"] {
        one(&http(&format!("url = \"{none}\"\ngrants = [\"a\"]")), &format!("4 invalid-url: `{none}` is no URL"));
    }
    let headers = "url = \"http://a\"\ngrants = [\"a\"]\nheaders = ";
    one(&http(&format!("{headers}{{ \"a b\" = \"c\" }}")), "6 invalid-header: `a b` is no name of a header");
    one(&http(&format!("{headers}{{ Host = \"c\" }}")), "6 invalid-header: `Host` is said by Littoral itself");
    one(&http(&format!("{headers}{{ a = \"secret:\" }}")), "6 invalid-secret: `a` names no secret");
    one(&generator("rate = 0\nfields = { n = \"sequence\" }"), "4 out-of-range: `rate` cannot be 0");
    one(&generator("fields = {}"), "4 out-of-range: a record cannot have 0 fields");
    one(&generator("fields = { n = [] }"), "4 wrong-length: `n` is to be one of no texts");
    one(&generator("fields = { n = { from = 2, to = 1 } }"), "4 out-of-range: there is no number from 2 to 1");
    one(&generator("key = \"m\"\nfields = { n = \"sequence\" }"), "4 unknown-name: the records have no field `m`");
    one(&generator("fields = { n = \"sequences\" }"), "4 unknown-value: `n` cannot be `sequences`");
}

#[test]
fn brokers_of_kafka_are_reached_as_they_are_granted() {
    let grants = "grants = [\"b.example:9092\"]";
    let of = |kind: &str, brokers: &str, more: &str, rest: &str| {
        let head = format!("[{kind}s.s]\nstream = \"readings\"\n[{kind}s.s.kafka]\n");
        head + &format!("cluster = {{ brokers = [{brokers}], {more} }}\ntopic = \"t\"\n{rest}")
    };
    let source = |brokers: &str, more: &str| of("source", brokers, &format!("{grants}, {more}"), "");
    let broker = "\"b.example:9092\"";
    let all = "tls = true, ca = \"secret:ca\", certificate = \"secret:c\", key = \"secret:k\", sasl = \"scram-sha-512\", user = \"u\", password = \"secret:p\"";
    assert_eq!(findings(&(source(broker, all) + "from = \"latest\"")), Vec::<String>::new());
    assert_eq!(findings(&of("source", "\"[::1]:9092\"", "grants = [\"[::1]:9092\"]", "")), Vec::<String>::new());
    let sink = |rest: &str| of("sink", broker, grants, rest);
    assert_eq!(findings(&sink("key = \"machine\"\ntransactional-id = \"t-1\"")), Vec::<String>::new());
    one(&sink("from = \"latest\""), "6 unknown-key");
    one(&sink("transactional-id = \"\""), "6 invalid-name: no producer is named so");
    one(&sink("").replace("\"t\"", "\"a/b\""), "5 invalid-topic: `a/b` is no topic of Kafka");
    one(&source("", "tls = true"), "4 wrong-length: it cannot have 0 brokers");
    for none in ["b.example", "b.example:0", "kafka://b.example:9092", ":9092"] {
        let none = format!("\"{none}\"");
        one(&source(&none, "tls = true"), &format!("4 invalid-url: `{}` is no broker", none.trim_matches('"')));
    }
    one(
        &source("\"b.example:9093\"", "tls = true"),
        "4 contradiction: it is not granted b.example:9093, where a broker is",
    );
    one(&source(broker, "ca = \"secret:c\""), "4 contradiction: `ca` is for TLS");
    one(&source(broker, "user = \"u\""), "4 contradiction: `user` is of no use without `password`");
    one(&source(broker, "password = \"p\""), "4 contradiction: `password` is of no use without `user`");
    one(&source(broker, "sasl = \"plain\""), "4 contradiction: `sasl` is of no use without `user`");
    one(&source(broker, "timeout = \"0s\""), "4 out-of-range: `timeout` cannot be 0s");
}

#[test]
fn topics_are_streams() {
    let of = |topics: &str| format!("[mqtt]\n{topics}");
    let good = "\"sensors/+/temperature\" = { stream = \"readings\", retain = true }\n\
                \"alerts/{machine}\" = { stream = \"readings\" }\n\
                \"pumps/{key}\" = { stream = \"readings\", clients = \"publish\" }";
    let manifest = parse("littoral.toml", &format!("{BASE}{}", of(good)));
    let manifest = manifest.unwrap_or_else(|findings| panic!("{findings}"));
    let may = |pattern: &str| {
        let topic = manifest.mqtt.get(pattern).unwrap();
        (topic.takes_messages(&pattern.parse().unwrap()), topic.gives_messages())
    };
    assert_eq!(may("sensors/+/temperature"), (true, true));
    assert_eq!(may("alerts/{machine}"), (false, true));
    assert_eq!(may("pumps/{key}"), (true, false));
    one(
        &of("\"a/#/b\" = { stream = \"readings\" }"),
        "2 invalid-topic: `a/#/b` is no pattern of topics: `#` stands at its end only",
    );
    one(&of("\"a\" = { stream = \"reading\" }"), "2 unknown-name: there is no stream `reading`");
    one(&of("\"a\" = { clients = \"publish\" }"), "2 missing-key: `a` lacks the key `stream`");
    one(&of("\"a\" = { stream = \"readings\", clients = \"both\" }"), "2 unknown-value: `clients` cannot be `both`");
    one(
        &of("\"a/{m}\" = { stream = \"readings\", clients = \"publish\" }"),
        "2 contradiction: what is published to `a/{m}` is a record that has no such column",
    );
    one(
        &of("\"a\" = { stream = \"readings\", clients = \"publish\", retain = true }"),
        "2 contradiction: nobody subscribes to topics that are for publishing only",
    );
    one(
        &of("\"a/+\" = { stream = \"readings\" }\n\"+/b\" = { stream = \"readings\" }"),
        "3 ambiguous: a message may match both `+/b` and `a/+`",
    );
    let many: String = (0..257).map(|n| format!("\"t/{n}\" = {{ stream = \"readings\" }}\n")).collect();
    one(&of(&many), "1 out-of-range: there are 257 patterns of topics");
}
