//! What a shim does while its container runs: one loop over `poll`.
//!
//! Whoever connects to the socket sends one byte. [`CONNECT`] is answered with a byte and the descriptor of a connection to the
//! container's port, [`PROXY`] with that of the socket on which connections out of the container come in. [`FOLLOW`] makes it the one
//! who is told what the container writes and how it ends, in frames of a kind (one byte), a length (four, little-endian) and the content;
//! what nobody has taken yet is kept, the newest of it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, PipeReader, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions};

use super::program::ENDED_BY_SIGNAL;
use super::{ShimError, cannot};

/// Asks for a connection.
pub(crate) const CONNECT: u8 = b'c';
/// Asks for the socket of the proxy that the container finds.
pub(crate) const PROXY: u8 = b'p';
/// Asks for what the container writes.
pub(crate) const FOLLOW: u8 = b'f';
/// Comes with a connection, or the proxy's socket.
pub(crate) const CONNECTED: u8 = b'k';
/// Comes without: the container does not listen, or has no way out.
pub(crate) const REFUSED: u8 = b'r';
/// Frames of standard output, of standard error, and of how it ended.
pub(crate) const KINDS: [u8; 3] = [b'o', b'e', b'x'];
/// No frame is longer.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 10;

/// How many may be waiting for a connection at once; others wait to be accepted.
const ASKING_MAX: usize = 256;
/// How much of what the container wrote is kept until somebody takes it; the oldest makes room.
const KEPT_BYTES_MAX: usize = 256 << 10;
/// A container ends when nobody has followed it for so long: its node does not come back.
const ALONE_MAX: Duration = Duration::from_secs(600);
/// How long it waits for the last words to be taken.
const FAREWELL: Duration = Duration::from_secs(2);

/// A shim whose container runs.
pub(super) struct Server {
    listener: UnixListener,
    container: Pid,
    process: OwnedFd,
    outputs: [Option<PipeReader>; 2],
    ended: File,
    port: u16,
    way_out: Option<TcpListener>,
    asking: Vec<Asking>,
    follower: Option<UnixStream>,
    alone_since: Instant,
    kept: VecDeque<Vec<u8>>,
    kept_bytes: usize,
    /// How much of the oldest frame was sent already.
    sent: usize,
    dropped_bytes: usize,
}

/// Somebody who wants something.
struct Asking {
    stream: UnixStream,
    /// The connection that is being made for it, or what else it is handed.
    connecting: Option<OwnedFd>,
    /// Whether it was answered.
    is_done: bool,
}

/// What is watched.
#[derive(Clone, Copy)]
enum Watched {
    Listener,
    Container,
    Output(usize),
    Follower,
    Asking(usize),
}

