//! Components in an OCI registry: Debian's `docker-registry`, on loopback. What is pushed is pulled and deployed, from a
//! near node where one holds it, and nothing else is ever run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use serde_json::Value;

/// A registry's user; the password is `s3cret`, as bcrypt.
const HTPASSWD: &str = "ada:$2b$04$kBfZViUKvcOV5llI1R8NA.gGdPbB64G9YCJPEVfxBGy5bfuyj7WKC\n";
/// `ada:s3cret`, in base64.
const ADA: &str = "YWRhOnMzY3JldA==";

/// A registry; it ends with this.
struct Registry {
    process: Process,
    address: String,
    data: PathBuf,
}

impl Registry {
    /// Starts one, with a user if `guarded`, on a port of the kernel's.
    fn start(world: &World, guarded: bool) -> Self {
        let data = world.path("registry");
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(data.join("htpasswd"), HTPASSWD).unwrap();
        let auth = if guarded {
            format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", data.join("htpasswd").display())
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '{ANY_PORT}'}}\n{auth}",
            data.display()
        );
        let (file, log) = (world.path("registry.yml"), world.path("registry.log"));
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(std::fs::File::create(&log).unwrap()).spawn();
        let child = child.expect("docker-registry starts; `make setup` installs it");
        let mut registry = Self { process: Process(child), address: String::new(), data };
        eventually("the registry listens", || {
            let ended = registry.process.0.try_wait().unwrap();
            let said = std::fs::read_to_string(&log).unwrap();
            assert!(ended.is_none(), "the registry ended: {said}");
            let after = said.split("listening on ").nth(1).and_then(|rest| rest.split('"').next());
            registry.address = after.unwrap_or_default().to_owned();
            after.is_some()
        });
        registry
    }

    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Where it holds what has this digest.
    fn blob(&self, digest: &str) -> PathBuf {
        let digest = digest.trim_start_matches("sha256:");
        let blob = self.data.join("docker/registry/v2/blobs/sha256").join(&digest[..2]).join(digest).join("data");
        assert!(blob.exists(), "{}", blob.display());
        blob
    }

    fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.blob(digest)).unwrap()).unwrap()
    }

    /// Overwrites what it holds under a digest, as who has its disk could.
    fn tamper(&self, digest: &str, with: &[u8]) {
        std::fs::write(self.blob(digest), with).unwrap();
    }
}

/// Writes a component to a file; its path.
fn component(world: &World) -> PathBuf {
    let path = world.path("hello.wasm");
    std::fs::write(&path, support::sdk_example("faulty_handler")).unwrap();
    path
}

/// Pushes a component; what is printed as JSON.
fn push(world: &World, file: &Path, reference: &str) -> Value {
    let output = world.run(&["push", file.to_str().unwrap(), reference, "-o", "json"]);
    assert!(output.status.success(), "{}", errors(&output));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].clone()
}

