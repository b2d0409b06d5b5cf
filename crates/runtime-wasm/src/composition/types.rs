//! The types of interfaces, as far as functions of one machine can hand values of them to functions of another; shown
//! as WIT shows them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// How much of a signature is shown; whoever needs more looks into the WIT.
const SHOWN_BYTES_MAX: usize = 2_000;

/// A type. Two are equal if they are made alike, whatever they are called.
#[derive(Clone, Debug)]
pub struct Type {
    /// What the interface calls it.
    pub(crate) name: Option<Arc<str>>,
    pub(crate) kind: Arc<Kind>,
    /// Of how many types it is made when each is counted where it is used.
    pub(crate) size: u32,
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.kind, &other.kind) || self.kind == other.kind
    }
}

/// How a type is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One that WIT has a word for, `u32` or `string`.
    Primitive(Primitive),
    /// Any number of values.
    List(Type),
    /// So many values.
    FixedList(Type, u32),
    /// Values by key.
    Map(Type, Type),
    /// Named fields.
    Record(Vec<(Arc<str>, Type)>),
    /// One of several named cases.
    Variant(Vec<(Arc<str>, Option<Type>)>),
    /// Fields without names.
    Tuple(Vec<Type>),
    /// Any of several names.
    Flags(Vec<Arc<str>>),
    /// One of several names.
    Enum(Vec<Arc<str>>),
    /// A value or none.
    Option(Type),
    /// One of two values, either of which may be nothing.
    Result(Option<Type>, Option<Type>),
    /// What lives in one instance and cannot leave its machine; in words.
    Bound(String),
}

/// A type that WIT has a word for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Primitive {
    Bool,
    S8,
    U8,
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
    Char,
    String,
}

impl Primitive {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::S8 => "s8",
            Self::U8 => "u8",
            Self::S16 => "s16",
            Self::U16 => "u16",
            Self::S32 => "s32",
            Self::U32 => "u32",
            Self::S64 => "s64",
            Self::U64 => "u64",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Char => "char",
            Self::String => "string",
        }
    }
}

/// What a function of an interface takes and returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    pub(crate) is_async: bool,
    pub(crate) parameters: Vec<(Arc<str>, Type)>,
    pub(crate) result: Option<Type>,
}

/// An interface that a component imports or exports.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interface {
    pub(crate) functions: BTreeMap<String, Signature>,
    /// What it has besides functions and types of values, in words.
    pub(crate) bound: Vec<String>,
}

/// The interfaces that a component has beside those of the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interfaces {
    pub(crate) imports: BTreeMap<String, Interface>,
    pub(crate) exports: BTreeMap<String, Interface>,
    /// Functions that it exports in no interface.
    pub(crate) functions: BTreeMap<String, Signature>,
    /// Functions that it imports from no interface.
    pub(crate) loose: Vec<String>,
}

impl Interfaces {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { imports, exports, functions, loose } = self;
        imports.is_empty() && exports.is_empty() && functions.is_empty() && loose.is_empty()
    }
}

impl Type {
    pub(crate) fn new(kind: Kind) -> Self {
        let mut size = 1_u32;
        kind.each(&mut |part| size = size.saturating_add(part.size));
        Self { name: None, kind: Arc::new(kind), size }
    }

    /// The first part of it that cannot leave its machine, in words.
    pub(crate) fn bound(&self) -> Option<String> {
        if let Kind::Bound(what) = &*self.kind {
            return Some(what.clone());
        }
        let mut found = None;
        self.kind.each(&mut |part| found = found.take().or_else(|| part.bound()));
        found
    }
}

impl Kind {
    fn each(&self, told: &mut dyn FnMut(&Type)) {
        match self {
            Self::Primitive(_) | Self::Flags(_) | Self::Enum(_) | Self::Bound(_) => {}
            Self::List(one) | Self::FixedList(one, _) | Self::Option(one) => told(one),
            Self::Map(key, value) => [key, value].into_iter().for_each(told),
            Self::Record(fields) => fields.iter().for_each(|(_, field)| told(field)),
            Self::Variant(cases) => cases.iter().filter_map(|(_, case)| case.as_ref()).for_each(told),
            Self::Tuple(parts) => parts.iter().for_each(told),
            Self::Result(ok, error) => [ok, error].into_iter().flatten().for_each(told),
        }
    }
}

impl Signature {
    /// The types of its parameters, and of its result.
    pub(crate) fn types(&self) -> impl Iterator<Item = &Type> {
        self.parameters.iter().map(|(_, parameter)| parameter).chain(&self.result)
    }

    /// A number that differs between signatures that differ.
    pub(crate) fn hash(&self) -> u64 {
        let mut text = Writer { out: String::new(), with_names: false, bytes_max: usize::MAX };
        text.signature("", self);
        let digest = ring::digest::digest(&ring::digest::SHA256, text.out.as_bytes());
        digest.as_ref().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
    }

    /// As WIT writes it, with the names that the interface gives to types.
    #[must_use]
    pub fn shown(&self, name: &str) -> String {
        let mut text = Writer { out: String::new(), with_names: true, bytes_max: SHOWN_BYTES_MAX };
        text.signature(name, self);
        text.done()
    }

