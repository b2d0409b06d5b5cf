//! What is deployed must be signed by the fabric's tenant, whoever asks, at whichever node.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use common::*;

const MANIFEST: &str = "name = \"notes\"\nversion = \"1.0.0\"\n[streams.notes]\n";

/// Makes an app with this manifest; its folder.
fn app(world: &World, manifest: &str) -> String {
    let folder = world.path("notes");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    folder.to_str().unwrap().to_owned()
}

/// Deploys at a node, with these arguments, and is refused; what is said.
fn refused(world: &World, node: &Node, arguments: &[&str]) -> String {
    let output = node.ask(world, &[&["deploy"], arguments].concat());
    let said = errors(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(node.json(world, &["get", "apps", "-o", "json"]).as_array().unwrap().is_empty(), "{said}");
    said
}

/// Posts a bundle to a node's admin socket; the whole answer.
fn post(node: &Node, bundle: &serde_json::Value) -> String {
    let body = bundle.to_string();
    let mut stream = UnixStream::connect(node.data.join("admin.sock")).unwrap();
    let head = "POST /v1/apps HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n";
    write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn only_what_the_fabrics_own_tenant_has_signed_is_deployed() {
    let world = World::new();
    let first = world.first_with("cloud-1", &["--admin-listen", ANY_PORT]);
    let stranger = world.first("stranger");
    let token = first.token(&world, "10min");
    let joining = ["--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT];
    let edge = world.start("edge-1", &[&joining[..], &["--join", &token]].concat());
    eventually("both see both", || [&first, &edge].iter().all(|node| node.sees(&world) == ["cloud-1", "edge-1"]));
    let folder = app(&world, MANIFEST);
    let key = |node: &Node| node.data.join("admin").to_str().unwrap().to_owned();

    // Beside a node that was not made with the fabric there is no key.
    let said = refused(&world, &edge, &[&folder]);
    assert!(said.contains("is not signed") && said.contains("--key"), "{said}");
    // Another fabric's tenant is not ours.
    let said = refused(&world, &edge, &[&folder, "--key", &key(&stranger)]);
    assert!(said.contains("another root signed its certificate") && said.contains("first node"), "{said}");
    let nowhere = world.path("nowhere");
    let output = edge.ask(&world, &["deploy", &folder, "--key", nowhere.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", errors(&output));
    // A signature of something else.
    let signing = littoral_mesh::tenant::TenantKey::load(&first.data.join("admin")).unwrap();
    let mut bundle = littoral_node::admin::types::AppBundle {
        manifest: MANIFEST.to_owned(),
        artifacts: std::collections::BTreeMap::new(),
        edit: Some(littoral_model::edit::Edit::first(1, "ann".to_owned())),
        signature: None,
    };
    bundle.signature = Some(littoral_node::signing::sign(&bundle, &signing).unwrap());
    bundle.manifest.push_str("retention = \"1s\"\n");
    let answer = post(&edge, &serde_json::to_value(&bundle).unwrap());
    assert!(answer.contains("altered afterwards"), "{answer}");

    // With the key it is deployed at any node, and taken by the others.
    edge.tell(&world, &["deploy", &folder, "--key", &key(&first)]);
    let version = |node: &Node, version: &str| {
        eventually("the node has it", || node.json(&world, &["get", "apps", "-o", "json"])[0]["version"] == version);
    };
    version(&first, "1.0.0");
    // From afar, with the credentials of a context; also after both nodes have started anew.
    let credentials = world.path("credentials");
    copy(&first.data.join("admin"), &credentials);
    let address = first.address("admin");
    let added =
        world.run(&["context", "add", "plant", "--address", &address, "--credentials", credentials.to_str().unwrap()]);
    assert!(added.status.success(), "{}", errors(&added));
    app(&world, &MANIFEST.replace("1.0.0", "1.1.0"));
    let deployed = world.run(&["--context", "plant", "deploy", &folder]);
    assert!(deployed.status.success(), "{}", errors(&deployed));
    version(&edge, "1.1.0");
    assert_eq!((first.stop(), edge.stop()), (0, 0));
    version(&world.start("edge-1", &[]), "1.1.0");
}
