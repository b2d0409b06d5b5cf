//! A function of a container's image on a real node, from its deployment until nothing is left of it. It needs root, runc and the package
//! busybox-static, and says so where they are missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime/tests/support/layout.rs"]
mod layout;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use common::*;
use littoral_node::OciRuntime;

const MANIFEST: &str = "name = \"shop\"\nversion = \"1.0.0\"\n\
    [functions.web]\nimage = \"image\"\nmemory = \"32MiB\"\ntimeout = \"30s\"\nhealth = \"/page/x\"\nconfig = { COLOUR = \"blue\" }\nlimits = { cpus = \"1500m\" }\n\
    [[routes]]\npath = \"/page/*\"\nfunction = \"web\"\n\
    [[routes]]\npath = \"/cgi-bin/*\"\nfunction = \"web\"\n";

/// Why no container runs here.
fn unable() -> Option<String> {
    let unable = OciRuntime::find(std::env::var_os("PATH").as_deref()).err().map(|unable| unable.to_string());
    unable.or_else(|| (!Path::new(layout::BUSYBOX).exists()).then(|| "busybox-static is not installed".to_owned()))
}

fn app(world: &World, name: &str, manifest: &str) -> PathBuf {
    let folder = world.path(name);
    layout::make_layout(&folder.join("image"), &["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]);
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    folder
}

/// The one container of a node: its name, and the numbers of its first process and of its shim.
fn container(node: &Node) -> Option<(String, [i32; 2])> {
    let mut folders = std::fs::read_dir(node.data.join("containers/run")).unwrap();
    let folder = folders.next()?.unwrap();
    assert!(folders.next().is_none(), "there is more than one container");
    let record: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("shim.json")).ok()?).unwrap();
    let pid = |of: &str| record[of]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Some((folder.file_name().into_string().unwrap(), [pid("container")?, pid("shim")?]))
}

fn cgroups(id: &str) -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    hierarchies
        .chain([PathBuf::from("/sys/fs/cgroup")])
        .map(|path| path.join(id))
        .filter(|path| path.exists())
        .collect()
}

#[test]
fn an_image_is_served_outlives_its_node_and_leaves_nothing() {
    if let Some(reason) = unable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = app(&world, "shop", MANIFEST);
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the route is served", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    assert!(node.get("/page/x").ends_with("page"));
    assert_eq!(node.tell(&world, &["call", "shop/web", "--path", "/page/x"]), "page");
    let variables = node.tell(&world, &["call", "shop/web", "--path", "/cgi-bin/do?variables"]);
    assert!(variables.lines().any(|line| line == "COLOUR=blue"), "{variables}");
    let functions = node.tell(&world, &["get", "functions"]);
    assert!(functions.contains("shop/web"), "{functions}");
    let nodes = node.json(&world, &["get", "nodes", "-o", "json"]);
    assert_eq!(nodes[0]["labels"]["littoral-container"], "yes", "{nodes}");
    let before = container(&node).unwrap();
    let quota = |file: &str| cgroups(&before.0).iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
    let quota = quota("cpu.cfs_quota_us").or_else(|| quota("cpu.max"));
    assert!(quota.as_ref().is_some_and(|quota| quota.starts_with("150000")), "{quota:?}");
    // As `kill -9`; the container serves on, and the node that comes back takes it up.
    node.kill();
    assert!(before.1.iter().all(|pid| layout::runs(*pid)), "it ended with its node");
    let node = world.start("cloud-1", &[]);
    eventually("the route is served again", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    assert_eq!(container(&node).unwrap(), before, "another container took its place");
    // Another version of it is another container, and the first one ends.
    std::fs::write(folder.join("littoral.toml"), MANIFEST.replace("blue", "green").replace("1.0.0", "1.0.1")).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the other one serves", || {
        let response = node.get("/cgi-bin/do?variables");
        assert!(response.starts_with("HTTP/1.1 200"), "a request was lost: {response}");
        response.contains("COLOUR=green")
    });
    eventually("the first one has ended", || cgroups(&before.0).is_empty());
    eventually("there is one", || std::fs::read_dir(node.data.join("containers/run")).unwrap().count() == 1);
    let after = container(&node).unwrap();
    assert_ne!(after.0, before.0);
    // One that is killed is replaced.
    let pid = rustix::process::Pid::from_raw(after.1[0]).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    eventually("another one serves", || {
        node.get("/page/x").starts_with("HTTP/1.1 200") && container(&node).is_some_and(|now| now.1 != after.1)
    });
    let last = container(&node).unwrap();
    node.tell(&world, &["delete", "shop"]);
    for (id, pids) in [before, after, last] {
        eventually("nothing is left of it", || {
            cgroups(&id).is_empty()
                && pids.iter().all(|pid| !layout::runs(*pid))
                && !node.data.join("containers/run").join(&id).exists()
                && !node.data.join("containers/runtime").join(&id).exists()
        });
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.path("").to_str().unwrap()), "{mounts}");
    assert_eq!(node.stop(), 0);
}

