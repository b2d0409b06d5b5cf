//! One direct line: who asks seals and writes by itself where the line is free, and who reads hands on what arrived where it is to be
//! done, so that a request and its answer need no more threads than the two that ask and answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use littoral_model::wire::{VersionRange, WireError};
use rustix::net::Shutdown;
use rustls::Connection;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, Outgoing};
use super::goes_direct;
use super::wire::Wire;
use crate::carrier::Receiver;
use crate::frame::{Envelope, ReplyError};
use crate::identity::{Subject, unix_now};
use crate::sync::{Lock, lock};

/// How many requests of one side may be under way; more wait. A node answers some hundreds at once.
const REQUESTS_MAX: usize = 256;
/// How many bytes may wait to be written, of requests and replies together; more wait where they are.
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// How much is read at once.
const READ_BYTES: usize = 64 << 10;
/// How often it is looked whether the other end's certificate still holds.
const EXPIRY_PERIOD: Duration = Duration::from_secs(600);

thread_local! {
    /// What was read and is not opened yet; a line needs it for no longer than a poll.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// What a request comes to.
pub(super) enum Answer {
    /// Its reply.
    Reply(Result<Bytes, ReplyError>),
    /// It has one that is too large for a line.
    Elsewhere,
}

/// A connection to a neighbour that carries requests of both sides.
pub(super) struct Line {
    /// Whom its certificate names.
    pub(super) peer: Subject,
    /// On which thread it is read.
    pub(super) thread: usize,
    pub(super) born: Instant,
    /// Whether the neighbour was seen as one while there was this line.
    pub(super) confirmed: AtomicBool,
    socket: TcpStream,
    wire: Lock<Wire>,
    /// Notified when something could not be written at once.
    unwritten: Notify,
    asked: Lock<Asked>,
    requests: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// How many requests of the other side are not answered yet.
    handling: AtomicUsize,
    closed: CancellationToken,
}

/// The requests of this side that are under way.
#[derive(Default)]
struct Asked {
    last: u32,
    waiting: HashMap<u32, Waiting>,
    closed: bool,
}

/// Who waits for an answer. It stays when nobody does any more, for the other side is still at it.
struct Waiting {
    answer: oneshot::Sender<Answer>,
    _request: OwnedSemaphorePermit,
}

impl Line {
    /// Of a connection whose handshake is done; on the runtime that is to read it, until `closed` is cancelled.
    pub(super) fn new(
        socket: std::net::TcpStream,
        tls: Connection,
        peer: Subject,
        thread: usize,
        closed: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Self {
            peer,
            thread,
            born: Instant::now(),
            confirmed: AtomicBool::new(false),
            socket: TcpStream::from_std(socket)?,
            wire: Lock::new(Wire::new(tls)),
            unwritten: Notify::new(),
            asked: Lock::default(),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            room: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
            handling: AtomicUsize::new(0),
            closed,
        })
    }

    /// Asks the other side; nothing when the line is lost, and the request may have arrived or not.
    pub(super) async fn ask(&self, envelope: &[u8], payload: Bytes) -> Option<Answer> {
        let request = Arc::clone(&self.requests).acquire_owned().await.ok()?;
        let room = self.room_for(envelope.len() + payload.len()).await?;
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut asked = lock(&self.asked);
            if asked.closed {
                return None;
            }
            asked.last = asked.last.wrapping_add(1);
            let number = asked.last;
            asked.waiting.insert(number, Waiting { answer, _request: request });
            number
        };
        let Some(frame) = Outgoing::request(number, envelope, payload) else {
            lock(&self.asked).waiting.remove(&number);
            return Some(Answer::Elsewhere);
        };
        self.send(frame, Some(room));
        answered.await.ok()
    }

    async fn room_for(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes.min(QUEUED_BYTES_MAX)).unwrap_or(u32::MAX);
        Arc::clone(&self.room).acquire_many_owned(bytes).await.ok()
    }

    /// Writes a frame, or has it written once there is room for it.
    fn send(&self, frame: Outgoing, room: Option<OwnedSemaphorePermit>) {
        let written = {
            let mut wire = lock(&self.wire);
            if self.is_closed() {
                return;
            }
            wire.push(frame, room);
            wire.write(&mut Socket(&self.socket))
        };
        match written {
            Ok(true) => {}
            Ok(false) => self.unwritten.notify_one(),
            Err(error) => self.close(&error),
        }
    }

    /// Reads and writes until the line is closed or lost, or the other end's certificate no longer holds.
    pub(super) async fn run(self: &Arc<Self>, receiver: &Weak<dyn Receiver>) {
        let end = tokio::select! {
            end = self.read(receiver) => end,
            end = self.write() => end,
            () = self.closed.cancelled() => io::Error::other("this node is stopping"),
            () = self.expired() => io::Error::other("its certificate is no longer valid; join it again with a new token"),
        };
        self.close(&end);
    }

    /// Ends it: what is under way has no answer.
    pub(super) fn close(&self, why: &dyn std::fmt::Display) {
        if std::mem::replace(&mut lock(&self.asked).closed, true) {
            return;
        }
        tracing::debug!(node = %self.peer.node, %why, "a direct line ends");
        self.closed.cancel();
        self.requests.close();
        self.room.close();
        {
            let mut wire = lock(&self.wire);
            wire.finish();
            // Whether the other end hears it from TLS or from TCP is the same.
            let _ = wire.write(&mut Socket(&self.socket));
        }
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Both);
        drop(std::mem::take(&mut lock(&self.asked).waiting));
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    async fn read(self: &Arc<Self>, receiver: &Weak<dyn Receiver>) -> io::Error {
        let mut frames = Vec::new();
        let mut read = lock(&self.wire).take_opened(&mut frames);
        loop {
            for frame in frames.drain(..) {
                if let Err(error) = self.arrived(frame, receiver) {
                    return error;
                }
            }
            if let Err(error) = read {
                return error;
            }
            consume_budget().await;
            if let Err(error) = self.socket.readable().await {
                return error;
            }
            read = READ.with_borrow_mut(|buffer| {
                let bytes = match self.socket.try_read(buffer) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                };
                let mut wire = lock(&self.wire);
                wire.read(buffer.get(..bytes).unwrap_or_default(), &mut frames)?;
                if wire.wants_write() {
                    self.unwritten.notify_one();
                }
                Ok(())
            });
        }
    }

    /// Writes what could not be written at once.
    async fn write(&self) -> io::Error {
        loop {
            self.unwritten.notified().await;
            loop {
                if let Err(error) = self.socket.writable().await {
                    return error;
                }
                match lock(&self.wire).write(&mut Socket(&self.socket)) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => return error,
                }
            }
        }
    }

    async fn expired(&self) {
        while unix_now() < self.peer.not_after_unix {
            let left = Duration::from_secs(self.peer.not_after_unix.saturating_sub(unix_now()));
            sleep(left.min(EXPIRY_PERIOD)).await;
        }
    }

    fn arrived(self: &Arc<Self>, frame: Frame, receiver: &Weak<dyn Receiver>) -> io::Result<()> {
        let (number, answer) = match frame {
            Frame::Request { number, envelope, payload } => return self.handle(number, &envelope, payload, receiver),
            Frame::Reply { number, payload } => (number, Answer::Reply(Ok(payload))),
            Frame::Failed { number, error } => (number, Answer::Reply(Err(ReplyError::decode(&error)))),
            Frame::Elsewhere { number } => (number, Answer::Elsewhere),
        };
        let waiting = lock(&self.asked).waiting.remove(&number);
        let waiting = waiting.ok_or_else(|| io::Error::other("it answers what was not asked"))?;
        // Who asked may have given up.
        let _ = waiting.answer.send(answer);
        Ok(())
    }

    /// Has a request handled where its method is.
    fn handle(
        self: &Arc<Self>,
        number: u32,
        envelope: &[u8],
        payload: Bytes,
        receiver: &Weak<dyn Receiver>,
    ) -> io::Result<()> {
        let receiver = receiver.upgrade().ok_or_else(|| io::Error::other("this node is stopping"))?;
        if self.handling.fetch_add(1, Ordering::Relaxed) >= REQUESTS_MAX {
            return Err(io::Error::other(format!("it asks more than {REQUESTS_MAX} things at once")));
        }
        let mut replying = Replying { line: Arc::clone(self), number, begun: false, sent: false };
        let envelope = Envelope::decode(envelope)
            .map_err(|error| match error {
                WireError::Version { .. } => ReplyError::Version(VersionRange::OURS),
                error => ReplyError::Refused(error.to_string()),
            })
            .and_then(|envelope| self.check(envelope));
        let envelope = match envelope {
            Ok(envelope) => envelope,
            Err(error) => {
                replying.fail(&error);
                return Ok(());
            }
        };
        let method = envelope.method;
        let handler = Arc::clone(&receiver);
        let handling = Box::pin(async move {
            replying.begun = true;
            let outcome = handler.receive(envelope, payload).await;
            replying.send(outcome).await;
        });
        if let Some(handling) = receiver.run(method, handling) {
            tokio::spawn(handling);
        }
        Ok(())
    }

    /// Whether the other end may ask that.
    fn check(&self, envelope: Envelope) -> Result<Envelope, ReplyError> {
        if envelope.from != self.peer.node {
            tracing::warn!(node = %self.peer.node, claims = %envelope.from, "it asks in another node's name; it is refused");
            let text = format!("the certificate is of {}, and the request of {}", self.peer.node, envelope.from);
            return Err(ReplyError::Refused(text));
        }
        if !goes_direct(envelope.method) {
            return Err(ReplyError::Refused("direct lines are for calls of functions".to_owned()));
        }
        Ok(envelope)
    }
}

