//! Runs `smooth` as a node would.

use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};
use smooth::Smooth;

/// The columns of a stream that is published to.
fn input() -> Schema {
    Schema::new([
        Field::nullable("key", Type::Utf8),
        Field::new("time", Type::Timestamp),
        Field::new("value", Type::Utf8),
    ])
}

fn readings(values: &[&str]) -> Batch {
    rows(&input(), |out| {
        for value in values {
            out.row(MAIN).utf8("pump-1").timestamp(0).utf8(value);
        }
    })
}

#[test]
fn it_averages_and_rejects() {
    let mut stage = Harness::<Smooth>::open(&input(), &[]).unwrap();
    let step = stage.process(&readings(&["10", "x", "20"]), 0).unwrap();
    assert_eq!(step.outputs[0].1.f64("average").unwrap().values(), [10.0, 12.0]);
    assert_eq!(step.rejected, [(1, "`x` is not a number".to_owned())]);
}

#[test]
fn it_goes_on_from_saved_state() {
    let mut first = Harness::<Smooth>::open(&input(), &[]).unwrap();
    first.process(&readings(&["10"]), 0).unwrap();
    let dirty = first.take_dirty();

    let mut second = Harness::<Smooth>::open(&input(), &[]).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    let step = second.process(&readings(&["20"]), 0).unwrap();
    assert_eq!(step.outputs[0].1.f64("average").unwrap().values(), [12.0]);
}
