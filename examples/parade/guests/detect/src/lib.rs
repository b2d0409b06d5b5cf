//! `detect`: finds people in frames, and says how each looks.
//!
//! Input: a frame of a camera, and which zone of the scene it shows. Output: a row for each person who is wholly in it, with the place in
//! the scene, and nine numbers that tell people apart, whatever the light: how bright the parts of the picture are, each as a share of the
//! mean. No state.

mod image;

use image::{FEATURES, Image};
use littoral_sdk::prelude::*;

/// How many pixels a row of a frame has, where the manifest does not say.
const WIDTH: usize = 32;

/// Finds people.
#[derive(Debug)]
pub struct Detect {
    width: usize,
}

impl Stage for Detect {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        for (name, kind) in [
            ("frame", Type::S64),
            ("taken", Type::Timestamp),
            ("zone_x", Type::S64),
            ("zone_y", Type::S64),
            ("pixels", Type::Utf8),
        ] {
            input.find(name, kind)?;
        }
        let width = config.parse("width", WIDTH)?;
        if !(1..=image::PIXELS_MAX).contains(&width) {
            return Err(Error::new(format!("the setting `width` is {width}: expected 1 to {}", image::PIXELS_MAX)));
        }
        Ok(Self { width })
    }

    fn ports(&self) -> Vec<Port> {
        let about = [
            Field::new("camera", Type::Utf8),
            Field::new("frame", Type::S64),
            Field::new("taken", Type::Timestamp),
            Field::new("x", Type::S64),
            Field::new("y", Type::S64),
            Field::new("width", Type::S64),
            Field::new("height", Type::S64),
        ];
        vec![Port::main(about.into_iter().chain((0..FEATURES).map(|place| Field::new(format!("f{place}"), Type::F64))))]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (cameras, frames, taken) = (batch.utf8("key")?, batch.s64("frame")?, batch.timestamp("taken")?);
        let (zone_x, zone_y, pixels) = (batch.s64("zone_x")?, batch.s64("zone_y")?, batch.utf8("pixels")?);
        for row in 0..batch.rows() {
            let (Some(camera), Some(frame), Some(taken), Some(left), Some(top), Some(pixels)) =
                (cameras.get(row), frames.get(row), taken.get(row), zone_x.get(row), zone_y.get(row), pixels.get(row))
            else {
                out.reject(row, "a frame needs its camera as key, a number, a moment, a zone and pixels");
                continue;
            };
            let image = match Image::of_hex(pixels, self.width) {
                Ok(image) => image,
                Err(wrong) => {
                    out.reject(row, wrong);
                    continue;
                }
            };
            for found in image.find() {
                let put = out
                    .row(MAIN)
                    .utf8(camera)
                    .s64(frame)
                    .timestamp(taken)
                    .s64(left.saturating_add(found.x as i64))
                    .s64(top.saturating_add(found.y as i64))
                    .s64(found.width as i64)
                    .s64(found.height as i64);
                found.features.iter().fold(put, |put, feature| put.f64(*feature)).end();
            }
        }
        Ok(())
    }
}

littoral_sdk::stage!(Detect);
