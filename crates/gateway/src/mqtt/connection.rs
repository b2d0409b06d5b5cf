//! One client: carries out what its session decides.
//!
//! One thing is done at a time that may take a while (admitting, publishing, beginning feeds, keeping the session), and
//! the client is not read meanwhile: that is what holds it back. Feeds are read on once all that came before is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use littoral_model::topic::TopicFilter;
use metrics::{counter, gauge};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::packet::{Codec, Connect, PacketId, Received, Sent};
use super::reason::Reason;
use super::registry::{Claim, Registry, SessionKey, Taken};
use super::session::{
    Action, Admitted, Full, PACKET_BYTES_MAX, PUBLISH_MAX, Publication, Session, Stored, Subscribing, Subscription,
};
use super::{Access, Feed, FeedError, Keep, Message, PublishError, Record, Records, Shown, Topics};

/// The largest packet of a client that was not let in yet: a will is the most of it.
const FIRST_PACKET_BYTES_MAX: u32 = 64 << 10;
/// How long a client may take to say who it is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how many subscriptions retained messages wait at most: each may have a megabyte of them.
const RETAINED_HELD_MAX: usize = 128;
/// How long the last words may take to be sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How much waits to be written before nothing more is added, in bytes.
const OUTPUT_BYTES: usize = 64 << 10;
/// How much is read at once, in bytes.
const READ_BYTES: usize = 8 << 10;
/// How often a session that is to be kept is written down while it goes on: what it lacks after a crash is sent again.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// How long a feed rests that could not be read.
const FEED_PAUSE: Duration = Duration::from_millis(500);
/// The most feeds that one client reads: partitions of streams.
const FEEDS_MAX: usize = 64;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) topics: Arc<dyn Topics>,
    pub(crate) access: Arc<dyn Access>,
    pub(crate) keep: Arc<dyn Keep>,
    pub(crate) registry: Arc<Registry>,
    /// Places for wills that wait; where there is none, a will is published without its delay.
    pub(crate) wills: Arc<Semaphore>,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// Serves a client until its connection ends, and sees to what it leaves.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    certificate: Option<Bytes>,
    shared: Arc<Shared>,
) {
    gauge!("littoral_mqtt_connections").increment(1.0);
    let mut connection = Connection::new(shared, certificate);
    connection.run(stream).await;
    gauge!("littoral_mqtt_connections").decrement(1.0);
    connection.leave().await;
}

/// Something that takes a while.
enum Operation {
    Admit(Box<Connect>),
    Publish(Vec<Publication>),
    Subscribe(Subscribing),
    /// Make durable, then send.
    Keep(Option<Sent>),
}

/// What came of it.
enum Outcome {
    Admitted(Result<Box<LetIn>, Reason>),
    Published(Vec<(Option<PacketId>, Result<(), Reason>)>),
    Subscribed(PacketId, Vec<Result<Begun, Reason>>),
    Kept(Option<Sent>, bool),
}

/// A client that was let in, and has its session.
struct LetIn {
    admitted: Admitted,
    claim: Claim,
    packet_bytes_max: Option<u32>,
}

/// A subscription whose feeds have begun.
struct Begun {
    subscription: Subscription,
    feeds: Vec<(Arc<dyn Feed>, super::Beginning)>,
}

/// Records that wait to be sent.
enum Held {
    Records { feed: Arc<str>, records: VecDeque<Record>, next: littoral_model::entry::Position },
    Retained { subscription: Subscription, records: VecDeque<Record> },
}

type Read = (Arc<str>, Result<Records, FeedError>);

struct Connection {
    shared: Arc<Shared>,
    certificate: Option<Bytes>,
    codec: Codec,
    session: Session,
    claim: Option<Claim>,
    input: BytesMut,
    output: BytesMut,
    /// A packet that waits until what came before it is done.
    next: Option<Received>,
    /// Whether something was written that may not have left.
    is_unflushed: bool,
    operations: VecDeque<Operation>,
    running: Option<BoxFuture<'static, Outcome>>,
    feeds: BTreeMap<Arc<str>, Arc<dyn Feed>>,
    reads: FuturesUnordered<BoxFuture<'static, Read>>,
    /// The feeds of which something is being read, or is held: each is read by one at a time.
    busy: BTreeSet<Arc<str>>,
    held: VecDeque<Held>,
    begun: Instant,
    heard: Instant,
    kept: Instant,
    is_changed: bool,
}

