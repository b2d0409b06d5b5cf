//! The container of an image: what is asked of the runtime that makes it.

use std::io::{PipeReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::Mode;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use super::{COMPLAINT_BYTES_MAX, ShimError, cannot, passage};

/// Which process the container is, as the runtime says it.
const PID_FILE: &str = "pid";

/// How the container of an image is made; its configuration is a file of the container's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bundle {
    /// The program that makes containers.
    pub(crate) runtime: PathBuf,
    /// Where that keeps its state.
    pub(crate) runtime_root: PathBuf,
    /// The folder that holds everything of containers, which root in a container must be able to pass.
    pub(crate) containers: PathBuf,
    /// Whether the container has a user namespace of its own.
    pub(crate) has_user_namespace: bool,
}

impl Bundle {
    /// Lets root of a user namespace pass to the container's folder.
    pub(super) fn open_way(&self, folder: &Path) -> Result<(), ShimError> {
        if !self.has_user_namespace {
            return Ok(());
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        passage::open(&self.containers)?;
        // The same folder, by the new way.
        std::env::set_current_dir(folder).map_err(cannot("enter the container's folder"))
    }

    /// Has the container made; its first process waits to be let go.
    pub(super) fn create(&self, id: &str) -> Result<(Pid, [PipeReader; 2]), ShimError> {
        let pipe = || std::io::pipe().map_err(cannot("make a pipe"));
        let ((output, output_end), (mut errors, errors_end)) = (pipe()?, pipe()?);
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.runtime_root).args(["create", "--pid-file", PID_FILE, "--bundle", ".", id]);
        let made = command.stdin(Stdio::null()).stdout(output_end).stderr(errors_end).status();
        // The ends that it held would keep the pipes open.
        drop(command);
        let status = made.map_err(cannot("start the container runtime"))?;
        if !status.success() {
            let mut complaint = String::new();
            let _ = Read::by_ref(&mut errors).take(COMPLAINT_BYTES_MAX).read_to_string(&mut complaint);
            return Err(self.refused("create", &complaint));
        }
        let pid = std::fs::read_to_string(PID_FILE).map_err(cannot("read which process the container is"))?;
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.refused("create", "it does not say which process the container is"))?;
        Ok((pid, [output, errors]))
    }

    /// Lets the container go.
    pub(super) fn begin(&self, id: &str) -> Result<(), ShimError> {
        let mut command = Command::new(&self.runtime);
        command.arg("--root").arg(&self.runtime_root).args(["start", id]).stdin(Stdio::null());
        let done = command.output().map_err(cannot("start the container runtime"))?;
        if done.status.success() { Ok(()) } else { Err(self.refused("start", &String::from_utf8_lossy(&done.stderr))) }
    }

    fn refused(&self, command: &'static str, complaint: &str) -> ShimError {
        // It logs in the form of logfmt; what it says is the last line's message.
        let last = complaint.trim().lines().next_back().unwrap_or_default();
        let message = last.split_once("msg=\"").map_or(last, |(_, message)| message.trim_end_matches('"'));
        let runtime = self.runtime.file_name().unwrap_or_default().to_string_lossy().into_owned();
        ShimError::Runtime { runtime, command, complaint: message.to_owned() }
    }
}
