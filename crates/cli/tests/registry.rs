//! Components and images in an OCI registry: Debian's `docker-registry`, on loopback. What is pushed is pulled and deployed, from a
//! near node where one holds it, and nothing else is ever run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime/tests/support/layout.rs"]
mod layout;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::*;
use littoral_node::{Layout, OciRuntime};
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

/// Sends a request, as clients of registries do; the status, and the header `Location`.
fn send(address: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default().to_owned();
    (status, location)
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    format!("sha256:{}", digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Pushes the image of a layout's folder as `acme/shop:1`: an index of it, of the same for another processor, and of one that no node
/// runs. The reference of the index, and the digest of the layer.
fn push_image(registry: &Registry, folder: &Path) -> (String, String) {
    let read = |digest: &Value| {
        std::fs::read(folder.join("blobs/sha256").join(text(digest).trim_start_matches("sha256:"))).unwrap()
    };
    let put_blob = |content: &[u8]| {
        let (status, location) = send(&registry.address, "POST", "/v2/acme/shop/blobs/uploads/", "", b"");
        assert_eq!(status, 202);
        let path = location.split(&registry.address).nth(1).unwrap();
        let path = format!("{path}&digest={}", sha256(content));
        assert_eq!(send(&registry.address, "PUT", &path, "application/octet-stream", content).0, 201);
    };
    let put_manifest = |name: &str, kind: &str, content: &str| {
        let kind = format!("application/vnd.oci.image.{kind}.v1+json");
        let path = format!("/v2/acme/shop/manifests/{name}");
        assert_eq!(send(&registry.address, "PUT", &path, &kind, content.as_bytes()).0, 201, "{content}");
        serde_json::json!({ "mediaType": kind, "digest": sha256(content.as_bytes()), "size": content.len() })
    };
    let index: Value = serde_json::from_slice(&std::fs::read(folder.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0]["digest"])).unwrap();
    let (config, layer) = (read(&manifest["config"]["digest"]), read(&manifest["layers"][0]["digest"]));
    put_blob(&layer);
    let config = String::from_utf8(config).unwrap();
    let mut manifests = Vec::new();
    for architecture in ["s390x", "arm64", "amd64"] {
        let config = config.replace("amd64", architecture);
        put_blob(config.as_bytes());
        let mut manifest = manifest.clone();
        manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
        manifest["config"]["digest"] = sha256(config.as_bytes()).into();
        manifest["config"]["size"] = config.len().into();
        manifest["config"]["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let manifest = manifest.to_string();
        let mut descriptor = put_manifest(&sha256(manifest.as_bytes()), "manifest", &manifest);
        descriptor["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        manifests.push(descriptor);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests });
    let index = put_manifest("1", "index", &index.to_string());
    (format!("oci://{}/acme/shop@{}", registry.address, text(&index["digest"])), sha256(&layer))
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

#[test]
fn an_image_is_deployed_from_a_registry_and_fetched_from_it_by_a_node_that_has_lost_it() {
    let unable = OciRuntime::find(std::env::var_os("PATH").as_deref()).err().map(|unable| unable.to_string());
    if !Path::new(layout::BUSYBOX).exists() || unable.is_some() {
        eprintln!("skipped: {}", unable.unwrap_or_else(|| "busybox-static is not installed".to_owned()));
        return;
    }
    let world = World::new();
    let registry = Registry::start(&world, false);
    layout::make_layout(&world.path("image"), &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]);
    let (pinned, layer) = push_image(&registry, &world.path("image"));

    // The tag tells the digest, and what is pulled is an image for this machine.
    let file = world.path("image.tar");
    let pulled = world.run(&["pull", &registry.reference("acme/shop:1"), "-o", file.to_str().unwrap()]);
    assert!(pulled.status.success(), "{}", errors(&pulled));
    assert_eq!(String::from_utf8(pulled.stdout).unwrap().trim(), pinned);
    Layout::open(&file).unwrap();
    // It is no component, and a component is no image.
    let node = world.first("cloud-1");
    refused(&node.ask(&world, &["deploy", &app(&world, &pinned)]), "is no Wasm component");
    let hello = push(&world, &component(&world), &registry.reference("acme/hello:1"));
    let folder = app(&world, "");
    let manifest = |image: &str| {
        format!(
            "name = \"web\"\nversion = \"1.0.0\"\n[functions.web]\nimage = \"{image}\"\nmemory = \"32MiB\"\ntimeout = \"30s\"\n\
             scale = {{ min = 1 }}\n[[routes]]\npath = \"/page/*\"\nfunction = \"web\"\n"
        )
    };
    let write = |image: &str| std::fs::write(world.path("web/littoral.toml"), manifest(image)).unwrap();
    write(text(&hello["reference"]));
    refused(&node.ask(&world, &["deploy", &folder]), "is no image that nodes can run");

    write(&pinned);
    node.tell(&world, &["deploy", &folder]);
    eventually("the image is served", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    let (data, artifact) = (node.data.clone(), sha256_of_only_artifact(&node.data));
    // What is deployed is what is pulled.
    assert_eq!(sha256(&std::fs::read(&file).unwrap()), format!("sha256:{artifact}"));
    assert_eq!(node.stop(), 0);

    // A node that has lost it fetches it from the registry, and nothing else than it.
    std::fs::remove_file(data.join("artifacts").join(&artifact)).unwrap();
    let whole = std::fs::read(registry.blob(&layer)).unwrap();
    registry.tamper(&layer, &whole[..whole.len() - 1]);
    let node = world.start("cloud-1", &[]);
    let apps = || node.json(&world, &["get", "apps", "-o", "json"])[0].clone();
    eventually("the node says that it was given something else", || {
        apps()["reasons"].to_string().contains("sent something else")
    });
    registry.tamper(&layer, &whole);
    eventually("the image is served again", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    assert_eq!(sha256_of_only_artifact(&data), artifact);
    node.tell(&world, &["delete", "web"]);
    eventually("nothing of it runs", || std::fs::read_dir(data.join("containers/run")).unwrap().next().is_none());
    assert_eq!(node.stop(), 0);
}
