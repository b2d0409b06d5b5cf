//! Requests that state how long their client waits: refused at once where they could not be answered by then.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{Read as _, Write as _};

use common::*;

/// A call of `/spin` ends when it has used this much CPU time.
const MANIFEST: &str = r#"
name = "shop"
version = "1.0.0"

[functions.busy]
component = "busy.wasm"
timeout = "60s"
limits = { cpu = "300ms" }

[[routes]]
path = "/*"
function = "busy"
"#;

fn get(address: &str, path: &str, timeout: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{timeout}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer.to_ascii_lowercase())
}

#[test]
fn what_cannot_be_answered_in_time_is_refused_at_once_and_the_rest_is_answered() {
    let world = World::new();
    let node = world.first("cloud-1");
    let folder = world.path("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("busy.wasm"), support::sdk_example("faulty_handler")).unwrap();
    std::fs::write(folder.join("littoral.toml"), MANIFEST).unwrap();
    node.tell(&world, &["deploy", folder.to_str().unwrap()]);
    let address = node.address("http");
    let spin = |timeout: &str| get(&address, "/spin", timeout);

    // Nothing is known yet of what it takes; then it is. What runs counts as if it had ended: so many have to, that those of a burst
    // do not count for much.
    let cores = std::thread::available_parallelism().unwrap().get();
    for _ in 0..=2 * cores {
        let (status, answer) = spin("littoral-timeout: 50s\r\n");
        assert!(status == 500 && answer.contains("more cpu time than 300ms"), "{answer}");
    }
    let (status, answer) = spin("littoral-timeout: 100ms\r\n");
    assert!(status == 503 && answer.contains("give it more time"), "{answer}");
    let (status, answer) = get(&address, "/hello", "littoral-timeout: soon\r\n");
    assert!(status == 400 && answer.contains("250ms"), "{answer}");

    // Each takes a third of a core until its deadline: three to a core are admitted. On a machine that is so busy that they come
    // one after the other, none need be refused; then it is tried again.
    let burst = || -> Vec<String> {
        let answers: Vec<(u16, String)> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..cores * 13).map(|_| scope.spawn(|| spin("littoral-timeout: 900ms\r\n"))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert!(answers.iter().any(|(status, _)| *status != 503), "some are admitted");
        answers.into_iter().filter(|(status, _)| *status == 503).map(|(_, answer)| answer).collect()
    };
    let mut refused = Vec::new();
    eventually("some are refused", || {
        refused = burst();
        !refused.is_empty()
    });
    for answer in refused {
        let seconds = answer.split("retry-after: ").nth(1).and_then(|rest| rest.split('\r').next()).unwrap();
        assert_eq!(seconds, "1", "{answer}");
        assert!(answer.contains("promised to requests that came before"), "{answer}");
    }
    // Those without a deadline are not refused, and what was promised is free again.
    assert_eq!(spin("").0, 500);
    eventually("the deadlines have passed", || spin("littoral-timeout: 3s\r\n").0 == 500);
    assert!(node.get("/metrics").contains("littoral_requests_refused_total"));
}
