//! Answers HTTP with what another function finds, whose interface it imports. The path says what to ask for.
use littoral_sdk::http::{Request, Response, text};

wit_bindgen::generate!({ world: "gallery", path: "wit/vision.wit" });

use acme::vision::detect::{Frame, Hints, Point, Shape, count, counted, detect, fail, nested, next};

fn frame(width: u32, pixels: Vec<u8>) -> Frame {
    Frame {
        name: "beach".to_owned(),
        size: (width, 3),
        pixels,
        corners: vec![Point { x: -1, y: 2 }, Point { x: i32::MAX, y: i32::MIN }],
        taken: Some(u64::MAX),
    }
}

fn gallery(request: Request) -> Response {
    let answer = match request.uri().path() {
        "/detect" => format!("{:?}", detect(&frame(4, vec![1, 2, 255]), Hints::FAST | Hints::NIGHT)),
        "/small" => format!("{:?}", detect(&frame(1, vec![1]), Hints::empty())),
        "/empty" => format!("{:?}", detect(&frame(4, Vec::new()), Hints::FAST | Hints::MOVING)),
        "/large" => {
            format!("{:?}", detect(&frame(4, vec![1; 1 << 20]), Hints::FAST | Hints::MOVING).map(|found| found.len()))
        }
        "/next" => {
            format!("{:?}", next(-2, 1, -300, 500, -70_000, 70_000, i64::MIN, 1 << 40, 0.5, -1e300, true, 'z'))
        }
        "/nested" => {
            let of = [
                None,
                Some(None),
                Some(Some(Err(Ok(())))),
                Some(Some(Err(Err(())))),
                Some(Some(Ok(vec![("a".to_owned(), Shape::Nothing), (String::new(), Shape::Polygon(Vec::new()))]))),
            ];
            of.iter()
                .map(|of| {
                    format!(
                        "{:?}\n",
                        nested(of.as_ref().map(|of| of.as_ref().map(|of| of.as_deref().map_err(|error| *error))))
                    )
                })
                .collect()
        }
        // Each call has an instance of its own.
        "/count" => {
            count();
            counted().to_string()
        }
        path => {
            fail(path.trim_start_matches('/'));
            format!("{path} did not fail")
        }
    };
    text(200, answer + "\n")
}

littoral_sdk::handler!(gallery);
