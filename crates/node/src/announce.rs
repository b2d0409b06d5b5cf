//! Keeps this node's digest up to date, and its intent equal to that of the nodes it sees.

use std::sync::Arc;
use std::time::Duration;

use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::id::NodeId;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::driver::Drivers;
use crate::intent::{Exchange, IntentStore};
use crate::wiring::ask;

/// How often links are looked at; a digest goes out only if one has changed enough.
const LINKS_EVERY: Duration = Duration::from_secs(2);
/// How often intent is compared with that of the members.
const COMPARE_EVERY: Duration = Duration::from_secs(1);
/// How long another node may take to exchange intent.
const EXCHANGE_DEADLINE: Duration = Duration::from_secs(5);

/// Announces the digest whenever what it says has changed.
pub(crate) async fn announce(
    mut digest: NodeDigest,
    mesh: Arc<dyn Mesh>,
    drivers: Arc<Drivers>,
    stop: CancellationToken,
) {
    let mut apps = drivers.intent.watch();
    let mut tick = tokio::time::interval(LINKS_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let is_tick = tokio::select! {
            () = stop.cancelled() => return,
            () = drivers.announced.changed.notified() => false,
            Ok(()) = apps.changed() => false,
            _ = tick.tick() => true,
        };
        crate::telemetry::upkeep();
        let links = mesh.links();
        if is_tick && !has_changed(&digest.links, &links) {
            continue;
        }
        digest.links = links;
        digest.works = drivers.announced.works();
        digest.functions = drivers.announced.functions();
        digest.intent = apps.borrow_and_update().hash;
        if let Err(error) = mesh.announce(digest.clone()).await {
            tracing::debug!(%error, "the digest was not announced");
        }
    }
}

/// Whether a link came, went, or became so much slower or faster that placement might differ.
fn has_changed(before: &[LinkReport], now: &[LinkReport]) -> bool {
    if before.len() != now.len() {
        return true;
    }
    now.iter().any(|link| {
        let old = before.iter().find(|old| old.peer == link.peer);
        // A quarter, and at least half a millisecond: less is noise.
        old.is_none_or(|old| old.rtt_us.abs_diff(link.rtt_us) > (old.rtt_us / 4).max(500))
    })
}

/// Exchanges intent with a member that knows something else, one at a time.
pub(crate) async fn compare(mesh: Arc<dyn Mesh>, intent: Arc<IntentStore>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(COMPARE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last: Option<NodeId> = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let own = intent.now().hash;
        let members = mesh.members().borrow().clone();
        let differs = |digest: &&Arc<NodeDigest>| digest.intent != own && digest.node != *mesh.node();
        let others: Vec<NodeId> = members.values().filter(differs).map(|digest| digest.node.clone()).collect();
        // Another one each time, so that one that does not answer stands in nobody's way.
        let after = others.iter().find(|node| last.as_ref().is_none_or(|last| *node > last));
        let Some(other) = after.or(others.first()) else { continue };
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
