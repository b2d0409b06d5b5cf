//! More than a share: of memory, of the host's memory by way of handles, of time, of the log.
use std::hint::black_box;

use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::Fields;
use wasip2::random;

use crate::Report;

/// A large value; headers may have 128 KiB.
const VALUE_BYTES: usize = 16 << 10;
/// Each of a hoard's bulk operations is about this large.
const BULK_BYTES: usize = 48 << 20;

/// Headers without end, which are kept by the host.
pub fn fields() {
    let mut held = Vec::new();
    let value = vec![vec![b'x'; VALUE_BYTES]];
    loop {
        let fields = Fields::new();
        fields.set("x", &value).expect("they are valid");
        held.push(fields);
        black_box(&held);
    }
}

/// Timers without end, which are kept by the host.
pub fn pollables() {
    let mut held = Vec::new();
    loop {
        held.push(subscribe_duration(u64::MAX));
        black_box(&held);
    }
}

/// More random bytes than there is memory.
pub fn random(kind: &str) {
    match kind {
        "insecure" => black_box(random::insecure::get_insecure_random_bytes(u64::MAX)),
        _ => black_box(random::random::get_random_bytes(u64::MAX)),
    };
}

pub fn memory() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![1; 1 << 20]);
        black_box(&hoard);
    }
}

/// `memory.fill` and `memory.copy` over most of the memory, again and again: they give way only between them.
pub fn bulk() {
    let mut bytes = vec![0_u8; BULK_BYTES];
    loop {
        bytes.fill(black_box(7));
        let half = bytes.len() / 2;
        bytes.copy_within(..half, black_box(half));
        black_box(&bytes);
    }
}

#[allow(unconditional_recursion)]
pub fn recurse(depth: u64) {
    let frame = [depth; 64];
    black_box(&frame);
    recurse(depth + 1);
    black_box(&frame);
}

pub fn spin() {
    loop {
        black_box(());
    }
}

/// Lines without end, and one line without end.
pub fn flood(report: &mut Report) {
    for line in 0..10_000 {
        eprintln!("flood {line}");
    }
    let endless = "y".repeat(8 << 20);
    eprintln!("{endless}");
    println!("{endless}");
    report.harmless("flood the log", true, "the host says what it kept");
}
