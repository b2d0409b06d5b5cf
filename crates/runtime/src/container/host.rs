//! The process that makes and removes a node's containers.
//!
//! A node confines itself to its data directory, and whatever it starts with it, so that it can mount nothing, make no control group and
//! start no runtime. It has this process start before, which does five things for it and nothing else, with names and settings that it
//! checks itself: a node that was broken into can make containers of what lies in its folder, as confined as any other. What this process
//! and the shims go by (orders, records, the runtime's state) is in a folder where the node may read only. It answers one request per
//! connection on the socket `host.sock` in the containers' folder, and ends when the node ends; shims do not.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::able::Abilities;
use super::cgroup::Cgroup;
use super::image::Image;
use super::image::layout::hex;
use super::process::{StartTime, write_whole};
use super::shim::{Bundle, Launch, ORDER, Order, READY, RECORD, Record, VERSION, What};
use super::spec::{ContainerSpec, Contents, is_id, program_user};

/// Its socket, in the containers' folder.
const SOCKET: &str = "host.sock";
/// How long a request may be: the environment of a function, mostly.
const REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How many requests are answered at once; others wait to be accepted.
const ANSWERING_MAX: usize = 32;
/// Where the records of a machine's containers are, a folder for each containers' folder; gone after a start of the machine, as they are.
const STATES: &str = "/run/littoral";
/// What is in such a folder: of each container what its shim needs, and what its runtime notes.
const STATE_PARTS: [&str; 2] = ["run", "runtime"];
/// How many digits of its name.
const STATE_DIGITS: usize = 24;
/// The file in it that says whose it is, and its version.
const OWNER: &str = "host.json";
const OWNER_VERSION: u32 = 1;
/// How long a shim may take until its container runs: far longer than any does.
const SHIM_MAX: Duration = Duration::from_secs(60);
/// How long the node waits for what it asks: longer than a shim may take, and the removal of what is left of it.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// How long a host may take to end when it is told to.
const END_MAX: Duration = Duration::from_secs(2);
const END_POLL: Duration = Duration::from_millis(2);
/// How much a shim may say of why there is no container.
const SAID_BYTES_MAX: u64 = 8 << 10;
/// How long whoever asks may take to do so.
const ASKING_MAX: Duration = Duration::from_secs(5);
/// How long and how often an earlier process of the folder is waited for.
const PREDECESSOR_WAIT: Duration = Duration::from_millis(50);
const PREDECESSOR_WAITS: u32 = 100;
/// Passable, not readable: root within a container is somebody else here.
const FOLDER_MODE: u32 = 0o711;

/// A program that turns into the processes of containers: with the arguments `host` and a folder it calls [`run_host`], with `shim` and a
/// folder [`run_shim`](super::run_shim), before it has a second thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProgram {
    /// Its path.
    pub program: PathBuf,
    /// What it is given before these two.
    pub arguments: Vec<std::ffi::OsString>,
}

/// What a node asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// To have a container made and started.
    Make(Box<ContainerSpec>),
    /// To remove whatever there is of one: processes, control group, mounts (they go with the processes), files.
    Remove(String),
    /// To tell one to end, or to kill it.
    Signal { id: String, kill: bool },
    /// To hold one still, or to let it go on.
    Freeze { id: String, freeze: bool },
    /// To give one a share of the processors.
    Weigh { id: String, shares: u32 },
}

/// What it is answered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Made(Record),
    Done,
    Failed(String),
}

/// Whose a folder of states is.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    version: u32,
    /// The containers' folder.
    folder: PathBuf,
    host: StartTime,
}

impl Owner {
    fn read(state: &Path) -> Option<Self> {
        let owner: Self = serde_json::from_slice(&fs::read(state.join(OWNER)).ok()?).ok()?;
        (owner.version == OWNER_VERSION).then_some(owner)
    }

    /// Whether the containers' folder was removed, and nobody is there for whom it was.
    fn is_gone(&self) -> bool {
        let found = fs::symlink_metadata(&self.folder);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !self.host.is_alive()
    }
}

