//! What an agent takes in memory, counted by the allocator.

#![allow(unsafe_code, clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{agent, assignment, assignments, digest, intent, link, members, names, placed, placement};
use littoral_control::Event;
use littoral_model::id::Tier;
use littoral_model::situation::FailureDomain;

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

/// How many agents the simulator must be able to hold in one process.
const AGENTS: usize = 100_000;
/// How many nodes a site of theirs has.
const SITE_NODES: usize = 8;
/// What all of them together may take: a small machine's memory.
const FLEET_BYTES_MAX: usize = 2 << 30;

// One test: the allocator counts for the whole process.
#[test]
fn agents_stay_within_their_bound_one_by_one_and_a_hundred_thousand_together() {
    an_agent_of_a_hundred_digests();
    a_hundred_thousand_agents();
}

fn a_hundred_thousand_agents() {
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let mut fleet = Vec::with_capacity(AGENTS);
    for site in 0..AGENTS / SITE_NODES {
        let name = format!("hall-{site}");
        let nodes: Vec<String> = (0..SITE_NODES).map(|at| format!("edge-{site}-{at}")).collect();
        let digests: Vec<_> = nodes.iter().map(|node| digest(node, Tier::Edge, &name)).collect();
        let work = format!("stream/readings/0@{name}");
        let deployed = intent(placement(vec![placed(&work, &nodes[0], &[])], Vec::new()));
        for node in &nodes {
            let mut agent = agent(node, &name);
            agent.step(0, members(&digests));
            agent.step(0, deployed.clone());
            agent.step(0, assignments(&[assignment(&work, &nodes[0], 1, &[&nodes[0]])]));
            fleet.push(agent);
        }
    }
    let bytes = LIVE_BYTES.load(Ordering::Relaxed) - before;
    println!("{} agents take {} MiB, {} bytes each", fleet.len(), bytes >> 20, bytes / fleet.len());
    assert!(bytes <= FLEET_BYTES_MAX, "{bytes} bytes");
    // All of them still work.
    let sent: usize = fleet.iter_mut().map(|agent| agent.step(1_000, Event::Tick).len()).sum();
    assert_eq!(sent, 0, "nothing has changed");
}

fn an_agent_of_a_hundred_digests() {
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
            // Each has another level in its battery.
            digest.situation.power.battery_percent = u8::try_from(at).ok();
            digest.situation.domains.insert(FailureDomain::Power, "circuit-a".parse().unwrap());
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
