//! The containers of a node: started, taken up again, held still, stopped, and what is left of others removed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use littoral_runtime_wasm::{GuestOutput, LogSink, LogStream, Usage};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::able::Abilities;
use super::cgroup::{Cgroup, Used};
use super::client::is_healthy;
use super::counted::{self, Counted, SinceBoot};
use super::egress::Egress;
use super::host::{HostProcess, Request, read_record};
use super::image::layer::Bounds;
use super::image::layout::Layout;
use super::image::root::Owners;
use super::image::{Image, ImageError, Images};
use super::link::{Followed, Link, Said};
use super::program::Programs;
use super::shim::{ENDED, Record, VERSION};
use super::spec::{ContainerSpec, OWNERS};

/// How long one question for its health may take.
const HEALTH_MAX: Duration = Duration::from_secs(5);
/// The first wait before it is asked again; it doubles up to [`HEALTH_POLL_MAX`].
const HEALTH_POLL_MIN: Duration = Duration::from_millis(5);
/// The longest wait.
const HEALTH_POLL_MAX: Duration = Duration::from_millis(250);
/// How long a container may take to end once it was killed.
const KILL_MAX: Duration = Duration::from_secs(10);
/// How often it is seen what a container uses.
const METERING: Duration = Duration::from_secs(1);

/// Why a container does not run.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    /// The disk failed.
    #[error("the container's files cannot be written in {path}: {error}")]
    Disk {
        /// Where.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// Its image is missing something, or is no image.
    #[error("{0}")]
    Image(String),
    /// Its program is none, or not for this machine.
    #[error("the program cannot be run here: {0}")]
    Program(String),
    /// The shim or the runtime failed.
    #[error("the container was not started: {0}")]
    Start(String),
    /// It does not answer as it should.
    #[error("the container was not ready within {within:?}: {reason}; see its log")]
    Health {
        /// How long it was given.
        within: Duration,
        /// What was missing at last.
        reason: String,
    },
    /// Something of it is left.
    #[error("the container was not removed: {0}")]
    Remove(String),
    /// Its processes could not be held still or let go on.
    #[error("the container cannot be paused or resumed: {0}")]
    Freeze(String),
}

/// The containers of a node.
#[derive(Debug)]
pub struct Containers {
    host: Arc<HostProcess>,
    images: Arc<Images>,
    programs: Arc<Programs>,
    /// Those that this process knows.
    known: Mutex<HashMap<String, Weak<Container>>>,
    /// What containers are to be made of later.
    held: Mutex<Vec<Weak<HeldContents>>>,
    /// By name, held while one is made or removed, so that neither finds the other's halves.
    changing: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// What an earlier process of this folder has counted of the containers that it left.
    counted: Mutex<HashMap<String, Counted>>,
    /// Read while something is unpacked or a container made of it, and written while what nobody needs is removed.
    contents: tokio::sync::RwLock<()>,
}

/// An image or a program that is kept, also while no container runs from it, until this is dropped.
#[derive(Debug)]
pub struct HeldContents(PathBuf);

/// A container that runs. It goes on when this is dropped, for the next process to take it up.
#[derive(Debug)]
pub struct Container {
    id: String,
    /// Of all containers.
    folder: PathBuf,
    spec: ContainerSpec,
    record: Record,
    link: Link,
    cgroup: Cgroup,
    /// How much of its processor time was counted.
    counted_ns: Arc<AtomicU64>,
    ended: watch::Receiver<Option<String>>,
    adopted: bool,
    still: Mutex<Still>,
    /// Whether it is being ended: it is not to be held still then.
    is_leaving: AtomicBool,
    /// Whether it was ever ready.
    was_ready: AtomicBool,
    following: tokio::task::AbortHandle,
}

/// How long a container was held still.
#[derive(Debug, Clone, Copy, Default)]
struct Still {
    /// Since when it is.
    since: Option<Instant>,
    /// For how long it was before.
    before: Duration,
}

