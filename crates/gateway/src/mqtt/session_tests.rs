//! What sessions answer, byte by byte: what clients send and what they are sent are those of the specifications.
#![allow(clippy::unwrap_used)]

use bytes::BytesMut;

use super::super::packet::Codec;
use super::*;

/// A session with its codec.
struct Client {
    codec: Codec,
    session: Session,
}

const CONNECT_V3: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";

impl Client {
    fn new() -> Self {
        Self { codec: Codec::new(1 << 10), session: Session::new() }
    }

    /// A client that was let in, with all rights.
    fn open(connect: &[u8]) -> Self {
        let mut client = Self::new();
        client.send(connect);
        client.let_in(None);
        client
    }

    fn let_in(&mut self, stored: Option<Stored>) -> Vec<u8> {
        let all: Vec<TopicFilter> = vec!["#".parse().unwrap()];
        let rights = Rights { user: String::new(), publish: all.clone(), subscribe: all };
        let actions = self.session.admitted(Admitted { rights, assigned: None, stored });
        self.bytes(actions)
    }

    /// What comes of bytes: the actions that are no packets, and the packets.
    fn send(&mut self, bytes: &[u8]) -> (Vec<Action>, Vec<u8>) {
        let mut bytes = BytesMut::from(bytes);
        let (mut others, mut packets) = (Vec::new(), Vec::new());
        while !self.session.is_closed() {
            let actions = match self.codec.decode(&mut bytes) {
                Ok(None) => break,
                Ok(Some(packet)) => self.session.received(packet),
                Err(reason) => self.session.end(reason, ""),
            };
            let (sent, rest): (Vec<_>, Vec<_>) =
                actions.into_iter().partition(|action| matches!(action, Action::Send(_)));
            packets.extend(self.bytes(sent));
            others.extend(rest);
        }
        (others, packets)
    }

