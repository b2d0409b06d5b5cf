//! What a node asks a container's shim over its socket: connections to the container, and what that writes.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::shim::SOCKET;
use super::shim::serve::{CONNECT, CONNECTED, FOLLOW, FRAME_BYTES_MAX, KINDS, PROXY};

/// How long a shim may take to answer; it takes some microseconds unless the container does not accept.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Something that a container did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// It wrote to standard output.
    Output(Vec<u8>),
    /// It wrote to standard error.
    Errors(Vec<u8>),
    /// It ended, and how.
    Ended(String),
}

/// The way to a shim.
#[derive(Debug)]
pub(super) struct Link {
    /// The container's folder: a socket's address is too short for some paths.
    folder: OwnedFd,
}

impl Link {
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { folder: rustix::fs::open(folder, flags, Mode::empty())? })
    }

    /// A connection to the container's port.
    pub(super) async fn connect(&self) -> io::Result<TcpStream> {
        let asked = async {
            let stream = self.ask(CONNECT).await?;
            let connection = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
            let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "it does not listen on its port");
            let connection = std::net::TcpStream::from(connection.ok_or_else(refused)?);
            connection.set_nonblocking(true)?;
            connection.set_nodelay(true)?;
            TcpStream::from_std(connection)
        };
        let late =
            |_| io::Error::new(io::ErrorKind::TimedOut, format!("it accepts no connection within {ANSWER_MAX:?}"));
        tokio::time::timeout(ANSWER_MAX, asked).await.map_err(late)?
    }

    /// The socket on which the container's connections to its proxy come in.
    pub(super) async fn proxy(&self) -> io::Result<TcpListener> {
        let asked = async {
            let stream = self.ask(PROXY).await?;
            let socket = stream.async_io(Interest::READABLE, || receive(&stream)).await?;
            let socket = socket.ok_or_else(|| io::Error::other("its shim has none"))?;
            let socket = std::net::TcpListener::from(socket);
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        tokio::time::timeout(ANSWER_MAX, asked).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Follows what the container does from now on, and what it did and nobody followed.
    pub(super) async fn follow(&self) -> io::Result<Followed> {
        Ok(Followed(self.ask(FOLLOW).await?))
    }

    async fn ask(&self, wish: u8) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", self.folder.as_raw_fd())).await?;
        stream.write_all(&[wish]).await?;
        Ok(stream)
    }
}

/// What a container does.
#[derive(Debug)]
pub(super) struct Followed(UnixStream);

impl Followed {
    /// The next thing; an error when the shim ends without a word.
    pub(super) async fn next(&mut self) -> io::Result<Said> {
        let kind = self.0.read_u8().await?;
        let length = self.0.read_u32_le().await? as usize;
        if length > FRAME_BYTES_MAX {
            return Err(io::Error::other("the shim speaks another language"));
        }
        let mut content = vec![0; length];
        self.0.read_exact(&mut content).await?;
        let [output, errors, ended] = KINDS;
        match kind {
            kind if kind == output => Ok(Said::Output(content)),
            kind if kind == errors => Ok(Said::Errors(content)),
            kind if kind == ended => Ok(Said::Ended(String::from_utf8_lossy(&content).into_owned())),
            _ => Err(io::Error::other("the shim speaks another language")),
        }
    }
}

/// Takes a descriptor from a shim, if that has one to give.
fn receive(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut answer = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let connection = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok(connection.filter(|_| answer == [CONNECTED]))
}