/// A server of this machine; it ends with this process.
fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nserver");
        }
    });
    address
}

#[test]
fn a_container_reaches_what_is_granted_also_by_a_later_node_and_no_more() {
    if let Some(reason) = unable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let (granted, other) = (server(), server());
    let manifest = MANIFEST
        .replace("health = ", &format!("grants = {{ http = [\"{granted}\"] }}\nscale = {{ min = 1 }}\nhealth = "));
    let folder = app(&world, "shop", &manifest);
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the route is served", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    let get = |node: &Node, from: SocketAddr| {
        node.tell(&world, &["call", "shop/web", "--path", &format!("/cgi-bin/do?get/{from}")])
    };
    assert!(get(&node, granted).starts_with("serverstatus 0"), "{}", get(&node, granted));
    assert!(get(&node, other).contains("403 Forbidden"), "{}", get(&node, other));
    let missing = format!("a request to {other} was denied; grant it with `http = [\"{other}\"]`");
    eventually("it is in the log", || node.tell(&world, &["logs", "shop"]).contains(&missing));
    let before = container(&node).unwrap();
    node.kill();
    let node = world.start("cloud-1", &[]);
    eventually("the route is served again", || node.get("/page/x").starts_with("HTTP/1.1 200"));
    assert_eq!(container(&node).unwrap(), before, "another container took its place");
    assert!(get(&node, granted).starts_with("serverstatus 0"), "{}", get(&node, granted));
    // Other grants are another container's.
    let manifest = manifest.replace(&granted.to_string(), &other.to_string()).replace("1.0.0", "1.0.1");
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the other one serves", || get(&node, other).starts_with("serverstatus 0"));
    assert!(get(&node, granted).contains("403 Forbidden"), "{}", get(&node, granted));
    node.tell(&world, &["delete", "shop"]);
    let run = node.data.join("containers/run");
    eventually("nothing is left of it", || {
        std::fs::read_dir(&run).unwrap().count() == 0 && cgroups(&before.0).is_empty()
    });
    assert_eq!(node.stop(), 0);
}

#[test]
fn what_is_no_image_is_refused_before_it_is_sent() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = app(&world, "shop", MANIFEST);
    std::fs::write(folder.join("image/index.json"), "{}").unwrap();
    let refused = node.ask(&world, &["deploy", folder.to_str().unwrap()]);
    assert!(!refused.status.success());
    assert!(errors(&refused).contains("it is no OCI image layout"), "{}", errors(&refused));
    let both = MANIFEST.replace("image = \"image\"", "image = \"image\"\nprocess = \"a\"");
    std::fs::write(folder.join("littoral.toml"), both).unwrap();
    let refused = node.ask(&world, &["deploy", folder.to_str().unwrap()]);
    assert!(errors(&refused).contains("function web has an image and a process"), "{}", errors(&refused));
    assert_eq!(node.stop(), 0);
}
