//! `littoral run`: components of the `wasi:http/proxy` world that nobody here wrote, served without a manifest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Stdio};

use common::*;

/// A served component; ends with this.
struct Served {
    child: Child,
    address: String,
    errors: BufReader<std::process::ChildStderr>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn serve(world: &World, name: &str, arguments: &[&str]) -> Served {
    let path = world.path(&format!("{name}.wasm"));
    std::fs::write(&path, support::wstd_example(name)).unwrap();
    let mut command = world.littoral();
    command.arg("run").arg(&path).args(["--addr", ANY_PORT]).args(arguments);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    errors.read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}"));
    let address = address.trim().trim_end_matches('/').to_owned();
    Served { child, address, errors }
}

impl Served {
    fn get(&self, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn a_foreign_component_is_served() {
    let world = World::new();
    let served = serve(&world, "http_server", &[]);
    let answer = served.get("/");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("Hello, wasi:http/proxy world!"), "{answer}");
    assert!(served.get("/no/such/path").starts_with("HTTP/1.1 404"));
}

#[test]
fn a_foreign_component_reaches_nobody_unless_it_may() {
    let world = World::new();
    let mut served = serve(&world, "http_server_proxy", &["--env", "TARGET_URL=http://169.254.169.254/"]);
    assert!(served.get("/proxy/latest/meta-data").starts_with("HTTP/1.1 5"));
    let mut line = String::new();
    while !line.contains("was denied") {
        line.clear();
        assert!(served.errors.read_line(&mut line).unwrap() > 0, "it says that the request was denied");
    }
}

#[test]
fn what_is_no_handler_is_said_to_be_none() {
    let world = World::new();
    let path = world.path("text.wasm");
    std::fs::write(&path, "no component").unwrap();
    let output = world.run(&["run", path.to_str().unwrap(), "--addr", ANY_PORT]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the component does not load"), "{said}");
}
