//! Formats that other versions must read: tokens and what goes over the mesh. `LITTORAL_BLESS=1` writes missing files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod contract;

use std::path::PathBuf;

use littoral_mesh::frame::{Deliver, Delivered, Envelope, Hello, Pong, ReplyError, Wanted};
use littoral_mesh::token::Token;
use littoral_mesh::{Method, Priority};
use littoral_model::id::{InvocationId, Tier};
use littoral_model::wire::{VersionRange, decode, encode};

/// Compares with the file, or writes it.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mesh-v2").join(name);
    if std::env::var_os("LITTORAL_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let held = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(held == bytes, "{name} is written differently now: keep reading the old form and raise the version");
    held
}

#[test]
fn tokens_keep_their_form() {
    let token = Token {
        endpoints: vec!["10.0.0.1:7448".to_owned(), "gate.example:7448".to_owned()],
        root_hash: [0xab; 32],
        id: "tok-1".to_owned(),
        secret: [0x5a; 32],
        expires_unix: 1_800_000_000,
    };
    let held = golden("token.txt", token.to_text().as_bytes());
    assert_eq!(String::from_utf8(held).unwrap().parse::<Token>().unwrap(), token);
}

#[test]
fn frames_keep_their_form() {
    let envelope = Envelope {
        from: contract::node("edge-1"),
        method: Method::Publish as u8,
        priority: Priority::Data,
        deadline_ms: 2500,
        invocation: InvocationId::from_parts(1_700_000_000_000, 42),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
    };
    let held = golden("envelope.bin", &envelope.encode().unwrap());
    assert_eq!(Envelope::decode(&held).unwrap(), envelope);

    let wanted = vec![Wanted { id: 7, topic: "logs/default/app".to_owned(), credit: 64 }];
    let hello = Hello { digest: contract::digest("edge-1", Tier::Edge, 3), wanted };
    let held = golden("hello.bin", &encode(&hello).unwrap());
    assert_eq!(decode::<Hello>(&held).unwrap(), hello);
    // A node of protocol 1 says nothing of its situation and its condition.
    let mut older = hello;
    older.digest.protocol = VersionRange { min: 1, max: 1 };
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/mesh-v1/hello.bin");
    assert_eq!(decode::<Hello>(&std::fs::read(path).unwrap()).unwrap(), older);

    let pong = Pong { incarnation: 3, sequence: 9 };
    assert_eq!(decode::<Pong>(&golden("pong.bin", &encode(&pong).unwrap())).unwrap(), pong);

    let deliver = Deliver { id: 7, messages: vec!["one".into(), "two".into()], dropped: false };
    assert_eq!(decode::<Deliver>(&golden("deliver.bin", &encode(&deliver).unwrap())).unwrap(), deliver);
    let delivered = Delivered { taken: 2 };
    assert_eq!(decode::<Delivered>(&golden("delivered.bin", &encode(&delivered).unwrap())).unwrap(), delivered);

    for (name, error) in [
        ("refused.bin", ReplyError::Refused("busy".to_owned())),
        ("failed.bin", ReplyError::Failed("trap".to_owned())),
        ("late.bin", ReplyError::Late),
        ("unseen.bin", ReplyError::Unseen),
        ("version.bin", ReplyError::Version(VersionRange { min: 1, max: 2 })),
    ] {
        assert_eq!(ReplyError::decode(&golden(name, &error.encode())), error);
    }
}

#[test]
fn methods_keep_their_numbers() {
    let numbers: Vec<u8> = Method::ALL.iter().map(|method| *method as u8).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 32, 33]);
    for method in Method::ALL {
        assert_eq!(Method::from_wire(method as u8), Some(method));
    }
    assert_eq!(Method::from_wire(200), None);
}