impl Server {
    pub(super) fn new(
        listener: UnixListener,
        container: Pid,
        process: OwnedFd,
        [output, errors]: [PipeReader; 2],
        ended: File,
        port: u16,
        way_out: Option<TcpListener>,
    ) -> Result<Self, ShimError> {
        listener.set_nonblocking(true).map_err(cannot("listen on its socket"))?;
        for pipe in [&output, &errors] {
            rustix::io::ioctl_fionbio(pipe, true).map_err(cannot("read what the container writes"))?;
        }
        Ok(Self {
            listener,
            container,
            process,
            outputs: [Some(output), Some(errors)],
            ended,
            port,
            way_out,
            asking: Vec::new(),
            follower: None,
            alone_since: Instant::now(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            sent: 0,
            dropped_bytes: 0,
        })
    }

    /// Serves until the container has ended.
    pub(super) fn run(mut self) -> Result<(), ShimError> {
        loop {
            for (watched, events) in self.wait(None)? {
                match watched {
                    Watched::Container => return self.end(),
                    Watched::Listener => self.accept(),
                    Watched::Output(number) => self.collect(number),
                    Watched::Follower => self.tell(events),
                    Watched::Asking(number) => self.attend(number),
                }
            }
            self.asking.retain(|asking| !asking.is_done);
            if self.follower.is_none() && self.alone_since.elapsed() >= ALONE_MAX {
                // It may have ended already; then that is what is seen next.
                let _ = rustix::process::pidfd_send_signal(&self.process, Signal::KILL);
            }
        }
    }

    /// Waits for something to happen; what did.
    fn wait(&self, at_most: Option<Duration>) -> Result<Vec<(Watched, PollFlags)>, ShimError> {
        let mut watched = vec![(Watched::Container, self.process.as_fd(), PollFlags::IN)];
        if self.asking.len() < ASKING_MAX {
            watched.push((Watched::Listener, self.listener.as_fd(), PollFlags::IN));
        }
        for (number, output) in self.outputs.iter().enumerate() {
            watched.extend(output.as_ref().map(|output| (Watched::Output(number), output.as_fd(), PollFlags::IN)));
        }
        if let Some(follower) = &self.follower {
            let wanted = if self.kept.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
            watched.push((Watched::Follower, follower.as_fd(), wanted));
        }
        for (number, asking) in self.asking.iter().enumerate() {
            if let Some(connecting) = &asking.connecting {
                watched.push((Watched::Asking(number), connecting.as_fd(), PollFlags::OUT));
            }
            // Nothing more comes from who has asked, but that they went away.
            watched.push((Watched::Asking(number), asking.stream.as_fd(), PollFlags::IN));
        }
        let at_most = at_most.unwrap_or(ALONE_MAX);
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        let mut polled: Vec<PollFd<'_>> =
            watched.iter().map(|(_, fd, events)| PollFd::from_borrowed_fd(*fd, *events)).collect();
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(cannot("wait")(error)),
        }
        let happened = watched.iter().zip(&polled).filter(|(_, polled)| !polled.revents().is_empty());
        Ok(happened.map(|((watched, ..), polled)| (*watched, polled.revents())).collect())
    }

    fn accept(&mut self) {
        while self.asking.len() < ASKING_MAX {
            let Ok((stream, _)) = self.listener.accept() else { return };
            if stream.set_nonblocking(true).is_ok() {
                self.asking.push(Asking { stream, connecting: None, is_done: false });
            }
        }
    }

