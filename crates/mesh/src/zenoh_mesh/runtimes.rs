//! On which threads Zenoh works: the only `unsafe` of this crate.
//!
//! Zenoh has five runtimes with threads of their own: a message that arrives wakes the one that accepted or opened the link, which has its
//! socket, and that one the thread that reads. Where both are one, an idle node in the middle of a mesh wakes up less often, by a seventh of
//! its processor time. What is sent goes from a thread of its own: that one may wait for the other side, whom only what is read frees.
//!
//! Zenoh takes this from a variable of the environment alone, when it is first used. To set one is unsafe where another thread may read
//! the environment meanwhile.
#![allow(unsafe_code)]

use std::thread::available_parallelism;

/// That variable.
const NAME: &str = "ZENOH_RUNTIME";

/// Has Zenoh accept, open and read links on the same threads: two, or one on a machine with two processors or fewer. What whoever starts
/// the program says instead stands. Call it before any other thread is started, and before anything else of this crate.
pub fn share_threads() {
    if std::env::var_os(NAME).is_some() {
        return;
    }
    let reading = if available_parallelism().is_ok_and(|count| count.get() > 2) { 2 } else { 1 };
    let shared = format!("(acc: (handover: rx), net: (handover: rx), rx: (worker_threads: {reading}))");
    // SAFETY: there is one thread, as the function asks for.
    unsafe { std::env::set_var(NAME, shared) };
}
