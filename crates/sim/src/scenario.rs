//! One run of a seed: the fabric forms, apps are deployed, everything fails, everything heals, and 30 seconds later
//! everything must be as it should. Then, nothing being wrong any more, an app is deployed again and two sites are cut off
//! from each other for a while: everything must be as it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use littoral_model::id::Tier;
use littoral_plan::{Placement, Role};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::history::Event;
use crate::invariants::{self, Evidence};
use crate::world::World;
use crate::{apps, fault, load};

/// How long the fabric may take to form before anything is deployed.
const FORMING: Duration = Duration::from_secs(6);
/// How long it then runs undisturbed.
const CALM: Duration = Duration::from_secs(4);
/// How long trouble lasts.
const TROUBLE: Duration = Duration::from_secs(25);
/// How long after a heal everything must be as it should.
const CONVERGED: Duration = Duration::from_secs(30);
/// How long before that producers stop, so that what they published arrives.
const DRAINED: Duration = Duration::from_secs(10);

/// How long two sites are cut off from each other at the end: longer than it takes to notice.
const CLEAN_CUT: Duration = Duration::from_secs(6);
/// How long after that it is looked whether it did harm.
const CLEAN_HEALED: Duration = Duration::from_secs(8);

/// How long everything may take; several times as long as it does.
const ENDED: Duration = Duration::from_secs(600);

/// What came of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// Equal for two runs in which the same happened at the same time.
    pub hash: u64,
    /// The invariants that did not hold, and how.
    pub violations: Vec<String>,
    /// How many faults of each kind there were.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Runs a seed. To be called on a runtime of one thread whose clock is paused.
pub async fn run(seed: u64, trace: bool) -> Outcome {
    let world = World::new(seed, trace);
    let played = timeout(ENDED, play_and_judge(&world)).await;
    let violations = played.unwrap_or_else(|_| Err("it does not end".to_owned())).unwrap_or_else(|reason| vec![reason]);
    let mut faults = BTreeMap::new();
    for (_, event) in world.history.events() {
        if let Event::Struck(kind) = event {
            *faults.entry(kind).or_default() += 1;
        }
    }
    Outcome { hash: world.history.hash(), violations, faults }
}

/// What does not hold after the run, or after the clean cut that follows.
async fn play_and_judge(world: &Arc<World>) -> Result<Vec<String>, String> {
    let placement = play(world).await?;
    let violations = invariants::check(&Evidence::gather(world, Arc::clone(&placement)).await);
    if !violations.is_empty() {
        return Ok(violations);
    }
    let stop = Arc::new(AtomicBool::new(true));
    deploy(world, &apps::singleton(), &stop).await.map_err(|error| format!("one is not placed again: {error}"))?;
    sleep(CALM).await;
    fault::cut_cleanly(world, CLEAN_CUT).await;
    sleep(CLEAN_HEALED).await;
    Ok(invariants::check(&Evidence::gather(world, placement).await))
}

/// Plays the run; how the main app was placed.
async fn play(world: &Arc<World>) -> Result<Arc<Placement>, String> {
    for node in world.machines.keys() {
        world.boot(node).await.map_err(|error| format!("{node} does not start: {error}"))?;
    }
    sleep(FORMING).await;
    let stop = Arc::new(AtomicBool::new(false));
    let placement =
        deploy(world, &apps::main(), &stop).await.map_err(|error| format!("main is not placed: {error}"))?;
    deploy(world, &apps::small("old", Tier::Edge), &stop)
        .await
        .map_err(|error| format!("old is not placed: {error}"))?;
    deploy(world, &apps::singleton(), &stop).await.map_err(|error| format!("one is not placed: {error}"))?;
    // It asks for more memory than is left where it may run; nothing comes of it.
    let refused = deploy(world, &apps::greedy("greedy"), &stop).await;
    world.history.note(Event::Act(format!("too much is asked for: {:?}", refused.err())));
    sleep(CALM).await;
    let users = tokio::spawn(use_it(Arc::clone(world), Arc::clone(&stop)));
    fault::trouble(world, Instant::now() + TROUBLE).await?;
    fault::heal(world).await?;
    let judged = Instant::now() + CONVERGED;
    users.await.map_err(|error| error.to_string())?;
    sleep_until(judged - DRAINED).await;
    stop.store(true, Ordering::Relaxed);
    sleep_until(judged).await;
    Ok(placement)
}

/// What users do while everything fails: an app is deployed and another one deleted, each at any node.
async fn use_it(world: Arc<World>, stop: Arc<AtomicBool>) {
    for turn in 0..2 {
        sleep(Duration::from_millis(world.below(12_000))).await;
        let nodes = world.nodes();
        let at = world.below(nodes.len() as u64) as usize;
        let Some(node) = nodes.values().nth(at) else { continue };
        let done = if turn == 0 {
            world.delete(node, &apps::app("old")).await
        } else {
            deploy_at(&world, node, &apps::small("new", Tier::Cloud), &stop).await.map(drop)
        };
        world.history.note(Event::Act(format!("user act {turn} at {}: {done:?}", node.id())));
    }
}

async fn deploy(
    world: &Arc<World>,
    spec: &littoral_plan::AppSpec,
    stop: &Arc<AtomicBool>,
) -> Result<Arc<Placement>, String> {
    let nodes = world.nodes();
    let at = world.below(nodes.len() as u64) as usize;
    let node = nodes.values().nth(at).ok_or("no node runs")?;
    deploy_at(world, node, spec, stop).await
}

/// Deploys an app, and begins to publish to its streams.
async fn deploy_at(
    world: &Arc<World>,
    node: &Arc<crate::node::Node>,
    spec: &littoral_plan::AppSpec,
    stop: &Arc<AtomicBool>,
) -> Result<Arc<Placement>, String> {
    let placement = world.deploy(node, spec).await?;
    for placed in &placement.works {
        world.history.mix(&(&placed.work, &placed.owner, &placed.replicas));
        if matches!(&placed.role, Role::StreamPartition { sources, .. } if sources.is_empty()) {
            tokio::spawn(load::produce(Arc::clone(world), placed.work.clone(), Arc::clone(stop)));
        }
    }
    Ok(placement)
}
