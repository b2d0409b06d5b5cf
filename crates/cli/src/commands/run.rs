//! `littoral run`: serves one component.

use std::process::ExitCode;

use anyhow::Context as _;
use littoral_node::run_component::{ComponentSettings, run_component};
use tokio_util::sync::CancellationToken;

use crate::app::{parse_size, parse_time};
use crate::args::RunArgs;
use crate::commands::told_to_end;

/// Serves one component until told to end. The first line on standard error has the address.
pub(super) async fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let path = &args.component;
    let component = std::fs::read(path).with_context(|| format!("cannot read the component {}", path.display()))?;
    let settings = ComponentSettings {
        component: component.into(),
        address: args.addr,
        environment: args.env.clone(),
        memory_bytes: parse_size("--memory", &args.memory)?,
        timeout: parse_time("--timeout", &args.timeout)?,
    };
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let serving =
        run_component(settings, |address| eprintln!("serving {} on http://{address}", path.display()), shutdown);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => ended?,
        told = told_to_end() => {
            told?;
            stop.cancel();
            serving.await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
