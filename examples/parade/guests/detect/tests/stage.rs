//! Runs `detect` as a node would.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use detect::Detect;
use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};

fn input() -> Schema {
    Schema::new([
        Field::nullable("key", Type::Utf8),
        Field::new("time", Type::Timestamp),
        Field::new("frame", Type::S64),
        Field::new("taken", Type::Timestamp),
        Field::new("zone_x", Type::S64),
        Field::new("zone_y", Type::S64),
        Field::new("pixels", Type::Utf8),
    ])
}

/// A frame of 16 by 12 pixels with somebody of 6 by 6 at each of these places.
fn frame(people: &[(usize, usize)]) -> String {
    let is_in = |x: usize, y: usize| {
        people.iter().any(|(left, top)| (*left..left + 6).contains(&x) && (*top..top + 6).contains(&y))
    };
    (0..16 * 12).map(|at| if is_in(at % 16, at / 16) { "c8" } else { "1e" }).collect()
}

#[test]
fn people_are_found_where_they_are_in_the_scene() {
    let mut stage = Harness::<Detect>::open(&input(), &[("width", "16")]).unwrap();
    let batch = rows(&input(), |out| {
        for (number, people) in [(1, &[(1, 2), (9, 5)][..]), (2, &[]), (3, &[(0, 3)])] {
            out.row(MAIN)
                .utf8("phone-1")
                .timestamp(0)
                .s64(number)
                .timestamp(number)
                .s64(40)
                .s64(20)
                .utf8(&frame(people))
                .end();
        }
        out.row(MAIN).utf8("phone-1").timestamp(0).s64(4).timestamp(0).s64(0).s64(0).utf8("0102").end();
        out.row(MAIN).null().timestamp(0).s64(5).timestamp(0).s64(0).s64(0).utf8(&frame(&[])).end();
    });
    let step = stage.process(&batch, 0).unwrap();
    let found = &step.outputs[0].1;
    let places: Vec<_> = (0..found.rows())
        .map(|row| {
            [found.s64("frame"), found.s64("x"), found.s64("y"), found.s64("width")]
                .map(|column| column.unwrap().get(row).unwrap())
        })
        .collect();
    assert_eq!(places, [[1, 41, 22, 6], [1, 49, 25, 6]]);
    assert_eq!(found.f64("f8").unwrap().get(1), Some(1.0));
    let rejected: Vec<usize> = step.rejected.iter().map(|(row, _)| *row).collect();
    assert_eq!(rejected, [3, 4]);
}
