//! The latest commits of a work, decoded, for readers that follow closely.

use std::collections::VecDeque;
use std::sync::Arc;

use littoral_model::entry::Commit;

/// How much of them is kept, of each work that is owned.
const RECENT_BYTES_MAX: usize = 2 << 20;

/// The latest commits, decoded.
#[derive(Default)]
pub(super) struct Recent {
    commits: VecDeque<(u64, usize, Arc<Commit>)>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, index: u64, bytes: usize, commit: Arc<Commit>) {
        self.commits.push_back((index, bytes, commit));
        self.bytes += bytes;
        while self.bytes > RECENT_BYTES_MAX
            && let Some((_, bytes, _)) = self.commits.pop_front()
        {
            self.bytes -= bytes;
        }
    }

    pub(super) fn get(&self, index: u64) -> Option<Arc<Commit>> {
        let (first, _, _) = self.commits.front()?;
        let place = usize::try_from(index.checked_sub(*first)?).ok()?;
        self.commits.get(place).map(|(_, _, commit)| Arc::clone(commit))
    }
}
