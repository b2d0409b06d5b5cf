//! Functions whose instances come and go with their requests, and versions that are replaced, on a real node. What concerns images
//! needs root, runc and the package busybox-static, and says so where they are missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime/tests/support/layout.rs"]
mod layout;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use littoral_node::OciRuntime;
use serde_json::Value;

const SERVER: [&str; 7] = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"];

/// Why no container runs here.
fn unable() -> bool {
    let unable = OciRuntime::find(std::env::var_os("PATH").as_deref()).err().map(|unable| unable.to_string());
    let unable =
        unable.or_else(|| (!Path::new(layout::BUSYBOX).exists()).then(|| "busybox-static is missing".to_owned()));
    if let Some(reason) = &unable {
        eprintln!("skipped: {reason}");
    }
    unable.is_some()
}

/// Writes an app of one function, `web`, which answers all paths.
fn write(folder: &Path, version: &str, function: &str) {
    let manifest = format!(
        "name = \"shop\"\nversion = \"{version}\"\n[functions.web]\nmemory = \"32MiB\"\ntimeout = \"60s\"\n{function}\n\
         [[routes]]\npath = \"/*\"\nfunction = \"web\"\n"
    );
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
}

fn image_app(world: &World, version: &str, function: &str) -> PathBuf {
    let folder = world.path("shop");
    layout::make_layout(&folder.join("image"), &SERVER);
    write(&folder, version, &format!("image = \"image\"\nhealth = \"/page/x\"\n{function}"));
    folder
}

fn deploy(world: &World, node: &Node, folder: &Path) {
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
}

/// What the node says of the function's instances.
fn instances(world: &World, node: &Node) -> Value {
    node.json(world, &["get", "functions", "-o", "json"])[0]["instances"][0].clone()
}

/// The containers of a node by name, with the numbers of their first processes.
fn containers(node: &Node) -> BTreeMap<String, i64> {
    let folders = std::fs::read_dir(node.data.join("containers/run")).into_iter().flatten();
    let running = folders.filter_map(|folder| {
        let folder = folder.unwrap();
        let record: Value = serde_json::from_slice(&std::fs::read(folder.path().join("shim.json")).ok()?).unwrap();
        Some((folder.file_name().into_string().unwrap(), record["container"]["pid"].as_i64()?))
    });
    running.collect()
}

fn is_answered(node: &Node, path: &str) -> bool {
    node.get(path).starts_with("HTTP/1.1 200")
}

#[test]
fn a_container_comes_with_requests_and_goes_without() {
    if unable() {
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node, &image_app(&world, "1.0.0", "scale = { idle = \"1s\" }"));
    eventually("it is served", || is_answered(&node, "/page/x"));
    for _ in 0..2 {
        // One may be started ahead of a request that is expected; it goes again when none comes.
        eventually("nothing is left of it, and it says so", || {
            let said = instances(&world, &node);
            let wide = node.tell(&world, &["get", "functions", "-o", "wide"]);
            containers(&node).is_empty()
                && said["ready"] == 0
                && said["wanted"] == 0
                && said["reason"].as_str().is_some_and(|reason| reason.contains("no request"))
                && wide.contains("cloud-1: 0 of 0 (no request")
        });
        // It is there for whoever calls: all of them wait for one instance.
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| node.get("/page/x"))).collect();
            calls.into_iter().for_each(|call| assert!(call.join().unwrap().starts_with("HTTP/1.1 200")));
        });
    }
    assert!(instances(&world, &node)["cold"].as_u64().unwrap() >= 2);
    let metrics = node.get("/metrics");
    assert!(metrics.contains("littoral_function_cold_total{function=\"default/shop/web\"}"), "{metrics}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn several_containers_share_the_load_and_are_taken_up_by_the_next_process() {
    if unable() {
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let scale = "scale = { min = 2, max = 3, target = 1 }";
    deploy(&world, &node, &image_app(&world, "1.0.0", scale));
    eventually("there are as many as are always there", || containers(&node).len() == 2);
    eventually("it is served", || is_answered(&node, "/page/x"));
    let is_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let call = || {
            while !is_enough.load(Ordering::Relaxed) {
                let answer = node.get("/cgi-bin/do?sleep");
                assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("slept"), "{answer}");
            }
        };
        // One more than there may be instances: it waits in turn.
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(call)).collect();
        eventually("another one is started", || containers(&node).len() == 3);
        eventually("it says so", || instances(&world, &node)["ready"] == 3);
        is_enough.store(true, Ordering::Relaxed);
        calls.into_iter().for_each(|call| call.join().unwrap());
    });
    let before = containers(&node);
    // As `kill -9`.
    node.kill();
    let node = world.start("cloud-1", &[]);
    eventually("it is served again", || is_answered(&node, "/page/x"));
    eventually("it says how many there are", || instances(&world, &node)["ready"] == 3);
    assert_eq!(containers(&node), before, "others took their places");
    // Other bounds, and another time for a request, are no reason to end them.
    deploy(&world, &node, &image_app(&world, "1.0.1", "scale = { min = 4, max = 4, target = 1 }"));
    eventually("there is another one", || containers(&node).len() == 4);
    let more = containers(&node);
    assert!(before.iter().all(|(name, pid)| more.get(name) == Some(pid)), "others took their places");
    let hastier = std::fs::read_to_string(world.path("shop/littoral.toml")).unwrap().replace("60s", "50s");
    std::fs::write(world.path("shop/littoral.toml"), hastier).unwrap();
    deploy(&world, &node, &world.path("shop"));
    eventually("it is served by all of them", || instances(&world, &node)["ready"] == 4);
    assert!(is_answered(&node, "/page/x"));
    assert_eq!(containers(&node), more, "others took their places");
    node.tell(&world, &["delete", "shop"]);
    eventually("nothing is left of it", || containers(&node).is_empty());
    assert_eq!(node.stop(), 0);
}