/// A request of the other side: it is answered whatever becomes of its handling.
struct Replying {
    line: Arc<Line>,
    number: u32,
    begun: bool,
    sent: bool,
}

impl Replying {
    async fn send(mut self, outcome: Result<Bytes, ReplyError>) {
        let frame = match outcome {
            Ok(reply) => Outgoing::reply(self.number, reply),
            Err(error) => Outgoing::failed(self.number, error.encode()),
        };
        let Some(room) = self.line.room_for(frame.len()).await else { return };
        self.sent = true;
        // Before the other side knows of it, which then may ask again.
        self.line.handling.fetch_sub(1, Ordering::Relaxed);
        self.line.send(frame, Some(room));
    }

    /// Answers at once, with few bytes.
    fn fail(&mut self, error: &ReplyError) {
        self.sent = true;
        self.line.handling.fetch_sub(1, Ordering::Relaxed);
        // Such answers are as few as the requests under way.
        self.line.send(Outgoing::failed(self.number, error.encode()), None);
    }
}

impl Drop for Replying {
    fn drop(&mut self) {
        if self.sent || self.line.is_closed() {
            return;
        }
        self.fail(&match self.begun {
            true => ReplyError::Failed("the node failed while handling the call".to_owned()),
            false => ReplyError::Refused("it is busy: too much waits to be started; try again later".to_owned()),
        });
    }
}

/// Writes without waiting.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
