//! A server process that ends with its handle.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// How long a server may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How many lines of what it said are in an error.
const SAID_MAX: usize = 6;
/// How often is looked whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A running server.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    /// Starts a command that is to listen at an address, and waits until it does. What it prints goes to a file, whose
    /// first lines are in the error.
    pub(crate) fn start(mut command: Command, address: SocketAddr, log: &Path) -> anyhow::Result<Self> {
        let output = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let mut server = Self { child, address };
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
                let first: Vec<&str> = lines.take_while(|line| !line.starts_with("Stack")).take(SAID_MAX).collect();
                anyhow::bail!("it does not listen: {}", first.join("; "));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// An address on which nobody listens. Not every peer can tell which port it took, so that one is chosen beforehand.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
