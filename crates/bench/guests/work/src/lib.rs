//! What the components of `bench-http` answer, whatever interface they answer through. The bare hyper server and
//! workerd's script (`crates/bench/src/http/`) answer the same.

use std::borrow::Cow;

/// The short answer.
pub const HELLO: &[u8] = b"Hello from the bench!\n";
/// The size of the long answer.
pub const BIG_BYTES: usize = 1 << 20;
/// Steps of [`spin`] that take about 10 ms on one core of the machine that the limits were set on.
pub const SPIN_STEPS: u32 = 6_500_000;

/// The answer to a path: `/big`, `/cpu`, or anything else for the short one.
#[must_use]
pub fn answer(path: &str) -> Cow<'static, [u8]> {
    match path {
        "/big" => Cow::Owned(vec![b'x'; BIG_BYTES]),
        "/cpu" => Cow::Owned(format!("{}\n", spin(SPIN_STEPS)).into_bytes()),
        _ => Cow::Borrowed(HELLO),
    }
}

/// Computes for a while: Marsaglia's xorshift of 32 bits, each step of which needs the one before. Any language that has
/// integers of 32 bits can do the same.
#[must_use]
pub fn spin(steps: u32) -> u32 {
    let mut state = 2_463_534_242_u32;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
    }
    state
}
