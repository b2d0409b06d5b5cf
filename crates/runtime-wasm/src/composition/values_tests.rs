//! Tests of [`super`].
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn primitive() -> impl Strategy<Value = Primitive> {
    use Primitive::*;
    proptest::sample::select(vec![Bool, S8, U8, S16, U16, S32, U32, S64, U64, F32, F64, Char, String])
}

fn names(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|number| Arc::from(format!("n{number}"))).collect()
}

/// Any type that can cross a machine.
fn a_type() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        4 => primitive().prop_map(Kind::Primitive),
        1 => (1_usize..20).prop_map(|count| Kind::Flags(names(count))),
        1 => (1_usize..300).prop_map(|count| Kind::Enum(names(count))),
    ];
    leaf.prop_map(Type::new).prop_recursive(4, 40, 4, |inner| {
        let maybe = proptest::option::of(inner.clone());
        let named = |parts: Vec<Type>| names(parts.len()).into_iter().zip(parts).collect();
        prop_oneof![
            inner.clone().prop_map(Kind::List),
            (inner.clone(), 1_u32..4).prop_map(|(item, length)| Kind::FixedList(item, length)),
            (primitive(), inner.clone()).prop_map(|(key, of)| Kind::Map(Type::new(Kind::Primitive(key)), of)),
            vec(inner.clone(), 1..4).prop_map(move |parts| Kind::Record(named(parts))),
            vec(inner.clone(), 1..4).prop_map(Kind::Tuple),
            vec(maybe.clone(), 1..4)
                .prop_map(|cases| Kind::Variant(names(cases.len()).into_iter().zip(cases).collect())),
            inner.prop_map(Kind::Option),
            (maybe.clone(), maybe).prop_map(|(ok, error)| Kind::Result(ok, error)),
        ]
        .prop_map(Type::new)
    })
}

/// Any value of a type.
fn a_value(ty: &Type) -> BoxedStrategy<Val> {
    let boxed = |ty: &Type| a_value(ty).prop_map(Box::new);
    let maybe = |ty: &Option<Type>| match ty {
        Some(ty) => a_value(ty).prop_map(|value| Some(Box::new(value))).boxed(),
        None => Just(None).boxed(),
    };
    match &*ty.kind {
        Kind::Primitive(primitive) => a_primitive(*primitive),
        Kind::List(item) => vec(a_value(item), 0..5).prop_map(Val::List).boxed(),
        Kind::FixedList(item, length) => vec(a_value(item), *length as usize).prop_map(Val::FixedLengthList).boxed(),
        Kind::Map(key, of) => vec((a_value(key), a_value(of)), 0..5).prop_map(Val::Map).boxed(),
        Kind::Record(fields) => {
            let (names, fields): (Vec<_>, Vec<_>) =
                fields.iter().map(|(name, field)| (name.to_string(), a_value(field))).unzip();
            fields.prop_map(move |values| Val::Record(names.clone().into_iter().zip(values).collect())).boxed()
        }
        Kind::Tuple(parts) => parts.iter().map(a_value).collect::<Vec<_>>().prop_map(Val::Tuple).boxed(),
        Kind::Variant(cases) => {
            let cases = cases.iter().map(|(name, case)| {
                let name = name.to_string();
                maybe(case).prop_map(move |payload| Val::Variant(name.clone(), payload)).boxed()
            });
            proptest::strategy::Union::new(cases).boxed()
        }
        Kind::Enum(names) => {
            proptest::sample::select(names.clone()).prop_map(|name| Val::Enum(name.to_string())).boxed()
        }
        Kind::Flags(names) => {
            let all: Vec<String> = names.iter().map(ToString::to_string).collect();
            let count = all.len();
            proptest::sample::subsequence(all, 0..=count).prop_map(Val::Flags).boxed()
        }
        Kind::Option(some) => proptest::option::of(boxed(some)).prop_map(Val::Option).boxed(),
        Kind::Result(ok, error) => prop_oneof![
            maybe(ok).prop_map(|value| Val::Result(Ok(value))),
            maybe(error).prop_map(|value| Val::Result(Err(value))),
        ]
        .boxed(),
        Kind::Bound(what) => panic!("no value can be a {what}"),
    }
}

fn a_primitive(primitive: Primitive) -> BoxedStrategy<Val> {
    match primitive {
        Primitive::Bool => any::<bool>().prop_map(Val::Bool).boxed(),
        Primitive::S8 => any::<i8>().prop_map(Val::S8).boxed(),
        Primitive::U8 => any::<u8>().prop_map(Val::U8).boxed(),
        Primitive::S16 => any::<i16>().prop_map(Val::S16).boxed(),
        Primitive::U16 => any::<u16>().prop_map(Val::U16).boxed(),
        Primitive::S32 => any::<i32>().prop_map(Val::S32).boxed(),
        Primitive::U32 => any::<u32>().prop_map(Val::U32).boxed(),
        Primitive::S64 => any::<i64>().prop_map(Val::S64).boxed(),
        Primitive::U64 => any::<u64>().prop_map(Val::U64).boxed(),
        Primitive::F32 => any::<f32>().prop_map(Val::Float32).boxed(),
        Primitive::F64 => any::<f64>().prop_map(Val::Float64).boxed(),
        Primitive::Char => any::<char>().prop_map(Val::Char).boxed(),
        Primitive::String => any::<String>().prop_map(Val::String).boxed(),
    }
}

