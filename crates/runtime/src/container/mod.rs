//! Containers: made of OCI images by `runc` or `crun`, or of a program alone by ourselves, each beside a process of ours that the node may
//! come back to.
//!
//! [`image`] unpacks images, `program` keeps programs, [`ContainerSpec`] is what a container is to be, [`OciRuntime`] the program that
//! makes those of images, [`Abilities`] what this machine can run, `egress` the way out of those that are granted one. `shim` is the process beside it, and `host` the one that makes containers for a node, which is confined; [`run_shim`] and [`run_host`] turn a
//! process into one. [`Containers`] starts what is asked for, or takes up what already runs
//! as it is asked for, and removes the rest. All of it lies in one folder of a node's data directory:
//!
//! ```text
//! images/DIGEST-OWNER/   the files of an image, read-only
//! programs/DIGEST        a program
//! host.sock              what the host answers on
//! counted.json           how far the use of containers was counted
//! run/ID/                a container: its configuration, the shim's order, record and socket
//! runtime/ID/            what the runtime keeps
//! ```

mod able;
mod cgroup;
mod client;
mod counted;
mod egress;
mod host;
pub mod image;
mod link;
mod manager;
mod oci;
mod process;
mod program;
mod seccomp;
mod shim;
mod spec;

pub use able::Abilities;
pub use cgroup::Used;
pub(crate) use client::Client;
pub use host::{ContainerProgram, HostProcess, run_host};
pub use manager::{Container, ContainerError, Containers, HeldContents};
pub use oci::{OciRuntime, Unable};
pub use program::{Program, check_program};
pub use shim::{ShimError, run as run_shim};
pub use spec::{CPU_SHARES_DEFAULT, ContainerSpec, Contents, PIDS_DEFAULT, PORT_DEFAULT};
