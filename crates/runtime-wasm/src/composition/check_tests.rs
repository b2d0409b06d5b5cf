//! Tests of [`super`], with components written out.
use super::super::read::interfaces;
use super::*;

/// A component that imports these interfaces: name, and what is in it.
fn importing(imports: &[(&str, &str)]) -> Interfaces {
    let imports: String = imports.iter().map(|(name, of)| format!("(import \"{name}\" (instance {of}))\n")).collect();
    interfaces(&wat::parse_str(format!("(component {imports})")).unwrap()).unwrap()
}

/// A component that exports a function `f` of numbers in an interface.
fn adder(name: &str) -> Interfaces {
    let text = format!(
        "(component
            (core module $m (func (export \"f\") (param i32) (result i32) local.get 0))
            (core instance $i (instantiate $m))
            (func $f (param \"a\" u32) (result u32) (canon lift (core func $i \"f\")))
            (instance (export \"{name}\") (export \"f\" (func $f))))"
    );
    interfaces(&wat::parse_str(text).unwrap()).unwrap()
}

fn app(functions: &[(&str, Interfaces)]) -> BTreeMap<FunctionName, Part> {
    let part = |interfaces: &Interfaces| Part { interfaces: Some(interfaces.clone()), ..Part::default() };
    functions.iter().map(|(name, interfaces)| (name.parse().unwrap(), part(interfaces))).collect()
}

const ADD: &str = "(export \"f\" (func (param \"a\" u32) (result u32)))";

fn problem(parts: &BTreeMap<FunctionName, Part>) -> String {
    compose(parts).unwrap_err().join("\n")
}

fn exporter(parts: &BTreeMap<FunctionName, Part>) -> (String, String) {
    let composed = compose(parts).unwrap().remove(&"user".parse().unwrap()).unwrap();
    (composed[0].function.to_string(), composed[0].export.clone())
}

#[test]
fn versions_that_can_stand_for_each_other_are_those_of_one_track() {
    for (wanted, offered, compatible) in [
        ("a:b/c@1.0.0", "a:b/c@1.0.0", true),
        ("a:b/c@1.0.0", "a:b/c@1.4.2", true),
        ("a:b/c@1.4.2", "a:b/c@1.0.0", true),
        ("a:b/c@0.2.0", "a:b/c@0.2.7", true),
        ("a:b/c@0.2.0", "a:b/c@0.3.0", false),
        ("a:b/c@1.0.0", "a:b/c@2.0.0", false),
        ("a:b/c@1.0.0-rc.1", "a:b/c@1.0.0", false),
        ("a:b/c@0.0.1", "a:b/c@0.0.2", false),
        ("a:b/c@1.0.0", "a:b/d@1.0.0", false),
        ("a:b/c", "a:b/c", true),
        ("a:b/c", "a:b/c@1.0.0", false),
    ] {
        assert_eq!(is_compatible(wanted, offered), compatible, "{wanted} {offered}");
    }
}

#[test]
fn an_import_is_the_export_of_the_one_function_that_has_it() {
    let user = || importing(&[("acme:math/add@1.0.0", ADD), ("wasi:clocks/monotonic-clock@0.2.0", "")]);
    let named = |function: &str, export: &str| (function.to_owned(), export.to_owned());
    let parts =
        app(&[("user", user()), ("adder", adder("acme:math/add@1.3.0")), ("other", adder("acme:math/sub@1.0.0"))]);
    assert_eq!(exporter(&parts), named("adder", "acme:math/add@1.3.0"));
    // Of several, the one of the very version; else the manifest says which.
    let several = [("user", user()), ("exact", adder("acme:math/add@1.0.0")), ("newer", adder("acme:math/add@1.3.0"))];
    assert_eq!(exporter(&app(&several)), named("exact", "acme:math/add@1.0.0"));
    let mut parts = app(&[several[0].clone(), several[1].clone(), ("twin", adder("acme:math/add@1.0.0"))]);
    let text = problem(&parts);
    assert!(text.contains("several functions export: `exact`, `twin`"), "{text}");
    assert!(text.contains("[functions.user.imports] \"acme:math/add@1.0.0\" = \"exact\""), "{text}");
    let declare = |parts: &mut BTreeMap<FunctionName, Part>, import: &str, function: &str| {
        let user = parts.get_mut(&"user".parse().unwrap()).unwrap();
        user.declared.insert(import.to_owned(), function.parse().unwrap());
    };
    declare(&mut parts, "acme:math/add@1.0.0", "twin");
    assert_eq!(exporter(&parts), named("twin", "acme:math/add@1.0.0"));
    declare(&mut parts, "acme:math/more@1.0.0", "twin");
    assert!(problem(&parts).contains("its component imports `acme:math/add@1.0.0`"), "{}", problem(&parts));
    // One that imports what it also exports stands between its user and another exporter, not before itself.
    let relay = Interfaces { exports: adder("acme:math/add@1.0.0").exports, ..user() };
    let parts = app(&[("relay", relay.clone())]);
    assert!(problem(&parts).contains("no other function of the app exports"), "{}", problem(&parts));
    let composed = compose(&app(&[("relay", relay), ("adder", adder("acme:math/add@1.0.0"))])).unwrap();
    assert_eq!(composed.values().next().unwrap()[0].function.as_str(), "adder");
}

#[test]
fn a_missing_exporter_is_named_with_what_is_nearest() {
    let user = importing(&[("acme:vision/detect@1.0.0", ADD)]);
    let mut parts =
        app(&[("user", user), ("far", adder("zoo:keeper/feed")), ("near", adder("acme:vision/detects@1.0.0"))]);
    assert_eq!(
        problem(&parts),
        "function user imports `acme:vision/detect@1.0.0`, which no other function of the app exports; \
        the nearest is `acme:vision/detects@1.0.0` of function near"
    );
    parts.remove(&"near".parse().unwrap());
    assert!(problem(&parts).ends_with("; add a function whose component exports it"), "{}", problem(&parts));
    // What is not built yet may be what exports it.
    parts.insert("unbuilt".parse().unwrap(), Part::default());
    assert!(compose(&parts).unwrap().is_empty());
}

#[test]
fn a_mismatch_shows_both_sides() {
    let found = "(type $p (record (field \"x\" u32) (field \"y\" f64))) (export \"point\" (type $point (eq $p)))
        (export \"f\" (func (param \"at\" $point) (result (list string))))
        (export \"g\" (func))";
    let user = importing(&[("acme:math/add@1.0.0", found)]);
    let text = problem(&app(&[("user", user), ("adder", adder("acme:math/add@1.2.0"))]));
    assert_eq!(
        text,
        "functions user and adder do not mean the same by `f` of `acme:math/add@1.0.0`:
  user imports in acme:math/add@1.0.0:
    f: func(at: point) -> list<string>
    record point { x: u32, y: f64 }
  adder exports in acme:math/add@1.2.0:
    f: func(a: u32) -> u32
functions user and adder do not mean the same by `g` of `acme:math/add@1.0.0`:
  user imports in acme:math/add@1.0.0:
    g: func()
  adder exports in acme:math/add@1.2.0:
    no function `g`"
    );
}

#[test]
fn what_cannot_leave_an_instance_is_refused_by_name() {
    let bound = |of: &str| {
        let text =
            problem(&app(&[("user", importing(&[("acme:img/io@1.0.0", of)])), ("io", adder("acme:img/io@1.0.0"))]));
        assert!(
            text.starts_with("function user imports `acme:img/io@1.0.0`, which cannot be another function's"),
            "{text}"
        );
        text
    };
    let text = bound("(export \"image\" (type $i (sub resource))) (export \"f\" (func (param \"of\" (borrow $i))))");
    assert!(text.contains("it has resource `image`, resource `image` of `acme:img/io@1.0.0` in `f`."), "{text}");
    assert!(bound("(export \"watch\" (func (result (stream u8))))").contains("a stream in `watch`"));
    assert!(bound("(export \"wait\" (func (result (list (future u8)))))").contains("a future in `wait`"));
    assert!(bound("(export \"why\" (func (result error-context)))").contains("an error-context in `why`"));
    assert!(bound("(export \"go\" (func async (param \"a\" u32)))").contains("the async function `go`"));
}

#[test]
fn what_is_in_no_interface_or_a_stage_is_refused() {
    let loose = interfaces(&wat::parse_str("(component (import \"f\" (func)))").unwrap()).unwrap();
    assert!(problem(&app(&[("user", loose)])).contains("imports `f` by itself"));
    let mut parts =
        app(&[("user", importing(&[("acme:math/add@1.0.0", ADD)])), ("adder", adder("acme:math/add@1.0.0"))]);
    parts.get_mut(&"adder".parse().unwrap()).unwrap().stage_of = Some("health".to_owned());
    assert!(problem(&parts).contains("runs as a stage of flow health"), "{}", problem(&parts));
}

#[test]
fn types_alone_need_nobody() {
    let types = "(type $p (record (field \"x\" u32))) (export \"point\" (type (eq $p)))";
    let parts = app(&[("user", importing(&[("acme:math/types@1.0.0", types)]))]);
    assert!(compose(&parts).unwrap().is_empty());
}

#[test]
fn types_that_are_too_large_or_too_deep_are_refused() {
    /// Deeper than is taken, and less deep than wasmparser itself refuses.
    const TYPES_DEEP: usize = 80;
    // Each is twice the one before: few types, and a tree that no machine could hold.
    let mut wide = "(type $t0 (tuple u8 u8))".to_owned();
    let mut deep = "(type $t0 (list u8))".to_owned();
    for number in 1..TYPES_DEEP {
        let before = number - 1;
        if number < 18 {
            wide += &format!("(type $t{number} (tuple $t{before} $t{before}))");
        }
        deep += &format!("(type $t{number} (list $t{before}))");
    }
    for (types, last, how) in [(wide, 17, "too large"), (deep, TYPES_DEEP - 1, "nested too deeply")] {
        let of = format!("{types} (export \"f\" (func (param \"a\" $t{last})))");
        let text = problem(&app(&[("user", importing(&[("acme:a/b", &of)])), ("b", adder("acme:a/b"))]));
        assert!(text.contains(&format!("it has types in `f` that are {how}")), "{text}");
    }
}
