//! What a container is to be, and its configuration in the form of the OCI runtime specification.

use std::path::Path;
use std::time::Duration;

use littoral_runtime_wasm::Peer;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cgroup::{CPU_PERIOD_US, Most};
use super::image::Image;
use super::image::layout::hex;
use super::image::root::Owners;
use super::program::Program;
use super::seccomp;

/// Where a container serves, unless it is told otherwise.
pub const PORT_DEFAULT: u16 = 8_080;
/// Where a container that is granted a way out finds its proxy, on its own loopback: the port that Squid has made usual.
pub(super) const PROXY_PORT: u16 = 3_128;
/// The variables that tell programs of it. Some look at those in capitals only (Go reads both), some at the others only (curl, for http).
const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// What is not asked for through it: the container itself.
const NO_PROXY_VARIABLES: [&str; 2] = ["NO_PROXY", "no_proxy"];
const NO_PROXY: &str = "localhost,127.0.0.1,::1";
/// How many processes and threads a container may have, unless it is told otherwise.
pub const PIDS_DEFAULT: u32 = 512;
/// The share of the processors that a process or a control group has of which nothing is said.
pub const CPU_SHARES_DEFAULT: u32 = 1_024;
/// How many files each of its processes may have open.
pub(super) const FILES_MAX: u64 = 65_536;
/// The users of this machine that users of containers are, where there are user namespaces. Images are unpacked for them, once for all
/// containers: what tells two containers apart is every other namespace.
pub(crate) const OWNERS: Owners = Owners { first: 1_879_048_192, count: 65_536 };
/// The users of this machine that programs run as, which are nobody else's: each container of one has its own, unless the last digits of
/// two names are the same by chance.
const PROGRAM_USERS: Owners = Owners { first: OWNERS.first + OWNERS.count, count: 65_536 };
/// Where programs are found that do not say where.
pub(super) const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the names of our containers and of their control groups begin with.
const ID_PREFIX: &str = "littoral-";
/// How many hexadecimal digits follow.
const ID_DIGITS: usize = 24;
/// How much of an image's `/etc/passwd` and `/etc/group` is read, at most.
const USERS_BYTES_MAX: u64 = 1 << 20;

/// What a container is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// An image.
    Image(Image),
    /// A program of its own, beside what the machine has in `/usr`.
    Program(Program),
}

impl Contents {
    /// Where that is on this machine.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Image(image) => &image.root,
            Self::Program(program) => &program.file,
        }
    }
}

impl From<Image> for Contents {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

impl From<Program> for Contents {
    fn from(program: Program) -> Self {
        Self::Program(program)
    }
}

/// What a container is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name in messages, `tenant/app/function`.
    pub name: String,
    /// What it is made of.
    pub contents: Contents,
    /// Environment variables besides those of an image; they take precedence.
    pub environment: Vec<(String, String)>,
    /// Where it serves HTTP within its own network; it is told by the variable `PORT`.
    pub port: u16,
    /// How much memory it may have, bytes, its files in memory included.
    pub memory_bytes: u64,
    /// How much processor time it may have, thousandths of a processor; all there is if none.
    pub cpu_millis: Option<u32>,
    /// How many processes and threads it may have.
    pub pids: u32,
    /// Its share of the processors beside others that want them, against [`CPU_SHARES_DEFAULT`] of each of those. It is set anew whenever the
    /// container is asked for, and makes no other container of it.
    pub cpu_shares: u32,
    /// Where it may send HTTP requests and what it may have tunnels to, through a proxy on its loopback; without any it finds none.
    pub http: Vec<Peer>,
    /// What it answers with a status below 500 when it is ready.
    pub health_path: String,
    /// How long it may take until it is ready.
    pub ready_within: Duration,
    /// How long it may take to end after it is told to.
    pub stop_within: Duration,
    /// Which one it is of several that are alike, from 0.
    pub ordinal: u32,
    /// The digest of what else its function is, if it is more: beside another one it is another container.
    pub beside: Option<String>,
}

impl ContainerSpec {
    /// A container of an image or a program, with what holds where nothing else is said.
    #[must_use]
    pub fn new(name: impl Into<String>, contents: impl Into<Contents>) -> Self {
        Self {
            name: name.into(),
            contents: contents.into(),
            environment: Vec::new(),
            port: PORT_DEFAULT,
            memory_bytes: 128 << 20,
            cpu_millis: None,
            pids: PIDS_DEFAULT,
            cpu_shares: CPU_SHARES_DEFAULT,
            http: Vec::new(),
            health_path: "/".to_owned(),
            ready_within: Duration::from_secs(30),
            stop_within: Duration::from_secs(5),
            ordinal: 0,
            beside: None,
        }
    }

