//! Loading: what is refused, what is compiled once, what the disk cache gives back.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use littoral_runtime_wasm::{CompilerProcess, LoadError, Wasm, WasmOptions};

fn wasm(folder: &Path) -> Wasm {
    Wasm::new(WasmOptions { cache_dir: Some(folder.join("cache")), ..WasmOptions::default() }).unwrap()
}

/// A component with the right interface and nothing behind it.
fn handler() -> Bytes {
    let text = r#"
        (component
            (import "wasi:http/types@0.2.0" (instance $types
                (export "incoming-request" (type (sub resource)))
                (export "response-outparam" (type (sub resource)))))
            (alias export $types "incoming-request" (type $request))
            (alias export $types "response-outparam" (type $outparam))
            (core module $m (func (export "handle") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))
                (canon lift (core func $i "handle")))
            (component $face
                (import "request" (type $request (sub resource)))
                (import "outparam" (type $outparam (sub resource)))
                (import "handle" (func $handle (param "request" (own $request)) (param "response-out" (own $outparam))))
                (export $r "incoming-request" (type $request))
                (export $o "response-outparam" (type $outparam))
                (export "handle" (func $handle) (func (param "request" (own $r)) (param "response-out" (own $o)))))
            (instance $exported (instantiate $face
                (with "request" (type $request)) (with "outparam" (type $outparam)) (with "handle" (func $handle))))
            (export "wasi:http/incoming-handler@0.2.0" (instance $exported)))"#;
    wat::parse_str(text).unwrap().into()
}

fn cached(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder.join("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_component_is_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = wasm(folder.path());
    let loads = (0..8).map(|_| {
        let wasm = wasm.clone();
        tokio::spawn(async move { wasm.load(handler()).await.unwrap() })
    });
    let loads: Vec<_> = loads.collect();
    let mut artifacts = Vec::new();
    for load in loads {
        artifacts.push(load.await.unwrap());
    }
    assert!(artifacts.iter().all(|artifact| Arc::ptr_eq(artifact, &artifacts[0])));
    assert!(artifacts[0].is_handler() && !artifacts[0].is_stage());
    assert_eq!(cached(folder.path()).len(), 1);
    let digest = artifacts[0].digest().to_owned();
    assert!(wasm.held(&digest).is_some_and(|held| Arc::ptr_eq(&held, &artifacts[0])));
    artifacts.clear();
    assert!(wasm.held(&digest).is_none(), "what nobody uses goes");
}

/// An engine whose compiling process is a shell that does this.
fn compiled_by(folder: &Path, script: &str) -> Wasm {
    let compiler = CompilerProcess { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
    let cache_dir = Some(folder.join("cache"));
    Wasm::new(WasmOptions { cache_dir, compiler: Some(compiler), ..WasmOptions::default() }).unwrap()
}

#[tokio::test]
async fn what_breaks_the_compiling_process_is_not_tried_in_this_one() {
    let folder = tempfile::tempdir().unwrap();
    for script in ["kill -9 $$", "exit 101"] {
        let refusal = compiled_by(folder.path(), script).load(handler()).await.unwrap_err();
        assert!(matches!(&refusal, LoadError::Invalid(reason) if reason.contains("compiling it failed")), "{refusal}");
        assert!(cached(folder.path()).is_empty());
    }
    let refusal = compiled_by(folder.path(), "echo bad >&2; exit 65").load(handler()).await.unwrap_err();
    assert_eq!(refusal, LoadError::Invalid("bad".to_owned()));
}

#[tokio::test]
async fn where_the_compiling_process_does_not_start_this_one_compiles() {
    let folder = tempfile::tempdir().unwrap();
    assert!(compiled_by(folder.path(), "exit 69").load(handler()).await.unwrap().is_handler());
    let wasm = Wasm::new(WasmOptions {
        cache_dir: Some(folder.path().join("cache")),
        compiler: Some(CompilerProcess { program: "/nowhere".into(), arguments: Vec::new() }),
        ..WasmOptions::default()
    });
    assert!(wasm.unwrap().load(handler()).await.unwrap().is_handler());
}

#[tokio::test]
async fn a_tampered_file_is_compiled_anew_and_replaced() {
    let folder = tempfile::tempdir().unwrap();
    wasm(folder.path()).load(handler()).await.unwrap();
    let path = cached(folder.path()).remove(0);
    let good = std::fs::read(&path).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bad).unwrap();
    let artifact = wasm(folder.path()).load(handler()).await.unwrap();
    assert!(artifact.is_handler());
    assert_ne!(std::fs::read(&path).unwrap(), bad, "the bad file was replaced");
    assert!(wasm(folder.path()).load(handler()).await.unwrap().is_handler(), "and what replaced it is good");
}

#[tokio::test]
async fn without_address_space_instances_are_made_on_demand() {
    let wasm = Wasm::new(WasmOptions { instances_max: Some(u32::MAX / 8), ..WasmOptions::default() }).unwrap();
    assert!(wasm.load(handler()).await.unwrap().is_handler());
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_reason() {
    let wasm = Wasm::new(WasmOptions::default()).unwrap();
    let load = async |bytes: Vec<u8>| wasm.load(bytes.into()).await.unwrap_err();
    assert!(matches!(load(b"not wasm".to_vec()).await, LoadError::Invalid(_)));
    assert!(matches!(load(wat::parse_str("(module)").unwrap()).await, LoadError::Invalid(_)));
    assert!(matches!(load(wat::parse_str("(component)").unwrap()).await, LoadError::World(_)));
    let foreign = r#"(component (import "acme:rocket/engine@1.0.0" (instance (export "ignite" (func)))))"#;
    // Another function of an app may export that; alone, it lacks it.
    let lacking = wasm.load(wat::parse_str(foreign).unwrap().into()).await.unwrap();
    assert_eq!(lacking.lacks(), ["acme:rocket/engine@1.0.0"]);
    let unknown = r#"(component (import "wasi:rocket/engine@1.0.0" (instance (export "ignite" (func)))))"#;
    let refusal = load(wat::parse_str(unknown).unwrap()).await;
    assert!(matches!(&refusal, LoadError::Import(reason) if reason.contains("wasi:rocket/engine")), "{refusal}");
    assert!(matches!(load(vec![0; (64 << 20) + 1]).await, LoadError::TooLarge(_)));
}
