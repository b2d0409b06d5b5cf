//! Where requests go: gathers what `plan::route` chooses from, counts what is under way, and remembers who did not answer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use littoral_mesh::{CallError, Members, Mesh};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{AppId, FunctionName, NodeId, SiteId, Tier};
use littoral_model::manifest::Function;
use littoral_plan::profile::{Grounds, Guess, NodeClass, ProfileKey, Profiles, RECORDS_FEW, Variant, input_bucket};
use littoral_plan::route::{Asking, Candidate, Choice, hedge_after_us, order};
use littoral_plan::{Links, NodeView};

use crate::intent::IntentStore;
use crate::sync::lock;

/// How long a node that did not answer is asked last: membership has found out by then whether it is dead.
const SUSPECT_FOR: Duration = Duration::from_secs(5);
/// How old the measured round trips may be.
const LINKS_AGE_MAX: Duration = Duration::from_secs(1);
/// What a function takes of which not even the manifest is at hand.
const UNKNOWN: Guess = Guess { usual_us: 250_000, most_us: 1_000_000 };
/// How many answers of a node say how quick it is at a function, whatever it says of itself.
const OWN_CALLS_FEW: u32 = 8;
/// For how long they say so: one that was slow gets some calls again.
const OWN_FOR: Duration = Duration::from_secs(30);
/// How much an answer counts against those before: one in so many.
const OWN_SMOOTHING: u64 = 8;
/// The most functions of a node of which that is known.
const OWN_MAX: usize = 64;
/// Spreads consecutive draws (SplitMix64's increment).
const DRAW_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A function that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) app: &'a AppId,
    pub(crate) function: &'a FunctionName,
    /// Requests with the same key go to the same instance.
    pub(crate) key: Option<&'a str>,
    /// The size of the input, in bytes, as far as it is known.
    pub(crate) input_bytes: u64,
    /// This node's own instance, if there is one.
    pub(crate) here: Option<Here>,
}

/// The instance of the node that asks.
#[derive(Clone, Copy)]
pub(crate) struct Here {
    /// How many requests it has now.
    pub(crate) queue: usize,
    /// Whether it takes another.
    pub(crate) has_room: bool,
    /// How long it takes of late, in microseconds, if that is more than was learned of it.
    pub(crate) execution_us: Option<u64>,
}

/// The way of a request: whom to ask in turn, and when to ask the second though the first may still answer.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) choices: Vec<Choice>,
    pub(crate) hedge_after: Duration,
}

/// What a node knows for choosing instances.
pub(crate) struct Routing {
    mesh: Arc<dyn Mesh>,
    intent: Arc<IntentStore>,
    site: SiteId,
    tier: Tier,
    known: Mutex<Known>,
    peers: Arc<Mutex<Peers>>,
    draws: AtomicU64,
    /// What was learned of functions, here and by asking others.
    pub(crate) profiles: Mutex<Profiles>,
}

/// At most one for each member.
type Peers = BTreeMap<NodeId, Peer>;

#[derive(Default)]
struct Peer {
    /// Requests of this node that it has now.
    in_flight: u32,
    suspect_until: Option<Instant>,
    /// How long it took for functions, as this node saw it; at most [`OWN_MAX`].
    own: HashMap<String, Own>,
}

/// How long a node took for a function, without the way there and back.
struct Own {
    calls: u32,
    smoothed_us: u64,
    latest: Instant,
}

impl Peer {
    /// Takes in how long an answer took.
    fn measured(&mut self, function: &str, took_us: u64, now: Instant) {
        let is_old = |own: &Own| now.duration_since(own.latest) >= OWN_FOR;
        let is_new = !self.own.contains_key(function);
        if is_new && self.own.len() >= OWN_MAX {
            self.own.retain(|_, own| !is_old(own));
        }
        let is_full = is_new && self.own.len() >= OWN_MAX;
        match self.own.get_mut(function) {
            Some(own) if !is_old(own) => {
                let smoothed_us = (own.smoothed_us.saturating_mul(OWN_SMOOTHING - 1)).saturating_add(took_us);
                *own =
                    Own { calls: own.calls.saturating_add(1), smoothed_us: smoothed_us / OWN_SMOOTHING, latest: now };
            }
            _ if is_full => {}
            _ => drop(self.own.insert(function.to_owned(), Own { calls: 1, smoothed_us: took_us, latest: now })),
        }
    }

