//! Components on their way to and from registries: with whose credentials, and how far a transfer is.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use littoral_node::registry::{Credentials, Registry};

use crate::output;

/// How often a line is written where there is no terminal; a short transfer writes none.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Registries as this user may ask them. What was read of a manifest is kept in the user's cache.
///
/// # Errors
/// When the user's credentials cannot be read.
pub(crate) fn registry(plain_http: bool) -> anyhow::Result<Registry> {
    let registry = Registry::new(Credentials::of_user()?, plain_http);
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(match cache {
        Some(cache) => registry.keeping(cache.join("littoral").join("oci-manifests")),
        None => registry,
    })
}

/// A transfer under way. The bar goes with this.
pub(crate) struct Transfer {
    what: String,
    bar: Option<ProgressBar>,
    last_line: Mutex<Instant>,
}

impl Transfer {
    /// Begins to tell of a transfer, `what` as in `pulling x`.
    pub(crate) fn new(what: String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0));
        // A template that is wrong would only cost the bar its looks.
        if let (Some(bar), Ok(style)) =
            (&bar, ProgressStyle::with_template("{msg}  {bar:30} {bytes} of {total_bytes}  {bytes_per_sec}"))
        {
            bar.set_style(style);
            bar.set_message(what.clone());
        }
        Self { what, bar, last_line: Mutex::new(Instant::now()) }
    }

    /// So many bytes of so many are over.
    pub(crate) fn at(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            return;
        }
        let mut last = self.last_line.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            eprintln!("{}: {} of {}", self.what, output::bytes(done), output::bytes(total));
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