fn typed_value() -> impl Strategy<Value = (Type, Val)> {
    a_type().prop_flat_map(|ty| (Just(ty.clone()), a_value(&ty)))
}

proptest! {
    #[test]
    fn every_value_comes_back((ty, value) in typed_value()) {
        let written = encode([&ty], std::slice::from_ref(&value)).unwrap();
        let read = decode([&ty], &written).unwrap();
        prop_assert_eq!(encode([&ty], &read).unwrap(), written);
        prop_assert_eq!(read, vec![value]);
    }

    #[test]
    fn damaged_bytes_are_an_error_or_another_value(
        (ty, value) in typed_value(),
        (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut written = encode([&ty], &[value]).unwrap().to_vec();
        let place = at.index(written.len().max(1));
        if let Some(damaged) = written.get_mut(place) {
            *damaged = byte;
        }
        if let Ok(read) = decode([&ty], &written) {
            // Whatever was read is a value of the type.
            encode([&ty], &read).unwrap();
        }
        written.truncate(cut.index(written.len().max(1)));
        let _ = decode([&ty], &written);
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(ty in a_type(), bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(read) = decode([&ty], &bytes) {
            encode([&ty], &read).unwrap();
        }
    }
}

#[test]
fn the_form_of_values_stays_the_same() {
    let word = |primitive| Type::new(Kind::Primitive(primitive));
    let fields = vec![(Arc::from("x"), word(Primitive::S32)), (Arc::from("name"), word(Primitive::String))];
    let cases = vec![(Arc::from("none"), None), (Arc::from("some"), Some(word(Primitive::U16)))];
    let types = [
        Type::new(Kind::Record(fields)),
        Type::new(Kind::List(Type::new(Kind::Variant(cases)))),
        Type::new(Kind::Flags(names(9))),
        Type::new(Kind::Option(word(Primitive::F64))),
        Type::new(Kind::Result(None, Some(word(Primitive::Char)))),
        Type::new(Kind::Enum(names(200))),
    ];
    let some = Val::Variant("some".to_owned(), Some(Box::new(Val::U16(258))));
    let values = [
        Val::Record(vec![("x".to_owned(), Val::S32(-2)), ("name".to_owned(), Val::String("é".to_owned()))]),
        Val::List(vec![Val::Variant("none".to_owned(), None), some]),
        Val::Flags(vec!["n0".to_owned(), "n8".to_owned()]),
        Val::Option(Some(Box::new(Val::Float64(1.0)))),
        Val::Result(Err(Some(Box::new(Val::Char('z'))))),
        Val::Enum("n199".to_owned()),
    ];
    let expected: &[u8] = &[
        0xfe, 0xff, 0xff, 0xff, 2, 0xc3, 0xa9, // the record
        2, 0, 1, 2, 1, // the list
        1, 1, // the flags
        1, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, // the option
        1, 0x7a, 0, 0, 0, // the result
        0xc7, 1, // the enum
    ];
    assert_eq!(encode(&types, &values).unwrap(), expected, "other versions read this form: raise the wire's version");
    assert_eq!(decode(&types, expected).unwrap(), values);
}

#[test]
fn a_claim_of_many_values_takes_no_memory() {
    let empty = Type::new(Kind::List(Type::new(Kind::Record(Vec::new()))));
    let claim = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert_eq!(decode([&empty], &claim), Err(ValueError::TooMuchMemory));
    let bytes = Type::new(Kind::List(Type::new(Kind::Primitive(Primitive::U8))));
    assert_eq!(decode([&bytes], &claim), Err(ValueError::Damaged("they end too early")));
    let texts = Type::new(Kind::List(Type::new(Kind::Enum(names(2)))));
    let mut many = vec![0x80, 0x80, 0x80, 0x03];
    many.resize(4 + (6 << 20), 1);
    assert_eq!(decode([&texts], &many), Err(ValueError::TooMuchMemory));
    assert_eq!(decode([&bytes], &vec![0; VALUES_BYTES_MAX + 1]), Err(ValueError::TooLarge));
    let text = Val::String("x".repeat(VALUES_BYTES_MAX));
    assert_eq!(encode([&Type::new(Kind::Primitive(Primitive::String))], &[text]), Err(ValueError::TooLarge));
}
