//! Every message of the mesh, and what a joining node shows and sees: any bytes are decoded or refused, and what was decoded
//! is encoded to something that means the same.

use littoral_model::digest::NodeDigest;
use littoral_model::entry::{Commit, Entry, InputPosition, PortBatch, Position, ProducerSequence};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
    VersionRange, decode, encode,
};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{Deliver, Delivered, Envelope, Hello, Pong, ReplyError, method_of};
use crate::join::{Admission, JoinRequest, Welcome};
use crate::line::{Decoder, Frame, FrameError};
use crate::token::{Refusal, Token};

type Check = fn(&[u8]);

/// In the order of the first byte of an input; new ones go to the end, so that the corpus keeps its meaning.
const MESSAGES: [Check; 30] = [
    message::<FetchRequest>,
    message::<FetchReply>,
    message::<PublishRequest>,
    message::<PublishReply>,
    message::<ReplicateRequest>,
    message::<ReplicateReply>,
    message::<InstallRequest>,
    message::<VersionRange>,
    message::<Entry>,
    message::<Commit>,
    message::<InputPosition>,
    message::<PortBatch>,
    message::<Position>,
    message::<ProducerSequence>,
    message::<Assignment>,
    message::<KeeperCommand>,
    message::<KeeperAnswer>,
    message::<WorkId>,
    message::<NodeDigest>,
    message::<Hello>,
    message::<Pong>,
    message::<Deliver>,
    message::<Delivered>,
    message::<JoinRequest>,
    message::<Admission>,
    message::<Welcome>,
    message::<Refusal>,
    envelope,
    texts,
    frames,
];

/// Decodes bytes as the message that the first of them names.
pub fn run(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else { return };
    if let Some(check) = MESSAGES.get(usize::from(*which)) {
        check(bytes);
    }
    // The answer to a call may be an error, whatever was asked.
    let error = ReplyError::decode(bytes);
    let again = ReplyError::decode(&error.encode());
    assert_eq!(again, error);
}

fn message<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(first) = decode::<T>(bytes) else { return };
    // What is the same may be written in several ways; what we write is read as we wrote it.
    let written = encode(&first).expect("what fitted into a message fits again");
    let second = decode::<T>(&written).expect("what we write is read");
    assert_eq!(encode(&second).expect("it fits"), written);
}

fn envelope(bytes: &[u8]) {
    message::<Envelope>(bytes);
    if let Ok(envelope) = Envelope::decode(bytes) {
        // A method that is not known is refused with words.
        let _ = method_of(&envelope);
    }
}

/// What comes over a direct line: the same frames in whatever pieces it comes.
fn frames(bytes: &[u8]) {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    assert_eq!(frames_of(bytes, usize::from(*piece) + 1), frames_of(bytes, bytes.len() + 1));
}

fn frames_of(bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
    for mut piece in bytes.chunks(piece) {
        while !piece.is_empty() {
            match decoder.take(&mut piece) {
                Ok(frame) => frames.extend(frame),
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// What people type or paste: tokens and ids.
fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.to_text().parse::<Token>(), Ok(token));
    }
    if let Ok(work) = text.parse::<WorkId>() {
        assert_eq!(work.to_string().parse::<WorkId>(), Ok(work));
    }
}
