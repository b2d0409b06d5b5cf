//! Runs `nearest` as a node would, and compares it with a plain computation.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use littoral_sdk::prelude::*;
use littoral_sdk::testing::{Harness, rows};
use nearest::Nearest;

fn input() -> Schema {
    Schema::new([Field::new("id", Type::Utf8), Field::nullable("x", Type::F64), Field::nullable("y", Type::S64)])
}

/// Points of a small grid, so that some are equally far; pseudo-random, the same each time.
fn points(count: usize, mut seed: u64) -> Vec<(f64, i64)> {
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as i64
    };
    (0..count).map(|_| ((next() % 40) as f64 / 2.0, next() % 20)).collect()
}

#[test]
fn the_nearest_are_those_of_a_plain_computation() {
    let (known, asked) = (points(60, 1), points(200, 2));
    let lines: Vec<String> = known.iter().enumerate().map(|(place, (x, y))| format!("r{place}, {x}, {y}")).collect();
    let references = format!("label,x,y\n{}\n", lines.join("\n"));
    let mut stage = Harness::<Nearest>::open(&input(), &[("references", &references), ("count", "5")]).unwrap();
    let batch = rows(&input(), |out| {
        asked
            .iter()
            .enumerate()
            .for_each(|(place, (x, y))| out.row(MAIN).utf8(&format!("p{place}")).f64(*x).s64(*y).end());
    });
    let step = stage.process(&batch, 0).unwrap();
    let found = &step.outputs[0].1;
    let (ids, labels) = (found.utf8("id").unwrap(), found.utf8("nearest").unwrap());
    let (distances, ranks) = (found.f64("distance").unwrap(), found.s64("rank").unwrap());
    assert_eq!(found.rows(), asked.len() * 5);
    for (place, (x, y)) in asked.iter().enumerate() {
        let away = |at: usize| ((known[at].0 - x).powi(2) + ((known[at].1 - y) as f64).powi(2)).sqrt();
        let mut order: Vec<usize> = (0..known.len()).collect();
        // Sorting keeps the order of equals.
        order.sort_by(|a, b| away(*a).partial_cmp(&away(*b)).unwrap());
        for (rank, of) in order.into_iter().take(5).enumerate() {
            let row = place * 5 + rank;
            let (label, distance) = (format!("r{of}"), away(of));
            assert_eq!((ids.get(row).unwrap(), labels.get(row).unwrap()), (&*format!("p{place}"), &*label));
            assert_eq!((distances.get(row), ranks.get(row)), (Some(distance), Some(rank as i64 + 1)));
        }
    }
}

#[test]
fn positions_are_compared_on_the_earth() {
    let schema = Schema::new([Field::new("lat", Type::F64), Field::new("lon", Type::F64)]);
    // By degrees alone the second one would be nearer.
    let config = [("references", "city,lat,lon\nFiji, -18, 178\nNauru, -1, 166"), ("metric", "great-circle")];
    let mut stage = Harness::<Nearest>::open(&schema, &config).unwrap();
    let step = stage.process(&rows(&schema, |out| out.row(MAIN).f64(-18.0).f64(-179.0).end()), 0).unwrap();
    let found = &step.outputs[0].1;
    assert_eq!(found.utf8("nearest").unwrap().get(0), Some("Fiji"));
    let expected = 3.0_f64.to_radians() * (18.0_f64.to_radians()).cos() * 6_371_008.8;
    assert!((found.f64("distance").unwrap().get(0).unwrap() - expected).abs() < 100.0);
}

#[test]
fn a_row_without_a_number_is_rejected_and_wrong_settings_are_told() {
    let mut stage = Harness::<Nearest>::open(&input(), &[("references", "label,x\na,1")]).unwrap();
    let batch = rows(&input(), |out| {
        out.row(MAIN).utf8("p").null().null().end();
        out.row(MAIN).utf8("q").f64(3.0).null().end();
    });
    let step = stage.process(&batch, 0).unwrap();
    assert_eq!(step.rejected, [(0, "one of x is missing or not finite".to_owned())]);
    assert_eq!(step.outputs[0].1.f64("distance").unwrap().get(0), Some(2.0));
    let opened = |config: &[(&str, &str)]| Harness::<Nearest>::open(&input(), config).err().unwrap().to_string();
    assert_eq!(opened(&[]), "the setting `references` is missing");
    assert!(opened(&[("references", "label,id\na,1")]).contains("expected numbers"));
    assert!(opened(&[("references", "label,x\na,1"), ("count", "0")]).contains("expected 1 to 64"));
    assert!(
        opened(&[("references", "label,x\na,1"), ("metric", "taxi")]).contains("expected euclidean or great-circle")
    );
}
