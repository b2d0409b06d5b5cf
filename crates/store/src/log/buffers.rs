//! Memory for what is read from segments, which is used again: large pieces that come fresh from the system each time have to be
//! cleared by it page by page.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// How long a buffer that is used again is: what one read fetches, with a large entry at its end.
const BUFFER_BYTES: usize = 2 << 20;
/// Shorter reads take memory of their own: whoever keeps a piece of one keeps all of it.
const READ_BYTES_MIN: usize = 256 << 10;
/// How many are kept: those of an answer that is being sent, and of the next one.
const KEPT_MAX: usize = 4;

type Kept = Arc<Mutex<Vec<Box<[u8]>>>>;

/// Buffers that nobody uses just now.
#[derive(Default)]
pub(crate) struct Buffers {
    kept: Kept,
}

impl Buffers {
    /// So many bytes, as `read` gives them.
    pub(crate) fn fill(&self, length: usize, read: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<Bytes> {
        if !(READ_BYTES_MIN..=BUFFER_BYTES).contains(&length) {
            let mut bytes = vec![0; length];
            read(&mut bytes)?;
            return Ok(Bytes::from(bytes));
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        let mut buffer = Buffer { bytes, length, home: Arc::clone(&self.kept) };
        read(buffer.bytes.get_mut(..length).unwrap_or_default())?;
        Ok(Bytes::from_owner(buffer))
    }
}

/// One that is in use; it goes back once nobody has a piece of it any more.
struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    home: Kept,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn filled(buffers: &Buffers, length: usize, with: u8) -> Bytes {
        let read = |into: &mut [u8]| {
            into.fill(with);
            Ok(())
        };
        buffers.fill(length, read).unwrap()
    }

    #[test]
    fn a_buffer_is_used_again_once_nobody_has_a_piece_of_it() {
        let buffers = Buffers::default();
        let first = filled(&buffers, READ_BYTES_MIN, 1);
        let piece = first.slice(7..9);
        let place = first.as_ptr();
        drop(first);
        let second = filled(&buffers, BUFFER_BYTES, 2);
        assert_ne!(second.as_ptr(), place);
        assert_eq!(&piece[..], [1, 1]);
        drop(piece);
        assert_eq!(filled(&buffers, READ_BYTES_MIN, 3).as_ptr(), place);
        assert_eq!(second.len(), BUFFER_BYTES);
        assert!(second.iter().all(|byte| *byte == 2));
    }

    #[test]
    fn few_are_kept_and_a_read_that_fails_gives_its_buffer_back() {
        let buffers = Buffers::default();
        drop((0..2 * KEPT_MAX).map(|_| filled(&buffers, READ_BYTES_MIN, 1)).collect::<Vec<_>>());
        let kept = || buffers.kept.lock().unwrap().len();
        assert_eq!(kept(), KEPT_MAX);
        assert!(buffers.fill(READ_BYTES_MIN, |_| Err(io::ErrorKind::UnexpectedEof.into())).is_err());
        assert_eq!(kept(), KEPT_MAX);
        assert_eq!(
            filled(&buffers, READ_BYTES_MIN - 1, 1).len() + filled(&buffers, BUFFER_BYTES + 1, 1).len(),
            READ_BYTES_MIN + BUFFER_BYTES
        );
        assert_eq!(kept(), KEPT_MAX);
    }
}
