//! `littoral run`: serves one component, or runs one command.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use littoral_node::run_component::{Access, ComponentSettings, Limits, run_component};
use tokio_util::sync::CancellationToken;

use crate::app::{parse_size, parse_time};
use crate::args::RunArgs;
use crate::commands::compile::compiler;
use crate::commands::told_to_end;
use crate::context::Places;

/// Runs a command to its end, or serves a component until told to end. Then the first line on standard error has the address.
pub(super) async fn run(args: &RunArgs, places: &Places) -> anyhow::Result<ExitCode> {
    let path = &args.component;
    let component = std::fs::read(path).with_context(|| format!("cannot read the component {}", path.display()))?;
    let settings = ComponentSettings {
        component: component.into(),
        address: args.addr,
        environment: args.env.clone(),
        limits: limits(args)?,
        concurrency_max: args.concurrency as usize,
        timeout: args.timeout.as_deref().map(|timeout| parse_time("--timeout", timeout)).transpose()?,
        access: Access {
            http: args.allow_http.clone(),
            sockets: args.allow_socket.clone(),
            directories: args.dir.clone(),
            devices: args.device.clone(),
            ..Access::default()
        },
        arguments: std::iter::once(name_of(path)).chain(args.arguments.iter().cloned()).collect(),
        cache_dir: Some(places.components.clone()),
        compiler: Some(compiler()),
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let serving =
        run_component(settings, |address| eprintln!("serving {} on http://{address}", path.display()), shutdown);
    tokio::pin!(serving);
    let status = tokio::select! {
        ended = &mut serving => ended?,
        told = told_to_end() => {
            told?;
            stop.cancel();
            serving.await?
        }
    };
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

/// What one invocation may use.
fn limits(args: &RunArgs) -> anyhow::Result<Limits> {
    Ok(Limits {
        memory_bytes: parse_size("--memory", &args.memory)?,
        cpu: args.cpu.as_deref().map(|cpu| parse_time("--cpu", cpu)).transpose()?,
        request_bytes: parse_size("--max-request", &args.max_request)?,
        response_bytes: parse_size("--max-response", &args.max_response)?,
        log_lines_per_second: args.log_rate,
        ..Limits::default()
    })
}

/// What a command sees as its own name.
fn name_of(component: &Path) -> String {
    component.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
