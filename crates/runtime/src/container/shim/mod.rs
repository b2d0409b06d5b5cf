//! The process beside each container: small, with one thread, and independent of the node that started it, which may end and come
//! back meanwhile.
//!
//! It has a runtime make and start the container of an image ([`bundle`]), then enters its user and network namespaces, which only a
//! process of one thread may; or it makes that of a program itself ([`program`], [`root`], [`confine`]), in a network of its own. Then it
//! gives up what rights it had. From then on it collects what the container writes, hands out connections to it over the Unix socket
//! `sock` in its folder ([`serve`]), and ends when the container ends. It reads nothing that the container says, and carries no
//! traffic: a connection is made in the container's network and then handed over as a descriptor, and so is the socket on which a
//! container that is granted a way out finds its proxy.

mod bundle;
mod confine;
mod namespaces;
mod passage;
mod program;
mod root;
pub(crate) mod serve;

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::process::{StartTime, write_whole};
use serve::Server;

pub(crate) use bundle::Bundle;
pub(crate) use program::Launch;

/// The file of the order, in a container's folder.
pub(crate) const ORDER: &str = "order.json";
/// The file that says which process the shim is.
pub(crate) const RECORD: &str = "shim.json";
/// The socket on which it answers.
pub(crate) const SOCKET: &str = "sock";
/// How the container ended, in words.
pub(crate) const ENDED: &str = "ended";
/// What a shim says on standard output once its container runs.
pub(crate) const READY: &str = "ready";
/// The version of the order and the record.
pub(crate) const VERSION: u32 = 1;
/// How much of a complaint is passed on.
const COMPLAINT_BYTES_MAX: u64 = 4 << 10;

/// What a shim is told, by a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) version: u32,
    /// The container's name.
    pub(crate) id: String,
    /// Where it serves, within its own network.
    pub(crate) port: u16,
    /// Where it finds a proxy within its own network, if it is granted a way out.
    #[serde(default)]
    pub(crate) proxy_port: Option<u16>,
    /// What it is made of.
    pub(crate) what: What,
}

impl Order {
    /// The socket of the proxy, which the node answers on. It is there before the container is, whose network this process is in.
    fn way_out(&self) -> Result<Option<TcpListener>, ShimError> {
        let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(cannot("listen as its proxy"));
        self.proxy_port.map(listen).transpose()
    }
}

/// What a container is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// An image; a runtime makes it.
    Bundle(Bundle),
    /// A program.
    Program(Launch),
}

/// What a shim says of itself, by a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) shim: StartTime,
    /// The first process of the container, once it is made.
    pub(crate) container: Option<StartTime>,
}

/// Why there is no container.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// Something that the system does not let it do.
    #[error("cannot {doing}: {error}")]
    System {
        /// What it was about to do.
        doing: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The first process of a program could not be confined, or the program not be started.
    #[error("{0}")]
    Program(String),
    /// The runtime refuses.
    #[error("{runtime} {command} failed: {complaint}")]
    Runtime {
        /// Which.
        runtime: String,
        /// Its command.
        command: &'static str,
        /// What it says.
        complaint: String,
    },
}

/// Makes an error of the system one of ours.
pub(crate) fn cannot<E: Into<io::Error>>(doing: &'static str) -> impl Fn(E) -> ShimError {
    move |error| ShimError::System { doing, error: error.into() }
}

/// Runs the container whose order is in a folder, until it ends. The process must have one thread only. It says on standard output
/// that the container runs, or why it does not.
///
/// # Errors
/// When the container cannot be made or started; what there is of it is left to whoever started the shim.
pub fn run(folder: &Path) -> Result<(), ShimError> {
    let outcome = start(folder);
    let said = match &outcome {
        Ok(_) => READY.to_owned(),
        Err(error) => error.to_string(),
    };
    // Whoever started it may have ended already.
    let mut output = io::stdout();
    let _ = writeln!(output, "{said}").and_then(|()| output.flush());
    outcome?.run()
}

fn start(folder: &Path) -> Result<Server, ShimError> {
    std::env::set_current_dir(folder).map_err(cannot("enter the container's folder"))?;
    let order = std::fs::read(ORDER).map_err(cannot("read the order"))?;
    let order: Order = serde_json::from_slice(&order).map_err(io::Error::from).map_err(cannot("read the order"))?;
    // It outlives the node and its terminal, and its group can be ended whole.
    rustix::process::setsid().map_err(cannot("begin a session"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(cannot("become the container's parent"))?;
    let shim = StartTime::own().map_err(cannot("see its own start time"))?;
    let mut record = Record { version: VERSION, shim, container: None };
    note(&record)?;
    match &order.what {
        What::Bundle(bundle) => {
            bundle.open_way(folder)?;
            let listener = listen()?;
            let (container, outputs) = bundle.create(&order.id)?;
            let (process, ended) = watch(&mut record, container)?;
            let spaces = namespaces::Spaces::of(container, bundle.has_user_namespace)?;
            spaces.enter_network()?;
            let way_out = order.way_out()?;
            bundle.begin(&order.id)?;
            spaces.enter_users()?;
            Server::new(listener, container, process, outputs, ended, order.port, way_out)
        }
        What::Program(launch) => {
            namespaces::own_network()?;
            let way_out = order.way_out()?;
            let listener = listen()?;
            let (first, outputs, words) = launch.start(&order.id)?;
            let (process, ended) = watch(&mut record, first)?;
            program::until_started(words)?;
            namespaces::become_user(launch.user)?;
            Server::new(listener, first, process, outputs, ended, order.port, way_out)
        }
    }
}

fn listen() -> Result<UnixListener, ShimError> {
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(SOCKET).map_err(cannot("listen on its socket"));
    rustix::process::umask(Mode::from_raw_mode(0o022));
    listener
}

/// Says which process the container is; what is seen of it, and where its end is noted.
fn watch(record: &mut Record, container: Pid) -> Result<(OwnedFd, File), ShimError> {
    record.container = Some(StartTime::of(container).map_err(cannot("see the container's start time"))?);
    note(record)?;
    let ended = File::create(ENDED).map_err(cannot("write into the container's folder"))?;
    let process = rustix::process::pidfd_open(container, PidfdFlags::empty()).map_err(cannot("watch the container"))?;
    Ok((process, ended))
}

fn note(record: &Record) -> Result<(), ShimError> {
    let bytes = serde_json::to_vec(record).map_err(io::Error::from).map_err(cannot("say which process it is"))?;
    write_whole(Path::new(RECORD), &bytes).map_err(cannot("say which process it is"))
}