/// A host that was started, and ends when this is dropped.
#[derive(Debug)]
pub struct HostProcess {
    folder: PathBuf,
    abilities: Abilities,
    process: Child,
    alive: Option<ChildStdin>,
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        drop(self.alive.take());
        let until = Instant::now() + END_MAX;
        while matches!(self.process.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::sleep(END_POLL);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl HostProcess {
    /// Starts the host of a folder, which is made if need be.
    ///
    /// # Errors
    /// When the folder cannot be made, or the process not started.
    pub fn start(folder: &Path, abilities: Abilities, program: &ContainerProgram) -> io::Result<Self> {
        for part in ["", "images", "programs"] {
            make_folder(&folder.join(part))?;
        }
        let folder = folder.canonicalize()?;
        for part in STATE_PARTS {
            link(&folder.join(part), &state_folder(&folder).join(part))?;
        }
        let mut command = Command::new(&program.program);
        command.args(&program.arguments).arg("host").arg(&folder).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        // It tells that it listens by a line; it is told by the end of its input that the node has ended.
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output.take(SAID_BYTES_MAX)).read_line(&mut said)?;
        }
        let alive = process.stdin.take();
        let started = Self { folder, abilities, process, alive };
        if said.trim() == READY { Ok(started) } else { Err(io::Error::other(said)) }
    }

    /// The folder of containers, an absolute path without links.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the host and the shims keep what they go by, which the node has to read.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state_folder(&self.folder)
    }

    /// What it can make.
    #[must_use]
    pub fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    /// Asks it for something. It blocks the thread until that is done.
    pub(super) fn ask(folder: &Path, request: &Request) -> Result<Option<Record>, String> {
        let asked = || -> io::Result<Reply> {
            let mut stream = connect(folder)?;
            stream.set_read_timeout(Some(ANSWER_MAX))?;
            stream.write_all(&serde_json::to_vec(request)?)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            let mut reply = Vec::new();
            stream.take(REQUEST_BYTES_MAX).read_to_end(&mut reply)?;
            Ok(serde_json::from_slice(&reply)?)
        };
        match asked() {
            Ok(Reply::Made(record)) => Ok(Some(record)),
            Ok(Reply::Done) => Ok(None),
            Ok(Reply::Failed(reason)) => Err(reason),
            Err(error) => {
                Err(format!("the process that makes containers does not answer: {error}; start the node again"))
            }
        }
    }
}

/// A socket's address is too short for some paths; that of a descriptor is not.
fn connect(folder: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd as _;
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()))
}

/// Where the records of a folder's containers are. Whoever is not root can make none, and has no other place.
fn state_folder(folder: &Path) -> PathBuf {
    if !rustix::process::geteuid().is_root() {
        return folder.join("state");
    }
    let hash = hex(digest(&SHA256, folder.as_os_str().as_encoded_bytes()).as_ref());
    Path::new(STATES).join(hash.get(..STATE_DIGITS).unwrap_or(&hash))
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(FOLDER_MODE))
}

/// Makes a link, unless it is there.
fn link(path: &Path, target: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|there| there == target) {
        return Ok(());
    }
    if fs::symlink_metadata(path).is_ok_and(|there| there.is_dir()) {
        fs::remove_dir(path)?;
    } else if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    std::os::unix::fs::symlink(target, path)
}

