//! Keeps this node's digest up to date, and its intent equal to that of the nodes it sees.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use littoral_mesh::{Members, Mesh, Method, Priority};
use littoral_model::condition::Runtimes;
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::NodeId;
use littoral_model::situation::PowerSource;
use littoral_plan::announce::{Announcer, Verdict};
use littoral_plan::coordinate::Locator;
use littoral_runtime::Shards;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::artifacts::Artifacts;
use crate::condition::{Sampler, held};
use crate::driver::Drivers;
use crate::gate;
use crate::intent::{Exchange, IntentStore};
use crate::spec::{CONTAINER_LABEL, PROCESS_LABEL};
use crate::surveyor::Surveyor;
use crate::wiring::ask;

/// How often links and load are looked at; a digest goes out only if something has changed enough.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often intent is compared with that of the members.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How long another node may take to exchange intent.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// How long a node that is shut out has to hear of it before it is refused.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(2);

/// Announces the digest whenever what it says has changed enough, within its budget.
pub(crate) async fn announce(
    mut digest: NodeDigest,
    drivers: Arc<Drivers>,
    artifacts: Artifacts,
    mut surveyor: Surveyor,
    shards: Shards,
    stop: CancellationToken,
) {
    let mesh = Arc::clone(&drivers.mesh);
    let mut apps = drivers.intent.watch();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut sampler, mut locator, mut announcer) = (Sampler::default(), Locator::default(), Announcer::default());
    loop {
        let is_tick = tokio::select! {
            () = stop.cancelled() => return,
            () = drivers.announced.changed.notified() => false,
            Ok(()) = apps.changed() => false,
            _ = tick.tick() => true,
        };
        if is_tick {
            crate::telemetry::upkeep();
            digest.links = mesh.links();
            locate(&mut locator, &digest.links, &mesh.members().borrow());
            digest.condition.coordinate = Some(locator.coordinate());
            let [container, process] =
                [CONTAINER_LABEL, PROCESS_LABEL].map(|(label, _)| digest.labels.contains_key(label));
            let able = Runtimes { wasm: true, container, process };
            let (cores, memory_bytes) = (digest.cores, digest.memory_bytes);
            sampler.sample(&mut digest.condition, shards.lingered(), cores, memory_bytes, able);
            digest.condition.served = drivers.functions.learn(&digest);
            digest.condition.artifacts = held(&artifacts);
            digest.situation = surveyor.survey(Duration::from_millis(gate::now_ms()));
            shards.linger(digest.situation.power.source != PowerSource::Battery);
        }
        digest.works = drivers.announced.works();
        digest.functions = drivers.announced.functions();
        digest.intent = apps.borrow_and_update().hash;
        let now_ms = gate::now_ms();
        // What has to wait is looked at again with the next tick.
        if announcer.consider(now_ms, &digest) == Verdict::Announce
            && let Err(error) = mesh.announce(digest.clone()).await
        {
            tracing::debug!(%error, "the digest was not announced");
        }
    }
}

/// Moves this node's coordinate by what was measured of its links since.
fn locate(locator: &mut Locator, links: &[LinkReport], members: &Members) {
    for link in links {
        if let Some(peer) = members.get(&link.peer).and_then(|digest| digest.condition.coordinate) {
            locator.observe(link.rtt_us, &peer, rand::random());
        }
    }
}

/// Exchanges intent with a member that knows something else, one at a time.
pub(crate) async fn compare(mesh: Arc<dyn Mesh>, intent: Arc<IntentStore>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(COMPARE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last: Option<NodeId> = None;
    let (mut apps, mut seen) = (intent.watch(), mesh.members());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let own = apps.borrow_and_update().hash;
        let members = seen.borrow_and_update().clone();
        let differs = |digest: &&Arc<NodeDigest>| digest.intent != own && digest.node != *mesh.node();
        let others: Vec<NodeId> = members.values().filter(differs).map(|digest| digest.node.clone()).collect();
        // Another one each time, so that one that does not answer stands in nobody's way.
        let after = others.iter().find(|node| last.as_ref().is_none_or(|last| *node > last));
        let Some(other) = after.or(others.first()) else {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = apps.changed() => {}
                Ok(()) = seen.changed() => {}
                else => return,
            }
            continue;
        };
        last = Some(other.clone());
        let offer = intent.offer();
        let answer: Result<Exchange, _> =
            ask(&mesh, other, Method::Intent, Priority::Control, EXCHANGE_DEADLINE, &offer).await;
        let learnt = match answer {
            Ok(answer) => intent.learn(answer).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = learnt {
            tracing::debug!(%other, error, "intent was not exchanged");
        }
    }
}

/// Refuses the nodes that are shut out, as this one hears of them; each is told before, so that an honest one stops. If it
/// is this one that was, it stops.
pub(crate) async fn refuse_revoked(mesh: Arc<dyn Mesh>, intent: Arc<IntentStore>, stop: CancellationToken) {
    let mut apps = intent.watch();
    let mut refused = BTreeSet::new();
    loop {
        let revoked = Arc::clone(&apps.borrow_and_update().revoked);
        if revoked.contains(mesh.node()) {
            tracing::error!("this node was shut out of the fabric, and stops");
            stop.cancel();
            return;
        }
        let members = mesh.members().borrow().clone();
        let offer = intent.offer();
        let new: Vec<NodeId> = revoked.difference(&refused).cloned().collect();
        let told = new
            .iter()
            .filter(|node| members.contains_key(*node))
            .map(|node| ask::<_, Exchange>(&mesh, node, Method::Intent, Priority::Control, FAREWELL_DEADLINE, &offer));
        // Whether it has heard or not: from now on it is refused.
        drop(join_all(told).await);
        for node in new {
            mesh.refuse(&node);
            tracing::info!(%node, "it was shut out of the fabric: it is refused from now on");
            refused.insert(node);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = apps.changed() => if changed.is_err() { return },
        }
    }
}
