//! What travels over a direct line: frames, each a length, a kind, a number, and what follows from the kind.
//!
//! | bytes | |
//! |---|---|
//! | 4 | how many bytes follow, little-endian |
//! | 1 | the kind |
//! | 4 | the request's number, of its asker's choice, little-endian |
//! | | of a request: 2 bytes of its envelope's length, the envelope, the payload; of a reply: the payload; of an error: it |
//!
//! The name of the protocol, which the TLS handshake settles, is the version of all this; envelopes and errors have their own.

use std::io::IoSlice;

use bytes::Bytes;

/// What a connection asks for that is a direct line; another form of frames has another number.
pub(super) const PROTOCOL: &[u8] = b"littoral-call/1";
/// The largest payload of a frame. While it passes others wait, so that larger ones take the other way.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;
/// The largest envelope: names, ids, and a trace context.
const ENVELOPE_BYTES_MAX: usize = 16 << 10;
const HEADER_BYTES: usize = 9;
/// What the length counts of the header.
const COUNTED_BYTES: usize = 5;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const FAILED: u8 = 3;
const ELSEWHERE: u8 = 4;

/// A frame that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Somebody asks.
    Request { number: u32, envelope: Bytes, payload: Bytes },
    /// The answer to a request.
    Reply { number: u32, payload: Bytes },
    /// Why there is none: a [`crate::frame::ReplyError`].
    Failed { number: u32, error: Bytes },
    /// The answer is there and too large for a line: the same request by the other way gets it.
    Elsewhere { number: u32 },
}

/// Why what arrived is no frame.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("it sends a frame of {0} bytes")]
    Length(u32),
    #[error("it sends a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("it sends a request whose envelope is cut off")]
    Envelope,
}

/// A frame to be sent.
pub(super) struct Outgoing {
    head: Vec<u8>,
    body: Bytes,
    written: usize,
}

impl Outgoing {
    /// A request; none if it is too large for a line.
    pub(super) fn request(number: u32, envelope: &[u8], payload: Bytes) -> Option<Self> {
        let length = u16::try_from(envelope.len()).ok().filter(|_| envelope.len() <= ENVELOPE_BYTES_MAX)?;
        Self::new(REQUEST, number, &[&length.to_le_bytes(), envelope], payload)
    }

    /// A reply, or the word that it is to be asked for elsewhere.
    pub(super) fn reply(number: u32, payload: Bytes) -> Self {
        Self::new(REPLY, number, &[], payload).unwrap_or_else(|| Self::elsewhere(number))
    }

    /// An error, or the word that it is to be asked for elsewhere.
    pub(super) fn failed(number: u32, error: Bytes) -> Self {
        Self::new(FAILED, number, &[], error).unwrap_or_else(|| Self::elsewhere(number))
    }

    fn elsewhere(number: u32) -> Self {
        Self { head: head(ELSEWHERE, number, &[], 0), body: Bytes::new(), written: 0 }
    }

    fn new(kind: u8, number: u32, parts: &[&[u8]], body: Bytes) -> Option<Self> {
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= BODY_BYTES_MAX)?;
        Some(Self { head: head(kind, number, parts, length), body, written: 0 })
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }

    /// What of it is still to be written.
    pub(super) fn left(&self) -> [IoSlice<'_>; 2] {
        let head = self.head.get(self.written..).unwrap_or_default();
        let body = self.body.get(self.written.saturating_sub(self.head.len())..).unwrap_or_default();
        [IoSlice::new(head), IoSlice::new(body)]
    }

    /// Notes how many more bytes were written; whether that is all.
    pub(super) fn advance(&mut self, bytes: usize) -> bool {
        self.written += bytes;
        self.written >= self.len()
    }
}

fn head(kind: u8, number: u32, parts: &[&[u8]], body_bytes: u32) -> Vec<u8> {
    let bytes = COUNTED_BYTES + parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(bytes).unwrap_or(u32::MAX).saturating_add(body_bytes);
    let mut head = Vec::with_capacity(HEADER_BYTES - COUNTED_BYTES + bytes);
    head.extend_from_slice(&length.to_le_bytes());
    head.push(kind);
    head.extend_from_slice(&number.to_le_bytes());
    for part in parts {
        head.extend_from_slice(part);
    }
    head
}

/// Puts frames together from what arrives, in whatever pieces.
#[derive(Default)]
pub(super) struct Decoder {
    header: Vec<u8>,
    /// Of the frame whose header is complete.
    body: Option<Body>,
}

struct Body {
    kind: u8,
    number: u32,
    bytes: Vec<u8>,
    missing: usize,
}

impl Decoder {
    /// Takes bytes off the front of `arrived`, up to the end of a frame at most.
    ///
    /// # Errors
    /// When this is no frame: nothing that follows can be read.
    pub(super) fn take(&mut self, arrived: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let missing = HEADER_BYTES - self.header.len();
                self.header.extend_from_slice(split(arrived, missing));
                let Ok(header) = <[u8; HEADER_BYTES]>::try_from(self.header.as_slice()) else { return Ok(None) };
                self.header.clear();
                self.body.insert(Body::begin(header)?)
            }
        };
        let more = split(arrived, body.missing);
        body.bytes.extend_from_slice(more);
        body.missing -= more.len();
        if body.missing > 0 {
            return Ok(None);
        }
        self.body.take().map(Body::finish).transpose()
    }
}

