//! The container of a program: its first process, which confines itself, starts the program and sees to its end.
//!
//! The first process is a copy of the shim (`fork`), so that nothing else has to be loaded, and the first of its own namespace of process
//! numbers: when it ends, whatever the program has started ends with it. It takes up processes that their parents have left, passes on
//! the signal to end, and ends as the program does.
//!
//! What is `unsafe` here: `fork`, which copies one thread only; a shim has one. `close_range` closes descriptors that values of the shim
//! still name; the copy never returns to where they are used. `dup2` replaces what nobody holds as a value. Sets of signals are made by
//! the calls that fill them.
#![allow(unsafe_code)]

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use serde::{Deserialize, Serialize};

use super::root::{self, APP};
use super::{COMPLAINT_BYTES_MAX, ShimError, cannot, confine, namespaces};
use crate::container::cgroup::{Cgroup, Most};
use crate::container::program::Program;

/// What a process that a signal has ended exits with, less the signal's number, as shells have it.
pub(super) const ENDED_BY_SIGNAL: i32 = 128;
/// Where a program begins: the one folder that it may write to.
const HOME: &str = "/tmp";

/// How a program is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// What.
    pub(crate) program: Program,
    /// `NAME=value`.
    pub(crate) environment: Vec<String>,
    /// What it may use.
    pub(crate) most: Most,
    /// The user of this machine that it runs as.
    pub(crate) user: u32,
}

impl Launch {
    /// Starts the first process; what the program writes, and what that process says of the program's start.
    pub(super) fn start(&self, id: &str) -> Result<(Pid, [PipeReader; 2], PipeReader), ShimError> {
        let cgroup = Cgroup::new(id);
        cgroup.make(self.most).map_err(cannot("make its control group"))?;
        let pipe = || io::pipe().map_err(cannot("make a pipe"));
        let ((output, output_end), (errors, errors_end), (words, words_end)) = (pipe()?, pipe()?, pipe()?);
        // SAFETY: this process has one thread, so that the copy has whatever the original has.
        match unsafe { libc::fork() } {
            -1 => Err(cannot("start a process")(io::Error::last_os_error())),
            0 => self.be_first(&cgroup, [&output_end, &errors_end], words_end),
            pid => {
                let pid = Pid::from_raw(pid).ok_or_else(|| cannot("start a process")(io::Error::last_os_error()))?;
                Ok((pid, [output, errors], words))
            }
        }
    }

    /// Is the first process.
    #[allow(clippy::disallowed_methods, reason = "what the shim would clean up is not this process's")]
    fn be_first(&self, cgroup: &Cgroup, outputs: [&PipeWriter; 2], mut words: PipeWriter) -> ! {
        let started = keep_only(outputs, &words).map_err(cannot("leave the shim's descriptors"));
        match started.and_then(|()| self.confined(cgroup)) {
            Ok(program) => {
                // Its end says that the program runs.
                drop(words);
                attend(program)
            }
            Err(error) => {
                let _ = words.write_all(error.to_string().as_bytes());
                std::process::exit(1)
            }
        }
    }

    /// Confines this process, and starts the program.
    fn confined(&self, cgroup: &Cgroup) -> Result<Pid, ShimError> {
        cgroup.enter().map_err(cannot("enter its control group"))?;
        namespaces::own_view()?;
        root::make(Path::new("root"), &self.program, self.most.memory_bytes)?;
        confine::limit()?;
        confine::restrict_files()?;
        namespaces::become_user(self.user)?;
        confine::restrict_calls()?;
        // A first process would otherwise not get them; what it starts does.
        mask(libc::SIG_BLOCK).map_err(cannot("wait for signals"))?;
        let mut command = Command::new(Path::new(APP).join(&self.program.name));
        command.args(&self.program.arguments).env_clear().env("HOME", HOME).current_dir(HOME).stdin(Stdio::null());
        command.envs(self.environment.iter().filter_map(|variable| variable.split_once('=')));
        // SAFETY: the closure makes one system call between `fork` and `exec`.
        unsafe { command.pre_exec(|| mask(libc::SIG_UNBLOCK)) };
        let started = command.spawn();
        let started =
            started.map_err(|error| ShimError::Program(format!("{} cannot be started: {error}", self.program.name)))?;
        i32::try_from(started.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| ShimError::Program("it has ended".to_owned()))
    }
}

/// Waits for the program to be started.
pub(super) fn until_started(words: PipeReader) -> Result<(), ShimError> {
    let mut complaint = String::new();
    words.take(COMPLAINT_BYTES_MAX).read_to_string(&mut complaint).map_err(cannot("hear of the program's start"))?;
    if complaint.is_empty() { Ok(()) } else { Err(ShimError::Program(complaint)) }
}

/// Makes the outputs its own and closes what else the shim has open, but for the pipe for words.
fn keep_only([output, errors]: [&PipeWriter; 2], words: &PipeWriter) -> io::Result<()> {
    for (pipe, place) in [(output, libc::STDOUT_FILENO), (errors, libc::STDERR_FILENO)] {
        // SAFETY: standard output and error are nobody's value that would close them.
        if unsafe { libc::dup2(pipe.as_raw_fd(), place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let kept = words.as_raw_fd();
    for (from, to) in [(libc::STDERR_FILENO + 1, kept - 1), (kept + 1, i32::MAX)] {
        // SAFETY: values that name these descriptors are of the shim's, and not used any more in this copy, which never returns.
        if from <= to && unsafe { libc::syscall(libc::SYS_close_range, from, to, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn awaited() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: the first call fills the set, which the others add to.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        set.assume_init()
    }
}

/// Has those signals wait until they are asked for, or come as usual.
fn mask(how: libc::c_int) -> io::Result<()> {
    // SAFETY: the set lives until it returns, and the set so far is not asked for.
    let status = unsafe { libc::sigprocmask(how, &awaited(), std::ptr::null_mut()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Passes on the signal to end, and ends as the program does.
#[allow(clippy::disallowed_methods, reason = "what the shim would clean up is not this process's")]
fn attend(program: Pid) -> ! {
    let (awaited, mut signal) = (awaited(), 0);
    loop {
        // SAFETY: both live until it returns.
        let waited = unsafe { libc::sigwait(&awaited, &mut signal) };
        if waited == 0 && signal == libc::SIGTERM {
            // It may just have ended.
            let _ = rustix::process::kill_process(program, Signal::TERM);
        }
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == program {
                std::process::exit(code(status));
            }
        }
    }
}

fn code(status: WaitStatus) -> i32 {
    status.exit_status().or_else(|| Some(ENDED_BY_SIGNAL + status.terminating_signal()?)).unwrap_or(1)
}