    /// How long it takes for a function: what it says, or what it was seen to take if that is more.
    fn execution_us(&self, function: &str, told_us: u64, now: Instant) -> u64 {
        let is_known = |own: &&Own| own.calls >= OWN_CALLS_FEW && now.duration_since(own.latest) < OWN_FOR;
        self.own.get(function).filter(is_known).map_or(told_us, |own| own.smoothed_us.max(told_us))
    }
}

/// The members by what they serve; made anew when they have changed.
#[derive(Default)]
struct Known {
    members: Arc<Members>,
    serving: HashMap<String, Vec<Arc<NodeDigest>>>,
    rtt_us: BTreeMap<NodeId, u64>,
    measured: Option<Instant>,
}

/// A request under way to a node.
pub(crate) struct UnderWay {
    peers: Arc<Mutex<Peers>>,
    node: NodeId,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(peer) = lock(&self.peers).get_mut(&self.node) {
            peer.in_flight = peer.in_flight.saturating_sub(1);
        }
    }
}

impl Routing {
    pub(crate) fn new(mesh: Arc<dyn Mesh>, intent: Arc<IntentStore>, site: SiteId, tier: Tier) -> Self {
        let (known, peers, draws) = (Mutex::default(), Arc::default(), AtomicU64::new(0));
        Self { mesh, intent, site, tier, known, peers, draws, profiles: Mutex::default() }
    }

    /// The way of a request. `known` is what the manifest says of the function.
    pub(crate) fn way(&self, wish: &Wish<'_>, known: Option<&Function>) -> Way {
        let budget_us = known.map_or(u64::MAX, |known| known.slo.unwrap_or(known.timeout).as_micros());
        let declared =
            |known: &Function| Guess::declared(known.slo.map(|slo| slo.as_micros()), known.timeout.as_micros());
        let guess = known.map_or(UNKNOWN, declared);
        let (candidates, p95_us) = self.candidates(wish, guess);
        let asking = Asking {
            node: self.mesh.node(),
            site: &self.site,
            tier: self.tier,
            key: wish.key,
            budget_us,
            draw: self.draws.fetch_add(DRAW_STEP, Ordering::Relaxed),
        };
        let rtts: BTreeMap<NodeId, u64> = candidates.iter().map(|c| (c.node.clone(), c.rtt_us)).collect();
        let choices = order(&asking, candidates);
        let first = choices.first().map(|choice| &choice.node);
        let rtt_us = first.and_then(|first| rtts.get(first)).copied().unwrap_or(0);
        let p95_us = first.and_then(|first| p95_us.get(first)).copied();
        Way { choices, hedge_after: Duration::from_micros(hedge_after_us(rtt_us, p95_us, guess.usual_us)) }
    }

    /// The nodes to ask in turn, without this one.
    pub(crate) fn others(&self, app: &AppId, function: &FunctionName) -> Vec<NodeId> {
        let way = self.way(&Wish { app, function, key: None, input_bytes: 0, here: None }, None);
        way.choices.into_iter().map(|choice| choice.node).filter(|node| node != self.mesh.node()).collect()
    }

    /// Counts a request to a node in, for as long as the answer lives.
    pub(crate) fn begin(&self, node: &NodeId) -> UnderWay {
        lock(&self.peers).entry(node.clone()).or_default().in_flight += 1;
        UnderWay { peers: Arc::clone(&self.peers), node: node.clone() }
    }

