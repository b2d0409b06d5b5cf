//! What a client's packets lead to: a pure state machine, packets in, actions out. What an action brings about comes back
//! in by a method of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use littoral_model::entry::Position;
use littoral_model::topic::{TopicFilter, check_topic};
use serde::{Deserialize, Serialize};

use super::access::Rights;
use super::deliveries::{Deliveries, Offer, StoredFeed};
use super::packet::{
    Asked, Connect, Connected, Delivery, PacketId, Published, Qos, Received, Retained, Sent, Version, Will,
};
use super::reason::Reason;

/// The most filters of one client: each is compared with every record that it may be for.
const SUBSCRIPTIONS_MAX: usize = 100;
/// How long a session is kept at most after its client went: as long as streams are by default.
const EXPIRY_S_MAX: u32 = 7 * 86_400;
/// How often a client has to be heard of if it says nothing of it, or more than a day.
const KEEP_ALIVE_S_MAX: u16 = 3_600;
/// How many messages may be under way to the streams, in one publication.
pub(crate) const PUBLISH_MAX: u16 = 64;
/// The largest packet of a client that was let in, in bytes.
pub(crate) const PACKET_BYTES_MAX: u32 = 256 << 10;

/// A message that a client publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// What it says.
    pub payload: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Send(Sent),
    /// Find out whether a client is let in, and what was kept of it: [`Session::admitted`] or [`Session::refused`].
    Admit(Box<Connect>),
    /// Append a message: [`Session::published`].
    Publish(Publication),
    /// Begin feeds: [`Session::subscribed`].
    Subscribe(Subscribing),
    /// Make the subscriptions durable, then send.
    Keep(Sent),
}

/// A message on its way to a stream, or why it does not go there; they are acknowledged in their order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) id: Option<PacketId>,
    pub(crate) message: Result<Message, Reason>,
}

/// Filters that are asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribing {
    pub(crate) id: PacketId,
    pub(crate) asked: Vec<Result<Subscription, Reason>>,
}

/// A filter of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subscription {
    pub(crate) filter: TopicFilter,
    pub(crate) qos: Qos,
    /// Whether the client wants what is retained now.
    pub(crate) wants_retained: bool,
}

/// What is kept of a client that went, until it returns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its filters, each with the quality, 0 or 1.
    pub subscriptions: Vec<(String, u8)>,
    /// How far it has come.
    pub feeds: Vec<StoredFeed>,
    /// How long it is kept, in seconds.
    pub expiry_s: u32,
}

/// A client that was let in.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) rights: Rights,
    /// The name that it gets if it has none.
    pub(crate) assigned: Option<String>,
    pub(crate) stored: Option<Stored>,
}

/// One connection of a client.
#[derive(Debug)]
pub(crate) struct Session {
    phase: Phase,
    version: Version,
    rights: Rights,
    keep_alive: Duration,
    expiry_s: u32,
    will: Option<Will>,
    subscriptions: BTreeMap<String, (TopicFilter, Qos)>,
    deliveries: Deliveries,
}

#[derive(Debug)]
enum Phase {
    /// Nothing was said.
    New,
    /// It is found out whether the client is let in.
    Asking(Box<Connect>),
    Open,
    Closed,
}

