//! Clients of MQTT: any bytes, in any pieces, with any outcome of what they ask for. A session neither fails nor goes on after
//! its end, what it sends can be read, what waits is bounded, and who goes and returns is where it was.

use std::sync::Arc;

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use littoral_model::entry::Position;
use rmqtt_codec::{v3, v5};
use tokio_util::codec::Decoder as _;

use self::access::Rights;
use self::deliveries::{Deliveries, WINDOW_MAX};
use self::packet::Codec;
use self::reason::Reason;
use self::session::{Action, Admitted, Session, Stored, Subscription};

#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/gateway/src/mqtt/access.rs"]
mod access;
#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/gateway/src/mqtt/deliveries.rs"]
mod deliveries;
#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/gateway/src/mqtt/packet.rs"]
mod packet;
#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/gateway/src/mqtt/reason.rs"]
mod reason;
#[allow(dead_code, unreachable_pub)]
#[path = "../../crates/gateway/src/mqtt/session.rs"]
mod session;

/// The largest packet that is taken here, so that inputs reach it.
const PACKET_BYTES_MAX: u32 = 512;
/// What is published while the client is there.
const TOPICS: [&str; 4] = ["a", "a/b", "a/b/c", "$x"];

/// What comes of what the client asks for.
#[derive(Clone, Copy, Debug, Arbitrary)]
struct World {
    is_refused: bool,
    has_session: bool,
    is_busy: bool,
    has_no_stream: bool,
    /// How much of the input arrives at once.
    piece: u8,
}

/// A client sends the input; its first bytes say what comes of it.
pub fn run(bytes: &[u8]) {
    let mut head = Unstructured::new(bytes);
    let Ok(world) = World::arbitrary(&mut head) else { return };
    let input = head.take_rest();
    let mut client = Client::new(world);
    for piece in input.chunks(usize::from(world.piece).max(1)) {
        client.input.extend_from_slice(piece);
        client.take();
        if client.session.is_closed() {
            break;
        }
    }
    client.leave();
}

struct Client {
    world: World,
    codec: Codec,
    session: Session,
    input: BytesMut,
    output: BytesMut,
    feed: Arc<str>,
    next: Position,
}

impl Client {
    fn new(world: World) -> Self {
        Self {
            world,
            codec: Codec::new(PACKET_BYTES_MAX),
            session: Session::new(),
            input: BytesMut::new(),
            output: BytesMut::new(),
            feed: Arc::from("feed"),
            next: Position::START,
        }
    }

    fn take(&mut self) {
        while !self.session.is_closed() {
            let actions = match self.codec.decode(&mut self.input) {
                Ok(None) => return,
                Ok(Some(packet)) => self.session.received(packet),
                Err(reason) => self.session.end(reason, "the packet cannot be read"),
            };
            self.act(actions);
            if self.session.is_open() {
                self.feed();
            }
        }
        assert!(self.session.end(Reason::Unspecified, "twice").is_empty(), "it ends once");
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            let more = match action {
                Action::Send(packet) | Action::Keep(packet) => {
                    let before = self.output.len();
                    if self.codec.encode(packet, &mut self.output).is_err() {
                        assert_eq!(self.output.len(), before, "nothing of it is written");
                    }
                    continue;
                }
                Action::Admit(connect) => {
                    if self.world.is_refused {
                        self.session.end(Reason::BadUserOrPassword, "the client is not let in")
                    } else {
                        self.codec.set_bytes_max(PACKET_BYTES_MAX, connect.packet_bytes_max);
                        let all = vec!["#".parse().unwrap()];
                        let rights = Rights { user: String::new(), publish: all.clone(), subscribe: all };
                        let stored = self.world.has_session.then(stored);
                        self.session.admitted(Admitted { rights, assigned: None, stored })
                    }
                }
                Action::Publish(publication) => {
                    let outcome = match publication.message {
                        Err(reason) => Err(reason),
                        Ok(_) if self.world.is_busy => Err(Reason::ServerBusy),
                        Ok(_) if self.world.has_no_stream => Err(Reason::TopicInvalid),
                        Ok(_) => Ok(()),
                    };
                    self.session.published(vec![(publication.id, outcome)])
                }
                Action::Subscribe(subscribing) => {
                    self.session.deliveries().begin(&self.feed, self.next);
                    let wanted: Vec<Subscription> = subscribing.asked.iter().flatten().cloned().collect();
                    let more = self.session.subscribed(subscribing.id, subscribing.asked);
                    for subscription in wanted {
                        let retained = self.session.offer_retained(&subscription, "a/b", &Bytes::from_static(b"r"));
                        if let Ok(Some(packet)) = retained {
                            self.codec.encode(packet, &mut self.output).ok();
                        }
                    }
                    more
                }
            };
            self.act(more);
        }
    }

    /// A record on each topic.
    fn feed(&mut self) {
        for topic in TOPICS {
            let offered = self.session.offer(&self.feed, self.next, topic, &Bytes::from_static(b"x"));
            match offered {
                Ok(Some(packet)) => drop(self.codec.encode(packet, &mut self.output)),
                Ok(None) => {}
                Err(_) => return,
            }
            self.next = Position { index: self.next.index, row: self.next.row + 1 };
        }
    }

    fn leave(mut self) {
        let waiting: usize = self.session.deliveries().stored().iter().map(|feed| feed.waiting.len()).sum();
        assert!(waiting <= usize::from(WINDOW_MAX) + stored().feeds.len());
        if let Some(stored) = self.session.stored() {
            let mut again = Deliveries::new();
            again.resume(&stored.feeds);
            let mut expected = stored.feeds;
            expected.iter_mut().for_each(|feed| feed.waiting.sort_unstable());
            assert_eq!(again.stored(), expected, "who goes and returns is where it was");
        }
        self.session.take_will();
        // A client reads what it is sent.
        let (mut v3, mut v5) = (v3::Codec::new(0), v5::Codec::new(0, 0));
        // The first is CONNACK, which has properties in version 5 only.
        let is_v5 = self.output.get(1).is_some_and(|length| *length != 2);
        while !self.output.is_empty() {
            let is_read = match is_v5 {
                false => v3.decode(&mut self.output).unwrap().is_some(),
                true => v5.decode(&mut self.output).unwrap().is_some(),
            };
            assert!(is_read, "what is sent is whole");
        }
    }
}

/// What was kept of an earlier connection.
fn stored() -> Stored {
    let place = |row| Position { index: 1, row };
    let feed = deliveries::StoredFeed {
        feed: "feed".to_owned(),
        from: Position::START,
        sent: place(5),
        waiting: vec![(place(0), 1), (place(3), 2)],
    };
    Stored { subscriptions: vec![("a/#".to_owned(), 1)], feeds: vec![feed], expiry_s: 60 }
}