    /// Notes what came of asking a node. One that is late only may be slow at that function.
    pub(crate) fn note<T>(&self, node: &NodeId, reply: &Result<T, CallError>) {
        let is_out = matches!(reply, Err(CallError::Unreachable { .. } | CallError::Refused { .. }));
        let until = is_out.then(|| Instant::now() + SUSPECT_FOR);
        lock(&self.peers).entry(node.clone()).or_default().suspect_until = until;
    }

    /// Takes in how long another node took to answer; how long this one would have taken, as far as that can be told.
    pub(crate) fn learn(
        &self,
        app: &AppId,
        function: &FunctionName,
        node: &NodeId,
        input_bytes: u64,
        took: Duration,
    ) -> Option<Duration> {
        let known = lock(&self.known);
        let (digest, rtt_us) = (known.members.get(node)?, known.rtt_us.get(node)?);
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).saturating_sub(*rtt_us);
        let name = format!("{app}/{function}");
        lock(&self.peers).entry(node.clone()).or_default().measured(&name, took_us, Instant::now());
        let here = known.members.get(self.mesh.node()).map(|own| profile_of(name.clone(), own, input_bytes));
        let mut profiles = lock(&self.profiles);
        profiles.record(&profile_of(name, digest, input_bytes), took_us);
        let prediction = profiles.predict(&here?, UNKNOWN);
        // Where nodes such as this one have not run it, it is taken to be as quick as there.
        let here_us = if prediction.grounds == Grounds::Same { prediction.p50.value_us } else { took_us };
        Some(Duration::from_micros(here_us))
    }

    /// Whether a node is a member now: a call of one that is not has surely no effect.
    pub(crate) fn is_member(&self, node: &NodeId) -> bool {
        self.mesh.members().borrow().contains_key(node)
    }

    /// The instances of a function, and what 95 of 100 calls take on those of which that was measured.
    fn candidates(&self, wish: &Wish<'_>, guess: Guess) -> (Vec<Candidate>, BTreeMap<NodeId, u64>) {
        let now = Instant::now();
        let mut known = lock(&self.known);
        self.refresh(&mut known, now);
        let name = format!("{}/{}", wish.app, wish.function);
        let own = known.members.get(self.mesh.node()).cloned();
        let mut serving = known.serving.get(&name).cloned().unwrap_or_default();
        serving.retain(|digest| digest.node != *self.mesh.node());
        if serving.is_empty() && wish.here.is_none() {
            // Those that are to serve it may do so before their digests say it.
            let apps = self.intent.now();
            let placed = apps.apps.get(wish.app).into_iter().flat_map(|app| &app.placement.instances);
            let placed = placed.filter(|placed| placed.function == *wish.function);
            serving.extend(placed.filter_map(|placed| known.members.get(&placed.node)).cloned());
        }
        let peers = lock(&self.peers);
        let fares = |digest: &NodeDigest| {
            let served = digest.condition.served.iter().find(|served| served.function == name);
            served.filter(|served| served.samples >= RECORDS_FEW).cloned()
        };
        let profiles = lock(&self.profiles);
        let execution_us = |digest: &NodeDigest| {
            let predict = || profiles.predict(&profile_of(name.clone(), digest, wish.input_bytes), guess).p50.value_us;
            fares(digest).map_or_else(predict, |fares| fares.p50_us.into())
        };
        let candidate = |digest: &Arc<NodeDigest>| {
            let peer = peers.get(&digest.node);
            let measured = known.rtt_us.get(&digest.node).copied();
            let rtt_us = measured.or_else(|| Some(estimate(own.as_ref()?, digest))).unwrap_or(u64::MAX);
            let told_us = execution_us(digest);
            Candidate {
                node: digest.node.clone(),
                site: digest.site.clone(),
                tier: digest.tier,
                rtt_us,
                execution_us: peer.map_or(told_us, |peer| peer.execution_us(&name, told_us, now)),
                // What it had when it told, and what it got from here since.
                queue: fares(digest).map_or(0, |fares| fares.queue).max(peer.map_or(0, |peer| peer.in_flight)),
                cores: digest.cores,
                is_able: peer.and_then(|peer| peer.suspect_until).is_none_or(|until| until <= now),
            }
        };
        let mut candidates: Vec<Candidate> = serving.iter().map(candidate).collect();
        let measured = serving.iter().filter_map(|digest| Some((digest.node.clone(), fares(digest)?.p95_us.into())));
        let p95_us = measured.collect();
        if let Some(here) = wish.here {
            let learned_us = own.as_deref().map_or(guess.usual_us, execution_us);
            candidates.push(Candidate {
                node: self.mesh.node().clone(),
                site: self.site.clone(),
                tier: self.tier,
                rtt_us: 0,
                execution_us: here.execution_us.unwrap_or(0).max(learned_us),
                queue: u32::try_from(here.queue).unwrap_or(u32::MAX),
                cores: own.map_or(1, |own| own.cores),
                is_able: here.has_room,
            });
        }
        (candidates, p95_us)
    }

    fn refresh(&self, known: &mut Known, now: Instant) {
        let members = self.mesh.members().borrow().clone();
        if !Arc::ptr_eq(&members, &known.members) {
            known.serving.clear();
            for digest in members.values() {
                for function in &digest.functions {
                    known.serving.entry(function.clone()).or_default().push(Arc::clone(digest));
                }
            }
            lock(&self.peers).retain(|node, peer| peer.in_flight > 0 || members.contains_key(node));
            known.members = members;
        }
        if known.measured.is_none_or(|measured| now.duration_since(measured) > LINKS_AGE_MAX) {
            known.rtt_us = self.mesh.links().into_iter().map(|link| (link.peer, link.rtt_us)).collect();
            known.measured = Some(now);
        }
    }
}

