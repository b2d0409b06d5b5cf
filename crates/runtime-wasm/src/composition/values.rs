//! Values of the component model as bytes, for calls that leave their machine. Both sides know the types, so that the
//! bytes hold values only: numbers little-endian, lengths and the places of cases as variable-length integers (LEB128).
//! The form is part of the wire protocol and goes by its version.
//!
//! What comes from the mesh is not trusted: reading ends with an error, and takes no more memory than
//! [`VALUES_MEMORY_MAX`], whatever the bytes claim.

use std::mem::size_of;
use std::sync::Arc;

use bytes::Bytes;
use littoral_model::composition::VALUES_BYTES_MAX;
use wasmtime::component::Val;

use super::types::{Kind, Primitive, Type};

/// How much memory the values of one call may take when they are read: as much as Wasmtime itself gives to what a guest
/// hands to its host.
const VALUES_MEMORY_MAX: usize = 128 << 20;

/// Why values cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    #[error("the values have more than {VALUES_BYTES_MAX} bytes: pass less at once")]
    TooLarge,
    #[error("the values take more than {VALUES_MEMORY_MAX} bytes of memory: pass less at once")]
    TooMuchMemory,
    #[error("a value is not of the type {0}")]
    OtherType(String),
    #[error("the values are cut off or damaged: {0}")]
    Damaged(&'static str),
}

/// Writes values of these types.
///
/// # Errors
/// When they have other types, or are too large.
pub(crate) fn encode<'t>(types: impl IntoIterator<Item = &'t Type>, values: &[Val]) -> Result<Bytes, ValueError> {
    let mut out = Writer(Vec::new());
    let mut values = values.iter();
    for ty in types {
        let value = values.next().ok_or(ValueError::Damaged("there are too few"))?;
        out.value(ty, value)?;
    }
    if values.next().is_some() {
        return Err(ValueError::Damaged("there are too many"));
    }
    Ok(Bytes::from(out.0))
}

/// Reads values of these types, and nothing else.
///
/// # Errors
/// When the bytes do not say such values, or say too much.
pub(crate) fn decode<'t>(types: impl IntoIterator<Item = &'t Type>, bytes: &[u8]) -> Result<Vec<Val>, ValueError> {
    if bytes.len() > VALUES_BYTES_MAX {
        return Err(ValueError::TooLarge);
    }
    let mut input = Reader { bytes, memory_left: VALUES_MEMORY_MAX };
    let values = types.into_iter().map(|ty| input.value(ty)).collect::<Result<Vec<Val>, _>>()?;
    if input.bytes.is_empty() { Ok(values) } else { Err(ValueError::Damaged("more follows them")) }
}

struct Writer(Vec<u8>);

impl Writer {
    fn value(&mut self, ty: &Type, value: &Val) -> Result<(), ValueError> {
        let other = || ValueError::OtherType(word(&ty.kind));
        match (&*ty.kind, value) {
            (Kind::Primitive(primitive), value) => self.primitive(*primitive, value).ok_or_else(other)?,
            (Kind::List(item), Val::List(items)) => {
                self.length(items.len());
                self.all(item, items)?;
            }
            (Kind::FixedList(item, length), Val::FixedLengthList(items)) if items.len() == *length as usize => {
                self.all(item, items)?;
            }
            (Kind::Map(key, of), Val::Map(entries)) => {
                self.length(entries.len());
                for (entry, value) in entries {
                    self.value(key, entry)?;
                    self.value(of, value)?;
                }
            }
            (Kind::Record(fields), Val::Record(values)) if fields.len() == values.len() => {
                for ((name, field), (given, value)) in fields.iter().zip(values) {
                    if **name != **given {
                        return Err(other());
                    }
                    self.value(field, value)?;
                }
            }
            (Kind::Tuple(parts), Val::Tuple(values)) if parts.len() == values.len() => {
                parts.iter().zip(values).try_for_each(|(part, value)| self.value(part, value))?;
            }
            (Kind::Variant(cases), Val::Variant(name, payload)) => {
                let place = cases.iter().position(|(case, _)| **case == **name).ok_or_else(other)?;
                self.length(place);
                self.payload(cases.get(place).and_then(|(_, case)| case.as_ref()), payload.as_deref(), other)?;
            }
            (Kind::Enum(names), Val::Enum(name)) => {
                self.length(place_of(names, name).ok_or_else(other)?);
            }
            (Kind::Flags(names), Val::Flags(set)) => self.flags(names, set).ok_or_else(other)?,
            (Kind::Option(some), Val::Option(value)) => {
                self.0.push(u8::from(value.is_some()));
                if let Some(value) = value {
                    self.value(some, value)?;
                }
            }
            (Kind::Result(ok, error), Val::Result(value)) => {
                self.0.push(u8::from(value.is_err()));
                match value {
                    Ok(value) => self.payload(ok.as_ref(), value.as_deref(), other)?,
                    Err(value) => self.payload(error.as_ref(), value.as_deref(), other)?,
                }
            }
            _ => return Err(other()),
        }
        if self.0.len() > VALUES_BYTES_MAX { Err(ValueError::TooLarge) } else { Ok(()) }
    }

