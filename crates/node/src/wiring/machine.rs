//! What of its machine a node lets sources and sinks have: the folders that it offers.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use littoral_connect::{Machine, Trouble};

use crate::guests::Loader;

/// The folders that are offered.
pub(crate) struct OfferedMachine(pub(crate) Arc<Loader>);

impl Machine for OfferedMachine {
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
        self.0.folder(path).map_err(|error| Trouble(format!("{}: {error:#}", path.display())))
    }
}
