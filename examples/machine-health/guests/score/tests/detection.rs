//! Runs the detector over the example's two series and compares what it finds with what people labelled.
//!
//! The settings are general ones (see `detector`); that they were not fitted to four windows is shown by running their
//! neighbours, each changed by a fifth to a third, which must do as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use score::detector::{Detector, Settings};

const HOUR_US: i64 = 3_600_000_000;

/// Microseconds since 1970 of `2013-12-10 06:25:00`, through the days of the months of the years from 2013.
fn time_us(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    assert!((2013..=2014).contains(&year), "neither is a leap year: {text}");
    let days = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month as usize - 1] + day - 1;
    let hours = (15_706 + (year - 2013) * 365 + days) * 24 + number(11..13);
    ((hours * 60 + number(14..16)) * 60 + number(17..19)) * 1_000_000
}

struct Series {
    readings: Vec<(i64, f64)>,
    windows: Vec<(i64, i64)>,
}

fn series(name: &str) -> Series {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let csv = fs::read_to_string(data.join(format!("{name}.csv"))).unwrap();
    let rows = csv.lines().skip(1).map(|line| line.split_once(',').unwrap());
    let readings = rows.map(|(time, value)| (time_us(time), value.parse().unwrap())).collect();
    let labels = fs::read_to_string(data.join("combined_windows.json")).unwrap();
    let labels: BTreeMap<String, Vec<(String, String)>> = serde_json::from_str(&labels).unwrap();
    let (_, labels) = labels.iter().find(|(path, _)| path.ends_with(&format!("/{name}.csv"))).unwrap();
    Series { readings, windows: labels.iter().map(|(from, to)| (time_us(from), time_us(to))).collect() }
}

/// Labelled windows with an alert in them, and incidents without one in a window: alerts within 24 h are one incident,
/// which ends after 48 h at the latest.
fn found(series: &Series, settings: &Settings) -> (usize, usize) {
    let mut detector = Detector::default();
    let mut incidents: Vec<Vec<i64>> = Vec::new();
    for &(time_us, value) in &series.readings {
        if !detector.observe(settings, time_us, value, true).alert {
            continue;
        }
        match incidents.last_mut() {
            Some(alerts)
                if time_us - alerts[alerts.len() - 1] <= 24 * HOUR_US && time_us - alerts[0] <= 48 * HOUR_US =>
            {
                alerts.push(time_us);
            }
            _ => incidents.push(vec![time_us]),
        }
    }
    let inside = |&time: &i64, &(from, to): &(i64, i64)| (from..=to).contains(&time);
    let detected =
        series.windows.iter().filter(|window| incidents.iter().flatten().any(|time| inside(time, window))).count();
    let labelled = |alerts: &&Vec<i64>| alerts.iter().any(|time| series.windows.iter().any(|w| inside(time, w)));
    (detected, incidents.len() - incidents.iter().filter(labelled).count())
}

#[test]
fn the_machine_series_is_read_whole() {
    let machine = series("machine_temperature_system_failure");
    assert_eq!((machine.readings.len(), machine.windows.len()), (22_695, 4));
    assert_eq!(machine.readings[0], (1_386_018_900_000_000, 73.967_322_07));
    let ambient = series("ambient_temperature_system_failure");
    assert_eq!((ambient.readings.len(), ambient.windows.len()), (7_267, 2));
}

#[test]
fn the_machine_failures_are_found() {
    let (detected, false_incidents) = found(&series("machine_temperature_system_failure"), &Settings::default());
    assert!(detected >= 3 && false_incidents <= 3, "{detected} of 4 windows, {false_incidents} false incidents");
}

#[test]
fn so_they_are_with_settings_around_these() {
    let machine = series("machine_temperature_system_failure");
    let general = Settings::default();
    for settings in [
        Settings { recent_half_life_us: 4 * HOUR_US, ..general },
        Settings { recent_half_life_us: 8 * HOUR_US, ..general },
        Settings { normal_half_life_us: 10 * 24 * HOUR_US, ..general },
        Settings { normal_half_life_us: 20 * 24 * HOUR_US, ..general },
        Settings { learning_us: 48 * HOUR_US, ..general },
        Settings { learning_us: 96 * HOUR_US, ..general },
        Settings { score_alarm: 2.5, ..general },
        Settings { score_alarm: 3.25, ..general },
        Settings { clip_deviations: 2.5, ..general },
        Settings { clip_deviations: 4.0, ..general },
    ] {
        let (detected, false_incidents) = found(&machine, &settings);
        assert!(detected >= 3 && false_incidents <= 3, "{settings:?}: {detected} of 4, {false_incidents} false");
    }
}

#[test]
fn the_other_series_is_judged_by_the_same_settings() {
    let (detected, false_incidents) = found(&series("ambient_temperature_system_failure"), &Settings::default());
    println!("ambient: {detected} of 2 windows, {false_incidents} false incidents");
    assert!(detected >= 1);
}