impl Connection {
    fn new(shared: Arc<Shared>, certificate: Option<Bytes>) -> Self {
        Self {
            shared,
            certificate,
            codec: Codec::new(FIRST_PACKET_BYTES_MAX),
            session: Session::new(),
            claim: None,
            input: BytesMut::new(),
            output: BytesMut::new(),
            next: None,
            is_unflushed: false,
            operations: VecDeque::new(),
            running: None,
            feeds: BTreeMap::new(),
            reads: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            held: VecDeque::new(),
            begun: Instant::now(),
            heard: Instant::now(),
            kept: Instant::now(),
            is_changed: false,
        }
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: S) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (mut stopped, mut changes) = (self.shared.stopped.clone(), self.shared.topics.changes());
        while !self.session.is_closed() {
            self.advance();
            let may_read = self.may_decode();
            let (silent, keep) = (self.deadline(), self.kept + KEEP_EVERY);
            let event = tokio::select! {
                outcome = running(&mut self.running) => Event::Done(outcome),
                read = read(&mut reader, &mut self.input), if may_read => Event::Read(read),
                written = write(&mut writer, &mut self.output), if self.is_unflushed => Event::Written(written),
                Some(read) = self.reads.next(), if self.held.is_empty() => Event::Fed(read),
                () = tokio::time::sleep_until(silent), if may_read => Event::Silent,
                () = tokio::time::sleep_until(keep), if self.is_changed && may_read => Event::Keep,
                taken = taken(&mut self.claim) => Event::Taken(taken),
                changed = changes.changed(), if self.session.is_open() => Event::Changed(changed.is_ok()),
                () = until_stopped(&mut stopped) => Event::Stopped,
            };
            if !self.handle(event) {
                return;
            }
        }
        // What was under way is not answered any more; what was published is published.
        let last = async {
            writer.write_all_buf(&mut self.output).await?;
            writer.shutdown().await
        };
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_TIMEOUT, last).await {
            tracing::debug!(%error, "a client of MQTT did not hear the last words");
        }
    }

    /// Does all that can be done without waiting.
    fn advance(&mut self) {
        while self.may_decode() && !self.session.is_closed() {
            let packet =
                match self.next.take().map_or_else(|| self.codec.decode(&mut self.input), |next| Ok(Some(next))) {
                    Ok(None) => break,
                    Ok(Some(packet)) => packet,
                    Err(reason) => return self.end(reason, "the packet cannot be read"),
                };
            if !self.operations.is_empty() && !matches!(packet, Received::Publish(_)) {
                // What came before is done first.
                self.next = Some(packet);
                break;
            }
            self.is_changed |= matches!(packet, Received::Acknowledged(_));
            let actions = self.session.received(packet);
            self.act(actions);
        }
        if self.running.is_none()
            && let Some(operation) = self.operations.pop_front()
        {
            self.running = Some(self.start(operation));
        }
        self.deliver();
    }

    /// Whether more of what the client sends is taken: messages as long as their publication has room.
    fn may_decode(&self) -> bool {
        if self.running.is_some() || self.output.len() > OUTPUT_BYTES {
            return false;
        }
        match (self.operations.len(), self.operations.back()) {
            (0, _) => true,
            (1, Some(Operation::Publish(batch))) => self.next.is_none() && batch.len() < usize::from(PUBLISH_MAX),
            _ => false,
        }
    }

    fn deadline(&self) -> Instant {
        // Who sends its first packet byte by byte has no longer than others.
        if self.session.is_open() { self.heard + self.session.patience() } else { self.begun + CONNECT_TIMEOUT }
    }

    /// Takes what has happened. Whether the connection still is.
    fn handle(&mut self, event: Event) -> bool {
        match event {
            Event::Done(outcome) => {
                self.running = None;
                // Nobody was listened to meanwhile; but what the node does for itself is no sign of the client.
                if !matches!(outcome, Outcome::Kept(None, _)) {
                    self.heard = Instant::now();
                }
                self.finish(outcome);
            }
            Event::Read(Ok(0)) => return false,
            Event::Read(Ok(_)) => self.heard = Instant::now(),
            Event::Written(Ok(())) => self.is_unflushed = false,
            Event::Read(Err(error)) | Event::Written(Err(error)) => {
                tracing::debug!(%error, "the connection of a client of MQTT broke");
                return false;
            }
            Event::Fed((feed, read)) => self.fed(feed, read),
            Event::Silent => self.end(Reason::KeepAliveTimeout, "nothing was heard for too long"),
            Event::Keep => self.operations.push_back(Operation::Keep(None)),
            Event::Taken(taken) => {
                self.end(Reason::TakenOver, "the client has connected a second time");
                // Its will waits for nothing if the session goes on elsewhere.
                if taken.goes_on {
                    self.session.pass_on_will();
                }
            }
            Event::Changed(true) => self.look_for_feeds(),
            Event::Changed(false) | Event::Stopped => self.end(Reason::ShuttingDown, "the node stops"),
        }
        true
    }

    fn end(&mut self, reason: Reason, text: &'static str) {
        let actions = self.session.end(reason, text);
        tracing::debug!(?reason, text, "a client of MQTT is let go");
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Send(packet) => self.send(packet),
                Action::Admit(connect) => self.operations.push_back(Operation::Admit(connect)),
                Action::Publish(publication) => match self.operations.back_mut() {
                    Some(Operation::Publish(batch)) => batch.push(publication),
                    _ => self.operations.push_back(Operation::Publish(vec![publication])),
                },
                Action::Subscribe(subscribing) => {
                    let waiting = self.held.iter().filter(|held| matches!(held, Held::Retained { .. })).count();
                    if waiting < RETAINED_HELD_MAX {
                        self.operations.push_back(Operation::Subscribe(subscribing));
                    } else {
                        self.end(Reason::QuotaExceeded, "the retained messages of earlier subscriptions still wait");
                    }
                }
                Action::Keep(packet) => {
                    let needed = self.drop_feeds();
                    self.session.deliveries().keep(|feed| needed.contains(feed));
                    if self.session.stored().is_some() {
                        self.operations.push_back(Operation::Keep(Some(packet)));
                    } else {
                        self.send(packet);
                    }
                }
            }
        }
    }

    fn send(&mut self, packet: Sent) {
        self.is_unflushed = true;
        let id = match &packet {
            Sent::Publish(delivery) => delivery.id,
            _ => None,
        };
        if self.codec.encode(packet, &mut self.output).is_err() {
            // MQTT 5.0, section 3.1.2.11.4: it is done with, as if it had been sent.
            counter!("littoral_mqtt_messages_total", "direction" => "out", "outcome" => "too-large").increment(1);
            if let Some(id) = id {
                self.session.deliveries().acknowledged(id);
            }
        }
    }

    fn start(&self, operation: Operation) -> BoxFuture<'static, Outcome> {
        let shared = Arc::clone(&self.shared);
        match operation {
            Operation::Admit(connect) => {
                admit(shared, connect, self.certificate.clone()).map(Outcome::Admitted).boxed()
            }
            Operation::Publish(batch) => publish(shared, batch).map(Outcome::Published).boxed(),
            Operation::Subscribe(Subscribing { id, asked }) => {
                subscribe(shared, asked).map(move |begun| Outcome::Subscribed(id, begun)).boxed()
            }
            Operation::Keep(packet) => {
                let kept = self.claim.as_ref().map(|claim| claim.session.clone()).zip(self.session.stored());
                async move {
                    let Some((session, stored)) = kept else { return Outcome::Kept(packet, true) };
                    let saved = shared.keep.save(&session, stored).await;
                    let saved = saved.inspect_err(|error| tracing::warn!(%error, "a session of MQTT cannot be kept"));
                    Outcome::Kept(packet, saved.is_ok())
                }
                .boxed()
            }
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        let actions = match outcome {
            Outcome::Admitted(Ok(let_in)) => {
                let LetIn { admitted, claim, packet_bytes_max } = *let_in;
                self.codec.set_bytes_max(PACKET_BYTES_MAX, packet_bytes_max);
                let actions = self.session.admitted(admitted);
                if self.session.is_open() {
                    self.claim = Some(claim);
                    self.look_for_feeds();
                }
                actions
            }
            Outcome::Admitted(Err(reason)) => self.session.end(reason, "the client is not let in"),
            Outcome::Published(outcomes) => self.session.published(outcomes),
            Outcome::Subscribed(id, begun) => {
                let outcomes = begun.into_iter().map(|begun| begun.and_then(|begun| self.take(begun))).collect();
                self.session.subscribed(id, outcomes)
            }
            Outcome::Kept(packet, is_kept) => {
                (self.kept, self.is_changed) = (Instant::now(), false);
                match packet {
                    Some(packet) if is_kept => vec![Action::Send(packet)],
                    Some(_) => self.session.end(Reason::Unspecified, "the session cannot be kept"),
                    None => Vec::new(),
                }
            }
        };
        self.act(actions);
    }

    /// Begins the feeds of a subscription.
    fn take(&mut self, begun: Begun) -> Result<Subscription, Reason> {
        let Begun { subscription, feeds } = begun;
        let new = feeds.iter().filter(|(feed, _)| !self.feeds.contains_key(feed.id())).count();
        if self.feeds.len() + new > FEEDS_MAX {
            return Err(Reason::QuotaExceeded);
        }
        for (feed, beginning) in feeds {
            let id: Arc<str> = Arc::from(feed.id());
            self.session.deliveries().begin(&id, beginning.at);
            if !beginning.retained.is_empty() {
                let records = beginning.retained.into();
                self.held.push_back(Held::Retained { subscription: subscription.clone(), records });
            }
            self.begin(id, feed);
        }
        Ok(subscription)
    }

    fn begin(&mut self, id: Arc<str>, feed: Arc<dyn Feed>) {
        self.feeds.insert(Arc::clone(&id), feed);
        if self.busy.insert(Arc::clone(&id)) {
            self.read_on(id, Duration::ZERO);
        }
    }

    /// Reads on in a feed, after a pause.
    fn read_on(&self, id: Arc<str>, pause: Duration) {
        let Some(feed) = self.feeds.get(&id).cloned() else { return };
        let from = self.session.next(&id);
        self.reads.push(
            async move {
                tokio::time::sleep(pause).await;
                let read = match from {
                    Some(from) => feed.read(from).await,
                    // Feeds that come while a client is here begin then.
                    None => feed.begin(&[]).await.map(|begun| Records { records: Vec::new(), next: begun.at }),
                };
                (id, read)
            }
            .boxed(),
        );
    }

    fn fed(&mut self, feed: Arc<str>, read: Result<Records, FeedError>) {
        if !self.feeds.contains_key(&feed) {
            self.busy.remove(&feed);
            return;
        }
        match read {
            Ok(Records { records, next }) => {
                self.session.deliveries().begin(&feed, next);
                self.held.push_back(Held::Records { feed, records: records.into(), next });
            }
            Err(error) => {
                tracing::debug!(%error, %feed, "a feed of MQTT cannot be read now");
                self.read_on(feed, FEED_PAUSE);
            }
        }
    }

    /// Sends what is held, as far as the client takes it.
    fn deliver(&mut self) {
        while self.session.is_open() && self.output.len() <= OUTPUT_BYTES {
            let Some(held) = self.held.front_mut() else { return };
            let offered = match held {
                Held::Records { feed, records, .. } => {
                    let session = &mut self.session;
                    records.front().map(|record| session.offer(feed, record.place, &record.topic, &record.payload))
                }
                Held::Retained { subscription, records } => {
                    let session = &mut self.session;
                    records.front().map(|record| session.offer_retained(subscription, &record.topic, &record.payload))
                }
            };
            match offered {
                Some(Err(Full)) => return,
                Some(Ok(packet)) => {
                    let (Held::Records { records, .. } | Held::Retained { records, .. }) = held;
                    records.pop_front();
                    if let Some(packet) = packet {
                        counter!("littoral_mqtt_messages_total", "direction" => "out", "outcome" => "sent")
                            .increment(1);
                        self.is_changed = true;
                        self.send(packet);
                    }
                }
                None => {
                    if let Some(Held::Records { feed, next, .. }) = self.held.pop_front() {
                        self.session.deliveries().advance(&feed, next);
                        self.read_on(feed, Duration::ZERO);
                    }
                }
            }
        }
    }

    /// Takes up the feeds that the client's filters need and that it does not have.
    fn look_for_feeds(&mut self) {
        let found: Vec<Arc<dyn Feed>> =
            self.session.filters().flat_map(|filter| self.shared.topics.feeds(filter)).collect();
        for feed in found {
            let id: Arc<str> = Arc::from(feed.id());
            if self.feeds.len() < FEEDS_MAX && !self.feeds.contains_key(&id) {
                self.begin(id, feed);
            }
        }
        self.drop_feeds();
    }

    /// Lets go of feeds that no filter needs; those that are needed. The client's place in one that is gone is kept: it may be
    /// gone for a moment only, while its stream is placed anew.
    fn drop_feeds(&mut self) -> BTreeSet<String> {
        let needed = self.session.filters().flat_map(|filter| self.shared.topics.feeds(filter));
        let needed: BTreeSet<String> = needed.map(|feed| feed.id().to_owned()).collect();
        self.feeds.retain(|id, _| needed.contains(&**id));
        let busy = &mut self.busy;
        self.held.retain(|held| match held {
            Held::Records { feed, .. } if !needed.contains(&**feed) => {
                busy.remove(feed);
                false
            }
            Held::Records { .. } | Held::Retained { .. } => true,
        });
        needed
    }

    /// Keeps the session or forgets it, and publishes the will.
    async fn leave(mut self) {
        if let Some(running) = self.running.take() {
            // A message that need not be acknowledged is stored although its client has gone.
            running.await;
        }
        let Some(mut claim) = self.claim.take() else { return };
        let stored = self.session.stored();
        let lives_on = stored.is_some();
        let done = match stored {
            Some(stored) => self.shared.keep.save(&claim.session, stored).await,
            None => self.shared.keep.remove(&claim.session).await,
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a session of MQTT cannot be kept as it is");
        }
        claim.release();
        let Some((message, delay)) = self.session.take_will() else { return };
        let waits = (lives_on && !delay.is_zero()).then(|| Arc::clone(&self.shared.wills).try_acquire_owned());
        match waits {
            // The connection is over: it takes nobody's place meanwhile.
            Some(Ok(place)) => drop(tokio::spawn(wait_with_will(self.shared, claim, (message, delay), place))),
            Some(Err(_)) | None => publish_will(&self.shared, message).await,
        }
    }
}

