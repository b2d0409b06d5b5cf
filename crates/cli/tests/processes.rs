//! Functions of programs on a real node, from their deployment until nothing is left of them. It needs root and a kernel that can confine
//! them, and says so where that is missing; the program that is linked statically is the package busybox-static's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime/tests/support/layout.rs"]
mod layout;

use std::path::{Path, PathBuf};

use common::*;
use littoral_node::Abilities;

/// A script, run by the machine's shell, which is linked dynamically.
const SCRIPT: &str = "#!/bin/sh\nmkdir -p /tmp/www/page\necho \"$COLOUR $1\" >/tmp/www/page/x\necho it begins\n\
    if cat /etc/shadow; then echo open; fi\nexec busybox httpd -f -p $PORT -h /tmp/www\n";
const MANIFEST: &str = "name = \"shop\"\nversion = \"1.0.0\"\n\
    [functions.web]\nprocess = \"server\"\narguments = [\"sea\"]\nmemory = \"32MiB\"\ntimeout = \"30s\"\nhealth = \"/page/x\"\n\
    config = { COLOUR = \"blue\" }\n\
    [functions.licences]\nprocess = \"busybox\"\narguments = [\"httpd\", \"-f\", \"-p\", \"8080\", \"-h\", \"/usr/share/common-licenses\"]\n\
    [[routes]]\npath = \"/page/*\"\nfunction = \"web\"\n\
    [[routes]]\npath = \"/GPL-3\"\nfunction = \"licences\"\n";

/// Why no process runs here.
fn unable() -> Option<String> {
    let unable = Abilities::find(None).programs.err().map(|unable| unable.to_string());
    unable.or_else(|| (!Path::new(layout::BUSYBOX).exists()).then(|| "busybox-static is not installed".to_owned()))
}

fn app(world: &World) -> PathBuf {
    let folder = world.path("shop");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("server"), SCRIPT).unwrap();
    std::fs::copy(layout::BUSYBOX, folder.join("busybox")).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    folder
}

/// The processes of a node: their names, and the numbers of their first processes and of their shims.
fn processes(node: &Node) -> Vec<(String, [i32; 2])> {
    let folders = std::fs::read_dir(node.data.join("containers/run")).unwrap();
    let mut processes: Vec<_> = folders
        .filter_map(|folder| {
            let folder = folder.unwrap();
            let record: serde_json::Value =
                serde_json::from_slice(&std::fs::read(folder.path().join("shim.json")).ok()?).unwrap();
            let pid = |of: &str| record[of]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
            Some((folder.file_name().into_string().unwrap(), [pid("container")?, pid("shim")?]))
        })
        .collect();
    processes.sort();
    processes
}

fn cgroups(id: &str) -> Vec<PathBuf> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(id));
    all.filter(|path| path.exists()).collect()
}

#[test]
fn programs_are_served_outlive_their_node_and_leave_nothing() {
    if let Some(reason) = unable() {
        eprintln!("skipped: {reason}");
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = app(&world);
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    for path in ["/page/x", "/GPL-3"] {
        eventually("the route is served", || node.get(path).starts_with("HTTP/1.1 200"));
    }
    assert!(node.get("/page/x").ends_with("blue sea\n"), "{}", node.get("/page/x"));
    assert_eq!(node.tell(&world, &["call", "shop/web", "--path", "/page/x"]), "blue sea\n");
    let nodes = node.json(&world, &["get", "nodes", "-o", "json"]);
    assert_eq!(nodes[0]["labels"]["littoral-process"], "yes", "{nodes}");
    eventually("what it wrote is in its log", || {
        let logs = node.tell(&world, &["logs", "shop"]);
        assert!(!logs.contains("open"), "it has read /etc/shadow: {logs}");
        logs.contains("it begins") && logs.contains("/etc/shadow")
    });
    let before = processes(&node);
    assert_eq!(before.len(), 2, "{before:?}");
    // As `kill -9`; they serve on, and the node that comes back takes them up.
    node.kill();
    assert!(before.iter().flat_map(|(_, pids)| pids).all(|pid| layout::runs(*pid)), "one ended with its node");
    let node = world.start("cloud-1", &[]);
    for path in ["/page/x", "/GPL-3"] {
        eventually("the route is served again", || node.get(path).starts_with("HTTP/1.1 200"));
    }
    assert_eq!(processes(&node), before, "another process took a place");
    // What they use is metered as what other functions use.
    eventually("it is metered", || {
        node.get("/page/x");
        let usage = node.json(&world, &["usage", "--since", "1h", "-o", "json"]);
        let used = usage["nodes"][0]["functions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|used| used["function"] == "web")
            .cloned();
        used.is_some_and(|used| used["cpu_us"].as_u64() > Some(0) && used["memory_byte_s"].as_u64() > Some(0))
    });
    // Of another version the first request is answered when it is ready.
    std::fs::write(folder.join("littoral.toml"), MANIFEST.replace("sea", "sky").replace("1.0.0", "1.0.1")).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the other one serves", || {
        let response = node.get("/page/x");
        assert!(response.starts_with("HTTP/1.1 200"), "a request was lost: {response}");
        response.ends_with("blue sky\n")
    });
    eventually("the first one has ended", || processes(&node).len() == 2);
    // One that is killed is replaced.
    let (killed, [pid, _]) = processes(&node).into_iter().find(|now| !before.contains(now)).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    eventually("another one serves", || {
        node.get("/page/x").starts_with("HTTP/1.1 200")
            && processes(&node).iter().any(|(id, [now, _])| *id == killed && *now != pid)
    });
    let last = processes(&node);
    node.tell(&world, &["delete", "shop"]);
    for (id, pids) in before.into_iter().chain(last) {
        eventually("nothing is left of it", || {
            cgroups(&id).is_empty()
                && pids.iter().all(|pid| !layout::runs(*pid))
                && !node.data.join("containers/run").join(&id).exists()
        });
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.path("").to_str().unwrap()), "{mounts}");
    assert_eq!(node.stop(), 0);
}

#[test]
fn what_is_no_program_is_refused_before_it_is_sent() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("shop");
    std::fs::create_dir(&folder).unwrap();
    let manifest = "name = \"shop\"\nversion = \"1.0.0\"\n[functions.web]\nprocess = \"server\"\n";
    std::fs::write(folder.join("littoral.toml"), manifest).unwrap();
    let refused = |reason: &str| {
        let refused = node.ask(&world, &["deploy", folder.to_str().unwrap()]);
        assert!(!refused.status.success() && errors(&refused).contains(reason), "{}", errors(&refused));
    };
    refused("the component of function web is not there");
    std::fs::write(folder.join("server"), "\0asm").unwrap();
    refused("it is no executable file");
    let both = manifest.replace("process =", "image = \"a\"\nprocess =");
    std::fs::write(folder.join("littoral.toml"), both).unwrap();
    refused("function web has an image and a process");
    assert_eq!(node.stop(), 0);
}
