//! Commands: components of the world `wasi:cli/command`, 0.2 or 0.3. They run once, with this process's standard input
//! and output. See `preview1` for modules.

use std::sync::Arc;

use wasmtime_wasi::I32Exit;

use crate::access::Access;
use crate::artifact::{Artifact, CommandPre};
use crate::engine::Wasm;
use crate::fabric::Surroundings;
use crate::fault::Fault;
use crate::host::{Host, Setup, within};
use crate::limits::Limits;
use crate::logs::LogSink;
use crate::meter::Meter;

/// How to run a command.
pub struct CommandSettings {
    /// What it may use; the timeout covers all of its run.
    pub limits: Limits,
    /// Its arguments, the first of which is its name.
    pub arguments: Vec<String>,
    /// Its environment variables.
    pub environment: Vec<(String, String)>,
    /// What it may reach.
    pub access: Arc<Access>,
    /// What lies around it.
    pub surroundings: Arc<Surroundings>,
    /// Where the host says what it denied.
    pub logs: Arc<dyn LogSink>,
}

impl CommandSettings {
    pub(crate) fn setup<'a>(&'a self, meter: &'a Meter) -> Setup<'a> {
        Setup {
            limits: self.limits,
            meter,
            command: Some(&self.arguments),
            environment: &self.environment,
            access: &self.access,
            surroundings: &self.surroundings,
            logs: &self.logs,
        }
    }
}

/// Runs a command to its end; answers its exit status.
///
/// # Errors
/// When the component is no command, or fails otherwise than by exiting.
pub async fn run(wasm: &Wasm, artifact: &Artifact, settings: &CommandSettings) -> Result<i32, Fault> {
    let Some(pre) = artifact.command() else {
        return Err(Fault::Protocol { reason: "it exports no `wasi:cli/run`".to_owned() });
    };
    let meter = Meter::new(None);
    let store = Host::store(&wasm.flavor(artifact.concurrency()).engine, settings.setup(&meter));
    let mut store = store.map_err(|error| Fault::Setup { reason: format!("{error:#}") })?;
    let _ticking = wasm.tick();
    let deadline = Host::begin(&mut store);
    let ran = meter.over(within(deadline, async {
        match pre {
            CommandPre::Sequential(pre) => {
                let command = pre.instantiate_async(&mut store).await?;
                command.wasi_cli_run().call_run(&mut store).await
            }
            CommandPre::Concurrent(pre) => {
                let command = pre.instantiate_async(&mut store).await?;
                store.run_concurrent(async |store| command.wasi_cli_run().call_run(store).await).await?
            }
        }
    }));
    let ran = ran.await;
    match ran {
        Ok(Ok(())) => Ok(0),
        Ok(Err(())) => Ok(1),
        Err(error) => match error.downcast_ref::<I32Exit>() {
            Some(exit) => Ok(exit.0),
            None => Err(Fault::new(&error, store.data())),
        },
    }
}