/// Makes and removes the containers of a folder until standard input ends. `program` is this program, for the shims.
///
/// # Errors
/// When it cannot listen.
pub fn run_host(folder: &Path, program: &ContainerProgram) -> io::Result<()> {
    // What whoever started the node left open, a lock for instance, is not for the shims, which outlive it.
    keep_to_itself().map_err(|error| io::Error::new(error.kind(), format!("cannot keep its descriptors: {error}")))?;
    let abilities = Abilities::find(std::env::var_os("PATH").as_deref());
    let folder = folder.canonicalize()?;
    std::env::set_current_dir(&folder)?;
    let state = state_folder(&folder);
    let host = Arc::new(Host { folder, state, abilities, program: program.clone() });
    // That of a node which has just ended may not have noticed yet.
    let mut waits = 0;
    while UnixStream::connect(SOCKET).is_ok() {
        if waits >= PREDECESSOR_WAITS {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another node has containers in this folder"));
        }
        waits += 1;
        std::thread::sleep(PREDECESSOR_WAIT);
    }
    match fs::remove_file(SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Those of a node before, which removes what it leaves empty.
    for part in STATE_PARTS {
        make_folder(&host.state.join(part))?;
    }
    host.own()?;
    // Only who is root may ask.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(SOCKET)?;
    // What it makes, root of a container must be able to pass.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // A signal to the node's group, from its terminal, is the node's to see to.
    rustix::process::setsid()?;
    let (listening, sweeping) = (Arc::clone(&host), Arc::clone(&host));
    std::thread::spawn(move || listening.listen(&listener));
    std::thread::spawn(move || sweeping.sweep_wiped());
    let mut output = io::stdout();
    writeln!(output, "{READY}").and_then(|()| output.flush())?;
    let ended = io::copy(&mut io::stdin(), &mut io::sink()).map(drop);
    host.leave();
    ended
}

/// Has all descriptors but the standard ones closed in the programs that it starts.
#[allow(unsafe_code)]
fn keep_to_itself() -> io::Result<()> {
    let (from, to, flags) = (libc::STDERR_FILENO + 1, libc::c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: it closes nothing here, and takes numbers only.
    if unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Linux before 5.11 does not know this.
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => Ok(()),
        _ => Err(error),
    }
}

struct Host {
    folder: PathBuf,
    state: PathBuf,
    abilities: Abilities,
    program: ContainerProgram,
}

impl Host {
    fn listen(self: Arc<Self>, listener: &UnixListener) {
        let answering = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            while answering.load(Ordering::Acquire) >= ANSWERING_MAX {
                std::thread::sleep(Duration::from_millis(1));
            }
            answering.fetch_add(1, Ordering::AcqRel);
            let (host, answering) = (Arc::clone(&self), Arc::clone(&answering));
            std::thread::spawn(move || {
                // Whoever asked may have gone.
                let _ = host.serve(stream);
                answering.fetch_sub(1, Ordering::AcqRel);
            });
        }
    }

    fn serve(&self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(ASKING_MAX))?;
        let mut request = Vec::new();
        (&stream).take(REQUEST_BYTES_MAX).read_to_end(&mut request)?;
        let outcome = serde_json::from_slice(&request)
            .map_err(|error| error.to_string())
            .and_then(|request| self.answer(request));
        let reply = outcome.unwrap_or_else(Reply::Failed);
        stream.write_all(&serde_json::to_vec(&reply)?)
    }

    fn answer(&self, request: Request) -> Result<Reply, String> {
        let checked = |id: &str| if is_id(id) { Ok(()) } else { Err(format!("`{id}` is no container of ours")) };
        match request {
            Request::Make(spec) => return self.make(&spec).map(Reply::Made),
            Request::Remove(id) => {
                checked(&id)?;
                self.remove(&id)?;
            }
            Request::Signal { id, kill } => {
                checked(&id)?;
                self.signal(&id, kill)?;
            }
            Request::Freeze { id, freeze } => {
                checked(&id)?;
                Cgroup::new(&id).freeze(freeze).map_err(|error| error.to_string())?;
            }
            Request::Weigh { id, shares } => {
                checked(&id)?;
                Cgroup::new(&id).weigh(shares).map_err(|error| error.to_string())?;
            }
        }
        Ok(Reply::Done)
    }

    fn run_folder(&self, id: &str) -> PathBuf {
        self.state.join("run").join(id)
    }

    fn runtime_root(&self) -> PathBuf {
        self.state.join("runtime")
    }

    /// The node has ended. What it held still goes on, or its shim could not end it; the folders are removed where nothing is in them.
    fn leave(&self) {
        for entry in fs::read_dir(self.state.join("run")).into_iter().flatten().flatten() {
            if let Some(id) = entry.file_name().to_str().filter(|id| is_id(id)) {
                let _ = Cgroup::new(id).freeze(false);
            }
        }
        for part in STATE_PARTS {
            let _ = fs::remove_dir(self.state.join(part));
        }
        if STATE_PARTS.iter().all(|part| !self.state.join(part).exists()) {
            let _ = fs::remove_file(self.state.join(OWNER));
        }
        let _ = fs::remove_dir(&self.state);
    }

    /// Says whose the folder of states is.
    fn own(&self) -> io::Result<()> {
        let owner = Owner { version: OWNER_VERSION, folder: self.folder.clone(), host: StartTime::own()? };
        write_whole(&self.state.join(OWNER), &serde_json::to_vec(&owner)?)
    }

    /// Removes the containers of folders that are not there any more: with a node's data directory its containers are wiped, and no
    /// node comes back for them.
    fn sweep_wiped(&self) {
        for entry in fs::read_dir(STATES).into_iter().flatten().flatten() {
            let state = entry.path();
            let Some(owner) = Owner::read(&state).filter(Owner::is_gone) else { continue };
            let (abilities, program) = (self.abilities.clone(), self.program.clone());
            let wiped = Self { folder: owner.folder, state, abilities, program };
            let entries =
                STATE_PARTS.iter().flat_map(|part| fs::read_dir(wiped.state.join(part)).into_iter().flatten());
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            for id in names.filter(|id| is_id(id)) {
                // What does not end is tried again by the next host of this machine.
                let _ = wiped.remove(&id);
            }
            wiped.leave();
        }
    }

    fn signal(&self, id: &str, kill: bool) -> Result<(), String> {
        if let (Ok(runtime), true) = (&self.abilities.images, self.runtime_root().join(id).exists()) {
            return runtime.ask(&self.runtime_root(), &["kill", id, if kill { "KILL" } else { "TERM" }]);
        }
        let first = read_record(&self.run_folder(id)).and_then(|record| record.container).filter(|it| it.is_alive());
        let first = first.and_then(|first| Pid::from_raw(first.pid)).ok_or("it does not run")?;
        let signal = if kill { Signal::KILL } else { Signal::TERM };
        rustix::process::kill_process(first, signal).map_err(|error| error.to_string())
    }

    /// What the contents of a container lie in; nothing else of the machine is made a container of.
    fn checked(&self, contents: &Contents) -> Result<(), String> {
        let (path, kind, folder) = match contents {
            Contents::Image(image) => (&image.root, "image", "images"),
            Contents::Program(program) => (&program.file, "program", "programs"),
        };
        let real = path.canonicalize().map_err(|error| format!("its {kind} is not there: {error}"))?;
        if real.parent() != Some(&self.folder.join(folder)) || real != *path {
            return Err(format!("{} is no {kind} of this node", path.display()));
        }
        match contents {
            Contents::Program(program) if !program.has_name() => {
                Err(format!("`{}` is no name of a file", program.name))
            }
            _ => Ok(()),
        }
    }

    /// What a runtime is told to make of an image.
    fn bundle(&self, spec: &ContainerSpec, image: &Image, id: &str) -> Result<(Bundle, serde_json::Value), String> {
        let runtime = self.abilities.images.as_ref().map_err(ToString::to_string)?;
        let config = spec.config(image, &Cgroup::new(id).path(), runtime.has_user_namespaces)?;
        let (runtime_root, containers) = (self.runtime_root(), self.folder.clone());
        let has_user_namespace = runtime.has_user_namespaces;
        Ok((Bundle { runtime: runtime.program.clone(), runtime_root, containers, has_user_namespace }, config))
    }

    /// Has a shim make and start a container.
    fn make(&self, spec: &ContainerSpec) -> Result<Record, String> {
        self.checked(&spec.contents)?;
        if spec.proxy_port() == Some(spec.port) {
            return Err(format!("it cannot serve on port {}, where it finds its proxy", spec.port));
        }
        let id = spec.id(&self.folder, self.abilities.has_user_namespaces());
        let folder = self.run_folder(&id);
        let (what, config) = match &spec.contents {
            Contents::Image(image) => {
                let (bundle, config) = self.bundle(spec, image, &id)?;
                (What::Bundle(bundle), Some(config))
            }
            Contents::Program(program) => {
                self.abilities.programs.as_ref().map_err(ToString::to_string)?;
                let (environment, user) = (spec.variables(&[]), program_user(&id));
                let launch = Launch { program: program.clone(), environment, most: spec.most(), user };
                (What::Program(launch), None)
            }
        };
        let (version, port, proxy_port) = (VERSION, spec.port, spec.proxy_port());
        let order = Order { version, id: id.clone(), port, proxy_port, what };
        let written = || {
            fs::DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&folder)?;
            if let Some(config) = config {
                write_whole(&folder.join("config.json"), &serde_json::to_vec(&config)?)?;
            }
            write_whole(&folder.join(ORDER), &serde_json::to_vec(&order)?)
        };
        let made = written().map_err(|error| format!("its files cannot be written: {error}"));
        let made = made.and_then(|()| self.shim(&folder));
        made.inspect_err(|_| drop(self.remove(&id)))
    }

    fn shim(&self, folder: &Path) -> Result<Record, String> {
        let mut command = Command::new(&self.program.program);
        command.args(&self.program.arguments).arg("shim").arg(folder).stdin(Stdio::null()).stderr(Stdio::null());
        let mut shim =
            command.stdout(Stdio::piped()).spawn().map_err(|error| format!("its shim does not start: {error}"))?;
        let output = shim.stdout.take().ok_or("its shim says nothing")?;
        // It outlives this process; as long as that lasts, its end is seen to.
        std::thread::spawn(move || drop(shim.wait()));
        // One answer.
        let (telling, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut said = String::new();
            let read = BufReader::new(output.take(SAID_BYTES_MAX)).read_line(&mut said);
            // Whoever waited may have given up.
            let _ = telling.send(read.map(|_| said));
        });
        let said =
            told.recv_timeout(SHIM_MAX).map_err(|_| format!("its shim has not started it within {SHIM_MAX:?}"))?;
        let said = said.map_err(|error| error.to_string())?;
        match said.trim() {
            READY => {}
            "" => return Err("its shim ended without a word".to_owned()),
            why => return Err(why.to_owned()),
        }
        read_record(folder).ok_or_else(|| "its shim left no record".to_owned())
    }

    fn remove(&self, id: &str) -> Result<(), String> {
        let (folder, state, cgroup) = (self.run_folder(id), self.runtime_root().join(id), Cgroup::new(id));
        let shim = read_record(&folder).map(|record| record.shim).filter(|shim| shim.is_alive());
        if let Some(group) = shim.and_then(|shim| Pid::from_raw(shim.pid)) {
            // With the shim whatever it has started; it leads a group of its own.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        if !folder.exists() && !state.exists() && cgroup.folders().is_empty() {
            return Ok(());
        }
        // What is held still cannot end.
        let _ = cgroup.freeze(false);
        if let (Ok(runtime), true) = (&self.abilities.images, state.exists()) {
            // What it leaves, the rest removes.
            let _ = runtime.ask(&self.runtime_root(), &["delete", "--force", id]);
        }
        cgroup.remove();
        // Its record stays for as long as anything of it does: what is not known is never removed.
        if let Some(left) = cgroup.folders().first() {
            return Err(format!("its processes do not end: {} is still there", left.display()));
        }
        for folder in [state, folder] {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("{} cannot be removed: {error}", folder.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What the shim of a container's folder says of itself.
pub(super) fn read_record(folder: &Path) -> Option<Record> {
    serde_json::from_slice(&fs::read(folder.join(RECORD)).ok()?).ok()
}
