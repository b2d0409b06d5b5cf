//! `littoral run`: components that nobody here wrote, served or run without a manifest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;
#[path = "../../runtime-wasm/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
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
    serve_file(world, &path, arguments)
}

fn serve_file(world: &World, path: &Path, arguments: &[&str]) -> Served {
    let mut command = world.littoral();
    command.arg("run").args(["--addr", ANY_PORT]).args(arguments).arg(path);
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
fn what_is_allowed_is_reached_and_only_that() {
    let world = World::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let target = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nreached").unwrap();
        head
    });
    // The name is granted, and leads to this machine: only the address would be a grant for that.
    let to = format!("TARGET_URL=http://localhost:{}/", address.port());
    let rebound = serve(&world, "http_server_proxy", &["--env", &to, "--allow-http", "localhost"]);
    assert!(rebound.get("/proxy/x").starts_with("HTTP/1.1 5"));
    let granted = format!("127.0.0.1:{}", address.port());
    let allowed = serve(&world, "http_server_proxy", &["--env", &to, "--allow-http", &granted]);
    let answer = allowed.get("/proxy/a/b?c=d");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("reached"), "{answer}");
    let head = target.join().unwrap();
    assert!(head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{head}");
}

#[test]
fn a_service_of_wasi_03_is_served() {
    let world = World::new();
    let path = world.path("service.wasm");
    std::fs::write(&path, support::wasip3_example("http-proxy")).unwrap();
    let served = serve_file(&world, &path, &[]);
    for _ in 0..3 {
        let answer = served.get("/");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Hello, WASI!"), "{answer}");
    }
}

#[test]
fn a_server_takes_no_arguments() {
    let world = World::new();
    let path = world.path("service.wasm");
    std::fs::write(&path, support::wasip3_example("http-proxy")).unwrap();
    let output = world.run(&["run", "--addr", ANY_PORT, path.to_str().unwrap(), "--loud"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("takes no arguments"), "{}", errors(&output));
}

#[test]
fn a_command_of_wasi_03_runs() {
    let world = World::new();
    let path = world.path("command.wasm");
    std::fs::write(&path, support::wasip3_example("cli-command")).unwrap();
    let output = world.run(&["run", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(output.stdout, b"Hello, WASI!");
}

/// A module of preview 1 that opens `file` in its first folder, prints what is in it, and exits with 7.
const PREVIEW_1: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "file")
  (func (export "_start")
    (if (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
          (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 16))
      (then (call $exit (i32.const 9))))
    (i32.store (i32.const 32) (i32.const 128))
    (i32.store (i32.const 36) (i32.const 64))
    (drop (call $read (i32.load (i32.const 16)) (i32.const 32) (i32.const 1) (i32.const 40)))
    (i32.store (i32.const 36) (i32.load (i32.const 40)))
    (drop (call $write (i32.const 1) (i32.const 32) (i32.const 1) (i32.const 44)))
    (call $exit (i32.const 7))))"#;

#[test]
fn a_module_of_preview_1_runs_and_sees_the_folders_it_may() {
    let world = World::new();
    let module = world.path("module.wasm");
    std::fs::write(&module, wat::parse_str(PREVIEW_1).unwrap()).unwrap();
    let folder = world.path("data");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("file"), "content").unwrap();
    let module = module.to_str().unwrap();
    let output = world.run(&["run", module]);
    assert_eq!(output.status.code(), Some(9), "{}", errors(&output));
    let output = world.run(&["run", "--dir", &format!("{}::/seen:ro", folder.display()), module]);
    assert_eq!(output.status.code(), Some(7), "{}", errors(&output));
    assert_eq!(output.stdout, b"content");
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
