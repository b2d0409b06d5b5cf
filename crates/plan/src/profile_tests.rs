//! Tests of [`super`].

#![allow(clippy::unwrap_used)]
use super::*;

const GUESS: Guess = Guess { usual_us: 250_000, most_us: 1_000_000 };

fn key(function: &str, input: u8) -> ProfileKey {
    let class = NodeClass { arch: "x86_64".to_owned(), cores_log2: 2, speed_log2: 9 };
    ProfileKey { function: function.to_owned(), variant: Variant::Component, class, input }
}

/// Durations between 8 and 12 ms, one in twenty of 30 ms.
fn durations() -> impl Iterator<Item = u64> {
    (0_u64..).map(|at| if at % 20 == 7 { 30_000 } else { 8_000 + at.wrapping_mul(2_654_435_761) % 4_000 })
}

#[test]
fn an_unknown_function_starts_from_its_guess_and_converges() {
    let mut profiles = Profiles::default();
    let key = key("t/a/f", 1);
    let unknown = profiles.predict(&key, GUESS);
    assert_eq!(unknown.grounds, Grounds::Guess);
    assert_eq!(unknown.p50, Estimate { value_us: 250_000, low_us: 0, high_us: 1_000_000 });
    let (mut width, mut errors) = (u64::MAX, Vec::new());
    for (at, took_us) in durations().take(4_000).enumerate() {
        profiles.record(&key, took_us);
        let told = profiles.predict(&key, GUESS);
        for p in [told.p50, told.p95, told.p99] {
            assert!(p.low_us <= p.value_us && p.value_us <= p.high_us, "{told:?}");
        }
        if [10, 100, 1_000, 3_999].contains(&at) {
            assert!(told.p50.high_us - told.p50.low_us <= width, "the more is known, the narrower: {told:?}");
            width = told.p50.high_us - told.p50.low_us;
            errors.push(told.p50.value_us.abs_diff(10_000));
        }
    }
    assert!(errors.is_sorted_by(|a, b| a >= b) && errors.last().unwrap() < &800, "{errors:?}");
    let known = profiles.predict(&key, GUESS);
    assert_eq!((known.grounds, known.p99.value_us.abs_diff(30_000) < 2_000), (Grounds::Same, true), "{known:?}");
    assert!(known.p95.low_us <= 12_600 && known.p95.high_us >= 12_000 && known.p95.high_us <= 32_000, "{known:?}");
}

#[test]
fn the_interval_holds_the_true_median_of_nearly_all_seeds() {
    let mut held = 0;
    for seed in 0..200_u64 {
        let mut sketch = Sketch::default();
        for at in 0..60_u64 {
            let mixed = (seed * 1_000 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
            sketch.record(10_000 + (mixed >> 33) % 40_000);
        }
        let told = predict(&sketch, GUESS, Grounds::Same).p50;
        held += u32::from(told.low_us <= 30_000 && told.high_us >= 30_000);
    }
    assert!(held >= 184, "92 of 100 at least: {held} of 200");
}

#[test]
fn other_inputs_say_more_than_a_guess() {
    let mut profiles = Profiles::default();
    durations().take(100).for_each(|took_us| profiles.record(&key("t/a/f", 1), took_us));
    let told = profiles.predict(&key("t/a/f", 5), GUESS);
    assert_eq!((told.grounds, told.records), (Grounds::Similar, 100));
    assert!(told.p50.value_us < 25_000);
    assert_eq!(profiles.predict(&key("t/a/g", 1), GUESS).grounds, Grounds::Guess);
}

#[test]
fn all_profiles_of_a_node_take_a_few_kilobytes() {
    let mut profiles = Profiles::default();
    for function in 0..500 {
        durations()
            .take(300)
            .for_each(|took_us| profiles.record(&key(&format!("default/app/function-{function}"), 3), took_us));
    }
    assert_eq!(profiles.profiles.len(), PROFILES_MAX);
    let bytes = postcard::to_allocvec(&profiles).unwrap().len();
    assert!(bytes <= 4 << 10, "{bytes}");
    assert_eq!(profiles.predict(&key("default/app/function-499", 3), GUESS).grounds, Grounds::Same, "the latest stay");
    // At the worst, with durations from a microsecond to an hour.
    for function in 0..PROFILES_MAX {
        (0..3_000_u32).for_each(|at| profiles.record(&key(&format!("g{function}"), 3), 1 << (at % 32)));
    }
    assert!(postcard::to_allocvec(&profiles).unwrap().len() <= 12 << 10);
}

#[test]
fn inputs_are_told_apart_by_factors_of_sixteen() {
    assert_eq!([0, 1, 15, 16, 255, 256, 1 << 20].map(input_bucket), [0, 1, 1, 2, 2, 3, 6]);
    assert_eq!(input_bucket(u64::MAX), 16);
    assert_eq!(Guess::declared(Some(100_000), 1_000_000).usual_us, 50_000);
    assert_eq!(Guess::declared(None, 1_000_000).usual_us, 250_000);
}
