//! Threads that lines to neighbours are read on.

use std::pin::Pin;

use tokio::runtime::Handle;

/// What a line does as long as it is there.
pub type Reading = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Threads where calls are made and handled, each with a tokio runtime of its own: an answer that is read on the thread that waits for it, and
/// a call that is read on the thread that runs what is called, need no hop to another.
pub trait Threads: Send + Sync + 'static {
    /// How many there are, numbered from 0.
    fn count(&self) -> usize;

    /// Which of them this one is.
    fn here(&self) -> Option<usize>;

    /// Runs that on one of them, until it ends or the thread does.
    fn run(&self, thread: usize, reading: Reading);
}

/// The runtime that the mesh was opened on, as one.
pub(crate) struct Own(pub(crate) Handle);

impl Threads for Own {
    fn count(&self) -> usize {
        1
    }

    fn here(&self) -> Option<usize> {
        None
    }

    fn run(&self, _thread: usize, reading: Reading) {
        drop(self.0.spawn(reading));
    }
}
