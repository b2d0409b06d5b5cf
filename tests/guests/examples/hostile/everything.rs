//! A call of each interface that reaches outside: everything links, and nothing that was not granted does anything.
use std::io::Read as _;

use wasip2::cli::{environment, terminal_stderr, terminal_stdin, terminal_stdout};
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::filesystem::preopens;
use wasip2::http::types::Scheme;
use wasip2::random;

use crate::{Report, hosts};

/// Calls everything, from an instance that was granted nothing; `port` is one of this machine.
pub fn call(report: &mut Report, port: &str) {
    let folders = preopens::get_directories();
    report.harmless("see folders", folders.is_empty(), &format!("{} folders", folders.len()));
    let variables = environment::get_environment();
    let inherited = variables.iter().any(|(name, _)| name == "PATH" || name == "HOME");
    report.harmless("see the node's environment", !inherited, &format!("{} variables", variables.len()));
    let arguments = environment::get_arguments();
    report.harmless("see the node's arguments", arguments.is_empty(), &format!("{arguments:?}"));
    report.harmless("have a folder to begin with", environment::initial_cwd().is_none(), "");
    let mut input = Vec::new();
    let read = std::io::stdin().read_to_end(&mut input);
    report.harmless("read the node's input", input.is_empty(), &format!("{read:?}"));
    let terminal = terminal_stdin::get_terminal_stdin().is_some()
        || terminal_stdout::get_terminal_stdout().is_some()
        || terminal_stderr::get_terminal_stderr().is_some();
    report.harmless("have a terminal", !terminal, "");
    report.refused("open a file", std::fs::read("/etc/passwd"));
    report.refused("connect", std::net::TcpStream::connect(format!("127.0.0.1:{port}")));
    report.refused("listen", std::net::TcpListener::bind("127.0.0.1:0"));
    report.refused("take datagrams", std::net::UdpSocket::bind("127.0.0.1:0"));
    hosts::look_up(report);
    hosts::sockets(report, port);
    hosts::listen(report, port);
    report.refused("send a request", hosts::request(Scheme::Http, &format!("127.0.0.1:{port}")));
    harmless_ones(report);
}

/// What every guest may have: time and chance, which differ from call to call.
fn harmless_ones(report: &mut Report) {
    let earlier = monotonic_clock::now();
    let waited = monotonic_clock::subscribe_duration(1);
    waited.block();
    report.harmless("have a clock", monotonic_clock::now() >= earlier && monotonic_clock::resolution() > 0, "");
    report.harmless("have the time", wall_clock::now().seconds > 0 && wall_clock::resolution().nanoseconds > 0, "");
    let drawn = random::random::get_random_bytes(16) != random::random::get_random_bytes(16);
    let seed = random::insecure_seed::insecure_seed();
    let also = random::insecure::get_insecure_random_u64() != random::insecure::get_insecure_random_u64();
    report.harmless("have chance", drawn && also && seed != (0, 0), "");
}
