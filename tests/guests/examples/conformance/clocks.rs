//! `wasi:clocks`, `wasi:random`, and `wasi:io/poll` by means of clocks.
use wasip2::clocks::{monotonic_clock, wall_clock};
use wasip2::io::poll::poll;
use wasip2::random;

use crate::expect;

const MILLISECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600_000 * MILLISECOND;

pub fn monotonic() {
    expect!(monotonic_clock::resolution(), nanoseconds if nanoseconds > 0);
    let begun = monotonic_clock::now();
    expect!(monotonic_clock::now(), now if now >= begun);
    let past = monotonic_clock::subscribe_instant(0);
    past.block();
    expect!(past.ready(), true);
    expect!(monotonic_clock::subscribe_duration(HOUR).ready(), false);
    monotonic_clock::subscribe_duration(20 * MILLISECOND).block();
    expect!(monotonic_clock::now() - begun, passed if passed >= 20 * MILLISECOND);
    monotonic_clock::subscribe_instant(begun + 30 * MILLISECOND).block();
    expect!(monotonic_clock::now() - begun, passed if passed >= 30 * MILLISECOND);
}

pub fn wall() {
    expect!(wall_clock::resolution(), resolution if resolution.seconds > 0 || resolution.nanoseconds > 0);
    let now = wall_clock::now();
    expect!(now.nanoseconds, nanoseconds if nanoseconds < 1_000_000_000);
    // 2020-01-01: a machine that runs this has a later date.
    expect!(now.seconds, seconds if seconds > 1_577_836_800);
}

pub fn poll_several() {
    let never = monotonic_clock::subscribe_duration(HOUR);
    let now = monotonic_clock::subscribe_duration(0);
    let soon = monotonic_clock::subscribe_duration(MILLISECOND);
    expect!(&poll(&[&never, &now])[..], [1]);
    expect!(&poll(&[&never, &soon, &never])[..], [1]);
    // What is ready stays ready; in which order is not said.
    let mut ready = poll(&[&soon, &now, &soon]);
    ready.sort();
    expect!(&ready[..], [0, 1, 2]);
}

pub fn random() {
    for bytes in [0, 1, 7, 1000, 65_536] {
        expect!(random::random::get_random_bytes(bytes).len() as u64, length if length == bytes);
        expect!(random::insecure::get_insecure_random_bytes(bytes).len() as u64, length if length == bytes);
    }
    expect!(random::random::get_random_bytes(32), drawn if drawn != random::random::get_random_bytes(32));
    expect!(random::random::get_random_u64(), drawn if drawn != random::random::get_random_u64());
    expect!(random::insecure::get_insecure_random_u64(), drawn if drawn != random::insecure::get_insecure_random_u64());
    expect!(random::insecure_seed::insecure_seed(), seed if seed != (0, 0));
}
