//! Where the mesh reads its lines to neighbours: on the data-plane threads, which make and run what is called over them.

use littoral_mesh::{Reading, Threads};
use littoral_runtime::Shards;

/// The data-plane threads.
pub(crate) struct MeshThreads(pub(crate) Shards);

impl Threads for MeshThreads {
    fn count(&self) -> usize {
        self.0.count()
    }

    fn here(&self) -> Option<usize> {
        Shards::here()
    }

    fn run(&self, thread: usize, reading: Reading) {
        self.0.attend(thread, reading);
    }
}