impl Drop for Container {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Containers {
    /// The containers of a host.
    ///
    /// # Errors
    /// When its folder of images or of programs cannot be read.
    pub fn open(host: Arc<HostProcess>) -> Result<Self, ContainerError> {
        let owners = if host.abilities().has_user_namespaces() { OWNERS } else { Owners { first: 0, ..OWNERS } };
        let images = Images::open(host.folder().join("images"), Some(owners), Bounds::default());
        let images = Arc::new(images.map_err(|error| ContainerError::Image(error.to_string()))?);
        let folder = host.folder().join("programs");
        let programs = Arc::new(Programs::open(folder.clone()).map_err(disk(&folder))?);
        let counted = Mutex::new(counted::read(host.folder()));
        let (known, held, changing, contents) = Default::default();
        Ok(Self { host, images, programs, known, held, changing, counted, contents })
    }

    /// What can be started here.
    #[must_use]
    pub fn abilities(&self) -> &Abilities {
        self.host.abilities()
    }

    /// Unpacks the image of a layout, unless that was done before. It stays at least for as long as what comes with it.
    ///
    /// # Errors
    /// When there is no image for this machine, or it is refused.
    pub async fn unpack(&self, layout: PathBuf) -> Result<(Image, Arc<HeldContents>), ContainerError> {
        let _stays = self.contents.read().await;
        let images = Arc::clone(&self.images);
        let unpacked = tokio::task::spawn_blocking(move || {
            Layout::open(&layout).map_err(ImageError::from).and_then(|layout| images.unpack(&layout))
        });
        let unpacked = unpacked.await.map_err(|error| ContainerError::Image(error.to_string()))?;
        let image = unpacked.map_err(|error| ContainerError::Image(error.to_string()))?;
        let held = self.hold(&image.root);
        Ok((image, held))
    }

    /// Keeps an image or a program from being removed.
    fn hold(&self, contents: &Path) -> Arc<HeldContents> {
        let held = Arc::new(HeldContents(contents.to_owned()));
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(&held));
        held
    }

    /// Whether a container of this specification runs, whoever started it.
    #[must_use]
    pub fn runs(&self, spec: &ContainerSpec) -> bool {
        self.running(&spec.id(self.host.folder(), self.abilities().has_user_namespaces())).is_some()
    }

    /// Has an executable file where a container can be made of it, unless that was done before; where. It stays at least for as long
    /// as what comes with it.
    ///
    /// # Errors
    /// When it is none that this machine runs, or the disk fails.
    pub async fn place(&self, artifact: PathBuf, digest: &str) -> Result<(PathBuf, Arc<HeldContents>), ContainerError> {
        let _stays = self.contents.read().await;
        let (programs, digest) = (Arc::clone(&self.programs), digest.to_owned());
        let placed = tokio::task::spawn_blocking(move || programs.place(&artifact, &digest)).await;
        let file = placed.unwrap_or_else(|error| Err(error.to_string())).map_err(ContainerError::Program)?;
        let held = self.hold(&file);
        Ok((file, held))
    }

