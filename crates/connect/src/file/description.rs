//! Whether the description at the end of a Parquet file may be decoded.
//!
//! It is in Thrift's compact protocol (<https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>). The decoder makes
//! room for as many row groups as the description says that there are before it reads them; a number that is made up ends the process.

/// How deep values are within one another at most; those of Parquet are not nearly so.
const DEPTH_MAX: u32 = 32;

/// Whether it is one structure, with no list or text that has more in it than there are bytes.
pub(super) fn is_sound(description: &[u8]) -> bool {
    Walk(description).structure(0).is_some()
}

/// What is left of a description.
struct Walk<'b>(&'b [u8]);

impl Walk<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// How many there are of what takes a byte at least.
    fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.number()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    fn structure(&mut self, depth: u32) -> Option<()> {
        loop {
            let header = self.byte()?;
            if header == 0 {
                return Some(());
            }
            // The field's number, unless it follows from the one before.
            if header >> 4 == 0 {
                self.number()?;
            }
            match header & 0x0f {
                // The type is the value.
                1 | 2 => {}
                kind => self.value(kind, depth + 1)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: u32) -> Option<()> {
        match kind {
            _ if depth > DEPTH_MAX => None,
            1..=3 => self.skip(1),
            4..=6 => self.number().map(drop),
            7 => self.skip(8),
            8 => {
                let length = self.count()?;
                self.skip(length)
            }
            9 | 10 => {
                let header = self.byte()?;
                let count = match header >> 4 {
                    15 => self.count()?,
                    few => usize::from(few),
                };
                (0..count).try_for_each(|_| self.value(header & 0x0f, depth + 1))
            }
            11 => {
                let count = self.count()?;
                let kinds = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.value(kinds >> 4, depth + 1)?;
                    self.value(kinds & 0x0f, depth + 1)
                })
            }
            12 => self.structure(depth),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_that_it_has_more_than_there_is_is_not_sound() {
        // A number, a list of two texts, and a structure with a truth in it.
        let sound = [0x15, 0x02, 0x19, 0x28, 1, b'a', 1, b'b', 0x1c, 0x11, 0, 0];
        assert!(is_sound(&sound));
        for end in 0..sound.len() {
            assert!(!is_sound(&sound[..end]), "{end}");
        }
        // A list of two thousand million structures, of numbers without an end, and a text that is longer than all.
        for other in [&[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 7, 0][..], &[0x15, 0xff, 0xff], &[0x18, 0x7f, b'a', 0]] {
            assert!(!is_sound(other), "{other:?}");
        }
        assert!(!is_sound(&[0x1c; 100]), "deeper than anything is");
    }
}
