//! Threads for what has a low priority: each runs only when no other thread of the machine wants its processor, and gives it up in
//! the moment one does. So what computes on them delays nothing on the [`Shards`], not even by the slice that a guest has there.
//!
//! What is `unsafe` here: the kernel is told so through `libc`; it reads a structure that lives for as long as the call.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crate::shards::Shards;

/// Where the kernel knows no threads that run when all others rest: the lowest priority of an ordinary one.
const NICE: i32 = 19;

/// The threads of a process for what has a low priority, one for each core, from the first time that they are wanted. Cheap to clone;
/// they end with the last clone.
#[derive(Clone, Debug, Default)]
pub struct Background(Arc<Mutex<Option<Shards>>>);

impl Background {
    /// The threads.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn shards(&self) -> io::Result<Shards> {
        let mut started = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shards) = &*started {
            return Ok(shards.clone());
        }
        let shards = Shards::behind(std::thread::available_parallelism().map_or(1, NonZeroUsize::get))?;
        Ok(started.insert(shards).clone())
    }
}

/// Has the calling thread run when no other one wants the processor.
pub(crate) fn stand_behind() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the structure is valid for the call, which keeps nothing of it; 0 is the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } == 0 {
        return;
    }
    let error = io::Error::last_os_error();
    tracing::debug!(%error, "the kernel gives no idle scheduling; the lowest ordinary priority is taken");
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "functions of low priority run like others: the kernel gives their threads no other priority");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn they_stand_behind_all_others_and_are_started_once() {
        let background = Background::default();
        let shards = background.shards().unwrap();
        // SAFETY: it takes no pointer; 0 is the calling thread.
        let policy = shards.spawn(0, || async { unsafe { libc::sched_getscheduler(0) } });
        assert_eq!(policy.await.unwrap(), libc::SCHED_IDLE);
        let names = |shards: Shards| shards.spawn(0, || async { std::thread::current().id() });
        assert_eq!(names(shards).await.unwrap(), names(background.clone().shards().unwrap()).await.unwrap());
    }
}