    /// A container of this specification: the one that runs, also one that another process has started, or else a new one. It is ready
    /// when this returns.
    ///
    /// # Errors
    /// When it cannot be made or is not ready in time; nothing is left of it then.
    pub async fn start(
        &self,
        spec: ContainerSpec,
        logs: Arc<dyn LogSink>,
        log_lines_per_second: u32,
        usage: Arc<Usage>,
    ) -> Result<Arc<Container>, ContainerError> {
        let id = spec.id(self.host.folder(), self.abilities().has_user_namespaces());
        let weigh = Request::Weigh { id: id.clone(), shares: spec.cpu_shares };
        let container = loop {
            let alone = self.alone(&id).await;
            let known = self.known().get(&id).and_then(Weak::upgrade).filter(|known| known.ended().is_none());
            match known {
                // Whoever told it to end leaves alone what is made in its place.
                Some(leaving) if leaving.is_leaving.load(Ordering::Relaxed) => {
                    drop(alone);
                    leaving.until_ended().await;
                    continue;
                }
                Some(known) => {
                    // Whoever began with it may still wait for it.
                    drop(alone);
                    self.weigh(weigh).await;
                    known.until_ready().await?;
                    return Ok(known);
                }
                None => {}
            }
            let _stays = self.contents.read().await;
            let (record, adopted) = match self.running(&id) {
                Some(record) => (record, true),
                None => {
                    self.remove(&id).await?;
                    (self.make(&spec).await?, false)
                }
            };
            let output = |stream| GuestOutput::alone(Arc::clone(&logs), stream, log_lines_per_second);
            let outputs = [output(LogStream::Stdout), output(LogStream::Stderr)];
            let before = self.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let metered = Metered::new(Cgroup::new(&id), usage, adopted.then_some(before), &record);
            let container =
                Arc::new(Container::new(self.host.folder(), id.clone(), spec, record, adopted, outputs, metered)?);
            let mut known = self.known();
            known.retain(|_, container| container.strong_count() > 0);
            known.insert(id.clone(), Arc::downgrade(&container));
            break container;
        };
        self.weigh(weigh).await;
        let ready = async {
            if container.adopted {
                container.pause(false).await?;
            }
            container.until_ready().await
        };
        match ready.await {
            Ok(()) => Ok(container),
            Err(error) => {
                self.stop(&container).await;
                Err(error)
            }
        }
    }

    /// The containers that run under a name of their specification, `tenant/app/function`, and are not being ended.
    #[must_use]
    pub fn of(&self, name: &str) -> Vec<Arc<Container>> {
        let known: Vec<Arc<Container>> = self.known().values().filter_map(Weak::upgrade).collect();
        let runs = |known: &Container| !known.is_leaving.load(Ordering::Relaxed) && known.ended().is_none();
        known.into_iter().filter(|known| known.spec.name == name && runs(known)).collect()
    }