impl Session {
    /// A connection of which nothing was heard.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::New,
            version: Version::V3,
            rights: Rights::default(),
            keep_alive: Duration::ZERO,
            expiry_s: 0,
            will: None,
            subscriptions: BTreeMap::new(),
            deliveries: Deliveries::new(),
        }
    }

    /// After how long without a word the client is given up, once it was let in.
    pub(crate) fn patience(&self) -> Duration {
        self.keep_alive
    }

    /// Whether it was let in and has not been closed.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// Whether it is over: nothing more is read.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// Its filters.
    pub(crate) fn filters(&self) -> impl Iterator<Item = &TopicFilter> {
        self.subscriptions.values().map(|(filter, _)| filter)
    }

    /// Where to read on in a feed.
    pub(crate) fn next(&self, feed: &str) -> Option<Position> {
        self.deliveries.next(feed)
    }

    /// The session goes on in another connection, and a will that was to wait is not published then.
    pub(crate) fn pass_on_will(&mut self) {
        self.will = self.will.take().filter(|will| will.delay_s == 0 || self.expiry_s == 0);
    }

    /// How far the client has come.
    pub(crate) fn deliveries(&mut self) -> &mut Deliveries {
        &mut self.deliveries
    }

    /// What is kept when the connection ends, if anything is.
    pub(crate) fn stored(&self) -> Option<Stored> {
        (self.expiry_s > 0).then(|| Stored {
            subscriptions: self.subscriptions.iter().map(|(filter, (_, qos))| (filter.clone(), qos.number())).collect(),
            feeds: self.deliveries.stored(),
            expiry_s: self.expiry_s,
        })
    }

    /// What to publish now that the connection has ended, and after how long.
    pub(crate) fn take_will(&mut self) -> Option<(Message, Duration)> {
        let will = self.will.take()?;
        let delay = Duration::from_secs(u64::from(will.delay_s.min(self.expiry_s)));
        let payload = String::from_utf8(will.payload.into()).ok()?;
        Some((Message { topic: will.topic, payload }, delay))
    }

    /// Takes the next packet.
    pub(crate) fn received(&mut self, packet: Received) -> Vec<Action> {
        match (&self.phase, packet) {
            (Phase::New, Received::Connect(connect)) => self.connect(connect),
            (Phase::New | Phase::Asking(_), _) => self.end(Reason::ProtocolError, "a client begins with CONNECT"),
            (Phase::Closed, _) => Vec::new(),
            (Phase::Open, Received::Connect(_)) => self.end(Reason::ProtocolError, "CONNECT was sent twice"),
            (Phase::Open, Received::Publish(message)) => self.publish(message),
            (Phase::Open, Received::Acknowledged(id)) => {
                // One that is not known is of a message that came again.
                self.deliveries.acknowledged(id);
                Vec::new()
            }
            (Phase::Open, Received::Subscribe { id, has_identifier, filters }) => {
                self.subscribe(id, has_identifier, filters)
            }
            (Phase::Open, Received::Unsubscribe { id, filters }) => {
                let existed = filters.iter().map(|filter| self.subscriptions.remove(filter).is_some()).collect();
                vec![Action::Keep(Sent::Unsubscribed { id, existed })]
            }
            (Phase::Open, Received::Ping) => vec![Action::Send(Sent::Pong)],
            (Phase::Open, Received::Disconnect { wants_will, expiry_s }) => self.disconnect(wants_will, expiry_s),
            (Phase::Open, Received::Other(_)) => {
                self.end(Reason::ProtocolError, "a client does not send such a packet")
            }
        }
    }

    /// Ends the connection with a reason, where the client's version has one.
    pub(crate) fn end(&mut self, reason: Reason, text: &'static str) -> Vec<Action> {
        let last = match std::mem::replace(&mut self.phase, Phase::Closed) {
            Phase::Closed => return Vec::new(),
            Phase::New | Phase::Asking(_) => Sent::Refused { reason, text },
            Phase::Open => Sent::Disconnect { reason, text },
        };
        vec![Action::Send(last)]
    }

    fn connect(&mut self, connect: Box<Connect>) -> Vec<Action> {
        self.version = connect.version;
        if connect.has_method {
            return self.end(Reason::BadMethod, "authenticate with a user and a password, or a certificate");
        }
        if connect.client.len() > CLIENT_BYTES_MAX || connect.client.contains('\0') {
            return self.end(Reason::ClientInvalid, "the client's name is too long");
        }
        if let Some(will) = &connect.will {
            if will.qos == Qos::Two {
                return self.end(Reason::QosNotSupported, "the highest quality of service is 1");
            }
            if check_topic(&will.topic).is_err() {
                return self.end(Reason::TopicInvalid, "the will's topic is none");
            }
            if std::str::from_utf8(&will.payload).is_err() {
                return self.end(Reason::PayloadInvalid, "the will is no text in UTF-8");
            }
        }
        self.phase = Phase::Asking(connect.clone());
        vec![Action::Admit(connect)]
    }

    /// The client is let in.
    pub(crate) fn admitted(&mut self, admitted: Admitted) -> Vec<Action> {
        let Phase::Asking(connect) = std::mem::replace(&mut self.phase, Phase::Open) else {
            self.phase = Phase::Closed;
            return Vec::new();
        };
        self.rights = admitted.rights;
        if connect.will.as_ref().is_some_and(|will| !self.rights.may_publish(&will.topic)) {
            self.phase = Phase::Asking(connect);
            return self.end(Reason::NotAuthorized, "the user may not publish to the will's topic");
        }
        self.expiry_s = connect.expiry_s.min(EXPIRY_S_MAX);
        let keep_alive_s = match (connect.keep_alive_s, self.version) {
            (0, _) => KEEP_ALIVE_S_MAX,
            (seconds, Version::V5) => seconds.min(KEEP_ALIVE_S_MAX),
            (seconds, Version::V3) => seconds,
        };
        // MQTT 5.0, section 3.1.2.10: one and a half times.
        self.keep_alive = Duration::from_secs(u64::from(keep_alive_s)) * 3 / 2;
        self.deliveries.set_window(connect.window);
        let session_present = admitted.stored.is_some();
        if let Some(stored) = admitted.stored {
            self.deliveries.resume(&stored.feeds);
            for (text, qos) in stored.subscriptions {
                let Ok(filter) = text.parse() else { continue };
                self.subscriptions.insert(text, (filter, if qos == 0 { Qos::Zero } else { Qos::One }));
            }
        }
        let connected = Connected {
            session_present,
            assigned_client: admitted.assigned,
            expiry_s: (self.expiry_s != connect.expiry_s).then_some(self.expiry_s),
            keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            window: PUBLISH_MAX,
            packet_bytes_max: PACKET_BYTES_MAX,
        };
        self.will = connect.will;
        vec![Action::Send(Sent::Connected(Box::new(connected)))]
    }

    fn publish(&mut self, message: Published) -> Vec<Action> {
        if message.has_alias {
            return self.end(Reason::AliasInvalid, "aliases of topics are not taken");
        }
        if message.qos == Qos::Two {
            return self.end(Reason::QosNotSupported, "the highest quality of service is 1");
        }
        if check_topic(&message.topic).is_err() {
            return self.end(Reason::TopicInvalid, "messages are published to a topic without wildcards");
        }
        let taken = if !self.rights.may_publish(&message.topic) {
            Err(Reason::NotAuthorized)
        } else {
            // A copy: the bytes are a part of all that has arrived.
            let payload = std::str::from_utf8(&message.payload).map(str::to_owned);
            payload.map(|payload| Message { topic: message.topic, payload }).map_err(|_| Reason::PayloadInvalid)
        };
        vec![Action::Publish(Publication { id: message.id, message: taken })]
    }

    /// What became of messages, in their order.
    pub(crate) fn published(&mut self, outcomes: Vec<(Option<PacketId>, Result<(), Reason>)>) -> Vec<Action> {
        let mut actions = Vec::with_capacity(outcomes.len());
        for (id, outcome) in outcomes {
            // Nobody is told of what need not arrive.
            let Some(id) = id else { continue };
            match (outcome, self.version) {
                (Ok(()), _) => actions.push(Action::Send(Sent::Acknowledge { id, reason: Reason::Success })),
                (Err(reason), Version::V5) if reason != Reason::ServerBusy => {
                    actions.push(Action::Send(Sent::Acknowledge { id, reason }));
                }
                // It sends again what was not acknowledged when it returns. Version 3.1.1 cannot be told otherwise.
                (Err(reason), _) => {
                    actions.extend(self.end(reason, "a message was not stored; send it again later"));
                    return actions;
                }
            }
        }
        actions
    }

    fn subscribe(&mut self, id: PacketId, has_identifier: bool, filters: Vec<Asked>) -> Vec<Action> {
        if has_identifier {
            return self.end(Reason::IdentifiersNotSupported, "subscriptions have no identifiers here");
        }
        if filters.len() > SUBSCRIPTIONS_MAX {
            return self.end(Reason::QuotaExceeded, "there are more filters in a packet than a client may have");
        }
        let mut room = SUBSCRIPTIONS_MAX.saturating_sub(self.subscriptions.len());
        let mut known = BTreeSet::new();
        let asked = filters.into_iter().map(|asked| {
            let is_first = known.insert(asked.filter.clone());
            let is_new = is_first && !self.subscriptions.contains_key(&asked.filter);
            let subscription = self.checked(asked, is_new)?;
            if is_new {
                room = room.checked_sub(1).ok_or(Reason::QuotaExceeded)?;
            }
            // What is retained for a filter is given once for each packet.
            Ok(Subscription { wants_retained: subscription.wants_retained && is_first, ..subscription })
        });
        vec![Action::Subscribe(Subscribing { id, asked: asked.collect() })]
    }

    fn checked(&self, asked: Asked, is_new: bool) -> Result<Subscription, Reason> {
        if asked.filter.starts_with("$share/") {
            return Err(Reason::SharedNotSupported);
        }
        // Records do not say who has published them.
        if asked.no_local {
            return Err(Reason::NotSupported);
        }
        let filter: TopicFilter = asked.filter.parse().map_err(|_| Reason::FilterInvalid)?;
        if !self.rights.may_subscribe(&filter) {
            return Err(Reason::NotAuthorized);
        }
        let wants_retained = match asked.retained {
            Retained::Always => true,
            Retained::IfNew => is_new,
            Retained::Never => false,
        };
        Ok(Subscription { filter, qos: asked.qos.min(Qos::One), wants_retained })
    }

    /// Feeds have begun, or have not.
    pub(crate) fn subscribed(&mut self, id: PacketId, outcomes: Vec<Result<Subscription, Reason>>) -> Vec<Action> {
        let granted = outcomes.into_iter().map(|outcome| {
            outcome.map(|Subscription { filter, qos, .. }| {
                self.subscriptions.insert(filter.as_str().to_owned(), (filter, qos));
                qos
            })
        });
        let granted = granted.collect();
        vec![Action::Keep(Sent::Subscribed { id, granted })]
    }

    fn disconnect(&mut self, wants_will: bool, expiry_s: Option<u32>) -> Vec<Action> {
        if let Some(expiry_s) = expiry_s {
            // MQTT 5.0, section 3.14.2.2.2.
            if self.expiry_s == 0 && expiry_s > 0 {
                return self.end(Reason::ProtocolError, "a session that was not to be kept cannot be kept");
            }
            self.expiry_s = expiry_s.min(EXPIRY_S_MAX);
        }
        if !wants_will {
            self.will = None;
        }
        self.phase = Phase::Closed;
        Vec::new()
    }

    /// Takes the next record of a feed: the packet to send, if it is for this client; an error if it has to wait.
    pub(crate) fn offer(
        &mut self,
        feed: &Arc<str>,
        place: Position,
        topic: &str,
        payload: &Bytes,
    ) -> Result<Option<Sent>, Full> {
        let matching = self.subscriptions.values().filter(|(filter, _)| filter.matches(topic));
        let qos = matching.map(|(_, qos)| *qos).max().filter(|_| self.rights.may_receive(topic));
        delivery(self.deliveries.offer(feed, place, qos), topic, payload, false)
    }

    /// Takes a retained message for a client that has just subscribed.
    pub(crate) fn offer_retained(
        &mut self,
        subscription: &Subscription,
        topic: &str,
        payload: &Bytes,
    ) -> Result<Option<Sent>, Full> {
        if !subscription.filter.matches(topic) || !self.rights.may_receive(topic) {
            return Ok(None);
        }
        delivery(self.deliveries.offer_retained(subscription.qos), topic, payload, true)
    }
}

/// The longest name of a client, in bytes.
const CLIENT_BYTES_MAX: usize = 256;

/// Too much waits for the client's acknowledgement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

fn delivery(offer: Offer, topic: &str, payload: &Bytes, is_retained: bool) -> Result<Option<Sent>, Full> {
    match offer {
        Offer::Skip => Ok(None),
        Offer::Full => Err(Full),
        Offer::Send { id, is_repeated } => {
            let (topic, payload) = (topic.to_owned(), payload.clone());
            Ok(Some(Sent::Publish(Box::new(Delivery { topic, payload, id, is_repeated, is_retained }))))
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
