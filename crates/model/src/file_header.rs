//! What every file of ours begins with: magic, version, and a checksum of the rest.
//!
//! 8 bytes magic; then little-endian: 4 bytes version, 8 bytes length of the body, 4 bytes CRC32C of all that and the
//! body; then the body.

/// How many bytes stand before the body.
const HEADER_BYTES: usize = 24;

/// A file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It begins with something else.
    #[error("{name} is no such file of Littoral: move it away, and restore the right one")]
    Magic {
        /// Which file.
        name: String,
    },
    /// A later program wrote it.
    #[error("{name} is of version {version}, this program reads up to {known}: start a newer `littoral`")]
    Version {
        /// Which file.
        name: String,
        /// Its version.
        version: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// It is cut off, or bytes in it have changed.
    #[error("{name} is damaged ({reason}): restore it from a copy")]
    Damaged {
        /// Which file.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
}

/// A file with this body.
#[must_use]
pub fn seal(magic: [u8; 8], version: u32, body: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(HEADER_BYTES + body.len());
    file.extend_from_slice(&magic);
    file.extend_from_slice(&version.to_le_bytes());
    file.extend_from_slice(&(body.len() as u64).to_le_bytes());
    let crc = checksum(&file, body);
    file.extend_from_slice(&crc.to_le_bytes());
    file.extend_from_slice(body);
    file
}

/// The body of a file, which `name` names in errors.
///
/// # Errors
/// See [`FileError`].
pub fn open<'a>(file: &'a [u8], magic: [u8; 8], version: u32, name: &str) -> Result<&'a [u8], FileError> {
    let damaged = |reason| FileError::Damaged { name: name.to_owned(), reason };
    if file.len() < magic.len() && magic.starts_with(file) {
        return Err(damaged("it is cut off"));
    }
    if !file.starts_with(&magic) {
        return Err(FileError::Magic { name: name.to_owned() });
    }
    let Some((header, body)) = file.split_at_checked(HEADER_BYTES) else { return Err(damaged("it is cut off")) };
    let (found, rest) = number(header.get(8..).unwrap_or_default());
    if found > version {
        return Err(FileError::Version { name: name.to_owned(), version: found, known: version });
    }
    let (low, rest) = number(rest);
    let (high, rest) = number(rest);
    let (crc, _) = number(rest);
    if (u64::from(high) << 32 | u64::from(low)) != body.len() as u64 {
        return Err(damaged("it is cut off, or something follows it"));
    }
    if checksum(header.get(..HEADER_BYTES - 4).unwrap_or_default(), body) != crc {
        return Err(damaged("its checksum is wrong"));
    }
    Ok(body)
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), body)
}

/// The little-endian number at the beginning, and what follows.
fn number(bytes: &[u8]) -> (u32, &[u8]) {
    bytes.split_first_chunk().map_or((0, &[]), |(number, rest)| (u32::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    const MAGIC: [u8; 8] = *b"LITTEST\0";

    #[test]
    fn a_file_is_read_as_it_was_written() {
        assert_eq!(open(&seal(MAGIC, 3, b"body"), MAGIC, 3, "f"), Ok(&b"body"[..]));
        assert_eq!(open(&seal(MAGIC, 2, b""), MAGIC, 3, "f"), Ok(&b""[..]));
    }

    #[test]
    fn whatever_is_wrong_is_said() {
        let file = seal(MAGIC, 3, b"body");
        assert!(matches!(open(&file, *b"LITOTHER", 3, "f"), Err(FileError::Magic { .. })));
        assert!(matches!(open(&file, MAGIC, 2, "f"), Err(FileError::Version { version: 3, known: 2, .. })));
        for cut in 0..file.len() {
            assert!(matches!(open(&file[..cut], MAGIC, 3, "f"), Err(FileError::Damaged { .. })), "cut at {cut}");
        }
        for byte in 8..file.len() {
            let mut flipped = file.clone();
            flipped[byte] ^= 1;
            assert!(open(&flipped, MAGIC, 3, "f").is_err(), "byte {byte}");
        }
    }
}