    /// Notes how far the use of all containers that run was counted, for whoever takes them up later: it counts on from there. To be called
    /// when what was counted is kept.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn note_counted(&self) -> io::Result<()> {
        let known: Vec<Arc<Container>> = self.known().values().filter_map(Weak::upgrade).collect();
        let running = known.iter().filter(|container| container.ended().is_none());
        // Those that are not taken up yet are noted as they were.
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        counted.extend(running.filter_map(|container| Some((container.id.clone(), container.counted()?))));
        counted::write(self.host.folder(), counted)
    }

    /// Whether this process knows any container at all.
    #[must_use]
    pub fn any(&self) -> bool {
        self.known().values().any(|known| known.strong_count() > 0)
    }

    /// Ends a container, first by asking it to, and removes all of it.
    pub async fn stop(&self, container: &Container) {
        container.is_leaving.store(true, Ordering::Relaxed);
        if container.ended().is_none() {
            // What is held still cannot end.
            let _ = container.pause(false).await;
            for (kill, within) in [(false, container.spec.stop_within), (true, KILL_MAX)] {
                let signal = Request::Signal { id: container.id.clone(), kill };
                if let Err(reason) = ask(self.host.folder(), signal).await {
                    tracing::debug!(container = %container.id, reason, "a signal was not sent; it may have ended");
                }
                if tokio::time::timeout(within, container.until_ended()).await.is_ok() {
                    break;
                }
            }
        }
        let _alone = self.alone(&container.id).await;
        let known = self.known().get(&container.id).and_then(Weak::upgrade);
        if known.is_some_and(|known| !std::ptr::eq(Arc::as_ptr(&known), container)) {
            return;
        }
        self.known().remove(&container.id);
        if let Err(error) = self.remove(&container.id).await {
            tracing::warn!(%error, container = %container.id, "a container was not removed");
        }
    }

    /// Ends all of them, also those that this process does not know, and removes them.
    pub async fn stop_all(&self) {
        let known: Vec<Arc<Container>> = self.known().values().filter_map(Weak::upgrade).collect();
        futures::future::join_all(known.iter().map(|container| self.stop(container))).await;
        self.remove_unknown().await;
    }

    /// Removes every container that this process does not know: what an earlier one has left and nobody asks for. Answers their names.
    pub async fn remove_unknown(&self) -> Vec<String> {
        let mut left: Vec<String> = Vec::new();
        for part in ["run", "runtime"] {
            let entries = fs::read_dir(self.host.folder().join(part)).into_iter().flatten().flatten();
            left.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        left.sort();
        left.dedup();
        let mut removed = Vec::new();
        for id in left {
            // What is being made is known afterwards.
            let _alone = self.alone(&id).await;
            if self.known().get(&id).is_some_and(|known| known.strong_count() > 0) {
                continue;
            }
            self.counted.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            match self.remove(&id).await {
                Ok(()) => removed.push(id),
                Err(error) => tracing::warn!(%error, container = %id, "a container was not removed"),
            }
        }
        removed
    }

    /// Removes the images and programs that no container runs from, and that are not held; not while one is unpacked or started.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub async fn sweep_contents(&self) -> Result<(), ContainerError> {
        let Ok(_alone) = self.contents.try_write() else { return Ok(()) };
        let mut needed: Vec<PathBuf> = self
            .known()
            .values()
            .filter_map(Weak::upgrade)
            .map(|container| container.spec.contents.path().to_owned())
            .collect();
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        needed.extend(held.iter().filter_map(Weak::upgrade).map(|held| held.0.clone()));
        let (images, programs) = (Arc::clone(&self.images), Arc::clone(&self.programs));
        let swept = tokio::task::spawn_blocking(move || {
            let is_needed = |path: &Path| needed.iter().any(|needed| needed == path);
            programs.sweep(is_needed).map_err(|error| error.to_string())?;
            images.sweep(is_needed).map_err(|error| error.to_string())
        });
        swept.await.unwrap_or_else(|error| Err(error.to_string())).map_err(ContainerError::Remove)
    }

    /// Waits until nobody makes or removes the container of a name; nobody does then while this is held.
    async fn alone(&self, id: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|_, lock| lock.strong_count() > 0);
            let held = all.get(id).and_then(Weak::upgrade);
            held.unwrap_or_else(|| {
                let lock = Arc::default();
                all.insert(id.to_owned(), Arc::downgrade(&lock));
                lock
            })
        };
        lock.lock_owned().await
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Weak<Container>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What runs under a name, whoever started it.
    fn running(&self, id: &str) -> Option<Record> {
        let folder = run_folder(self.host.folder(), id);
        let record = read_record(&folder)?;
        let runs =
            record.version == VERSION && record.shim.is_alive() && record.container.is_some_and(|it| it.is_alive());
        let ended = fs::metadata(folder.join(ENDED)).map_or(true, |ended| ended.len() > 0);
        (runs && !ended).then_some(record)
    }

    async fn make(&self, spec: &ContainerSpec) -> Result<Record, ContainerError> {
        let made =
            ask(self.host.folder(), Request::Make(Box::new(spec.clone()))).await.map_err(ContainerError::Start)?;
        made.ok_or_else(|| ContainerError::Start("its host says nothing of it".to_owned()))
    }

    /// Without its share a container runs as well.
    async fn weigh(&self, weigh: Request) {
        if let Err(reason) = ask(self.host.folder(), weigh).await {
            tracing::warn!(reason, "a container has not the share of the processors that it was to have");
        }
    }

    async fn remove(&self, id: &str) -> Result<(), ContainerError> {
        ask(self.host.folder(), Request::Remove(id.to_owned())).await.map(drop).map_err(ContainerError::Remove)
    }
}

/// Asks the host of a folder.
async fn ask(folder: &Path, request: Request) -> Result<Option<Record>, String> {
    let folder = folder.to_owned();
    let asked = tokio::task::spawn_blocking(move || HostProcess::ask(&folder, &request)).await;
    asked.unwrap_or_else(|error| Err(error.to_string()))
}

