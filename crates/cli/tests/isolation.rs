//! A node reads its own directory and nobody else's, whatever it is told to read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use common::*;

const MANIFEST: &str = "name = \"web\"\nversion = \"1.0.0\"\n\
    [functions.web]\ncomponent = \"web.wasm\"\nconfig = { key = \"secret:key\" }\n";

/// Deploys a function that is given the secret `key`, and waits until it is served, or until it is said why not.
fn outcome(world: &World, node: &Node) -> Result<(), String> {
    let app = world.path("web");
    std::fs::create_dir_all(&app).unwrap();
    std::fs::write(app.join("littoral.toml"), MANIFEST).unwrap();
    std::fs::write(app.join("web.wasm"), support::sdk_example("faulty_handler")).unwrap();
    node.tell(world, &["deploy", app.to_str().unwrap(), "--no-build", "--no-wait"]);
    let mut outcome = None;
    eventually("the function is served, or it is said why not", || {
        let apps = node.json(world, &["get", "apps", "-o", "json"]);
        let reasons = apps[0]["reasons"].to_string();
        if apps[0]["state"] == "healthy" {
            outcome = Some(Ok(()));
        } else if reasons.contains("secret") {
            outcome = Some(Err(reasons));
        }
        outcome.is_some()
    });
    outcome.unwrap()
}

#[test]
fn a_secret_of_its_own_is_read_and_another_nodes_file_is_not() {
    let world = World::new();
    let (mine, other) = (world.first("mine"), world.first("other"));
    let secrets = mine.data.join("secrets/default/web");
    std::fs::create_dir_all(&secrets).unwrap();
    // A kernel without Landlock cannot confine a process; the node says so.
    if !mine.said().contains("cannot confine") {
        // A trick that the file system's permissions do not stop: both nodes run as the same user.
        std::os::unix::fs::symlink(other.data.join("root/root.key"), secrets.join("key")).unwrap();
        let reason = outcome(&world, &mine).unwrap_err();
        assert!(reason.contains("the file") && reason.contains("ermission denied"), "{reason}");
        mine.tell(&world, &["delete", "web"]);
        std::fs::remove_file(secrets.join("key")).unwrap();
    }
    std::fs::write(secrets.join("key"), "s3cret\n").unwrap();
    outcome(&world, &mine).unwrap();
    drop(other);
}