/// Publishes a will after its delay, unless its session goes on until then.
async fn wait_with_will(
    shared: Arc<Shared>,
    mut claim: Claim,
    (message, delay): (Message, Duration),
    _place: OwnedSemaphorePermit,
) {
    let mut stopped = shared.stopped.clone();
    tokio::select! {
        () = tokio::time::sleep(delay) => {}
        taken = claim.taken() => if taken.goes_on { return },
        () = until_stopped(&mut stopped) => {}
    }
    publish_will(&shared, message).await;
}

async fn publish_will(shared: &Shared, message: Message) {
    let published = shared.topics.publish(vec![message]).await;
    if let Some(Err(error)) = published.into_iter().next() {
        tracing::warn!(%error, "a client's will could not be published");
    }
}

/// What a connection waits for.
enum Event {
    Done(Outcome),
    Read(io::Result<usize>),
    Written(io::Result<()>),
    Fed(Read),
    Silent,
    Keep,
    Taken(Taken),
    Changed(bool),
    Stopped,
}

async fn running(running: &mut Option<BoxFuture<'static, Outcome>>) -> Outcome {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

/// Waits for the end of the server.
pub(super) async fn until_stopped(stopped: &mut watch::Receiver<bool>) {
    // A server that was dropped has stopped, too.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

async fn taken(claim: &mut Option<Claim>) -> Taken {
    match claim {
        Some(claim) => claim.taken().await,
        None => std::future::pending().await,
    }
}

async fn read<R: AsyncRead + Unpin>(reader: &mut R, input: &mut BytesMut) -> io::Result<usize> {
    input.reserve(READ_BYTES);
    reader.read_buf(input).await
}

/// Writes and sends all; may be dropped at any time, and called again.
async fn write<W: AsyncWrite + Unpin>(writer: &mut W, output: &mut BytesMut) -> io::Result<()> {
    writer.write_all_buf(output).await?;
    writer.flush().await
}

/// Finds out who a client is, takes its session from whoever has it, and what is kept of it.
async fn admit(shared: Arc<Shared>, connect: Box<Connect>, certificate: Option<Bytes>) -> Result<Box<LetIn>, Reason> {
    let Connect { client, is_clean, user, password, packet_bytes_max, .. } = *connect;
    let rights = shared.access.admit(&Shown { user, password, certificate })?;
    let assigned = client.is_empty().then(|| format!("littoral-{:016x}", rand::random::<u64>()));
    let session = SessionKey { user: rights.user.clone(), client: assigned.clone().unwrap_or(client) };
    let claim = shared.registry.claim(session, Taken { goes_on: !is_clean }).await.ok_or(Reason::ServerBusy)?;
    let failed = |error| {
        tracing::warn!(%error, "a session of MQTT cannot be read");
        Reason::Unspecified
    };
    let stored: Option<Stored> = if is_clean {
        shared.keep.remove(&claim.session).await.map_err(failed)?;
        None
    } else {
        shared.keep.load(&claim.session).await.map_err(failed)?
    };
    Ok(Box::new(LetIn { admitted: Admitted { rights, assigned, stored }, claim, packet_bytes_max }))
}

/// Publishes what is to be published; of each message, what became of it.
async fn publish(shared: Arc<Shared>, batch: Vec<Publication>) -> Vec<(Option<PacketId>, Result<(), Reason>)> {
    let messages: Vec<Message> = batch.iter().filter_map(|publication| publication.message.clone().ok()).collect();
    let mut published = shared.topics.publish(messages).await.into_iter();
    let outcomes = batch.into_iter().map(|publication| {
        let outcome = publication.message.and_then(|_| match published.next() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(reason_of(&error)),
            None => Err(Reason::Unspecified),
        });
        let label = if outcome.is_ok() { "stored" } else { "refused" };
        counter!("littoral_mqtt_messages_total", "direction" => "in", "outcome" => label).increment(1);
        (publication.id, outcome)
    });
    outcomes.collect()
}

fn reason_of(error: &PublishError) -> Reason {
    tracing::debug!(%error, "a message of MQTT was not stored");
    match error {
        PublishError::NoStream(_) => Reason::TopicInvalid,
        PublishError::Refused(_) => Reason::NotSupported,
        PublishError::Unavailable(_) => Reason::ServerBusy,
    }
}

/// Begins the feeds of each filter.
async fn subscribe(shared: Arc<Shared>, asked: Vec<Result<Subscription, Reason>>) -> Vec<Result<Begun, Reason>> {
    let mut begun = Vec::with_capacity(asked.len());
    for subscription in asked {
        begun.push(match subscription {
            Ok(subscription) => begin(&shared, subscription).await,
            Err(reason) => Err(reason),
        });
    }
    begun
}

async fn begin(shared: &Shared, subscription: Subscription) -> Result<Begun, Reason> {
    let wanted: Vec<TopicFilter> =
        subscription.wants_retained.then(|| subscription.filter.clone()).into_iter().collect();
    let found = shared.topics.feeds(&subscription.filter);
    if found.len() > FEEDS_MAX {
        return Err(Reason::QuotaExceeded);
    }
    let mut feeds = Vec::with_capacity(found.len());
    for feed in found {
        let beginning = feed.begin(&wanted).await.map_err(|error| {
            tracing::debug!(%error, feed = feed.id(), "a subscription cannot begin now");
            Reason::Unspecified
        })?;
        feeds.push((feed, beginning));
    }
    Ok(Begun { subscription, feeds })
}