/// Makes an app with one HTTP function; its folder.
fn app(world: &World, component: &str) -> String {
    let folder = world.path("web");
    std::fs::create_dir_all(&folder).unwrap();
    let text = format!("name = \"web\"\nversion = \"1.0.0\"\n[functions.web]\ncomponent = \"{component}\"\n");
    std::fs::write(folder.join("littoral.toml"), text).unwrap();
    folder.to_str().unwrap().to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Fails with this in what it says; all that it says.
fn refused(output: &std::process::Output, because: &str) -> String {
    let said = errors(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(because), "{said}");
    said
}

#[test]
fn what_is_pushed_is_pulled_and_tampering_is_noticed() {
    let world = World::new();
    let registry = Registry::start(&world, false);
    let file = component(&world);
    let pushed = push(&world, &file, &registry.reference("acme/hello:1.2"));
    let pinned = text(&pushed["reference"]).to_owned();
    assert!(pinned.starts_with(&format!("oci://{}/acme/hello@sha256:", registry.address)), "{pinned}");
    // The same component has the same digest, under whichever name.
    let again = push(&world, &file, &registry.reference("acme/hello"));
    assert_eq!(text(&again["reference"]), pinned);

    // The tag tells the digest, and the digest fetches the component.
    let pulled = world.run(&["pull", &registry.reference("acme/hello:1.2")]);
    assert_eq!(String::from_utf8(pulled.stdout).unwrap().trim(), pinned);
    let copy = world.path("copy.wasm");
    let pulled = world.run(&["pull", &pinned, "-o", copy.to_str().unwrap()]);
    assert!(pulled.status.success(), "{}", errors(&pulled));
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(&file).unwrap());
    std::fs::remove_file(&copy).unwrap();

    // The layout is the one that other tools read.
    let (_, digest) = pinned.rsplit_once(':').unwrap();
    let manifest = registry.json(digest);
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    let layer = format!("sha256:{}", text(&pushed["artifact"]));
    assert_eq!(manifest["layers"][0]["digest"], layer);
    let config = registry.json(text(&manifest["config"]["digest"]));
    assert_eq!((&config["os"], &config["layerDigests"][0]), (&Value::from("wasip2"), &Value::from(layer)));
    assert!(config["component"]["exports"].to_string().contains("wasi:http/incoming-handler"), "{config}");

    // What is not there, what is no component, and what was tampered with.
    let other = format!("{}{}", &pinned[..pinned.len() - 64], "0".repeat(64));
    refused(&world.run(&["pull", &other]), "is not in the registry");
    refused(&world.run(&["pull", &registry.reference("acme/nothing:1")]), "is not in the registry");
    std::fs::write(world.path("module.wasm"), b"\0asm\x01\0\0\0").unwrap();
    let module = world.run(&["push", world.path("module.wasm").to_str().unwrap(), &registry.reference("acme/module")]);
    refused(&module, "it is a core module");
    registry.tamper(text(&pushed["artifact"]), b"\0asm\x0d\0\x01\0");
    refused(&world.run(&["pull", &pinned, "-o", copy.to_str().unwrap()]), "sent something else");
    assert!(!copy.exists());
    // What was resolved before is kept; here it is forgotten.
    std::fs::remove_dir_all(world.path(".cache")).unwrap();
    let altered = manifest.to_string().replace("application/wasm", "application/WASM");
    registry.tamper(digest, altered.as_bytes());
    refused(&world.run(&["pull", &pinned]), "sent something else");

    let address = registry.address.clone();
    drop(registry);
    refused(&world.run(&["pull", &format!("{address}/acme/hello:1.2")]), "does not answer");
}

#[test]
fn an_app_is_pushed_function_by_function_and_refers_to_what_is_printed() {
    let world = World::new();
    let registry = Registry::start(&world, false);
    let folder = app(&world, "web.wasm");
    std::fs::copy(component(&world), world.path("web/web.wasm")).unwrap();
    let output = world.run(&["push", &folder, &registry.reference("acme/app")]);
    let printed = String::from_utf8(output.stdout).unwrap();
    let expected = format!("[functions.web]\ncomponent = \"oci://{}/acme/app/web@sha256:", registry.address);
    assert!(printed.starts_with(&expected), "{printed} {}", String::from_utf8_lossy(&output.stderr));
    let tagged = world.run(&["pull", &registry.reference("acme/app/web:1.0.0")]);
    assert!(printed.contains(String::from_utf8(tagged.stdout).unwrap().trim()), "{printed}");

    // A tag is no pin, and the finding says where and what to do.
    let tag = format!("oci://{}/acme/app/web:1.0.0", registry.address);
    let output = world.run(&["plan", &app(&world, &tag)]);
    assert_eq!(output.status.code(), Some(2));
    let said = errors(&output);
    assert!(said.contains("missing-digest") && said.contains("littoral.toml:4:13"), "{said}");
    assert!(said.contains(&format!("littoral pull {tag}")), "{said}");
}

#[test]
fn a_registry_that_wants_to_know_who_asks_is_told() {
    let world = World::new();
    let registry = Registry::start(&world, true);
    let (file, reference) = (component(&world), registry.reference("acme/hello:1"));
    let push = ["push", file.to_str().unwrap(), &reference];
    let said = refused(&world.run(&push), "refuses");
    assert!(said.contains(&format!("docker login {}", registry.address)), "{said}");
    let with = |registry: &str, password: &str| {
        let mut command = world.littoral();
        command.args(push).env("LITTORAL_REGISTRY", registry);
        command.env("LITTORAL_REGISTRY_USER", "ada").env("LITTORAL_REGISTRY_PASSWORD", password).output().unwrap()
    };
    refused(&with(&registry.address, "guessed"), "refuses");
    // What is for another registry is not told to this one.
    refused(&with("ghcr.io", "s3cret"), "refuses");
    let pushed = with(&registry.address, "s3cret");
    assert!(pushed.status.success(), "{}", errors(&pushed));
    // And from Docker's file.
    let config = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"{ADA}\"}}}}}}", registry.address);
    std::fs::create_dir_all(world.path(".docker")).unwrap();
    std::fs::write(world.path(".docker/config.json"), config).unwrap();
    let pulled = world.run(&["pull", &reference]);
    assert!(pulled.status.success(), "{}", errors(&pulled));

    // Who deploys needs no credentials on the node; a node that helps itself does, and reads its own file only.
    let pinned = String::from_utf8(pulled.stdout).unwrap().trim().to_owned();
    let node = world.first("cloud-1");
    node.tell(&world, &["deploy", &app(&world, &pinned)]);
    let (data, artifact) = (node.data.clone(), sha256_of_only_artifact(&node.data));
    assert_eq!(node.stop(), 0);
    forget(&data, &artifact);
    let node = world.start("cloud-1", &[]);
    let apps = || node.json(&world, &["get", "apps", "-o", "json"])[0].clone();
    eventually("the node is refused", || apps()["reasons"].to_string().contains("refuses"));
    std::fs::copy(world.path(".docker/config.json"), data.join("registries.json")).unwrap();
    eventually("the node is let in", || apps()["state"] == "healthy");
}

