//! What goes wrong: faults that begin and end at random times, several at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use littoral_model::id::{NodeId, SiteId};
use tokio::time::{Instant, sleep_until};

use crate::history::Event;
use crate::world::{SYNC_US, World};

/// After a lost disk nothing else happens for this long: what was lost must be copied again first. Two disks that are
/// lost together are more than two copies can bear.
const QUIET_AFTER_LOSS_MS: u64 = 12_000;

/// A fault, or its end.
#[derive(Clone, Debug)]
enum Act {
    Boot(NodeId),
    /// On an empty disk.
    Replace(NodeId),
    Pause(NodeId, bool),
    Cut(Vec<(NodeId, NodeId)>, bool),
    Slow(NodeId, Duration),
    SlowDisk(NodeId, u64),
}

/// Makes trouble until `until`. Not all of it has ended then.
pub async fn trouble(world: &Arc<World>, until: Instant) -> Result<(), String> {
    let mut agenda: BTreeMap<(Instant, u64), Act> = BTreeMap::new();
    let mut number = 0;
    let mut next = Instant::now() + millis(world.below(2_000));
    let mut booting: Vec<tokio::task::JoinHandle<Result<(), String>>> = Vec::new();
    while next < until || agenda.keys().next().is_some_and(|(when, _)| *when < until) {
        let due = agenda.keys().next().map(|(when, _)| *when).filter(|when| *when < next);
        sleep_until(due.unwrap_or(next).min(until)).await;
        if due.is_some() {
            let Some((_, act)) = agenda.pop_first() else { continue };
            if let Some(task) = carry_out(world, act) {
                booting.push(task);
            }
            continue;
        }
        let for_ms = 300 + world.below(1 << (9 + world.below(5)));
        for (after_ms, act) in begin(world, for_ms, agenda.is_empty()) {
            number += 1;
            if matches!(act, Act::Replace(_)) {
                next += millis(after_ms + QUIET_AFTER_LOSS_MS);
            }
            if after_ms == 0 {
                carry_out(world, act);
            } else {
                agenda.insert((Instant::now() + millis(after_ms), number), act);
            }
        }
        next = next.max(Instant::now()) + millis(200 + world.below(4_000));
    }
    // Who was down stays so until the heal, but who was about to run does; also on a machine that is paused (seed 1005).
    world.net.heal();
    for task in booting {
        task.await.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Ends every fault: everybody runs, everybody hears everybody.
pub async fn heal(world: &Arc<World>) -> Result<(), String> {
    world.net.heal();
    for machine in world.machines.values() {
        machine.sync_us.store(SYNC_US, Ordering::Relaxed);
    }
    for node in world.machines.keys() {
        if world.node(node).is_none() {
            world.boot(node).await.map_err(|error| format!("{node} does not start: {error}"))?;
        }
    }
    world.history.note(Event::Healed);
    Ok(())
}

/// Cuts two sites off from each other for so long, and does nothing else.
pub async fn cut_cleanly(world: &Arc<World>, lasts: Duration) {
    let pairs = [("cloud", "hall"), ("hall", "field"), ("cloud", "field")];
    let (one, two) = pairs.get(world.below(pairs.len() as u64) as usize).copied().unwrap_or_default();
    let of = |site: &'static str| {
        world.machines.values().map(|machine| &machine.facts).filter(move |facts| facts.site.as_str() == site)
    };
    let cut = |is_cut| {
        for (a, b) in of(one).flat_map(|a| of(two).map(move |b| (&a.node, &b.node))) {
            world.net.cut(a, b, is_cut);
            world.net.cut(b, a, is_cut);
        }
    };
    world.history.note(Event::Act(format!("{one} and {two} are cut off from each other")));
    cut(true);
    tokio::time::sleep(lasts).await;
    cut(false);
    world.history.note(Event::Mended);
}

/// Begins a fault; what is to be done for it, and how many milliseconds from now.
fn begin(world: &Arc<World>, for_ms: u64, is_quiet: bool) -> Vec<(u64, Act)> {
    let names: Vec<NodeId> = world.machines.keys().cloned().collect();
    let any = || names.get(world.below(names.len() as u64) as usize).cloned();
    let (Some(node), Some(mut other)) = (any(), any()) else { return Vec::new() };
    if world.below(2) == 0 {
        // What happens between two nodes of one site is what its keeper must bear.
        let site = |name: &&NodeId| name.as_str().split('-').next() == node.as_str().split('-').next();
        let neighbours: Vec<&NodeId> = names.iter().filter(site).filter(|name| **name != node).collect();
        let at = world.below(neighbours.len() as u64) as usize;
        other = neighbours.get(at).map_or(other, |name| (*name).clone());
    }
    let all = |from: &NodeId, to: &NodeId| vec![(from.clone(), to.clone()), (to.clone(), from.clone())];
    let kind = world.below(12);
    world.history.note(Event::Act(format!("fault {kind} on {node} (and {other}) for {for_ms} ms")));
    let struck = |kind| world.history.note(Event::Struck(kind));
    match kind {
        0 | 1 if world.node(&node).is_some() => {
            struck(if kind == 0 { "power cut" } else { "crash" });
            world.crash(&node, kind == 0);
            vec![(for_ms, Act::Boot(node))]
        }
        2 | 3 => {
            struck("pause");
            vec![(0, Act::Pause(node.clone(), true)), (for_ms, Act::Pause(node, false))]
        }
        4 => {
            struck("node cut off");
            // One node alone.
            let links: Vec<_> = names.iter().filter(|name| **name != node).flat_map(|name| all(&node, name)).collect();
            vec![(0, Act::Cut(links.clone(), true)), (for_ms, Act::Cut(links, false))]
        }
        5 | 6 => {
            let site = |name: &NodeId| world.machines.get(name).map(|machine| machine.facts.site.clone());
            let (one, two): (Option<SiteId>, Option<SiteId>) = (site(&node), site(&other));
            let across = names.iter().flat_map(|a| names.iter().map(move |b| (a, b)));
            let links = across.filter(|(a, b)| one != two && site(a) == one && site(b) == two);
            let links: Vec<_> = links.flat_map(|(a, b)| all(a, b)).collect();
            if !links.is_empty() {
                struck("sites cut");
            }
            vec![(0, Act::Cut(links.clone(), true)), (for_ms, Act::Cut(links, false))]
        }
        7 => {
            // One direction of one link.
            if node != other {
                struck("one direction cut");
            }
            let link = vec![(node, other)];
            vec![(0, Act::Cut(link.clone(), true)), (for_ms, Act::Cut(link, false))]
        }
        8 => {
            let link = all(&node, &other);
            if node != other {
                struck("flapping link");
            }
            let mut acts = Vec::new();
            let (mut at_ms, mut is_cut) = (0, true);
            while at_ms < for_ms {
                acts.push((at_ms, Act::Cut(link.clone(), is_cut)));
                at_ms += 100 + world.below(3_000);
                is_cut = !is_cut;
            }
            acts.push((for_ms, Act::Cut(link, false)));
            acts
        }
        9 => {
            struck("slow node");
            let by = millis(20 + world.below(800));
            vec![(0, Act::Slow(node.clone(), by)), (for_ms, Act::Slow(node, Duration::ZERO))]
        }
        10 => {
            struck("slow disk");
            let sync_us = 10_000 + world.below(1_500_000);
            vec![(0, Act::SlowDisk(node.clone(), sync_us)), (for_ms, Act::SlowDisk(node, SYNC_US))]
        }
        11 if is_quiet && may_lose_its_disk(world, &node) => {
            struck("lost disk");
            world.crash(&node, false);
            world.lose_disk(&node);
            vec![(for_ms.min(3_000), Act::Replace(node))]
        }
        _ => {
            // A wall clock that jumps, by up to two hours either way.
            struck("clock jump");
            if let Some(machine) = world.machines.get(&node) {
                let off_us = i64::try_from(world.below(14_400_000_000)).unwrap_or(0) - 7_200_000_000;
                machine.clock_off_us.store(off_us, Ordering::Relaxed);
            }
            Vec::new()
        }
    }
}

fn carry_out(world: &Arc<World>, act: Act) -> Option<tokio::task::JoinHandle<Result<(), String>>> {
    world.history.note(Event::Act(format!("{act:?}")));
    match act {
        Act::Boot(node) | Act::Replace(node) => {
            let world = Arc::clone(world);
            return Some(tokio::spawn(async move {
                world.boot(&node).await.map_err(|error| format!("{node} does not start: {error}"))
            }));
        }
        Act::Pause(node, is_paused) => world.net.pause(&node, is_paused),
        Act::Cut(links, is_cut) => {
            for (from, to) in links {
                world.net.cut(&from, &to, is_cut);
            }
        }
        Act::Slow(node, by) => world.net.slow(&node, by),
        Act::SlowDisk(node, sync_us) => {
            if let Some(machine) = world.machines.get(&node) {
                machine.sync_us.store(sync_us, Ordering::Relaxed);
            }
        }
    }
    None
}

/// Whether everything that a node's disk holds is on another one that is well: with fewer copies its loss is a loss.
fn may_lose_its_disk(world: &Arc<World>, node: &NodeId) -> bool {
    let nodes = world.nodes();
    let well = |other: &NodeId| nodes.contains_key(other) && !world.net.is_paused(other);
    if !world.machines.keys().all(well) {
        return false;
    }
    let Some(this) = nodes.get(node) else { return false };
    this.groups.all().iter().all(|group| {
        let status = group.status();
        let same = |other: &NodeId| {
            let theirs = nodes.get(other).and_then(|other| other.groups.get(group.site()));
            theirs.is_some_and(|theirs| theirs.status().applied == status.applied)
        };
        let voters_well = status.voters.len() >= 3 && status.voters.iter().all(same);
        let copied = |held: &littoral_model::work::Assignment| {
            !held.replicas.contains(node) || held.in_sync.iter().any(|other| other != node)
        };
        let is_borrowed = *group.site() != this.machine.facts.site;
        (voters_well || (!status.voters.contains(node) && !status.voters.is_empty()) && !is_borrowed)
            && group.assignments().borrow().values().all(copied)
    })
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
