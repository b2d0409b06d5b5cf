//! Where the peers are that `scripts/setup-peers` installed, and which versions they are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::fabric;

/// The version of Wasmtime's command that we compare with; as in `scripts/setup-peers`.
const WASMTIME: &str = "wasmtime-48.0.8/bin/wasmtime";
/// workerd, as npm lays it out.
const WORKERD: &str = "npm/node_modules/workerd/bin/workerd";

/// Python with the version of DuckDB that we compare with; as in `scripts/setup-peers`.
const DUCKDB: &str = "duckdb-2.0.0/bin/python";

/// `wasmtime`.
pub(crate) fn wasmtime() -> anyhow::Result<PathBuf> {
    installed(&cache()?.join(WASMTIME))
}

/// `workerd`.
pub(crate) fn workerd() -> anyhow::Result<PathBuf> {
    installed(&cache()?.join(WORKERD))
}

/// Python with DuckDB.
pub(crate) fn duckdb_python() -> anyhow::Result<PathBuf> {
    installed(&cache()?.join(DUCKDB))
}

/// `nats-server`, which Debian keeps for the administrator.
pub(crate) fn nats_server() -> anyhow::Result<PathBuf> {
    installed(Path::new("/usr/sbin/nats-server"))
}

/// `redis-server`.
pub(crate) fn redis_server() -> anyhow::Result<PathBuf> {
    installed(Path::new("/usr/bin/redis-server"))
}

/// `mosquitto`, which Debian keeps for the administrator.
pub(crate) fn mosquitto() -> anyhow::Result<PathBuf> {
    installed(Path::new("/usr/sbin/mosquitto"))
}

/// Which version that is: the first line of its help, which ends without success.
pub(crate) fn mosquitto_version() -> anyhow::Result<String> {
    let output = Command::new(mosquitto()?).arg("-h").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// The first line that a program prints of its version.
pub(crate) fn version(program: &Path) -> anyhow::Result<String> {
    let text = fabric::run(Command::new(program).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The `littoral` command that was built with this program.
pub(crate) fn littoral() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("littoral");
    anyhow::ensure!(
        path.exists(),
        "{} is not there: build it with `cargo build --release -p littoral-cli`",
        path.display()
    );
    Ok(path)
}

/// Where `scripts/setup-peers` puts peers.
fn cache() -> anyhow::Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).context("HOME is not set")?;
    Ok(cache.join("littoral/peers"))
}

fn installed(path: &Path) -> anyhow::Result<PathBuf> {
    anyhow::ensure!(path.exists(), "{} is not there: run `scripts/setup-peers http mesh stream flow`", path.display());
    Ok(path.to_owned())
}
