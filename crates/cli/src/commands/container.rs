//! `littoral container-process`: what a node starts to make containers, and what is started beside each of them.

use std::path::Path;
use std::process::ExitCode;

use littoral_node::{ContainerProgram, run_host, run_shim};

/// This program, as the processes of containers. The path leads to it even after another version has replaced its file.
pub(super) fn program() -> ContainerProgram {
    ContainerProgram { program: "/proc/self/exe".into(), arguments: vec!["container-process".into()] }
}

/// Is the process until that ends. It must not have a second thread.
pub(crate) fn run(role: &str, folder: &Path) -> ExitCode {
    let outcome = match role {
        "host" => run_host(folder, &program()).map_err(|error| error.to_string()),
        // It has said it where the host hears it.
        "shim" => run_shim(folder).map_err(|_| String::new()),
        _ => Err("this is for nodes to call; use `littoral node`".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
