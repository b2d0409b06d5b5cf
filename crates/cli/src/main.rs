//! The `littoral` command: parses the command line, asks a node or is one, prints the answer.

mod allocator;
mod app;
mod args;
mod client;
mod commands;
mod composition;
mod context;
mod dev;
mod edits;
mod failure;
mod library;
mod output;
mod sql;
mod tables;
mod transfer;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};

fn main() -> ExitCode {
    allocator::give_back_what_is_large();
    littoral_mesh::share_threads();
    let cli = Cli::parse();
    if let Command::CompileComponent { recipe } = &cli.command {
        return commands::compile_component(recipe);
    }
    if let Command::ContainerProcess { role, folder } = &cli.command {
        return commands::container_process(role, folder);
    }
    let prepared = match &cli.command {
        Command::Node(args) if args.action.is_none() => commands::prepare_node(args),
        _ => Ok(commands::Prepared::default()),
    };
    let prepared = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return fail(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start threads")),
    };
    let ended = runtime.block_on(commands::run(&cli, prepared));
    // Reads of standard input cannot be cancelled; do not wait for them.
    runtime.shutdown_background();
    match ended {
        Ok(status) => status,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if error.is::<output::ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    let (text, status) = failure::render(error);
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
    status
}
