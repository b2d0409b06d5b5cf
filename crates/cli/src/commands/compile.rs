//! `littoral compile-component`: what a node starts to compile in a process of its own.

use std::process::ExitCode;

use littoral_node::{CompilerProcess, compile_here};

/// This program, as the compiler of a node. The path leads to it even after another version has replaced its file.
pub(super) fn compiler() -> CompilerProcess {
    CompilerProcess { program: "/proc/self/exe".into(), arguments: vec!["compile-component".into()] }
}

/// Compiles; the status tells an invalid component from anything else that went wrong.
pub(crate) fn run(recipe: &[String]) -> ExitCode {
    let Ok(recipe) = <&[String; 3]>::try_from(recipe) else {
        eprintln!("this is for nodes to call; use `littoral run` or `littoral deploy`");
        return ExitCode::FAILURE;
    };
    match compile_here(recipe) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.status)
        }
    }
}
