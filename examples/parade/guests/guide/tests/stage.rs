//! Runs `guide` as a node would.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use guide::Guide;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

fn input() -> Schema {
    Schema::new([
        Field::new("camera", Type::Utf8),
        Field::new("frame", Type::S64),
        Field::new("taken", Type::Timestamp),
        Field::new("person", Type::Utf8),
        Field::new("x", Type::S64),
        Field::new("y", Type::S64),
    ])
}

const CONFIG: [(&str, &str); 4] = [
    ("scene", "96x64"),
    ("zone", "32x24"),
    ("person", "6x6"),
    ("floats", "comet, The Comet's Tail, It sparkles, at night.\n"),
];

fn batch(sightings: &[(&str, i64, i64, i64)]) -> Batch {
    rows(&input(), |out| {
        for (camera, frame, x, y) in sightings {
            out.row(MAIN).utf8(camera).s64(*frame).timestamp(0).utf8("comet").s64(*x).s64(*y).end();
        }
    })
}

fn zones(batch: &Batch) -> Vec<[i64; 2]> {
    let (x, y) = (batch.s64("zone_x").unwrap(), batch.s64("zone_y").unwrap());
    (0..batch.rows()).map(|row| [x.get(row).unwrap(), y.get(row).unwrap()]).collect()
}

#[test]
fn the_next_zone_is_where_the_person_will_be() {
    let mut stage = Harness::<Guide>::open(&input(), &CONFIG).unwrap();
    // Two frames later four to the right and two down: two and one a frame. Another camera has seen nothing before.
    let step =
        stage.process(&batch(&[("a", 1, 40, 30), ("a", 3, 44, 32), ("b", 3, 44, 32), ("a", 90, 2, 60)]), 0).unwrap();
    let found = &step.outputs[0].1;
    assert_eq!(zones(found), [[27, 21], [33, 24], [31, 23], [0, 40]]);
    assert_eq!(found.utf8("ride").unwrap().get(0), Some("The Comet's Tail"));
    assert_eq!(found.utf8("about").unwrap().get(0), Some("It sparkles, at night."));
}

#[test]
fn a_restored_stage_goes_on_as_the_first_would_have() {
    let mut first = Harness::<Guide>::open(&input(), &CONFIG).unwrap();
    first.process(&batch(&[("a", 1, 40, 30)]), 0).unwrap();
    let dirty = first.take_dirty();
    let mut second = Harness::<Guide>::open(&input(), &CONFIG).unwrap();
    second.restore(&first.snapshot(&dirty)).unwrap();
    let step = second.process(&batch(&[("a", 2, 42, 31)]), 0).unwrap();
    assert_eq!(zones(&step.outputs[0].1), [[31, 23]]);
}

#[test]
fn somebody_unknown_is_rejected_and_wrong_settings_are_told() {
    let mut stage = Harness::<Guide>::open(&input(), &CONFIG[..3]).unwrap();
    let step = stage.process(&batch(&[("a", 1, 0, 0)]), 0).unwrap();
    assert_eq!(step.rejected, [(0, "nothing is known of the float of comet".to_owned())]);
    let opened = |config: &[(&str, &str)]| Harness::<Guide>::open(&input(), config).err().unwrap().to_string();
    assert!(opened(&[]).contains("the setting `scene` is ``: expected a width"));
    assert!(opened(&[&CONFIG[1..], &[("scene", "8x8")]].concat()).contains("larger than"));
    assert!(opened(&[&CONFIG[..3], &[("floats", "x, y")]].concat()).contains("expected person, float, sentence"));
}
