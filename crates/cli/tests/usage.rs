//! Metering of a real node: what two functions use, beside what the system says of the process; and the records of it,
//! after a kill and after somebody altered one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use common::*;
use serde_json::Value;

/// A call of `busy` ends when it has used this much CPU time.
const MANIFEST: &str = r#"
name = "shop"
version = "1.0.0"
[functions.busy]
component = "busy.wasm"
timeout = "600s"
limits = { cpu = "300ms" }
[functions.quick]
component = "quick.wasm"
"#;
/// Three seconds of CPU time, in which the ticks of 10 ms of /proc do not matter.
const BUSY_CALLS: u64 = 10;
const QUICK_CALLS: u64 = 20;

fn deploy(world: &World, node: &Node) {
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("busy.wasm"), support::sdk_example("faulty_handler")).unwrap();
    std::fs::write(folder.join("quick.wasm"), support::sdk_example("hello")).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(world, &["deploy", folder.to_str().unwrap()]);
}

fn call_both(world: &World, node: &Node) {
    for _ in 0..BUSY_CALLS {
        let called = node.ask(world, &["call", "shop/busy", "--path", "/spin"]);
        let answer = String::from_utf8_lossy(&called.stdout).into_owned();
        assert!(answer.contains("more CPU time than 300ms") && answer.contains("limits.cpu"), "{answer}");
    }
    for _ in 0..QUICK_CALLS {
        assert_eq!(node.tell(world, &["call", "shop/quick", "--data", "12345"]), "12345");
    }
}

fn usage(world: &World, node: &Node) -> Value {
    node.json(world, &["usage", "--since", "1h", "-o", "json"])["nodes"][0].clone()
}

fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("{name} of {value}"))
}

fn function(usage: &Value, name: &str) -> Value {
    let functions = usage["functions"].as_array().unwrap();
    functions.iter().find(|used| used["function"] == name).unwrap_or_else(|| panic!("{name} in {usage}")).clone()
}

/// What the system says that a process has used: the 14th and 15th field of its `stat`, ticks of 10 ms.
fn process_cpu_us(node: &Node) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", node.id())).unwrap();
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks * 10_000
}

#[test]
fn functions_and_host_make_up_what_the_process_used() {
    let world = World::new();
    let node = world.first("cloud-1");
    deploy(&world, &node);
    call_both(&world, &node);
    let used = usage(&world, &node);
    let process_us = process_cpu_us(&node);
    let (busy, quick) = (function(&used, "busy"), function(&used, "quick"));
    assert_eq!((number(&busy, "invocations"), number(&quick, "invocations")), (BUSY_CALLS, QUICK_CALLS));
    assert_eq!((number(&quick, "bytes_in"), number(&quick, "bytes_out")), (5 * QUICK_CALLS, 5 * QUICK_CALLS));
    assert_eq!((&quick["tenant"], &quick["app"]), (&"default".into(), &"shop".into()));
    let busy_us = number(&busy, "cpu_us");
    assert!((300_000 * BUSY_CALLS..360_000 * BUSY_CALLS).contains(&busy_us), "{busy_us}");
    assert!(number(&quick, "cpu_us") > 0 && number(&quick, "cpu_us") < busy_us / 10, "{quick}");
    // At least a megabyte for at least 0.3 s each time.
    assert!(number(&busy, "memory_byte_s") >= 300_000 * BUSY_CALLS, "{busy}");
    let parts = number(&used, "functions_cpu_us") + number(&used, "host_cpu_us");
    let share = |a: u64, b: u64| (a as f64 - b as f64).abs() / b as f64;
    println!(
        "functions {} + host {} = {parts}, the system says {process_us}",
        used["functions_cpu_us"], used["host_cpu_us"]
    );
    assert!(share(parts, process_us) <= 0.05, "{parts} and {process_us}: {used}");
    assert!(share(number(&used, "process_cpu_us"), process_us) <= 0.05, "{used}");
    let table = node.tell(&world, &["usage"]);
    assert!(table.contains("shop  busy      10"), "{table}");
    let other = node.json(&world, &["usage", "--app", "other", "-o", "json"]);
    assert_eq!(other["nodes"][0]["functions"].as_array().unwrap().len(), 0);
    assert!(errors(&node.ask(&world, &["usage", "--node", "edge-9"])).contains("no live node edge-9"));
}

#[test]
fn records_survive_a_kill_and_an_altered_one_is_named() {
    let world = World::new();
    let every_second = ["--usage-period", "1s"];
    let node = world.first_with("cloud-1", &every_second);
    deploy(&world, &node);
    call_both(&world, &node);
    let written = |node: &Node| {
        let checked = node.json(&world, &["usage", "--verify", "-o", "json"]);
        assert_eq!(checked["nodes"][0]["problems"].as_array().unwrap().len(), 0, "{checked}");
        checked["nodes"][0]["last"].as_u64().unwrap_or(0)
    };
    // The record after the one that may be under way holds all calls at the latest.
    let now = written(&node);
    eventually("what was used is written down", || written(&node) >= now + 2);
    let before = usage(&world, &node);
    node.kill();
    let node = world.start("cloud-1", &every_second);
    let after = usage(&world, &node);
    for name in ["busy", "quick"] {
        let (before, after) = (function(&before, name), function(&after, name));
        assert_eq!(number(&before, "invocations"), number(&after, "invocations"), "{name}");
        assert_eq!(number(&before, "cpu_us"), number(&after, "cpu_us"), "{name}");
    }
    assert!(written(&node) >= now + 2);
    assert_eq!(node.stop(), 0);
    alter(&world);
    let node = world.start("cloud-1", &every_second);
    let checked = node.ask(&world, &["usage", "--verify"]);
    assert_eq!(checked.status.code(), Some(1));
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("record 1 was altered"), "{said}");
}

/// Flips a bit in the first record.
fn alter(world: &World) {
    let path = world.path("cloud-1").join("usage").join("usage-00000001");
    let mut file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    // After the file's header, and the frame's head and hash.
    file.seek(SeekFrom::Start(56 + 12 + 32 + 2)).unwrap();
    let mut byte = [0];
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Current(-1)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
}