    /// Its named types, each as WIT defines it.
    pub(crate) fn definitions(&self) -> BTreeMap<Arc<str>, (Type, String)> {
        let mut found = BTreeMap::new();
        self.types().for_each(|used| define(used, &mut found));
        found
    }
}

fn define(used: &Type, found: &mut BTreeMap<Arc<str>, (Type, String)>) {
    if let Some(name) = &used.name {
        if found.contains_key(name) {
            return;
        }
        let mut text = Writer { out: String::new(), with_names: true, bytes_max: SHOWN_BYTES_MAX };
        text.definition(name, &used.kind);
        found.insert(Arc::clone(name), (used.clone(), text.done()));
    }
    used.kind.each(&mut |part| define(part, found));
}

/// Writes types.
struct Writer {
    out: String,
    /// Whether a type that has a name is written by it.
    with_names: bool,
    bytes_max: usize,
}

impl Writer {
    fn done(mut self) -> String {
        if self.out.len() > self.bytes_max {
            let cut = self.out.floor_char_boundary(self.bytes_max);
            self.out.truncate(cut);
            self.out.push_str("...");
        }
        self.out
    }

    fn is_full(&self) -> bool {
        self.out.len() > self.bytes_max
    }

    fn signature(&mut self, name: &str, signature: &Signature) {
        let is_async = if signature.is_async { "async " } else { "" };
        // Writing to a String cannot fail, here and below.
        let _ = write!(self.out, "{name}: {is_async}func(");
        for (place, (parameter, ty)) in signature.parameters.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            let _ = write!(self.out, "{separator}{parameter}: ");
            self.used(ty);
        }
        self.out.push(')');
        if let Some(result) = &signature.result {
            self.out.push_str(" -> ");
            self.used(result);
        }
    }

    fn definition(&mut self, name: &str, kind: &Kind) {
        match kind {
            Kind::Record(_) | Kind::Variant(_) | Kind::Flags(_) | Kind::Enum(_) => self.braced(kind, Some(name)),
            _ => {
                let _ = write!(self.out, "type {name} = ");
                self.kind(kind);
            }
        }
    }

    fn used(&mut self, ty: &Type) {
        match &ty.name {
            Some(name) if self.with_names => self.out.push_str(name),
            _ if self.is_full() => {}
            _ => self.kind(&ty.kind),
        }
    }

    fn kind(&mut self, kind: &Kind) {
        match kind {
            Kind::Primitive(primitive) => self.out.push_str(primitive.as_str()),
            Kind::List(item) => self.angled("list", [Some(item)]),
            Kind::FixedList(item, length) => {
                self.out.push_str("list<");
                self.used(item);
                let _ = write!(self.out, ", {length}>");
            }
            Kind::Map(key, value) => self.angled("map", [Some(key), Some(value)]),
            Kind::Tuple(parts) => self.angled("tuple", parts.iter().map(Some)),
            Kind::Option(some) => self.angled("option", [Some(some)]),
            Kind::Result(None, None) => self.out.push_str("result"),
            Kind::Result(ok, None) => self.angled("result", [ok.as_ref()]),
            Kind::Result(ok, error) => self.angled("result", [ok.as_ref(), error.as_ref()]),
            Kind::Bound(what) => self.out.push_str(what),
            Kind::Record(_) | Kind::Variant(_) | Kind::Flags(_) | Kind::Enum(_) => self.braced(kind, None),
        }
    }

    fn angled<'t>(&mut self, word: &str, parts: impl IntoIterator<Item = Option<&'t Type>>) {
        self.out.push_str(word);
        for (place, part) in parts.into_iter().enumerate() {
            self.out.push_str(if place == 0 { "<" } else { ", " });
            match part {
                Some(part) => self.used(part),
                None => self.out.push('_'),
            }
        }
        self.out.push('>');
    }

    fn braced(&mut self, kind: &Kind, name: Option<&str>) {
        let (word, parts): (_, Vec<(&Arc<str>, Option<&Type>)>) = match kind {
            Kind::Record(fields) => ("record", fields.iter().map(|(name, field)| (name, Some(field))).collect()),
            Kind::Variant(cases) => ("variant", cases.iter().map(|(name, case)| (name, case.as_ref())).collect()),
            Kind::Flags(names) => ("flags", names.iter().map(|name| (name, None)).collect()),
            Kind::Enum(names) => ("enum", names.iter().map(|name| (name, None)).collect()),
            _ => return,
        };
        self.out.push_str(word);
        if let Some(name) = name {
            let _ = write!(self.out, " {name}");
        }
        for (place, (part, ty)) in parts.into_iter().enumerate() {
            let _ = write!(self.out, "{}{part}", if place == 0 { " { " } else { ", " });
            match (kind, ty) {
                (Kind::Record(_), Some(ty)) => {
                    self.out.push_str(": ");
                    self.used(ty);
                }
                (_, Some(ty)) => {
                    self.out.push('(');
                    self.used(ty);
                    self.out.push(')');
                }
                (_, None) => {}
            }
        }
        self.out.push_str(" }");
    }
}
