//! How state becomes bytes and comes back, without any library.
//!
//! Numbers are little-endian, texts and lists have their length in front. [`impl_state!`](crate::impl_state) does it
//! for a struct. To change the shape of state that flows in use hold, encode a version in front and decode both.

use crate::{Error, Result};

/// State that can be saved.
///
/// ```
/// use littoral_sdk::State;
///
/// #[derive(Debug, Default, PartialEq)]
/// struct Average {
///     sum: f64,
///     count: u64,
/// }
/// littoral_sdk::impl_state!(Average { sum, count });
///
/// let average = Average { sum: 2.5, count: 2 };
/// let mut bytes = Vec::new();
/// average.encode(&mut bytes);
/// assert_eq!(Average::decode(&mut bytes.as_slice()).unwrap(), average);
/// ```
pub trait State: Sized {
    /// Appends the state to `bytes`.
    fn encode(&self, bytes: &mut Vec<u8>);

    /// Takes state off the front of `bytes`.
    ///
    /// # Errors
    /// When they are not what [`encode`](State::encode) wrote.
    fn decode(bytes: &mut &[u8]) -> Result<Self>;
}

/// Makes a struct with named fields a [`State`], field by field in the order given: `impl_state!(Point { x, y });`.
#[macro_export]
macro_rules! impl_state {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::State for $name {
            fn encode(&self, bytes: &mut ::std::vec::Vec<u8>) {
                $($crate::State::encode(&self.$field, bytes);)*
            }
            fn decode(bytes: &mut &[u8]) -> $crate::Result<Self> {
                ::std::result::Result::Ok(Self { $($field: $crate::State::decode(bytes)?),* })
            }
        }
    };
}

/// Takes so many bytes off the front.
///
/// # Errors
/// When there are fewer.
pub fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or_else(|| Error::new("the saved state is cut short"))?;
    *bytes = rest;
    Ok(taken)
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl State for $number {
            fn encode(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(bytes: &mut &[u8]) -> Result<Self> {
                let mut number = [0; size_of::<$number>()];
                number.copy_from_slice(take(bytes, size_of::<$number>())?);
                Ok(Self::from_le_bytes(number))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

impl State for () {
    fn encode(&self, _bytes: &mut Vec<u8>) {}
    fn decode(_bytes: &mut &[u8]) -> Result<Self> {
        Ok(())
    }
}

impl State for bool {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }
    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        match u8::decode(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::new(format!("the saved state has {other} where a truth should be"))),
        }
    }
}

impl State for String {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_bytes(self.as_bytes(), bytes);
    }
    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        Ok(std::str::from_utf8(decode_bytes(bytes)?)?.to_owned())
    }
}

impl<T: State> State for Option<T> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        self.is_some().encode(bytes);
        if let Some(value) = self {
            value.encode(bytes);
        }
    }
    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        Ok(if bool::decode(bytes)? { Some(T::decode(bytes)?) } else { None })
    }
}

impl<T: State> State for Vec<T> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        encode_length(self.len(), bytes);
        self.iter().for_each(|value| value.encode(bytes));
    }
    fn decode(bytes: &mut &[u8]) -> Result<Self> {
        let length = u32::decode(bytes)?;
        (0..length).map(|_| T::decode(bytes)).collect()
    }
}

macro_rules! tuples {
    ($(($($name:ident $place:tt),*);)*) => {$(
        impl<$($name: State),*> State for ($($name,)*) {
            fn encode(&self, bytes: &mut Vec<u8>) {
                $(self.$place.encode(bytes);)*
            }
            fn decode(bytes: &mut &[u8]) -> Result<Self> {
                Ok(($($name::decode(bytes)?,)*))
            }
        }
    )*};
}
tuples! {
    (A 0, B 1);
    (A 0, B 1, C 2);
    (A 0, B 1, C 2, D 3);
}

pub(crate) fn encode_length(length: usize, bytes: &mut Vec<u8>) {
    // A 32-bit guest cannot hold more.
    u32::try_from(length).unwrap_or(u32::MAX).encode(bytes);
}

pub(crate) fn encode_bytes(value: &[u8], bytes: &mut Vec<u8>) {
    encode_length(value.len(), bytes);
    bytes.extend_from_slice(value);
}

pub(crate) fn decode_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8]> {
    let length = u32::decode(bytes)? as usize;
    take(bytes, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_is_an_error_and_no_panic() {
        type Shape = (Option<i64>, Vec<String>, (bool, f64));
        let state: Shape = (Some(-7), vec!["é".to_owned(), String::new()], (true, 0.1));
        let mut bytes = Vec::new();
        state.encode(&mut bytes);
        assert_eq!(Shape::decode(&mut bytes.as_slice()).unwrap(), state);
        for end in 0..bytes.len() {
            assert!(Shape::decode(&mut &bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_huge_length_allocates_nothing() {
        assert!(Vec::<u64>::decode(&mut &[0xff; 4][..]).is_err());
    }
}