    /// Goes on with somebody who asks.
    fn attend(&mut self, number: usize) {
        let Some(asking) = self.asking.get_mut(number) else { return };
        if asking.is_done {
            return;
        }
        if let Some(connection) = &asking.connecting {
            match rustix::net::sockopt::socket_error(connection) {
                Ok(Ok(())) if rustix::net::getpeername(connection).is_ok_and(|peer| peer.is_some()) => asking.answer(),
                Ok(Ok(())) if !asking.went_away() => {}
                _ => asking.refuse(),
            }
            return;
        }
        let mut wish = [0];
        match asking.stream.read(&mut wish) {
            Ok(1) if wish == [CONNECT] => match dial(self.port) {
                Ok(connection) => asking.connecting = Some(connection),
                Err(_) => asking.refuse(),
            },
            Ok(1) if wish == [PROXY] => match self.way_out.as_ref().map(TcpListener::try_clone) {
                Some(Ok(way_out)) => {
                    asking.connecting = Some(way_out.into());
                    asking.answer();
                }
                _ => asking.refuse(),
            },
            Ok(1) if wish == [FOLLOW] => {
                self.follower = asking.stream.try_clone().ok();
                // Whoever takes over begins with a whole frame.
                self.sent = 0;
                asking.end();
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => asking.refuse(),
        }
    }

    /// Takes what the container has written.
    fn collect(&mut self, number: usize) {
        let Some(output) = self.outputs.get_mut(number) else { return };
        let Some(pipe) = output else { return };
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        match pipe.read(&mut buffer) {
            Ok(0) => *output = None,
            Ok(read) => {
                buffer.truncate(read);
                self.keep(KINDS.get(number).copied().unwrap_or_default(), &buffer);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => *output = None,
        }
    }

    fn keep(&mut self, kind: u8, content: &[u8]) {
        while self.kept_bytes + content.len() > KEPT_BYTES_MAX && self.kept.len() > 1 {
            self.dropped_bytes += self.forget_oldest();
        }
        if self.dropped_bytes > 0 && self.follower.is_some() {
            let lost = format!("(the last {} bytes were written faster than they were read)\n", self.dropped_bytes);
            self.dropped_bytes = 0;
            self.push(KINDS[1], lost.as_bytes());
        }
        self.push(kind, content);
    }

    fn push(&mut self, kind: u8, content: &[u8]) {
        let length = u32::try_from(content.len()).unwrap_or_default();
        let frame = [&[kind], length.to_le_bytes().as_slice(), content].concat();
        self.kept_bytes += frame.len();
        self.kept.push_back(frame);
    }

    /// Forgets the oldest frame that was not begun to be sent.
    fn forget_oldest(&mut self) -> usize {
        let bytes = self.kept.remove(usize::from(self.sent > 0)).map_or(0, |frame| frame.len());
        self.kept_bytes -= bytes;
        bytes
    }

    /// Sends the follower what it will take.
    fn tell(&mut self, events: PollFlags) {
        let Some(follower) = &mut self.follower else { return };
        // It has nothing more to say: whatever comes is its end.
        let mut is_gone = events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        while let (false, Some(frame)) = (is_gone, self.kept.front()) {
            match follower.write(frame.get(self.sent..).unwrap_or_default()) {
                Ok(written) => self.sent += written,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(_) => is_gone = true,
            }
            if self.sent >= frame.len() {
                self.kept_bytes -= frame.len();
                self.kept.pop_front();
                self.sent = 0;
            }
        }
        if is_gone {
            self.follower = None;
            self.alone_since = Instant::now();
            // What was sent in part, the next one gets whole.
            self.sent = 0;
        }
    }

    /// Says how the container has ended.
    fn end(mut self) -> Result<(), ShimError> {
        let status =
            rustix::process::waitpid(Some(self.container), WaitOptions::empty()).map_err(cannot("see how it ended"))?;
        let how = match status.map(|(_, status)| (status.exit_status(), status.terminating_signal())) {
            // As shells have it, and the first process of a program.
            Some((Some(code), _)) if code > ENDED_BY_SIGNAL => {
                format!("it was ended by signal {}", code - ENDED_BY_SIGNAL)
            }
            Some((Some(code), _)) => format!("it exited with status {code}"),
            Some((_, Some(signal))) => format!("it was ended by signal {signal}"),
            _ => "it ended".to_owned(),
        };
        let _ = self.ended.write_all(how.as_bytes());
        for number in 0..self.outputs.len() {
            // As much as is in the pipe, and no more: others may hold its other end.
            for _ in 0..(KEPT_BYTES_MAX / FRAME_BYTES_MAX) {
                self.collect(number);
            }
        }
        self.push(KINDS[2], how.as_bytes());
        self.outputs = [None, None];
        self.asking.clear();
        let until = Instant::now() + FAREWELL;
        while self.follower.is_some() && !self.kept.is_empty() && Instant::now() < until {
            self.tell(PollFlags::OUT);
            if let (Some(follower), false) = (&self.follower, self.kept.is_empty()) {
                let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
                let _ = poll(&mut [PollFd::new(follower, PollFlags::OUT)], Some(&timeout));
            }
        }
        Ok(())
    }
}

impl Asking {
    /// Hands the connection over.
    fn answer(&mut self) {
        let Some(connection) = &self.connecting else { return };
        let handed: [BorrowedFd<'_>; 1] = [connection.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if control.push(SendAncillaryMessage::ScmRights(&handed)) {
            // They may have gone; then the connection ends with this.
            let _ =
                rustix::net::sendmsg(&self.stream, &[IoSlice::new(&[CONNECTED])], &mut control, SendFlags::NOSIGNAL);
        }
        self.end();
    }

    fn refuse(&mut self) {
        let _ = self.stream.write(&[REFUSED]);
        self.end();
    }

    fn went_away(&self) -> bool {
        let mut byte = [0];
        matches!((&self.stream).read(&mut byte), Ok(0))
    }

    fn end(&mut self) {
        self.connecting = None;
        self.is_done = true;
    }
}

/// Begins a connection to the container's port.
fn dial(port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}
