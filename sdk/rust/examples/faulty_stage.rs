//! A stage that does what the value of a row says, for tests of limits: passes it on, traps, spins, allocates without
//! end, talks too much, fails, tries to reach files and the network, tells its invocation, or publishes.

use littoral_sdk::fabric::{Message, context, publish};
use littoral_sdk::prelude::*;

#[allow(clippy::panic)]
fn obey(batch: &Batch, out: &mut Output) -> Result<()> {
    let values = batch.utf8("value")?;
    for row in 0..batch.rows() {
        let value = values.get(row).unwrap_or_default();
        match value {
            "trap" => panic!("told to trap"),
            "spin" => loop {
                std::hint::black_box(row);
            },
            "grow" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            "recurse" => drop(recurse(row)),
            "talk" => (0..10_000).for_each(|line| println!("line {line}")),
            "fail" => return Err(Error::new("told to fail")),
            "reach" => {
                let file = std::fs::read("/etc/passwd").is_ok();
                let network = std::net::TcpStream::connect("127.0.0.1:80").is_ok();
                out.row(MAIN).utf8(&format!("file {file}, network {network}"));
            }
            "context" => out.row(MAIN).utf8(&context().id).end(),
            "publish" => {
                let published = publish("alerts", &[Message::new("told to publish")]);
                out.row(MAIN).utf8(&format!("{published:?}"));
            }
            other => out.row(MAIN).utf8(other).end(),
        }
    }
    Ok(())
}

#[allow(unconditional_recursion)]
fn recurse(depth: usize) -> usize {
    let frame = [depth; 64];
    std::hint::black_box(frame).iter().sum::<usize>() + recurse(std::hint::black_box(depth + 1))
}

littoral_sdk::stage!(fn obey => [Port::main([Field::new("value", Type::Utf8)])]);