/// The profile of a function on such a node with such an input.
pub(crate) fn profile_of(function: String, node: &NodeDigest, input_bytes: u64) -> ProfileKey {
    let (class, input) = (NodeClass::of(node), input_bucket(input_bytes));
    ProfileKey { function, variant: Variant::Component, class, input }
}

/// The round trip between two nodes that have not measured it, in microseconds.
fn estimate(own: &NodeDigest, other: &NodeDigest) -> u64 {
    let view = |digest| NodeView::from_digest(digest, true);
    let located = |digest: &NodeDigest| digest.condition.coordinate.map(|coordinate| (digest.node.clone(), coordinate));
    let links = Links::default().located(located(own).into_iter().chain(located(other)));
    links.predict(&view(own), &view(other)).rtt_us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_says_that_it_is_quick_and_is_not_is_taken_for_what_it_is() {
        let (mut peer, now) = (Peer::default(), Instant::now());
        for _ in 1..OWN_CALLS_FEW {
            peer.measured("f", 90_000, now);
        }
        assert_eq!(peer.execution_us("f", 1_000, now), 1_000, "a few may have been slow by chance");
        peer.measured("f", 90_000, now);
        assert_eq!(peer.execution_us("f", 1_000, now), 90_000);
        assert_eq!(peer.execution_us("g", 1_000, now), 1_000);
        // One that says that it is slow is believed.
        assert_eq!(peer.execution_us("f", 100_000, now), 100_000);
        // It is tried again after a while.
        assert_eq!(peer.execution_us("f", 1_000, now + OWN_FOR), 1_000);
        peer.measured("f", 2_000, now + OWN_FOR);
        assert_eq!(peer.own.get("f").map(|own| (own.calls, own.smoothed_us)), Some((1, 2_000)));
    }

    #[test]
    fn what_is_known_of_a_node_is_bounded() {
        let (mut peer, now) = (Peer::default(), Instant::now());
        (0..2 * OWN_MAX).for_each(|number| peer.measured(&number.to_string(), 1, now));
        assert_eq!(peer.own.len(), OWN_MAX);
        peer.measured("f", 1, now + OWN_FOR);
        assert!(peer.own.contains_key("f"));
    }
}