impl Body {
    fn begin(header: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind, e, f, g, h] = header;
        let (length, number) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let most = match kind {
            REQUEST => size_of::<u16>() + ENVELOPE_BYTES_MAX + BODY_BYTES_MAX,
            REPLY | FAILED => BODY_BYTES_MAX,
            ELSEWHERE => 0,
            _ => return Err(FrameError::Kind(kind)),
        };
        let missing = usize::try_from(length).ok().and_then(|length| length.checked_sub(COUNTED_BYTES));
        let missing = missing.filter(|missing| *missing <= most).ok_or(FrameError::Length(length))?;
        Ok(Self { kind, number, bytes: Vec::with_capacity(missing), missing })
    }

    fn finish(self) -> Result<Frame, FrameError> {
        let (number, mut payload) = (self.number, Bytes::from(self.bytes));
        Ok(match self.kind {
            REQUEST => {
                let Some((length, rest)) = payload.split_first_chunk() else { return Err(FrameError::Envelope) };
                let length = usize::from(u16::from_le_bytes(*length));
                if rest.len() < length {
                    return Err(FrameError::Envelope);
                }
                let mut envelope = payload.split_to(size_of::<u16>() + length);
                Frame::Request { number, envelope: envelope.split_off(size_of::<u16>()), payload }
            }
            REPLY => Frame::Reply { number, payload },
            FAILED => Frame::Failed { number, error: payload },
            _ => Frame::Elsewhere { number },
        })
    }
}

/// Up to so many bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (front, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    front
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::path::PathBuf;

    use super::*;

    fn bytes_of(frame: &Outgoing) -> Vec<u8> {
        frame.left().iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn frames_of(mut bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        while !bytes.is_empty() {
            frames.extend(decoder.take(&mut bytes)?);
        }
        Ok(frames)
    }

    fn one_of_each() -> Vec<u8> {
        let request = Outgoing::request(7, b"the envelope", Bytes::from_static(b"the payload")).unwrap();
        let reply = Outgoing::reply(8, Bytes::from_static(b"the reply"));
        let failed = Outgoing::failed(9, Bytes::from_static(b"the error"));
        [request, reply, failed, Outgoing::reply(10, vec![0; BODY_BYTES_MAX + 1].into())]
            .iter()
            .flat_map(bytes_of)
            .collect()
    }

    #[test]
    fn frames_keep_their_form() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mesh-call-v1/frames.bin");
        if std::env::var_os("LITTORAL_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, one_of_each()).unwrap();
        }
        let held = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(held, one_of_each(), "frames are written differently now: that is another version of the protocol");
        let frames = [
            Frame::Request { number: 7, envelope: "the envelope".into(), payload: "the payload".into() },
            Frame::Reply { number: 8, payload: "the reply".into() },
            Frame::Failed { number: 9, error: "the error".into() },
            Frame::Elsewhere { number: 10 },
        ];
        assert_eq!(frames_of(&held).unwrap(), frames);
    }

    #[test]
    fn what_is_too_large_is_not_sent_and_not_taken() {
        assert!(Outgoing::request(1, b"e", vec![0; BODY_BYTES_MAX + 1].into()).is_none());
        assert!(Outgoing::request(1, &[0; ENVELOPE_BYTES_MAX + 1], Bytes::new()).is_none());
        let largest = Outgoing::request(1, &[0; ENVELOPE_BYTES_MAX], vec![0; BODY_BYTES_MAX].into()).unwrap();
        assert_eq!(frames_of(&bytes_of(&largest)).unwrap().len(), 1);
        let mut larger = head(REPLY, 1, &[], 1 + u32::try_from(BODY_BYTES_MAX).unwrap());
        assert!(matches!(frames_of(&larger), Err(FrameError::Length(_))));
        larger.splice(..4, 4u32.to_le_bytes());
        assert_eq!(frames_of(&larger), Err(FrameError::Length(4)));
        assert_eq!(frames_of(&head(9, 1, &[], 0)), Err(FrameError::Kind(9)));
        assert_eq!(frames_of(&head(REQUEST, 1, &[&[2, 0, 1]], 0)), Err(FrameError::Envelope));
    }

    #[test]
    fn frames_arrive_whole_in_whatever_pieces() {
        let sent = one_of_each();
        // What any bytes come to is for the fuzz target `wire`.
        for pieces in (1..64).map(|first| [first, 1, 19 - first % 19, 3]) {
            let (mut decoder, mut frames, mut rest) = (Decoder::default(), Vec::new(), sent.as_slice());
            for piece in pieces.into_iter().cycle().take(sent.len()) {
                let mut piece = split(&mut rest, piece);
                while !piece.is_empty() {
                    frames.extend(decoder.take(&mut piece).unwrap());
                }
            }
            assert_eq!(frames, frames_of(&sent).unwrap());
        }
    }
}