    fn bytes(&mut self, actions: Vec<Action>) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        for action in actions {
            match action {
                Action::Send(packet) | Action::Keep(packet) => self.codec.encode(packet, &mut bytes).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        bytes.to_vec()
    }

    /// The reason with which the connection ends, in version 5.
    fn ended(&mut self, bytes: &[u8]) -> u8 {
        let (others, sent) = self.send(bytes);
        assert!(others.is_empty() && self.session.is_closed(), "{others:?}");
        assert_eq!(sent.first(), Some(&0xE0), "{sent:?}");
        *sent.get(2).unwrap()
    }
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

#[test]
fn a_client_is_let_in_and_told_what_there_is() {
    for (connect, expected) in [
        (CONNECT_V3, &b"\x20\x02\x00\x00"[..]),
        // Window, highest quality, largest packet, no identifiers, nothing shared.
        (CONNECT_V5, b"\x20\x11\x00\x00\x0e\x21\x00\x40\x24\x01\x27\x00\x04\x00\x00\x2a\x00\x29\x00"),
    ] {
        let mut client = Client::new();
        let (asked, sent) = client.send(connect);
        assert!(matches!(asked.as_slice(), [Action::Admit(_)]) && sent.is_empty());
        let mut answer = client.let_in(None);
        // The order of properties is the codec's.
        let mut expected = expected.to_vec();
        answer.sort_unstable();
        expected.sort_unstable();
        assert_eq!(answer, expected);
        assert_eq!(client.session.patience(), Duration::from_secs(90));
        assert_eq!(client.send(b"\xc0\x00"), (Vec::new(), b"\xd0\x00".to_vec()));
        let (others, sent) = client.send(b"\xe0\x00");
        assert!(others.is_empty() && sent.is_empty() && client.session.is_closed());
    }
}

#[test]
fn messages_are_acknowledged_in_their_order_once_they_are_stored() {
    let mut client = Client::open(CONNECT_V3);
    let (asked, sent) = client.send(b"\x32\x06\x00\x01a\x00\x07x\x30\x04\x00\x01by\x32\x06\x00\x01c\x00\x08z");
    assert!(sent.is_empty());
    let ids = asked.iter().map(|action| match action {
        Action::Publish(Publication { id, message: Ok(message) }) => (id.map(PacketId::get), message.topic.as_str()),
        other => panic!("{other:?}"),
    });
    assert_eq!(ids.collect::<Vec<_>>(), [(Some(7), "a"), (None, "b"), (Some(8), "c")]);
    let actions = client.session.published(vec![(Some(id(7)), Ok(())), (None, Ok(())), (Some(id(8)), Ok(()))]);
    assert_eq!(client.bytes(actions), b"\x40\x02\x00\x07\x40\x02\x00\x08");
}

#[test]
fn what_is_not_stored_is_not_acknowledged() {
    // Version 3.1.1 is closed without a word, whatever the reason; what came before is acknowledged.
    let mut client = Client::open(CONNECT_V3);
    let outcomes = vec![(Some(id(1)), Ok(())), (Some(id(2)), Err(Reason::TopicInvalid)), (Some(id(3)), Ok(()))];
    let actions = client.session.published(outcomes.clone());
    assert_eq!(client.bytes(actions), b"\x40\x02\x00\x01");
    assert!(client.session.is_closed());
    // Version 5 is told.
    let mut client = Client::open(CONNECT_V5);
    let actions = client.session.published(outcomes);
    assert_eq!(client.bytes(actions), b"\x40\x04\x00\x01\x00\x00\x40\x04\x00\x02\x90\x00\x40\x04\x00\x03\x00\x00");
    // What may be stored later is not acknowledged as refused: the client sends it again when it returns.
    let actions = client.session.published(vec![(Some(id(4)), Err(Reason::ServerBusy))]);
    let bytes = client.bytes(actions);
    assert_eq!((bytes.first(), bytes.get(2)), (Some(&0xE0), Some(&Reason::ServerBusy.code())));
    // A message of which nothing is acknowledged is lost quietly.
    let mut client = Client::open(CONNECT_V3);
    assert!(client.session.published(vec![(None, Err(Reason::ServerBusy))]).is_empty());
    assert!(!client.session.is_closed());
}

#[test]
fn what_the_protocol_does_not_allow_ends_the_connection_with_its_reason() {
    for (bytes, reason) in [
        (CONNECT_V5, Reason::ProtocolError),
        // Exactly once; an alias; a topic with a wildcard; a subscription with an identifier.
        (&b"\x34\x07\x00\x01a\x00\x01\x00x"[..], Reason::QosNotSupported),
        (b"\x30\x08\x00\x01a\x03\x23\x00\x01x", Reason::AliasInvalid),
        (b"\x30\x05\x00\x01#\x00x", Reason::TopicInvalid),
        (b"\x82\x09\x00\x01\x02\x0b\x05\x00\x01a\x00", Reason::IdentifiersNotSupported),
        // Parts of what is exactly once; what only a server sends; a number that is none.
        (b"\x50\x02\x00\x01", Reason::ProtocolError),
        (b"\xd0\x00", Reason::ProtocolError),
        (b"\x32\x07\x00\x01a\x00\x00\x00x", Reason::Malformed),
        (b"\x82\x08\x00\x01\x00\x00\x02\xff\xff\x00", Reason::Malformed),
        (b"\x30\xff\x7f", Reason::PacketTooLarge),
    ] {
        assert_eq!(Client::open(CONNECT_V5).ended(bytes), reason.code(), "{bytes:?}");
    }
    for (bytes, answer) in [
        (&b"\xc0\x00"[..], &b""[..]),
        (b"\x10\x0d\x00\x04MQTT\x07\x02\x00\x3c\x00\x01c", b"\x20\x02\x00\x01"),
        (b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01c", b"\x20\x02\x00\x01"),
        // No name, and a session that is to be kept.
        (b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x3c\x00\x00", b"\x20\x02\x00\x02"),
        (b"\x10\x0d\x00\x04HTTP\x04\x02\x00\x3c\x00\x01c", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b""),
    ] {
        let mut client = Client::new();
        let (others, sent) = client.send(bytes);
        assert_eq!((others, sent.as_slice()), (Vec::new(), answer), "{bytes:?}");
        assert!(client.session.is_closed(), "{bytes:?}");
    }
    // What arrives in pieces is one packet.
    let mut client = Client::new();
    for byte in CONNECT_V5.split_last().unwrap().1 {
        assert_eq!(client.send(&[*byte]), (Vec::new(), Vec::new()));
    }
}

#[test]
fn filters_are_granted_or_refused_each_for_itself() {
    let mut client = Client::open(CONNECT_V5);
    let filters = [("a/+", 2), ("$share/g/a", 0), ("a/#/b", 1), ("b", 0b101)];
    let mut packet = vec![0, 9, 0];
    for (filter, options) in filters {
        packet.extend([0, u8::try_from(filter.len()).unwrap()]);
        packet.extend(filter.bytes());
        packet.push(options);
    }
    let bytes = [&[0x82, u8::try_from(packet.len()).unwrap()][..], &packet].concat();
    let (asked, _) = client.send(&bytes);
    let [Action::Subscribe(Subscribing { id: number, asked })] = <[Action; 1]>::try_from(asked).unwrap() else {
        panic!("it subscribes")
    };
    let actions = client.session.subscribed(number, asked);
    assert_eq!(client.bytes(actions), b"\x90\x07\x00\x09\x00\x01\x9e\x8f\x83");
    assert_eq!(client.session.filters().map(TopicFilter::as_str).collect::<Vec<_>>(), ["a/+"]);
    let (asked, _) = client.send(b"\xa2\x0b\x00\x0a\x00\x00\x03a/+\x00\x01b");
    assert_eq!(client.bytes(asked), b"\xb0\x05\x00\x0a\x00\x00\x11");
}

#[test]
fn the_highest_quality_that_was_asked_for_counts_and_only_rights_are_sent() {
    let mut client = Client::open(CONNECT_V3);
    let subscription = |filter: &str, qos| Subscription { filter: filter.parse().unwrap(), qos, wants_retained: true };
    client.session.subscribed(id(1), vec![Ok(subscription("a/#", Qos::Zero)), Ok(subscription("a/+", Qos::One))]);
    client.session.rights.subscribe = vec!["a/b".parse().unwrap()];
    let (feed, payload) = (Arc::from("f"), Bytes::from_static(b"x"));
    client.session.deliveries().begin(&feed, Position::START);
    let place = |row| Position { index: 1, row };
    let sent = client.session.offer(&feed, place(0), "a/b", &payload).unwrap().unwrap();
    assert_eq!(client.bytes(vec![Action::Send(sent)]), b"\x32\x08\x00\x03a/b\x00\x01x");
    assert_eq!(client.session.offer(&feed, place(1), "a/c", &payload), Ok(None));
    assert_eq!(client.session.offer(&feed, place(2), "b", &payload), Ok(None));
    let retained = client.session.offer_retained(&subscription("a/#", Qos::Zero), "a/b", &payload).unwrap().unwrap();
    assert_eq!(client.bytes(vec![Action::Send(retained)]), b"\x31\x06\x00\x03a/bx");
    client.send(b"\x40\x02\x00\x01");
    assert_eq!(client.session.deliveries.stored().first().unwrap().from, place(3));
}

#[test]
fn a_will_is_left_unless_the_client_says_goodbye() {
    let connect = b"\x10\x12\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x01w\x00\x00";
    let mut client = Client::open(connect);
    assert_eq!(client.session.take_will().unwrap().0, Message { topic: "w".to_owned(), payload: String::new() });
    let mut client = Client::open(connect);
    client.send(b"\xe0\x00");
    assert_eq!(client.session.take_will(), None);
    // Version 5: a will that waits is not published while the session goes on elsewhere.
    let connect = b"\x10\x1e\x00\x04MQTT\x05\x06\x00\x3c\x05\x11\x00\x00\x00\x09\x00\x01c\x05\x18\x00\x00\x00\x63\x00\x01w\x00\x00";
    let mut client = Client::open(connect);
    assert!(client.session.stored().is_some());
    let will = client.session.will.clone();
    assert_eq!(client.session.take_will().unwrap().1, Duration::from_secs(9), "not longer than the session");
    client.session.will = will;
    client.session.pass_on_will();
    assert_eq!(client.session.take_will(), None);
}
