//! Who takes part in `bench-http`: ours, Wasmtime's and workerd's servers, and bare hyper.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::guests::guest;
use crate::peers;
use crate::server::{Server, free_address};

const WORKER: &str = include_str!("worker.js");

/// Whose server, with which interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contestant {
    /// Bare hyper, the ceiling.
    Hyper,
    /// `wasmtime serve` with the 0.2 component.
    WasmtimeP2,
    /// `littoral run` with the 0.2 component.
    LittoralP2,
    /// `workerd` with a script.
    Workerd,
    /// `wasmtime serve` with the 0.3 component.
    WasmtimeP3,
    /// `littoral run` with the 0.3 component.
    LittoralP3,
}

/// How `wasmtime serve` is set. Slots of the pool that keep their pages (`pooling-memory-keep-resident` and its siblings)
/// were slower here than without. Rust's standard library imports `wasi:cli`.
const WASMTIME_P2: &[&str] = &["serve", "-O", "pooling-allocator=y", "-S", "cli"];
/// The same for 0.3. How often an instance is used again is left at its default, 128 requests, 16 at once.
const WASMTIME_P3: &[&str] = &["serve", "-O", "pooling-allocator=y", "-S", "cli,p3", "-W", "component-model-async"];

impl Contestant {
    pub(crate) const ALL: [Self; 6] =
        [Self::Hyper, Self::WasmtimeP2, Self::LittoralP2, Self::Workerd, Self::WasmtimeP3, Self::LittoralP3];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper",
            Self::WasmtimeP2 => "wasmtime 0.2",
            Self::LittoralP2 => "littoral 0.2",
            Self::Workerd => "workerd",
            Self::WasmtimeP3 => "wasmtime 0.3",
            Self::LittoralP3 => "littoral 0.3",
        }
    }

    /// Version and configuration, so that it can be run again.
    pub(crate) fn configuration(self) -> anyhow::Result<String> {
        let mut text = match self {
            Self::Hyper => {
                return Ok("littoral-bench hyper-server, release build, tokio with a thread per core".to_owned());
            }
            Self::LittoralP2 | Self::LittoralP3 => peers::version(&peers::littoral()?)?,
            Self::WasmtimeP2 | Self::WasmtimeP3 => peers::version(&peers::wasmtime()?)?,
            Self::Workerd => peers::version(&peers::workerd()?)?,
        };
        let command = self.command("127.0.0.1:PORT", Path::new("."))?;
        for argument in command.get_args() {
            let argument = Path::new(argument);
            let shown = argument.file_name().filter(|_| argument.is_absolute()).unwrap_or(argument.as_os_str());
            write!(text, " {}", shown.to_string_lossy())?;
        }
        Ok(text)
    }

    /// Starts it on a port of its own.
    pub(crate) fn start(self, folder: &Path) -> anyhow::Result<Server> {
        let address = free_address()?;
        let folder = folder.join(self.name().replace(' ', "-"));
        fs::create_dir_all(&folder)?;
        if self == Self::Workerd {
            fs::write(folder.join("worker.js"), WORKER)?;
            fs::write(folder.join("config.capnp"), workerd_config(address))?;
        }
        Server::start(self.command(&address.to_string(), &folder)?, address, &folder.join("log"))
    }

    fn command(self, address: &str, folder: &Path) -> anyhow::Result<Command> {
        Ok(match self {
            Self::Hyper => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["hyper-server", address]);
                command
            }
            Self::WasmtimeP2 => {
                let mut command = Command::new(peers::wasmtime()?);
                command.args(WASMTIME_P2).args(["--addr", address]).arg(guest("http_p2")?);
                command
            }
            Self::WasmtimeP3 => {
                let mut command = Command::new(peers::wasmtime()?);
                command.args(WASMTIME_P3).args(["--addr", address]).arg(guest("http_p3")?);
                command
            }
            Self::LittoralP2 | Self::LittoralP3 => {
                let component = guest(if self == Self::LittoralP2 { "http_p2" } else { "http_p3" })?;
                let mut command = Command::new(peers::littoral()?);
                // Wasmtime's server has no limit of time; 64 computations at once take longer than our default.
                command.args(["run", "--timeout", "10s", "--addr", address]).arg(component);
                command
            }
            Self::Workerd => {
                let mut command = Command::new(peers::workerd()?);
                command.arg("serve").arg(folder.join("config.capnp"));
                command
            }
        })
    }
}

fn workerd_config(address: SocketAddr) -> String {
    format!(
        "using Workerd = import \"/workerd/workerd.capnp\";\n\
         const config :Workerd.Config = (\n  \
           services = [ (name = \"main\", worker = .bench) ],\n  \
           sockets = [ (name = \"http\", address = \"{address}\", http = (), service = \"main\") ]\n\
         );\n\
         const bench :Workerd.Worker = (\n  \
           modules = [ (name = \"worker.js\", esModule = embed \"worker.js\") ],\n  \
           compatibilityDate = \"2026-01-01\"\n\
         );\n"
    )
}
