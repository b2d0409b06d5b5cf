//! What `littoral new` makes: it passes its own tests, builds, and runs on a continuum of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::*;

/// Cargo as a user has it, with a target folder that is kept between runs.
fn cargo(folder: &Path, arguments: &[&str]) {
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("template");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(name);
    }
    // What it needs was fetched for the SDK's own tests.
    let output =
        cargo.args(arguments).arg("--offline").current_dir(folder).env("CARGO_TARGET_DIR", target).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_new_app_passes_its_tests_and_runs() {
    let world = World::new();
    let made = world.run(&["new", "my-app"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let app = world.path("my-app");
    cargo(&app, &["test", "--quiet"]);
    cargo(&app, &["build", "--quiet", "--release", "--target", "wasm32-wasip2"]);
    let built = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("template/wasm32-wasip2/release");
    let wanted = app.join("target/wasm32-wasip2/release");
    std::fs::create_dir_all(&wanted).unwrap();
    for name in ["hello.wasm", "smooth.wasm"] {
        std::fs::copy(built.join(name), wanted.join(name)).unwrap();
    }

    let node = world.first("cloud-1");
    node.tell(&world, &["deploy", app.to_str().unwrap(), "--no-build"]);
    let greeting = node.tell(&world, &["call", "my-app/hello", "--data", r#"{"name":"Ada"}"#]);
    assert!(greeting.contains("Hello, Ada!"), "{greeting}");
    let values = ["--value", "20", "--value", "30", "--value", "hot"];
    node.tell(&world, &[&["stream", "publish", "my-app/readings", "--key", "pump-1"][..], &values].concat());
    let rows = |stream: &str| {
        let text = node.tell(&world, &["stream", "tail", stream, "--from", "start"]);
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect::<Vec<_>>()
    };
    eventually("the records come out", || rows("my-app/results").len() == 2 && rows("my-app/rejects").len() == 1);
    let averages: Vec<f64> = rows("my-app/results").iter().map(|row| row["average"].as_f64().unwrap()).collect();
    assert_eq!(averages, [20.0, 22.0]);
    assert!(rows("my-app/rejects")[0]["reason"].as_str().unwrap().contains("`hot` is not a number"));
    let logs = node.ask(&world, &["logs", "my-app"]);
    assert!(logs.status.success());
    node.tell(&world, &["delete", "my-app"]);
    eventually("it is gone", || node.json(&world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty());
}
