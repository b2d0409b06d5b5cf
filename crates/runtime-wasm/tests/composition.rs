//! Functions that import what other functions export: called in this process, and as if over the mesh.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use littoral_model::composition::{CALL_DEPTH_MAX, ComposedCall, Composition};
use littoral_model::id::FunctionName;
use littoral_runtime_wasm::composition::{Exporter, ExporterSettings, Exporters, Linking, Part, compose, interfaces};
use littoral_runtime_wasm::fabric::Invocation;
use littoral_runtime_wasm::handler::{Body, Handler, HandlerSettings};
use littoral_runtime_wasm::{Artifact, Fault, Limits, LoadError, Wasm, WasmOptions};

/// The exporters of an app: all in this process, or all as if on other nodes.
#[derive(Default)]
struct App {
    exporters: Mutex<BTreeMap<FunctionName, Exporter>>,
    is_far: bool,
}

impl Exporters for App {
    fn here(&self, function: &FunctionName) -> Option<Exporter> {
        if self.is_far { None } else { self.exporters.lock().unwrap().get(function).cloned() }
    }

    fn elsewhere(&self, function: &FunctionName, call: ComposedCall) -> BoxFuture<'static, Result<Bytes, String>> {
        let exporter = self.exporters.lock().unwrap().get(function).cloned();
        async move { exporter.ok_or("nobody serves it")?.answer(&call).await }.boxed()
    }
}

/// Functions of an app, deployed into one process.
struct Deployed {
    wasm: Wasm,
    app: Arc<App>,
    artifacts: BTreeMap<FunctionName, Arc<Artifact>>,
}

impl Deployed {
    async fn new(functions: &[(&str, Vec<u8>, Limits)], is_far: bool) -> Self {
        let wasm = Wasm::new(WasmOptions { instances_max: Some(64), ..WasmOptions::default() }).unwrap();
        let app = Arc::new(App { is_far, ..App::default() });
        let parts = functions.iter().map(|(name, component, _)| {
            (name.parse().unwrap(), Part { interfaces: Some(interfaces(component).unwrap()), ..Part::default() })
        });
        let composition: Composition = compose(&parts.collect()).unwrap();
        let mut artifacts = BTreeMap::new();
        for (name, component, limits) in functions {
            let name: FunctionName = name.parse().unwrap();
            let imports = composition.get(&name).cloned().unwrap_or_default();
            let linking = Linking { imports, exporters: Arc::clone(&app) as _ };
            let loaded = wasm.load(component.clone().into()).await.unwrap();
            let linked = loaded.linked(&wasm, &linking).unwrap();
            let settings = ExporterSettings { limits: *limits, ..ExporterSettings::default() };
            if let Some(exporter) = Exporter::new(&wasm, &linked, settings) {
                app.exporters.lock().unwrap().insert(name.clone(), exporter);
            }
            artifacts.insert(name, linked);
        }
        Self { wasm, app, artifacts }
    }

    fn handler(&self, name: &str, limits: Limits) -> Handler {
        let artifact = &self.artifacts[&name.parse::<FunctionName>().unwrap()];
        Handler::new(&self.wasm, artifact, HandlerSettings { limits, ..HandlerSettings::default() }).unwrap()
    }

    /// Calls `f` of a function of numbers, from outside.
    async fn call(&self, function: &str, interface: &str, number: u32) -> Result<u32, String> {
        let exporter = self.app.exporters.lock().unwrap()[&function.parse::<FunctionName>().unwrap()].clone();
        let call = ComposedCall {
            interface: interface.to_owned(),
            name: "f".to_owned(),
            signature: F_OF_NUMBERS,
            depth: 1,
            remaining_us: 60_000_000,
            arguments: Bytes::copy_from_slice(&number.to_le_bytes()),
        };
        let answer = exporter.answer(&call).await?;
        Ok(u32::from_le_bytes(answer.as_ref().try_into().unwrap()))
    }
}

/// What `f: func(a: u32) -> u32` is known by. Nodes of other versions go by it, too.
const F_OF_NUMBERS: u64 = 0x3f3c_9229_290d_3c74;

