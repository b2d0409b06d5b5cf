//! How far a client has come in what it is sent: its place in each feed, and what waits for its acknowledgement.
//!
//! Nothing that is to be sent is kept here: it is in the streams. A client that returns goes on from the first record that
//! it has not acknowledged; those that it has acknowledged beyond that are passed over, and the others come again under
//! their numbers (MQTT 5.0, section 4.4).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use littoral_model::entry::Position;
use serde::{Deserialize, Serialize};

use super::packet::{PacketId, Qos};

/// The most messages that wait for a client's acknowledgement.
pub(crate) const WINDOW_MAX: u16 = 64;

/// The progress of one client.
#[derive(Debug)]
pub(crate) struct Deliveries {
    feeds: BTreeMap<Arc<str>, Progress>,
    /// By its number, the place of what waits; what is retained has none.
    waiting: BTreeMap<PacketId, Option<(Arc<str>, Position)>>,
    /// What waited when the client went.
    earlier: BTreeMap<(Arc<str>, Position), PacketId>,
    last: u16,
    window: usize,
}

#[derive(Debug)]
struct Progress {
    /// Everything before this was sent or passed over.
    sent: Position,
    /// Everything before this had been sent when the client went.
    sent_earlier: Position,
    unacknowledged: BTreeSet<Position>,
}

/// How far a client has come in one feed, for when it returns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFeed {
    /// The feed.
    pub feed: String,
    /// The first record that is not acknowledged.
    pub from: Position,
    /// Everything before this was sent.
    pub sent: Position,
    /// What was sent and is not acknowledged, each with its number.
    pub waiting: Vec<(Position, u16)>,
}

/// What to do with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is not for the client, or not any more.
    Skip,
    Send {
        id: Option<PacketId>,
        is_repeated: bool,
    },
    /// Later: too much waits.
    Full,
}

