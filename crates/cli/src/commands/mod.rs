//! One file for each command.

mod build;
mod call;
mod compile;
mod completion;
mod container;
mod context;
mod delete;
mod deploy;
mod events;
mod flow;
mod get;
mod history;
mod init;
mod library;
mod logs;
mod moving;
mod new;
mod node;
mod plan;
mod pull;
mod push;
mod queue;
mod revoke;
mod run;
mod schema;
mod stream;
mod swap;
mod token;
mod tools;
mod usage;

use std::process::ExitCode;

use crate::args::{Cli, Command, FlowCommand, NodeAction, NodeArgs, StreamCommand, TokenCommand};
use crate::client::Client;
use crate::context::Places;

pub(crate) use build::build_app;
pub(crate) use compile::run as compile_component;
pub(crate) use container::run as container_process;
pub(crate) use node::{Prepared, prepare as prepare_node};

/// Carries out a command.
///
/// # Errors
/// When it fails; see [`crate::failure`] for how that is told.
pub(crate) async fn run(cli: &Cli, prepared: Prepared) -> anyhow::Result<ExitCode> {
    let places = Places::of_user();
    let client = || -> anyhow::Result<Client> { places.client(cli.socket.as_deref(), cli.context.as_deref()) };
    match &cli.command {
        Command::New(args) => new::run(args),
        Command::Dev(args) => crate::dev::run(args).await,
        Command::Init(args) => init::run(args, &places).await,
        Command::Node(NodeArgs { action: Some(NodeAction::Revoke(args)), .. }) => revoke::run(args, &client()?).await,
        Command::Node(args) => node::run(args, &places, prepared).await,
        Command::Token(TokenCommand::Create { ttl, output }) => token::create(&client()?, ttl, *output).await,
        Command::Build(args) => build::run(args).await,
        Command::Deploy(args) => deploy::run(args, &client()?).await,
        Command::Push(args) => push::run(args).await,
        Command::Pull(args) => pull::run(args).await,
        Command::Plan(args) => plan::run(args, &client()?).await,
        Command::Get(args) => get::run(args, &client()?).await,
        Command::Call(args) => call::run(args, &client()?).await,
        Command::Queue(command) => queue::run(command, &client()?).await,
        Command::Stream(StreamCommand::Publish(args)) => stream::publish(args, &client()?).await,
        Command::Stream(StreamCommand::Tail(args)) => stream::tail(args, &client()?).await,
        Command::Flow(FlowCommand::Explain(args)) => flow::explain(args, &client()?).await,
        Command::Library(command) => library::run(command),
        Command::Swap(args) => swap::run(args, &client()?).await,
        Command::Move(args) => moving::run(args, &client()?).await,
        Command::Logs(args) => logs::run(args, &client()?).await,
        Command::Events(args) => events::run(args, &client()?).await,
        Command::Usage(args) => usage::run(args, &client()?).await,
        Command::Run(args) => run::run(args, &places).await,
        Command::Delete(args) => delete::run(args, &client()?).await,
        Command::History(args) => history::run(args, &client()?).await,
        Command::Reapply(args) => history::reapply(args, &client()?).await,
        Command::Context(command) => context::run(command, &places),
        // `main` sees to it, without the threads of a runtime.
        Command::CompileComponent { recipe } => Ok(compile_component(recipe)),
        Command::ContainerProcess { role, folder } => Ok(container_process(role, folder)),
        Command::Schema => schema::run(),
        Command::Completion { shell } => completion::run(*shell),
    }
}

/// Completes when the process is told to end: SIGINT or SIGTERM.
pub(crate) async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}