/// The name of the one artefact that a node holds.
fn sha256_of_only_artifact(node: &Path) -> String {
    let names: Vec<_> =
        std::fs::read_dir(node.join("artifacts")).unwrap().map(|file| file.unwrap().file_name()).collect();
    let [name] = names.as_slice() else { panic!("{names:?}") };
    name.to_str().unwrap().to_owned()
}

/// Calls the app's function through a node.
fn called(world: &World, node: &Node) {
    // The one before may have been healthy until just now.
    eventually("it is called", || {
        let called = node.ask(world, &["call", "web/web", "--path", "/"]);
        called.status.success() && !called.stdout.is_empty()
    });
}

/// What a second node of the fabric is started with.
fn joining(token: &str) -> Vec<&str> {
    vec![
        "--name", "edge-1", "--tier", "edge", "--site", "hall", "--listen", ANY_PORT, "--http", ANY_PORT, "--join",
        token,
    ]
}

/// Forgets an artefact and what was compiled of it, as if the disk had been lost.
fn forget(node: &Path, artifact: &str) {
    std::fs::remove_file(node.join("artifacts").join(artifact)).unwrap();
    std::fs::remove_dir_all(node.join("cache")).unwrap();
}

#[test]
fn nodes_fetch_from_near_nodes_first_and_from_the_registry_last() {
    let world = World::new();
    let registry = Registry::start(&world, false);
    let pushed = push(&world, &component(&world), &registry.reference("acme/hello:1"));
    let (pinned, artifact) = (text(&pushed["reference"]).to_owned(), text(&pushed["artifact"]).to_owned());
    let first = world.first("cloud-1");
    let folder = app(&world, &pinned);
    let wrong = app(&world, &format!("{}{}", &pinned[..pinned.len() - 64], "0".repeat(64)));
    refused(&first.ask(&world, &["deploy", &wrong]), "is not in the registry");
    assert_eq!(app(&world, &pinned), folder);
    first.tell(&world, &["deploy", &folder]);
    called(&world, &first);

    // A node that has lost it, with nobody else to ask, fetches it from the registry; and nothing else than it.
    let data = first.data.clone();
    assert_eq!(first.stop(), 0);
    forget(&data, &artifact);
    let whole = std::fs::read(world.path("hello.wasm")).unwrap();
    registry.tamper(&artifact, &whole[..whole.len() - 1]);
    let first = world.start("cloud-1", &[]);
    eventually("the node says that it was given something else", || {
        let apps = first.json(&world, &["get", "apps", "-o", "json"]);
        apps[0]["reasons"].to_string().contains("sent something else")
    });
    registry.tamper(&artifact, &whole);
    eventually("the node has fetched it from the registry", || {
        first.json(&world, &["get", "apps", "-o", "json"])[0]["state"] == "healthy"
    });
    assert!(first.said().contains("fetched an artefact from its registry"), "{}", first.said());
    called(&world, &first);

    // With the registry gone, a second node has it from the first.
    drop(registry);
    let token = first.token(&world, "10min");
    let edge = world.start("edge-1", &joining(&token));
    eventually("both see both", || [&first, &edge].iter().all(|node| node.sees(&world) == ["cloud-1", "edge-1"]));
    let placed = format!(
        "{}placement = {{ tier = \"edge\" }}\n",
        std::fs::read_to_string(world.path("web/littoral.toml")).unwrap()
    );
    std::fs::write(world.path("web/littoral.toml"), placed.replace("1.0.0", "1.1.0")).unwrap();
    first.tell(&world, &["deploy", &folder]);
    called(&world, &edge);
    assert!(edge.data.join("artifacts").join(&artifact).exists());
    assert!(!edge.said().contains("from its registry"), "{}", edge.said());
}
