//! Exports an interface for other functions, and nothing else: no handler, no stage, no command.
use std::sync::atomic::{AtomicU32, Ordering};

wit_bindgen::generate!({ world: "detector", path: "wit/vision.wit" });

use exports::acme::vision::detect::{Confidence, Finding, Frame, Guest, Hints, Point, Problem, Shape};

struct Detector;

static COUNT: AtomicU32 = AtomicU32::new(0);

type Nested = Option<Option<Result<Vec<(String, Shape)>, Result<(), ()>>>>;

impl Guest for Detector {
    fn detect(frame: Frame, hints: Hints) -> Result<Vec<Finding>, Problem> {
        if frame.size.0 < 2 {
            return Err(Problem::TooSmall(frame.size.0));
        }
        if frame.pixels.is_empty() {
            return Err(Problem::Unreadable(format!("{} is empty", frame.name)));
        }
        let sum: u64 = frame.pixels.iter().map(|pixel| u64::from(*pixel)).sum();
        let center = Point { x: i32::try_from(frame.size.0 / 2).unwrap(), y: -1 };
        let shapes = [
            Shape::Nothing,
            Shape::Dot(center),
            Shape::Circle((center, sum as f64 / 2.0)),
            Shape::Polygon(frame.corners),
        ];
        let findings = shapes.into_iter().enumerate().map(|(place, shape)| Finding {
            label: format!("{}/{place} \u{1f41a}", frame.name),
            shape,
            confidence: if frame.taken.is_some() { Confidence::High } else { Confidence::Low },
            initial: frame.name.chars().next().unwrap_or('?'),
            seen: hints | Hints::MOVING,
        });
        Ok(findings.collect())
    }

    fn next(
        a: i8,
        b: u8,
        c: i16,
        d: u16,
        e: i32,
        f: u32,
        g: i64,
        h: u64,
        i: f32,
        j: f64,
        k: bool,
        l: char,
    ) -> (i8, u8, i16, u16, i32, u32, i64, u64, f32, f64, bool, char) {
        let next = char::from_u32(u32::from(l) + 1).unwrap();
        (a + 1, b + 1, c + 1, d + 1, e + 1, f + 1, g + 1, h + 1, i + 1.0, j + 1.0, !k, next)
    }

    fn nested(of: Nested) -> Nested {
        of
    }

    fn count() {
        COUNT.fetch_add(1, Ordering::Relaxed);
    }

    fn counted() -> u32 {
        COUNT.load(Ordering::Relaxed)
    }

    fn fail(how: String) {
        match how.as_str() {
            "trap" => panic!("on purpose"),
            "spin" => loop {
                std::hint::black_box(());
            },
            "memory" => {
                std::hint::black_box(vec![1_u8; 1 << 30]);
            }
            _ => {}
        }
    }
}

export!(Detector);
