//! Calls of high priority over a job of low priority that takes the whole node: the job is held still, goes on afterwards, and comes to the
//! right result. It needs root and a kernel that can confine processes, and says so where that is missing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use littoral_node::Abilities;

const BUSYBOX: &str = "/usr/bin/busybox";
/// Computes the digest of so many zeros once for each processor and once more, and takes some seconds for it.
const JOB: &str = "#!/bin/sh\nmkdir -p /tmp/www/cgi-bin\ncat >/tmp/www/cgi-bin/job <<'END'\n#!/bin/sh\necho Content-Type: text/plain\necho\n\
    begin() { head -c 500000000 /dev/zero | busybox sha256sum; }\n\
    for i in $(seq $(($(nproc) + 1))); do begin & done\nwait\necho done\nEND\n\
    chmod +x /tmp/www/cgi-bin/job\necho ready >/tmp/www/index.html\nexec busybox httpd -f -p $PORT -h /tmp/www\n";
const WEB: &str = "#!/bin/sh\necho page >index.html\nexec busybox httpd -f -p $PORT\n";
const MANIFEST: &str = "name = \"shop\"\nversion = \"1.0.0\"\n\
    [functions.job]\nprocess = \"job\"\npriority = \"low\"\ntimeout = \"600s\"\n\
    [functions.web]\nprocess = \"web\"\npriority = \"high\"\ntimeout = \"60s\"\n\
    [[routes]]\npath = \"/cgi-bin/*\"\nfunction = \"job\"\n\
    [[routes]]\npath = \"/index.html\"\nfunction = \"web\"\n";

/// What `sha256sum` says of 500,000,000 zeros.
fn expected() -> String {
    let mut zeros = ring::digest::Context::new(&ring::digest::SHA256);
    let block = vec![0; 500_000];
    (0..1_000).for_each(|_| zeros.update(&block));
    zeros.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_job_of_low_priority_is_held_still_for_calls_of_high_priority_and_ends_well() {
    if let Err(reason) = Abilities::find(None).programs {
        eprintln!("skipped: {reason}");
        return;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("skipped: busybox-static is not installed");
        return;
    }
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("shop");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in [("job", JOB), ("web", WEB), ("littoral.toml", MANIFEST)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("the route is served", || node.get("/index.html").starts_with("HTTP/1.1 200"));
    let job = |pointer: &str| {
        let functions = node.json(&world, &["get", "functions", "-o", "json"]);
        functions.as_array().unwrap().iter().find(|one| one["name"] == "job").unwrap()[pointer].clone()
    };
    assert_eq!(job("priority"), "low");
    let calls_end = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let job_ended = scope.spawn(|| node.get_within(std::time::Duration::from_secs(600), "/cgi-bin/job"));
        let calls: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    while !calls_end.load(Ordering::Relaxed) {
                        let answer = node.get("/index.html");
                        assert!(answer.ends_with("page\n"), "{answer}");
                    }
                })
            })
            .collect();
        eventually("the job is held still", || job("held").as_array().is_some_and(|held| !held.is_empty()));
        let held = job("held");
        assert!(
            held.as_array().is_some_and(Vec::is_empty)
                || held[0].as_str().unwrap().contains("shop/web has a higher priority")
        );
        calls_end.store(true, Ordering::Relaxed);
        calls.into_iter().for_each(|calls| calls.join().unwrap());
        eventually("it goes on", || job("held").as_array().is_some_and(Vec::is_empty));
        job_ended.join().unwrap()
    });
    assert!(result.starts_with("HTTP/1.1 200"), "{result}");
    let sums: Vec<&str> = result.lines().filter_map(|line| line.strip_suffix("  -")).collect();
    let processors = std::thread::available_parallelism().unwrap().get();
    assert_eq!(sums.len(), processors + 1, "{result}");
    let expected = expected();
    assert!(sums.iter().all(|sum| *sum == expected) && result.contains("\ndone\n"), "{result}");
    let events = node.tell(&world, &["events"]);
    assert!(events.contains("function job") && events.contains("it is held still"), "{events}");
    assert!(events.contains("it goes on after"), "{events}");
    // Another priority is another share of the processors for the same process.
    let before = processes(&node);
    assert!(before.iter().any(|(_, _, shares)| ["8192", "800"].contains(&shares.as_str())), "{before:?}");
    let changed = MANIFEST.replace("\"high\"", "\"normal\"").replace("1.0.0", "1.0.1");
    std::fs::write(folder.join("littoral.toml"), changed).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    eventually("it has another share", || {
        processes(&node).iter().any(|(_, _, shares)| ["1024", "100"].contains(&shares.as_str()))
    });
    eventually("it is served as before", || node.get("/index.html").starts_with("HTTP/1.1 200"));
    let who = |all: &[(String, i64, String)]| all.iter().map(|(id, pid, _)| (id.clone(), *pid)).collect::<Vec<_>>();
    assert_eq!(who(&processes(&node)), who(&before));
    assert_eq!(node.stop(), 0);
}

/// The processes of a node: their names, the numbers of their first processes, and their shares of the processors.
fn processes(node: &Node) -> Vec<(String, i64, String)> {
    let folders = std::fs::read_dir(node.data.join("containers/run")).unwrap();
    let mut processes: Vec<_> = folders
        .map(|folder| {
            let folder = folder.unwrap();
            let record = std::fs::read(folder.path().join("shim.json")).unwrap();
            let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
            let id = folder.file_name().into_string().unwrap();
            let shares = std::fs::read_to_string(format!("/sys/fs/cgroup/cpu/{id}/cpu.shares"))
                .or_else(|_| std::fs::read_to_string(format!("/sys/fs/cgroup/{id}/cpu.weight")));
            (id, record["container"]["pid"].as_i64().unwrap(), shares.unwrap().trim().to_owned())
        })
        .collect();
    processes.sort();
    processes
}
