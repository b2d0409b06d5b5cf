//! What an agent takes in memory, counted by the allocator.

#![allow(unsafe_code, clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{agent, digest, intent, link, members, names, placed, placement};
use littoral_control::Event;
use littoral_model::id::Tier;

struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator; counting touches no memory of its callers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The design's bound for an agent at any size of fabric.
const AGENT_BYTES_MAX: usize = 64 << 10;

#[test]
fn an_agent_of_a_hundred_digests_stays_within_its_bound() {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let mut agent = agent("edge-0", "hall-7");
    // The node's own view, which is dropped again: nine of ten nodes in the site, the others of a higher tier elsewhere.
    let digests: Vec<_> = (0..100)
        .map(|at| {
            let mut digest = if at % 10 != 1 {
                digest(&format!("edge-{at}"), Tier::Edge, "hall-7")
            } else {
                digest(&format!("cloud-{at}"), Tier::Cloud, &format!("central-{at}"))
            };
            digest.labels.insert("rack".to_owned(), "seven".to_owned());
            digest.links = (0..16).map(|peer| link(&format!("cloud-{peer}"), 40_000)).collect();
            digest
        })
        .collect();
    agent.step(0, members(&digests));
    drop(digests);
    agent.step(0, Event::Voters(names(&["edge-0"])));
    agent.step(0, Event::Leadership(true));
    // Twenty units of work of this site are proposed at once.
    let works = (0..20).map(|at| placed(&format!("stream/s{at}/0@hall-7"), "edge-0", &[])).collect();
    let deployed = intent(placement(works, Vec::new()));
    agent.step(0, Event::Assignments(Default::default()));
    drop(agent.step(0, deployed));
    let bytes = LIVE_BYTES.load(Ordering::Relaxed) - before + size_of_val(&agent);
    println!("an agent takes {bytes} bytes");
    assert!(bytes <= AGENT_BYTES_MAX, "{bytes} bytes");
}