fn limits(timeout: Duration) -> Limits {
    Limits { memory_bytes: 64 << 20, timeout, ..Limits::default() }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(3);

fn request(path: &str) -> Request<Body> {
    let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync();
    Request::get(format!("http://localhost{path}")).header("host", "localhost").body(body).unwrap()
}

async fn get(handler: &Handler, path: &str) -> Result<String, Fault> {
    let body = handler.call(request(path)).await?.into_body().collect().await.unwrap().to_bytes();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

fn gallery(detector: Limits) -> Vec<(&'static str, Vec<u8>, Limits)> {
    let (gallery, exporter) = (support::test_guest("gallery"), support::test_guest("detector"));
    vec![("gallery", gallery, limits(LONG)), ("detector", exporter, detector)]
}

#[tokio::test]
async fn what_is_called_here_and_elsewhere_answers_the_same() {
    let functions = gallery(limits(LONG));
    let (near, far) = (Deployed::new(&functions, false).await, Deployed::new(&functions, true).await);
    let (near, far) = (near.handler("gallery", limits(LONG)), far.handler("gallery", limits(LONG)));
    for (path, expected) in [
        ("/detect", "circle: "),
        ("/small", "Err(Problem::TooSmall(1))"),
        ("/empty", "beach is empty"),
        ("/large", "Ok(4)"),
        ("/next", "(-1, 2, -299, 501, -69999, 70001, -9223372036854775807, 1099511627777, 1.5, -1e300, false, '{')"),
        ("/nested", "Some(Some(Err(Err(()))))"),
        ("/count", "0\n"),
    ] {
        let answer = get(&near, path).await.unwrap();
        assert_eq!(get(&far, path).await.unwrap(), answer, "{path}");
        if path == "/detect" {
            for part in ["beach/3 🐚", "Point { x: 2147483647, y: -2147483648 }", "129.0", "High", "'b'"] {
                assert!(answer.contains(part), "{part}: {answer}");
            }
        } else {
            assert!(answer.contains(expected), "{path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_fault_of_the_other_function_is_told_with_its_cause() {
    for is_far in [false, true] {
        let deployed = Deployed::new(&gallery(limits(SHORT)), is_far).await;
        let handler = deployed.handler("gallery", limits(LONG));
        for (path, cause) in [
            ("/trap", "it trapped: it gave up (`unreachable`), after writing `"),
            ("/spin", "it ran for longer than 3s"),
            ("/memory", "it needs more memory than 67108864 bytes"),
        ] {
            let fault = get(&handler, path).await.unwrap_err();
            let expected =
                "its call of `fail` in `acme:vision/detect@1.2.0`, which function detector exports, failed: ";
            assert!(matches!(&fault, Fault::Composed { is_late: false, .. }), "{path}: {fault:?}");
            assert!(fault.to_string().starts_with(expected) && fault.to_string().contains(cause), "{path}: {fault}");
        }
        assert_eq!(get(&handler, "/other").await.unwrap(), "/other did not fail\n");
    }
}

#[tokio::test]
async fn the_callers_deadline_holds_for_what_it_calls() {
    for is_far in [false, true] {
        let deployed = Deployed::new(&gallery(limits(LONG)), is_far).await;
        let handler = deployed.handler("gallery", limits(SHORT));
        // Not after the minute that the other function would have by itself.
        let fault = tokio::time::timeout(LONG / 2, get(&handler, "/spin")).await.unwrap().unwrap_err();
        let is_told = matches!(&fault, Fault::Composed { is_late: true, .. } | Fault::Timeout { .. });
        assert!(is_told, "{fault:?}");
    }
}

#[tokio::test]
async fn a_component_is_compiled_once_and_linked_for_each_function() {
    let deployed = Deployed::new(&gallery(limits(LONG)), false).await;
    let loaded = deployed.wasm.load(support::test_guest("gallery").into()).await.unwrap();
    assert_eq!(loaded.lacks(), ["acme:vision/detect@1.2.0"]);
    assert!(!loaded.is_handler() && !loaded.is_exporter());
    let again = deployed.wasm.load(support::test_guest("gallery").into()).await.unwrap();
    assert!(Arc::ptr_eq(&loaded, &again));
    let linked = &deployed.artifacts[&"gallery".parse::<FunctionName>().unwrap()];
    assert!(linked.is_handler() && linked.lacks().is_empty() && !Arc::ptr_eq(linked, &loaded));
    let nothing = Linking { imports: Vec::new(), exporters: Arc::clone(&deployed.app) as _ };
    let refused = loaded.linked(&deployed.wasm, &nothing).unwrap_err();
    assert_eq!(refused, LoadError::Unlinked("acme:vision/detect@1.2.0".to_owned()));
    // What imports from nobody is shared as it is.
    let exporter = deployed.wasm.load(support::test_guest("detector").into()).await.unwrap();
    assert!(exporter.is_exporter() && Arc::ptr_eq(&exporter, &exporter.linked(&deployed.wasm, &nothing).unwrap()));
}

/// Uses the engine for components of WASI 0.3.
const CONCURRENT: &str = "(import \"wasi:clocks/types@0.3.0\" (instance))";

/// Exports `f`, which adds 1.
fn adder(interface: &str, more: &str) -> Vec<u8> {
    let text = format!(
        "(component {more}
            (core module $m (func (export \"f\") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1))))
            (core instance $i (instantiate $m))
            (func $f (param \"a\" u32) (result u32) (canon lift (core func $i \"f\")))
            (instance (export \"{interface}\") (export \"f\" (func $f))))"
    );
    wat::parse_str(text).unwrap()
}

/// Exports `f`, which calls the imported one twice.
fn twice(import: &str, export: &str, more: &str) -> Vec<u8> {
    let text = format!(
        "(component {more}
            (import \"{import}\" (instance $of (export \"f\" (func (param \"a\" u32) (result u32)))))
            (core func $f (canon lower (func $of \"f\")))
            (core module $m (import \"of\" \"f\" (func $f (param i32) (result i32)))
                (func (export \"f\") (param i32) (result i32) (call $f (call $f (local.get 0)))))
            (core instance $i (instantiate $m (with \"of\" (instance (export \"f\" (func $f))))))
            (func $g (param \"a\" u32) (result u32) (canon lift (core func $i \"f\")))
            (instance (export \"{export}\") (export \"f\" (func $g))))"
    );
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn components_of_either_wasi_call_each_other() {
    for is_far in [false, true] {
        for (caller, callee) in [("", ""), ("", CONCURRENT), (CONCURRENT, ""), (CONCURRENT, CONCURRENT)] {
            let functions = [
                ("four", twice("a:b/two@1.0.0", "a:b/four@1.0.0", caller), limits(LONG)),
                ("two", twice("a:b/one@1.5.0", "a:b/two@1.0.0", callee), limits(LONG)),
                ("one", adder("a:b/one@1.0.0", caller), limits(LONG)),
            ];
            let deployed = Deployed::new(&functions, is_far).await;
            assert_eq!(deployed.call("four", "a:b/four@1.0.0", 10).await, Ok(14), "{caller} {callee} {is_far}");
        }
    }
}

#[tokio::test]
async fn calls_that_lead_back_end() {
    let functions = [
        ("hen", twice("a:b/egg", "a:b/hen", ""), limits(LONG)),
        ("egg", twice("a:b/hen", "a:b/egg", CONCURRENT), limits(LONG)),
    ];
    for is_far in [false, true] {
        let deployed = Deployed::new(&functions, is_far).await;
        let refused = deployed.call("hen", "a:b/hen", 1).await.unwrap_err();
        assert!(refused.ends_with(&format!("nested more than {CALL_DEPTH_MAX} deep")), "{refused}");
    }
}

#[tokio::test]
async fn calls_by_name_count_as_much_as_calls_by_interface() {
    for is_far in [false, true] {
        let deployed = Deployed::new(&gallery(limits(LONG)), is_far).await;
        let handler = deployed.handler("gallery", limits(LONG));
        let called_at = |depth| {
            let mut request = request("/detect");
            request.extensions_mut().insert(Invocation { depth, ..Invocation::default() });
            handler.call(request)
        };
        called_at(CALL_DEPTH_MAX - 1).await.unwrap();
        let fault = called_at(CALL_DEPTH_MAX).await.unwrap_err();
        assert!(fault.to_string().ends_with(&format!("nested more than {CALL_DEPTH_MAX} deep")), "{fault}");
    }
}

#[tokio::test]
async fn a_call_with_other_types_or_of_nothing_is_refused_with_what_there_is() {
    let deployed = Deployed::new(&[("one", adder("a:b/one", ""), limits(LONG))], true).await;
    let exporter = deployed.app.exporters.lock().unwrap()[&"one".parse::<FunctionName>().unwrap()].clone();
    let call = |interface: &str, signature: u64, arguments: &'static [u8]| ComposedCall {
        interface: interface.to_owned(),
        name: "f".to_owned(),
        signature,
        depth: 1,
        remaining_us: u64::MAX,
        arguments: Bytes::from_static(arguments),
    };
    let refused = exporter.answer(&call("a:b/one", 1, &[0; 4])).await.unwrap_err();
    assert!(refused.contains("it has `f: func(a: u32) -> u32`"), "{refused}");
    let refused = exporter.answer(&call("a:b/none", F_OF_NUMBERS, &[0; 4])).await.unwrap_err();
    assert!(refused.contains("it exports no function `f` in `a:b/none`"), "{refused}");
    for damaged in [&[0; 3][..], &[0; 5]] {
        let refused = exporter.answer(&call("a:b/one", F_OF_NUMBERS, damaged)).await.unwrap_err();
        assert!(refused.contains("damaged"), "{refused}");
    }
    assert!(exporter.answer(&call("a:b/one", F_OF_NUMBERS, &[0; 4])).await.is_ok());
}