impl Deliveries {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let window = usize::from(WINDOW_MAX);
        Self { feeds: BTreeMap::new(), waiting: BTreeMap::new(), earlier: BTreeMap::new(), last: 0, window }
    }

    /// How much the client lets wait.
    pub(crate) fn set_window(&mut self, window: u16) {
        self.window = usize::from(window.min(WINDOW_MAX));
    }

    /// Goes on where the client was.
    pub(crate) fn resume(&mut self, stored: &[StoredFeed]) {
        for feed in stored {
            let name: Arc<str> = Arc::from(feed.feed.as_str());
            let numbered = feed.waiting.iter().filter_map(|(place, id)| Some((*place, PacketId::new(*id)?)));
            self.earlier.extend(numbered.map(|(place, id)| ((Arc::clone(&name), place), id)));
            let progress = Progress { sent: feed.from, sent_earlier: feed.sent, unacknowledged: BTreeSet::new() };
            self.feeds.insert(name, progress);
        }
    }

    /// Begins a feed, unless it has begun.
    pub(crate) fn begin(&mut self, feed: &Arc<str>, at: Position) {
        let progress = || Progress { sent: at, sent_earlier: at, unacknowledged: BTreeSet::new() };
        self.feeds.entry(Arc::clone(feed)).or_insert_with(progress);
    }

    /// Forgets all other feeds.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.feeds.retain(|feed, _| is_kept(feed));
        self.earlier.retain(|(feed, _), _| is_kept(feed));
    }

    /// Where to read on.
    pub(crate) fn next(&self, feed: &str) -> Option<Position> {
        self.feeds.get(feed).map(|progress| progress.sent)
    }

    /// Takes the next record of a feed, with the quality in which the client wants it.
    pub(crate) fn offer(&mut self, feed: &Arc<str>, place: Position, qos: Option<Qos>) -> Offer {
        let Some(progress) = self.feeds.get(feed).filter(|progress| place >= progress.sent) else { return Offer::Skip };
        let mut is_repeated = false;
        let id = if place < progress.sent_earlier {
            let Some(id) = self.earlier.get(&(Arc::clone(feed), place)) else { return self.pass(feed, place, None) };
            is_repeated = true;
            Some(*id)
        } else {
            match qos {
                None => return self.pass(feed, place, None),
                Some(Qos::Zero) => None,
                Some(Qos::One | Qos::Two) => match self.number() {
                    Some(id) => Some(id),
                    None => return Offer::Full,
                },
            }
        };
        if id.is_some() && self.waiting.len() >= self.window {
            return Offer::Full;
        }
        self.pass(feed, place, id);
        Offer::Send { id, is_repeated }
    }

    /// Numbers a message that is in no feed.
    pub(crate) fn offer_retained(&mut self, qos: Qos) -> Offer {
        if qos == Qos::Zero {
            return Offer::Send { id: None, is_repeated: false };
        }
        let Some(id) = self.number().filter(|_| self.waiting.len() < self.window) else { return Offer::Full };
        self.waiting.insert(id, None);
        Offer::Send { id: Some(id), is_repeated: false }
    }

    /// Everything before this was looked at.
    pub(crate) fn advance(&mut self, feed: &str, next: Position) {
        let Some(progress) = self.feeds.get_mut(feed) else { return };
        progress.sent = progress.sent.max(next);
        if progress.sent >= progress.sent_earlier {
            // Records that are gone cannot come again.
            self.earlier.retain(|(of, _), _| **of != *feed);
        }
    }

    /// The client has a message. Whether it was sent one of that number.
    pub(crate) fn acknowledged(&mut self, id: PacketId) -> bool {
        let Some(place) = self.waiting.remove(&id) else { return false };
        if let Some((feed, place)) = place
            && let Some(progress) = self.feeds.get_mut(&feed)
        {
            progress.unacknowledged.remove(&place);
        }
        true
    }

    /// What to know when the client returns.
    pub(crate) fn stored(&self) -> Vec<StoredFeed> {
        let feeds = self.feeds.iter().map(|(feed, progress)| {
            let numbered = self.waiting.iter().filter_map(|(id, place)| Some((place.as_ref()?, id)));
            let now = numbered.filter(|((of, _), _)| of == feed).map(|((_, place), id)| (*place, id.get()));
            let earlier = self.earlier.iter().filter(|((of, _), _)| of == feed);
            let earlier = earlier.map(|((_, place), id)| (*place, id.get()));
            StoredFeed {
                feed: feed.to_string(),
                from: progress.unacknowledged.first().copied().unwrap_or(progress.sent),
                sent: progress.sent.max(progress.sent_earlier),
                waiting: now.chain(earlier).collect(),
            }
        });
        feeds.collect()
    }

    /// Passes a record; with a number, it waits.
    fn pass(&mut self, feed: &Arc<str>, place: Position, id: Option<PacketId>) -> Offer {
        if let Some(progress) = self.feeds.get_mut(feed) {
            progress.sent = Position { index: place.index, row: place.row.saturating_add(1) };
            if let Some(id) = id {
                progress.unacknowledged.insert(place);
                self.earlier.remove(&(Arc::clone(feed), place));
                self.waiting.insert(id, Some((Arc::clone(feed), place)));
            }
        }
        Offer::Skip
    }

    /// A number that nothing has.
    fn number(&mut self) -> Option<PacketId> {
        // More than can wait, so that there is a free one among them.
        for _ in 0..=2 * u32::from(WINDOW_MAX) {
            self.last = self.last.checked_add(1).unwrap_or(1);
            let id = PacketId::new(self.last)?;
            if !self.waiting.contains_key(&id) && !self.earlier.values().any(|earlier| *earlier == id) {
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(row: u32) -> Position {
        Position { index: 7, row }
    }

    fn sent(deliveries: &mut Deliveries, feed: &Arc<str>, row: u32) -> (u16, bool) {
        match deliveries.offer(feed, place(row), Some(Qos::One)) {
            Offer::Send { id: Some(id), is_repeated } => (id.get(), is_repeated),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_returns_is_sent_what_was_not_acknowledged_under_its_number() {
        let feed: Arc<str> = Arc::from("f");
        let mut deliveries = Deliveries::new();
        deliveries.begin(&feed, place(0));
        let ids: Vec<u16> = (0..4).map(|row| sent(&mut deliveries, &feed, row).0).collect();
        for acknowledged in [0, 2] {
            assert!(deliveries.acknowledged(PacketId::new(ids[acknowledged]).unwrap()));
        }
        assert!(!deliveries.acknowledged(PacketId::new(ids[0]).unwrap()), "only once");
        let stored = deliveries.stored();
        assert_eq!((stored[0].from, stored[0].sent), (place(1), place(4)));

        let mut again = Deliveries::new();
        again.resume(&stored);
        assert_eq!(again.stored(), stored, "who returns and goes at once has lost nothing");
        assert_eq!(again.next("f"), Some(place(1)));
        assert_eq!(sent(&mut again, &feed, 1), (ids[1], true));
        assert_eq!(again.offer(&feed, place(2), Some(Qos::One)), Offer::Skip);
        assert_eq!(sent(&mut again, &feed, 3), (ids[3], true));
        let (fresh, is_repeated) = sent(&mut again, &feed, 4);
        assert!(!is_repeated && !ids[1..].iter().any(|id| *id == fresh && (*id == ids[1] || *id == ids[3])));
        assert_eq!(again.offer(&feed, place(4), Some(Qos::One)), Offer::Skip, "it was sent");
    }

    #[test]
    fn no_more_waits_than_the_client_allows() {
        let feed: Arc<str> = Arc::from("f");
        let mut deliveries = Deliveries::new();
        deliveries.set_window(2);
        deliveries.begin(&feed, place(0));
        let (first, _) = sent(&mut deliveries, &feed, 0);
        sent(&mut deliveries, &feed, 1);
        assert_eq!(deliveries.offer(&feed, place(2), Some(Qos::One)), Offer::Full);
        assert_eq!(deliveries.offer_retained(Qos::One), Offer::Full);
        assert_eq!(deliveries.next("f"), Some(place(2)), "it comes again");
        assert!(matches!(deliveries.offer_retained(Qos::Zero), Offer::Send { id: None, .. }));
        deliveries.acknowledged(PacketId::new(first).unwrap());
        sent(&mut deliveries, &feed, 2);
    }

    #[test]
    fn numbers_go_round_and_none_is_given_twice() {
        let feed: Arc<str> = Arc::from("f");
        let mut deliveries = Deliveries::new();
        deliveries.begin(&feed, place(0));
        let (stays, _) = sent(&mut deliveries, &feed, 0);
        for row in 1..70_000 {
            let (id, _) = sent(&mut deliveries, &feed, row);
            assert_ne!(id, stays);
            deliveries.acknowledged(PacketId::new(id).unwrap());
        }
        assert_eq!(deliveries.stored()[0].from, place(0));
    }

    #[test]
    fn records_that_are_gone_hold_no_number() {
        let mut deliveries = Deliveries::new();
        let stored = StoredFeed { feed: "f".to_owned(), from: place(1), sent: place(3), waiting: vec![(place(1), 9)] };
        deliveries.resume(&[stored]);
        deliveries.advance("f", Position { index: 8, row: 0 });
        assert_eq!(deliveries.stored()[0].waiting, []);
    }
}
