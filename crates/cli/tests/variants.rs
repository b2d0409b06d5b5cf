//! A function that is a component and a container, on a real node: which of the two answers follows the load, and no request is lost.
//! It needs root, runc and the package busybox-static, and says so where they are missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime/tests/support/layout.rs"]
mod layout;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use common::*;
use littoral_node::OciRuntime;

/// The component takes tens of milliseconds and of megabytes for the page that the container has as a file.
const MANIFEST: &str = r#"
name = "shop"
version = "1.0.0"

[functions.web]
component = "web.wasm"
image = "image"
health = "/page/x"
memory = "32MiB"
timeout = "30s"

[[routes]]
path = "/page/*"
function = "web"
"#;

/// How long a choice may take: on a busy machine each start, each request and each look does.
const PATIENCE: Duration = Duration::from_secs(240);

/// Which variant answers.
fn variant(world: &World, node: &Node) -> String {
    let functions = node.json(world, &["get", "functions", "-o", "json"]);
    functions[0]["variants"][0]["variant"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_container_answers_while_that_is_cheaper_and_no_request_is_lost() {
    let unable = OciRuntime::find(std::env::var_os("PATH").as_deref()).err().map(|unable| unable.to_string());
    if let Some(reason) =
        unable.or_else(|| (!Path::new(layout::BUSYBOX).exists()).then(|| "no busybox-static".to_owned()))
    {
        eprintln!("skipped: {reason}");
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("shop");
    layout::make_layout(&folder.join("image"), &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]);
    std::fs::write(folder.join("web.wasm"), support::sdk_example("faulty_handler")).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    let ask = || {
        let response = node.get("/page/x");
        assert!(response.starts_with("HTTP/1.1 200") && response.contains("page"), "a request was lost: {response}");
    };
    ask();
    assert_eq!(variant(&world, &node), "component");
    eventually_within(PATIENCE, "the container answers", || {
        (0..20).for_each(|_| ask());
        variant(&world, &node) == "container"
    });
    let wide = node.tell(&world, &["get", "functions", "-o", "wide"]);
    assert!(wide.contains("cloud-1: container ("), "{wide}");
    (0..100).for_each(|_| ask());
    // Nothing is asked any more.
    eventually_within(PATIENCE, "the component answers", || variant(&world, &node) == "component");
    ask();
    eventually("the container is gone", || {
        std::fs::read_dir(node.data.join("containers/run")).unwrap().next().is_none()
    });
    let events = node.tell(&world, &["events"]);
    let told = |to: &str| events.contains(&format!("its {to} answers now: "));
    assert!(told("container") && told("component"), "{events}");
    assert_eq!(node.stop(), 0);
}