fn run_folder(containers: &Path, id: &str) -> PathBuf {
    containers.join("run").join(id)
}

impl Container {
    fn new(
        containers: &Path,
        id: String,
        spec: ContainerSpec,
        record: Record,
        adopted: bool,
        outputs: [GuestOutput; 2],
        metered: Metered,
    ) -> Result<Self, ContainerError> {
        let folder = run_folder(containers, &id);
        let link = Link::new(&folder).map_err(disk(&folder))?;
        let follower = Link::new(&folder).map_err(disk(&folder))?;
        let (ending, ended) = watch::channel(None);
        let (cgroup, counted_ns) = (Cgroup::new(&id), Arc::clone(&metered.counted_ns));
        let note = folder.join(ENDED);
        let [_, errors] = &outputs;
        let way_out = Egress::new(spec.http.clone(), errors.clone());
        let following = tokio::spawn(async move {
            let how = tokio::select! {
                how = follow(&follower, outputs, metered, &note) => how,
                never = way_out.serve(&follower) => match never {},
            };
            // Nobody may care for it any more.
            let _ = ending.send(Some(how));
        });
        let folder = containers.to_owned();
        let (still, following) = (Mutex::default(), following.abort_handle());
        let (is_leaving, was_ready) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self {
            id,
            folder,
            spec,
            record,
            link,
            cgroup,
            counted_ns,
            ended,
            adopted,
            still,
            is_leaving,
            was_ready,
            following,
        })
    }

    /// Its name for the runtime, and that of its control group.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its first process, as this machine numbers it.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.record.container.map_or(0, |container| container.pid)
    }

    /// The process beside it.
    #[must_use]
    pub fn shim_pid(&self) -> i32 {
        self.record.shim.pid
    }

    /// Whether another process had started it.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// How it has ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Waits until it ends; how.
    pub async fn until_ended(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await.ok().and_then(|how| how.clone());
        how.unwrap_or_else(|| "nobody follows it any more".to_owned())
    }

    /// A connection to its port.
    ///
    /// # Errors
    /// When it does not listen, or has ended.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        self.link.connect().await
    }

    /// Holds its processes still, or lets them go on.
    ///
    /// # Errors
    /// When the kernel does not.
    pub async fn pause(&self, pause: bool) -> Result<(), ContainerError> {
        let request = Request::Freeze { id: self.id.clone(), freeze: pause };
        let before = pause && self.note_still(true);
        let outcome = ask(&self.folder, request).await.map(drop).map_err(ContainerError::Freeze);
        // It counts from before it is held until after it goes on. What could not be held runs.
        if !pause || (outcome.is_err() && !before) {
            self.note_still(false);
        }
        outcome
    }

    /// Notes that it is held from now on or goes on; whether it was held.
    fn note_still(&self, is_still: bool) -> bool {
        let mut still = self.still.lock().unwrap_or_else(PoisonError::into_inner);
        let before = still.since;
        match (before, is_still) {
            (None, true) => still.since = Some(Instant::now()),
            (Some(since), false) => *still = Still { since: None, before: still.before + since.elapsed() },
            _ => {}
        }
        before.is_some()
    }

    /// Whether it is held still.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.still.lock().unwrap_or_else(PoisonError::into_inner).since.is_some()
    }

    /// For how long it was held still in all, until now.
    pub(super) fn still(&self) -> Duration {
        let still = *self.still.lock().unwrap_or_else(PoisonError::into_inner);
        still.before + still.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// What it has used since it was started.
    ///
    /// # Errors
    /// When it has ended.
    pub fn used(&self) -> io::Result<Used> {
        self.cgroup.used()
    }

    /// How far its use was counted.
    fn counted(&self) -> Option<Counted> {
        let process = self.record.container?;
        Some(Counted { process, cpu_ns: self.counted_ns.load(Ordering::Relaxed), at: SinceBoot::now() })
    }

    async fn until_ready(&self) -> Result<(), ContainerError> {
        if self.was_ready.load(Ordering::Relaxed) {
            return Ok(());
        }
        let within = self.spec.ready_within;
        let until = Instant::now() + within;
        let mut wait = HEALTH_POLL_MIN;
        loop {
            let reason = tokio::select! {
                how = self.until_ended() => return Err(ContainerError::Start(format!("{how} before it was ready; see its log"))),
                healthy = is_healthy(self, &self.spec.health_path, HEALTH_MAX.min(within)) => match healthy {
                    Ok(()) => {
                        self.was_ready.store(true, Ordering::Relaxed);
                        return Ok(());
                    }
                    Err(reason) => reason,
                },
            };
            if Instant::now() >= until {
                return Err(ContainerError::Health { within, reason });
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(HEALTH_POLL_MAX);
        }
    }
}

/// Takes what a container writes and uses until it ends; how it did.
async fn follow(link: &Link, outputs: [GuestOutput; 2], mut metered: Metered, note: &Path) -> String {
    let mut ticks = tokio::time::interval(METERING);
    let [output, errors] = &outputs;
    let ended = match link.follow().await {
        Err(error) => Err(error),
        Ok(followed) => {
            let mut listening = std::pin::pin!(listen(followed, output, errors));
            loop {
                tokio::select! {
                    ended = &mut listening => break ended,
                    _ = ticks.tick() => metered.measure(),
                }
            }
        }
    };
    // What it used since the last look counts, too: its control group is there until it is removed.
    metered.measure();
    outputs.iter().for_each(GuestOutput::flush);
    ended.unwrap_or_else(|error| match fs::read_to_string(note) {
        Ok(how) if !how.is_empty() => how,
        _ => format!("its shim does not answer any more: {error}"),
    })
}

async fn listen(mut followed: Followed, output: &GuestOutput, errors: &GuestOutput) -> io::Result<String> {
    loop {
        match followed.next().await? {
            Said::Output(bytes) => output.take(&bytes),
            Said::Errors(bytes) => errors.take(&bytes),
            Said::Ended(how) => return Ok(how),
        }
    }
}

/// What a container uses from now on, counted as its function's.
struct Metered {
    cgroup: Cgroup,
    usage: Arc<Usage>,
    last: Used,
    counted_ns: Arc<AtomicU64>,
    measured: Instant,
}

impl Metered {
    /// Of one that was taken up what was counted of it is given, if that is known. What it has used since counts now: the memory that it
    /// has now, all that time. Where nothing is known, it counts from now on.
    fn new(cgroup: Cgroup, usage: Arc<Usage>, adopted: Option<Option<Counted>>, record: &Record) -> Self {
        let used = || cgroup.used().unwrap_or_default();
        let last = match adopted {
            None => Used::default(),
            Some(before) => match before.filter(|before| record.container == Some(before.process)) {
                None => used(),
                Some(before) => {
                    let memory_bytes = used().memory_bytes;
                    usage.used(Duration::ZERO, memory_bytes, before.at.elapsed());
                    Used { cpu: Duration::from_nanos(before.cpu_ns), memory_bytes }
                }
            },
        };
        let counted_ns = Arc::new(AtomicU64::new(nanos(last.cpu)));
        Self { cgroup, usage, last, counted_ns, measured: Instant::now() }
    }

    fn measure(&mut self) {
        let (Ok(used), now) = (self.cgroup.used(), Instant::now()) else { return };
        let held = now.duration_since(self.measured);
        self.usage.used(used.cpu.saturating_sub(self.last.cpu), used.memory_bytes, held);
        self.counted_ns.store(nanos(used.cpu), Ordering::Relaxed);
        (self.last, self.measured) = (used, now);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn disk(path: &Path) -> impl Fn(io::Error) -> ContainerError {
    move |error| ContainerError::Disk { path: path.display().to_string(), error }
}