/// Whether the version before answers, and the node says why.
fn went_back(world: &World, node: &Node, version: &str, why: &str) -> bool {
    let said = instances(world, node)["refused"].as_str().unwrap_or_default().to_owned();
    let events = node.json(world, &["events", "--app", "shop", "-o", "json"]);
    let noted = |event: &Value| event["text"].as_str().is_some_and(|text| text == said);
    said.contains(&format!("version {version} is not used"))
        && said.contains(why)
        && events["events"].as_array().unwrap().iter().any(noted)
}

#[test]
fn an_image_that_does_not_start_or_fails_is_not_used_and_the_one_before_answers_all_the_while() {
    if unable() {
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let coloured = |colour: &str| format!("config = {{ COLOUR = \"{colour}\" }}");
    let folder = image_app(&world, "1.0.0", &coloured("blue"));
    deploy(&world, &node, &folder);
    eventually("it is served", || is_answered(&node, "/page/x"));
    let colour = |node: &Node| {
        let answer = node.get("/cgi-bin/do?variables");
        answer.lines().find_map(|line| line.strip_prefix("COLOUR=").map(str::to_owned)).ok_or(answer)
    };
    assert_eq!(colour(&node), Ok("blue".to_owned()));
    // One that ends before it is ready.
    layout::make_layout(&folder.join("image"), &["/bin/sh", "-c", "exit 3"]);
    deploy(&world, &node, &{
        write(&folder, "1.0.1", &format!("image = \"image\"\n{}", coloured("red")));
        folder.clone()
    });
    eventually("the node gives it up", || {
        assert_eq!(colour(&node), Ok("blue".to_owned()), "a request was lost");
        went_back(&world, &node, "1.0.1", "exited with status 3")
    });
    // One that starts, and answers with errors.
    let folder = image_app(&world, "1.0.2", &coloured("broken"));
    deploy(&world, &node, &folder);
    eventually("the node gives it up", || {
        let answer = node.get("/cgi-bin/do?variables");
        assert!(answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 500"), "{answer}");
        went_back(&world, &node, "1.0.2", "requests failed")
    });
    assert_eq!(colour(&node), Ok("blue".to_owned()));
    // The next one is used again, and nobody who asks meanwhile goes without an answer.
    let is_enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ask = || {
            let mut seen = Vec::new();
            while !is_enough.load(Ordering::Relaxed) {
                seen.push(colour(&node).unwrap());
            }
            seen.dedup();
            seen
        };
        let asking: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        deploy(&world, &node, &image_app(&world, "1.0.3", &coloured("green")));
        eventually("it answers", || colour(&node).is_ok_and(|colour| colour == "green"));
        eventually("one is left", || containers(&node).len() == 1);
        is_enough.store(true, Ordering::Relaxed);
        for asked in asking {
            assert_eq!(asked.join().unwrap(), ["blue", "green"]);
        }
    });
    assert!(instances(&world, &node)["refused"].is_null());
    node.tell(&world, &["delete", "shop"]);
    eventually("nothing is left of it", || containers(&node).is_empty());
    assert_eq!(node.stop(), 0);
}

#[test]
fn a_component_is_loaded_when_it_is_called_and_one_that_traps_is_not_used() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    let component = |name: &str| std::fs::write(folder.join("web.wasm"), support::sdk_example(name)).unwrap();
    component("hello");
    write(&folder, "1.0.0", "component = \"web.wasm\"\nscale = { min = 0, idle = \"1s\" }");
    deploy(&world, &node, &folder);
    eventually("it is served", || is_answered(&node, "/"));
    eventually("it is not loaded any more", || instances(&world, &node)["ready"] == 0);
    assert!(is_answered(&node, "/"), "it is loaded again");
    // One that stays loaded, and then one that traps.
    write(&folder, "1.0.1", "component = \"web.wasm\"");
    deploy(&world, &node, &folder);
    eventually("it stays loaded", || instances(&world, &node).is_null());
    assert!((0..30).all(|_| is_answered(&node, "/trap")));
    component("faulty_handler");
    write(&folder, "1.0.2", "component = \"web.wasm\"");
    deploy(&world, &node, &folder);
    eventually("the node gives it up", || {
        let answer = node.get("/trap");
        assert!(answer.starts_with("HTTP/1.1 200") || answer.contains("told to trap"), "{answer}");
        went_back(&world, &node, "1.0.2", "requests failed")
    });
    assert!((0..30).all(|_| is_answered(&node, "/trap")));
    assert_eq!(node.stop(), 0);
}
