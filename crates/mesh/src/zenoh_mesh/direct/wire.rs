//! Frames in and out of a TLS session, without I/O of its own.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, Write};

use rustls::Connection;
use tokio::sync::OwnedSemaphorePermit;

use super::frame::{Decoder, Frame, Outgoing};

/// One end of a line: its session, and what is on its way out and in.
pub(super) struct Wire {
    tls: Connection,
    queue: VecDeque<Queued>,
    decoder: Decoder,
}

struct Queued {
    frame: Outgoing,
    /// Its share of what may wait.
    _room: Option<OwnedSemaphorePermit>,
}

impl Wire {
    /// Of a session whose handshake is done.
    pub(super) fn new(tls: Connection) -> Self {
        Self { tls, queue: VecDeque::new(), decoder: Decoder::default() }
    }

    /// Has a frame sent after those before it; who calls sees to the bound of what waits.
    pub(super) fn push(&mut self, frame: Outgoing, room: Option<OwnedSemaphorePermit>) {
        self.queue.push_back(Queued { frame, _room: room });
    }

    /// Has the session say that nothing more comes.
    pub(super) fn finish(&mut self) {
        self.queue.clear();
        self.tls.send_close_notify();
    }

    /// Whether there is something to write.
    pub(super) fn wants_write(&self) -> bool {
        self.tls.wants_write() || !self.queue.is_empty()
    }

    /// Writes as much as `to` takes; whether that is all.
    ///
    /// # Errors
    /// When the connection is lost.
    pub(super) fn write(&mut self, to: &mut impl Write) -> io::Result<bool> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(to) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let Some(Queued { frame, .. }) = self.queue.front_mut() else { return Ok(true) };
            // The session takes a bounded piece at a time, so that no more than that is sealed and not yet sent.
            let sealed = self.tls.writer().write_vectored(&frame.left())?;
            if sealed == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if frame.advance(sealed) {
                self.queue.pop_front();
            }
        }
    }

    /// Takes what arrived, and adds the frames that are complete now.
    ///
    /// # Errors
    /// When it is not what the other end may send, or it says that nothing more comes.
    pub(super) fn read(&mut self, mut arrived: &[u8], frames: &mut Vec<Frame>) -> io::Result<()> {
        while !arrived.is_empty() {
            self.tls.read_tls(&mut arrived)?;
            self.tls.process_new_packets().map_err(invalid)?;
            self.take_opened(frames)?;
        }
        Ok(())
    }

    /// Adds the frames that are complete of what the session has opened: before anything else is read, what came along with the end
    /// of its handshake, after which perhaps nothing arrives until that is answered.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn take_opened(&mut self, frames: &mut Vec<Frame>) -> io::Result<()> {
        let mut reader = self.tls.reader();
        loop {
            let mut opened = match reader.fill_buf() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let bytes = opened.len();
            while !opened.is_empty() {
                frames.extend(self.decoder.take(&mut opened).map_err(invalid)?);
            }
            reader.consume(bytes);
        }
    }
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