    fn all(&mut self, item: &Type, items: &[Val]) -> Result<(), ValueError> {
        items.iter().try_for_each(|value| self.value(item, value))
    }

    fn payload(
        &mut self,
        ty: Option<&Type>,
        value: Option<&Val>,
        other: impl Fn() -> ValueError,
    ) -> Result<(), ValueError> {
        match (ty, value) {
            (None, None) => Ok(()),
            (Some(ty), Some(value)) => self.value(ty, value),
            _ => Err(other()),
        }
    }

    fn primitive(&mut self, primitive: Primitive, value: &Val) -> Option<()> {
        match (primitive, value) {
            (Primitive::Bool, Val::Bool(value)) => self.0.push(u8::from(*value)),
            (Primitive::S8, Val::S8(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::U8, Val::U8(value)) => self.0.push(*value),
            (Primitive::S16, Val::S16(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::U16, Val::U16(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::S32, Val::S32(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::U32, Val::U32(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::S64, Val::S64(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::U64, Val::U64(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::F32, Val::Float32(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::F64, Val::Float64(value)) => self.0.extend(value.to_le_bytes()),
            (Primitive::Char, Val::Char(value)) => self.0.extend(u32::from(*value).to_le_bytes()),
            (Primitive::String, Val::String(value)) => {
                self.length(value.len());
                self.0.extend(value.as_bytes());
            }
            _ => return None,
        }
        Some(())
    }

    /// A bit for each flag, the first in the lowest.
    fn flags(&mut self, names: &[Arc<str>], set: &[String]) -> Option<()> {
        let mut bits = vec![0_u8; names.len().div_ceil(8)];
        for name in set {
            let place = place_of(names, name)?;
            *bits.get_mut(place / 8)? |= 1 << (place % 8);
        }
        self.0.extend(bits);
        Some(())
    }

    fn length(&mut self, mut length: usize) {
        while length >= 0x80 {
            self.0.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        self.0.push(length as u8);
    }
}

fn place_of(names: &[Arc<str>], name: &str) -> Option<usize> {
    names.iter().position(|known| **known == *name)
}

fn word(kind: &Kind) -> String {
    let word = match kind {
        Kind::Primitive(primitive) => primitive.as_str(),
        Kind::List(_) | Kind::FixedList(..) => "list",
        Kind::Map(..) => "map",
        Kind::Record(_) => "record",
        Kind::Variant(_) => "variant",
        Kind::Tuple(_) => "tuple",
        Kind::Flags(_) => "flags",
        Kind::Enum(_) => "enum",
        Kind::Option(_) => "option",
        Kind::Result(..) => "result",
        Kind::Bound(what) => what,
    };
    word.to_owned()
}

struct Reader<'b> {
    bytes: &'b [u8],
    memory_left: usize,
}

impl<'b> Reader<'b> {
    fn value(&mut self, ty: &Type) -> Result<Val, ValueError> {
        self.pay(size_of::<Val>())?;
        Ok(match &*ty.kind {
            Kind::Primitive(primitive) => self.primitive(*primitive)?,
            Kind::List(item) => {
                let length = self.length()?;
                Val::List(self.all(item, length)?)
            }
            Kind::FixedList(item, length) => Val::FixedLengthList(self.all(item, *length as usize)?),
            Kind::Map(key, of) => {
                let length = self.length()?;
                let mut entries = Vec::new();
                for _ in 0..length {
                    entries.push((self.value(key)?, self.value(of)?));
                }
                Val::Map(entries)
            }
            Kind::Record(fields) => {
                let read = fields.iter().map(|(name, field)| Ok((self.named(name)?, self.value(field)?)));
                Val::Record(read.collect::<Result<_, _>>()?)
            }
            Kind::Tuple(parts) => Val::Tuple(parts.iter().map(|part| self.value(part)).collect::<Result<_, _>>()?),
            Kind::Variant(cases) => {
                let place = self.length()?;
                let (name, case) = cases.get(place).ok_or(ValueError::Damaged("there is no such case"))?;
                Val::Variant(self.named(name)?, self.payload(case.as_ref())?)
            }
            Kind::Enum(names) => {
                let place = self.length()?;
                let name = names.get(place).ok_or(ValueError::Damaged("there is no such case"))?;
                Val::Enum(self.named(name)?)
            }
            Kind::Flags(names) => Val::Flags(self.flags(names)?),
            Kind::Option(some) => Val::Option(match self.flag()? {
                true => self.payload(Some(some))?,
                false => None,
            }),
            Kind::Result(ok, error) => Val::Result(match self.flag()? {
                false => Ok(self.payload(ok.as_ref())?),
                true => Err(self.payload(error.as_ref())?),
            }),
            Kind::Bound(what) => return Err(ValueError::OtherType(what.clone())),
        })
    }

    /// So many values. Room is made as they come: a length is a claim.
    fn all(&mut self, item: &Type, length: usize) -> Result<Vec<Val>, ValueError> {
        // Each takes a byte at least, but for those that are made of nothing.
        let mut items = Vec::with_capacity(length.min(self.bytes.len()).min(1_024));
        for _ in 0..length {
            items.push(self.value(item)?);
        }
        Ok(items)
    }

    fn payload(&mut self, ty: Option<&Type>) -> Result<Option<Box<Val>>, ValueError> {
        ty.map(|ty| self.value(ty).map(Box::new)).transpose()
    }

    fn primitive(&mut self, primitive: Primitive) -> Result<Val, ValueError> {
        Ok(match primitive {
            Primitive::Bool => Val::Bool(self.flag()?),
            Primitive::S8 => Val::S8(i8::from_le_bytes(self.fixed()?)),
            Primitive::U8 => Val::U8(u8::from_le_bytes(self.fixed()?)),
            Primitive::S16 => Val::S16(i16::from_le_bytes(self.fixed()?)),
            Primitive::U16 => Val::U16(u16::from_le_bytes(self.fixed()?)),
            Primitive::S32 => Val::S32(i32::from_le_bytes(self.fixed()?)),
            Primitive::U32 => Val::U32(u32::from_le_bytes(self.fixed()?)),
            Primitive::S64 => Val::S64(i64::from_le_bytes(self.fixed()?)),
            Primitive::U64 => Val::U64(u64::from_le_bytes(self.fixed()?)),
            Primitive::F32 => Val::Float32(f32::from_le_bytes(self.fixed()?)),
            Primitive::F64 => Val::Float64(f64::from_le_bytes(self.fixed()?)),
            Primitive::Char => {
                let scalar = char::from_u32(u32::from_le_bytes(self.fixed()?));
                Val::Char(scalar.ok_or(ValueError::Damaged("a char is no Unicode scalar value"))?)
            }
            Primitive::String => {
                let length = self.length()?;
                let text = std::str::from_utf8(self.take(length)?);
                let text = text.map_err(|_| ValueError::Damaged("a string is not UTF-8"))?;
                Val::String(self.named(text)?)
            }
        })
    }

    fn flags(&mut self, names: &[Arc<str>]) -> Result<Vec<String>, ValueError> {
        let bits = self.take(names.len().div_ceil(8))?.to_vec();
        let mut set = Vec::new();
        for (place, name) in names.iter().enumerate() {
            if bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1) {
                set.push(self.named(name)?);
            }
        }
        let spare = bits.last().filter(|_| !names.len().is_multiple_of(8)).map_or(0, |byte| byte >> (names.len() % 8));
        if spare == 0 { Ok(set) } else { Err(ValueError::Damaged("there is no such flag")) }
    }

    /// A text of its own.
    fn named(&mut self, text: &str) -> Result<String, ValueError> {
        self.pay(size_of::<String>() + text.len())?;
        Ok(text.to_owned())
    }

    fn flag(&mut self) -> Result<bool, ValueError> {
        match self.fixed()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(ValueError::Damaged("a byte is neither 0 nor 1")),
        }
    }

    fn length(&mut self) -> Result<usize, ValueError> {
        let mut length = 0_u32;
        for place in 0..5 {
            let [byte] = self.fixed()?;
            let part = u32::from(byte & 0x7f);
            let shifted = part.checked_shl(7 * place).filter(|shifted| shifted >> (7 * place) == part);
            length |= shifted.ok_or(ValueError::Damaged("a length is too large"))?;
            if byte & 0x80 == 0 {
                return Ok(length as usize);
            }
        }
        Err(ValueError::Damaged("a length is too large"))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ValueError> {
        self.take(N)?.try_into().map_err(|_| ValueError::Damaged("they end too early"))
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], ValueError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(ValueError::Damaged("they end too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    fn pay(&mut self, bytes: usize) -> Result<(), ValueError> {
        self.memory_left = self.memory_left.checked_sub(bytes).ok_or(ValueError::TooMuchMemory)?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
