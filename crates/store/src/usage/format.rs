//! What a file of usage records looks like.
//!
//! A header of 56 bytes, little-endian like everything here: magic (8), version (4), the sequence number of the first
//! record (8), the SHA-256 of the record before it (32), CRC32C of the 52 bytes before (4). Then frames, one after the
//! other:
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 4 | length of the body |
//! | 4 | 4 | CRC32C of the body |
//! | 8 | 4 | CRC32C of the 8 bytes before |
//! | 12 | 32 | body: SHA-256 of the body of the record before |
//! | 44 | | body: the record, in the encoding of postcard |
//!
//! A frame's head has a checksum of its own, so that one that was cut off (its body ends beyond the file) is told from one
//! whose length was altered.

use crc32c::crc32c;
use ring::digest::{SHA256, digest};

use super::UsageRecord;

/// The first bytes of a file.
const MAGIC: &[u8; 8] = b"LITUSAGE";
/// The version of the format.
pub(super) const VERSION: u32 = 1;
const HEADER_BYTES: usize = 56;
const FRAME_HEAD_BYTES: usize = 12;
/// The largest record, in bytes: some ten thousand functions of one node.
pub(super) const RECORD_BYTES_MAX: usize = 1 << 20;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What stands before the first record of a node.
pub(super) const NOTHING_BEFORE: Hash = [0; 32];

/// A file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first: u64,
    pub(super) previous: Hash,
}

/// Why a file cannot be read at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It was being made when the power went.
    CutOff,
    Damaged,
    Version(u32),
}

impl Header {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.extend_from_slice(&self.previous);
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        bytes
    }

    /// The header of a file, and where its frames begin.
    pub(super) fn decode(file: &[u8]) -> Result<(Self, usize), HeaderError> {
        let Some(header) = file.get(..HEADER_BYTES).filter(|header| header.iter().any(|byte| *byte != 0)) else {
            return Err(HeaderError::CutOff);
        };
        let rest = header.strip_prefix(MAGIC).ok_or(HeaderError::Damaged)?;
        let (version, rest) = rest.split_first_chunk().ok_or(HeaderError::Damaged)?;
        let version = u32::from_le_bytes(*version);
        if version > VERSION {
            return Err(HeaderError::Version(version));
        }
        let (first, rest) = rest.split_first_chunk().ok_or(HeaderError::Damaged)?;
        let (previous, rest) = rest.split_first_chunk().ok_or(HeaderError::Damaged)?;
        let (checked, _) = header.split_at(HEADER_BYTES - 4);
        if rest != crc32c(checked).to_le_bytes() {
            return Err(HeaderError::Damaged);
        }
        Ok((Self { first: u64::from_le_bytes(*first), previous: *previous }, HEADER_BYTES))
    }
}

/// A frame, and the hash of its body.
pub(super) fn encode(record: &UsageRecord, previous: &Hash) -> Result<(Vec<u8>, Hash), postcard::Error> {
    let body = postcard::to_extend(record, previous.to_vec())?;
    let mut frame = Vec::with_capacity(FRAME_HEAD_BYTES + body.len());
    frame.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    frame.extend_from_slice(&crc32c(&body).to_le_bytes());
    frame.extend_from_slice(&crc32c(&frame).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok((frame, hash(&body)))
}

pub(super) fn hash(body: &[u8]) -> Hash {
    let mut hash = NOTHING_BEFORE;
    let digest = digest(&SHA256, body);
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// A frame that was found in a file.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it begins.
    pub(super) at: usize,
    /// What its body hashes to.
    pub(super) hash: Hash,
    /// The record and the hash of the one before, if the body is what was written.
    pub(super) record: Option<(UsageRecord, Hash)>,
}

/// What comes after the last frame of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing.
    Clean,
    /// A frame that was being written when the process or the machine ended.
    Torn,
    /// Something that was never written so.
    Damaged,
}

/// Reads the frames of a file from `at` on; answers where they end, and how.
pub(super) fn frames(file: &[u8], mut at: usize) -> (Vec<Found>, usize, End) {
    let mut found = Vec::new();
    loop {
        let rest = file.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return (found, at, End::Clean);
        }
        let Some((head, rest)) = rest.split_at_checked(FRAME_HEAD_BYTES) else { return (found, at, End::Torn) };
        let Some((length, body_crc)) = read_head(head) else {
            let zeros = head.iter().chain(rest).all(|byte| *byte == 0);
            return (found, at, if zeros { End::Torn } else { End::Damaged });
        };
        let Some(body) = rest.get(..length) else { return (found, at, End::Torn) };
        let record = if crc32c(body) == body_crc { read_body(body) } else { None };
        found.push(Found { at, hash: hash(body), record });
        at += FRAME_HEAD_BYTES + length;
    }
}

/// Length and checksum of the body, if the head is what was written.
fn read_head(head: &[u8]) -> Option<(usize, u32)> {
    let (length, rest) = head.split_first_chunk()?;
    let (body_crc, rest) = rest.split_first_chunk()?;
    let (checked, _) = head.split_at_checked(FRAME_HEAD_BYTES - 4)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let right = rest == crc32c(checked).to_le_bytes() && length <= RECORD_BYTES_MAX && length > 0;
    right.then_some((length, u32::from_le_bytes(*body_crc)))
}

fn read_body(body: &[u8]) -> Option<(UsageRecord, Hash)> {
    let (previous, record) = body.split_first_chunk()?;
    Some((postcard::from_bytes(record).ok()?, *previous))
}