    /// A name for the container of this specification among those of one folder: two that differ have different names, and whoever
    /// finds a container by its name has found the one that was asked for.
    pub(crate) fn id(&self, folder: &Path, has_user_namespace: bool) -> String {
        // The same text for the same container in every version of this program, keys in this order, or it would not be found again.
        let mut told = match &self.contents {
            Contents::Image(image) => json!({
                "version": 1, "folder": folder, "name": self.name, "image": image.root, "environment": self.environment,
                "port": self.port, "memory": self.memory_bytes, "cpu": self.cpu_millis, "pids": self.pids, "users": has_user_namespace,
            }),
            Contents::Program(program) => json!({
                "version": 1, "folder": folder, "name": self.name, "program": program, "environment": self.environment,
                "port": self.port, "memory": self.memory_bytes, "cpu": self.cpu_millis, "pids": self.pids,
            }),
        };
        // The first has the name that it had when there was one only: it is taken up by a later version, too.
        if let (1.., Value::Object(told)) = (self.ordinal, &mut told) {
            told.insert("ordinal".to_owned(), self.ordinal.into());
        }
        // So had those before there was a way out.
        if let (false, Value::Object(told)) = (self.http.is_empty(), &mut told) {
            told.insert("http".to_owned(), json!(self.http));
        }
        if let (Some(beside), Value::Object(told)) = (&self.beside, &mut told) {
            told.insert("beside".to_owned(), json!(beside));
        }
        let hash = hex(digest(&SHA256, told.to_string().as_bytes()).as_ref());
        format!("{ID_PREFIX}{}", hash.get(..ID_DIGITS).unwrap_or(&hash))
    }

    /// Where it finds its proxy, if it is granted a way out.
    pub(super) fn proxy_port(&self) -> Option<u16> {
        (!self.http.is_empty()).then_some(PROXY_PORT)
    }

    /// What its control group may use.
    pub(super) fn most(&self) -> Most {
        Most { memory_bytes: self.memory_bytes, cpu_millis: self.cpu_millis, pids: self.pids }
    }

    /// The configuration of a container of this image, for a runtime.
    ///
    /// # Errors
    /// What is missing from the image or wrong in it.
    pub(crate) fn config(&self, image: &Image, cgroup: &str, has_user_namespace: bool) -> Result<Value, String> {
        let mut linux = json!({
            "cgroupsPath": cgroup,
            "resources": self.resources(),
            "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }],
            "seccomp": seccomp::profile(),
            "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
                "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        });
        if has_user_namespace && let Value::Object(linux) = &mut linux {
            let mapping = json!([{ "containerID": 0, "hostID": OWNERS.first, "size": OWNERS.count }]);
            linux.insert("uidMappings".to_owned(), mapping.clone());
            linux.insert("gidMappings".to_owned(), mapping);
            if let Some(Value::Array(namespaces)) = linux.get_mut("namespaces") {
                namespaces.push(json!({ "type": "user" }));
            }
        }
        Ok(json!({
            "ociVersion": "1.0.2",
            "root": { "path": image.root, "readonly": true },
            "hostname": "function",
            "process": self.process(image)?,
            "mounts": self.mounts(),
            "linux": linux,
        }))
    }

    fn process(&self, image: &Image) -> Result<Value, String> {
        let execution = &image.config.config;
        let arguments: Vec<&String> = execution.entrypoint.iter().chain(&execution.cmd).collect();
        if arguments.is_empty() {
            return Err("the image does not say what to run; build it with ENTRYPOINT or CMD".to_owned());
        }
        let (uid, gid) = user(&execution.user, &image.root)?;
        let directory = if execution.working_dir.is_empty() { "/" } else { &execution.working_dir };
        let none: [&str; 0] = [];
        // With users of its own it cannot have more than whoever starts it.
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let files = most.map_or(FILES_MAX, |most| most.min(FILES_MAX));
        Ok(json!({
            "terminal": false,
            "user": { "uid": uid, "gid": gid },
            "args": arguments,
            "env": self.variables(&execution.env),
            "cwd": directory,
            "noNewPrivileges": true,
            "capabilities": { "bounding": none, "effective": none, "permitted": none, "inheritable": none, "ambient": none },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": files, "hard": files }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
        }))
    }

    /// `NAME=value`, those of an image first; later ones replace them.
    pub(super) fn variables(&self, of_image: &[String]) -> Vec<String> {
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let own = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let mut own: Vec<String> = own.chain([format!("PORT={}", self.port)]).collect();
        // What is configured is meant so, that of a proxy, too.
        let proxy: Vec<String> =
            self.proxy_variables().into_iter().filter(|it| own.iter().all(|own| name(own) != name(it))).collect();
        own.extend(proxy);
        let is_replaced = |variable: &&String| own.iter().any(|own| name(own) == name(variable));
        let mut variables: Vec<String> = of_image.iter().filter(|it| !is_replaced(it)).cloned().collect();
        if !variables.iter().chain(&own).any(|variable| name(variable) == "PATH") {
            variables.push(format!("PATH={PATH_DEFAULT}"));
        }
        variables.extend(own);
        variables
    }

    fn proxy_variables(&self) -> Vec<String> {
        let Some(port) = self.proxy_port() else { return Vec::new() };
        let proxy = PROXY_VARIABLES.map(|name| format!("{name}=http://127.0.0.1:{port}"));
        proxy.into_iter().chain(NO_PROXY_VARIABLES.map(|name| format!("{name}={NO_PROXY}"))).collect()
    }

    fn resources(&self) -> Value {
        let mut resources = json!({
            // No more with swap than without.
            "memory": { "limit": self.memory_bytes, "swap": self.memory_bytes },
            "pids": { "limit": self.pids },
            "devices": [{ "allow": false, "access": "rwm" }],
        });
        if let (Some(millis), Value::Object(resources)) = (self.cpu_millis, &mut resources) {
            let quota = u64::from(millis) * CPU_PERIOD_US / 1_000;
            resources.insert("cpu".to_owned(), json!({ "quota": quota, "period": CPU_PERIOD_US }));
        }
        resources
    }

    /// What can be written is in memory, counts as the container's, and is gone with it.
    fn mounts(&self) -> Value {
        let volatile = |destination: &str, mode: &str, executable: &str| {
            let size = format!("size={}", self.memory_bytes / 2);
            json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", executable, mode, size] })
        };
        json!([
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noexec", "mode=755", "size=65536"] },
            volatile("/dev/shm", "mode=1777", "noexec"),
            volatile("/tmp", "mode=1777", "exec"),
        ])
    }
}

/// The user that the program of a container runs as.
pub(super) fn program_user(id: &str) -> u32 {
    let last = id.get(id.len().saturating_sub(4)..).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    PROGRAM_USERS.first + last.unwrap_or(0) % PROGRAM_USERS.count
}

/// Whether it is the name of a container of ours.
pub(crate) fn is_id(id: &str) -> bool {
    let digits = id.strip_prefix(ID_PREFIX);
    digits.is_some_and(|digits| {
        digits.len() == ID_DIGITS && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The numbers of `user`, `user:group`, or numbers already.
fn user(named: &str, root: &Path) -> Result<(u32, u32), String> {
    let (user, group) = named.split_once(':').map_or((named, None), |(user, group)| (user, Some(group)));
    let entry = |file: &str, name: &str| -> Option<(u32, Option<u32>)> {
        let text = read_inside(root, file)?;
        let line =
            text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line.first() == Some(&name))?;
        Some((line.get(2)?.parse().ok()?, line.get(3).and_then(|group| group.parse().ok())))
    };
    let missing =
        |what: &str, name: &str| format!("the image is to run as the {what} `{name}`, which it does not have");
    let (uid, own_group) = match (user, user.parse()) {
        ("", _) => (0, None),
        (_, Ok(uid)) => (uid, None),
        (name, _) => entry("etc/passwd", name).ok_or_else(|| missing("user", name))?,
    };
    let gid = match group.map(|group| (group, group.parse())) {
        None => own_group.unwrap_or(0),
        Some((_, Ok(gid))) => gid,
        Some((name, _)) => entry("etc/group", name).ok_or_else(|| missing("group", name))?.0,
    };
    if uid >= OWNERS.count || gid >= OWNERS.count {
        return Err(format!("the image is to run as {uid}:{gid}; use ids below {}", OWNERS.count));
    }
    Ok((uid, gid))
}

/// A file of an image, which may be a link that leads anywhere.
fn read_inside(root: &Path, path: &str) -> Option<String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::io::Read as _;
    let folder = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::openat2(&folder, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS)
            .ok()?;
    let mut text = String::new();
    std::fs::File::from(file).take(USERS_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}
