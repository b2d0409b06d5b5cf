//! `guide`: says what is known of somebody who was sought and seen, and which zone of the scene the camera is to look at next.
//!
//! Input: sightings (`camera`, `frame`, `taken`, `person`, `x`, `y`). Output: each with the float that the person rides on and a sentence
//! about it, from the setting `floats`, and the zone for the camera's next frame: centred on where the person will be, if the way since the
//! last sighting goes on. State: the last sighting of each person by each camera.

use std::collections::BTreeMap;

use littoral_sdk::prelude::*;

/// How many frames ago the last sighting may have been, so that it says where a person is going.
const FRAMES_MAX: i64 = 5;

/// How large the scene, the zone of a frame, and a person in it are, in pixels.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    scene: [i64; 2],
    zone: [i64; 2],
    person: [i64; 2],
}

/// The last sighting of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sighting {
    frame: i64,
    x: i64,
    y: i64,
}
littoral_sdk::impl_state!(Sighting { frame, x, y });

/// Guides cameras.
#[derive(Debug)]
pub struct Guide {
    /// By person: the float, and a sentence about it.
    floats: BTreeMap<String, (String, String)>,
    sizes: Sizes,
    last: Keyed<Sighting>,
}

impl Stage for Guide {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        for (name, kind) in [
            ("camera", Type::Utf8),
            ("frame", Type::S64),
            ("taken", Type::Timestamp),
            ("person", Type::Utf8),
            ("x", Type::S64),
            ("y", Type::S64),
        ] {
            input.find(name, kind)?;
        }
        let sizes =
            Sizes { scene: size(config, "scene")?, zone: size(config, "zone")?, person: size(config, "person")? };
        if sizes.zone.iter().zip(sizes.scene).any(|(zone, scene)| *zone > scene) {
            return Err(Error::new("the setting `zone` is larger than `scene`"));
        }
        let lines = config.get("floats").unwrap_or_default().lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(Self { floats: lines.map(float).collect::<Result<_>>()?, sizes, last: Keyed::new() })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([
            Field::new("camera", Type::Utf8),
            Field::new("frame", Type::S64),
            Field::new("taken", Type::Timestamp),
            Field::new("person", Type::Utf8),
            Field::new("x", Type::S64),
            Field::new("y", Type::S64),
            Field::new("ride", Type::Utf8),
            Field::new("about", Type::Utf8),
            Field::new("zone_x", Type::S64),
            Field::new("zone_y", Type::S64),
        ])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (cameras, frames, taken) = (batch.utf8("camera")?, batch.s64("frame")?, batch.timestamp("taken")?);
        let (people, xs, ys) = (batch.utf8("person")?, batch.s64("x")?, batch.s64("y")?);
        for row in 0..batch.rows() {
            let (Some(camera), Some(frame), Some(taken), Some(person), Some(x), Some(y)) =
                (cameras.get(row), frames.get(row), taken.get(row), people.get(row), xs.get(row), ys.get(row))
            else {
                out.reject(row, "a sighting lacks a value");
                continue;
            };
            let Some((ride, about)) = self.floats.get(person) else {
                out.reject(row, format!("nothing is known of the float of {person}"));
                continue;
            };
            let now = Sighting { frame, x, y };
            let last = self.last.insert(&format!("{camera}/{person}"), now);
            let [zone_x, zone_y] = self.sizes.next_zone(last, now);
            out.row(MAIN)
                .utf8(camera)
                .s64(frame)
                .timestamp(taken)
                .utf8(person)
                .s64(x)
                .s64(y)
                .utf8(ride)
                .utf8(about)
                .s64(zone_x)
                .s64(zone_y)
                .end();
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.last]
    }
}

littoral_sdk::stage!(Guide);

impl Sizes {
    /// The zone for the frame after a sighting, as much of it as the scene has.
    fn next_zone(&self, last: Option<Sighting>, now: Sighting) -> [i64; 2] {
        let frames = last.map(|last| now.frame - last.frame).filter(|frames| (1..=FRAMES_MAX).contains(frames));
        let next = |from: i64, to: i64| to.saturating_add(frames.map_or(0, |frames| to.saturating_sub(from) / frames));
        let [x, y] = last.map_or([now.x, now.y], |last| [next(last.x, now.x), next(last.y, now.y)]);
        let begin = |at: i64, person: i64, zone: i64, scene: i64| {
            at.saturating_add(person / 2 - zone / 2).clamp(0, scene - zone)
        };
        let ([width, height], [scene_width, scene_height]) = (self.zone, self.scene);
        let [person_width, person_height] = self.person;
        [begin(x, person_width, width, scene_width), begin(y, person_height, height, scene_height)]
    }
}

/// A setting like `96x64`.
fn size(config: &Config, name: &str) -> Result<[i64; 2]> {
    let text = config.get(name).unwrap_or_default();
    let side = |text: &str| text.parse().ok().filter(|side| (1..=i64::from(u16::MAX)).contains(side));
    text.split_once('x').and_then(|(width, height)| Some([side(width)?, side(height)?])).ok_or_else(|| {
        Error::new(format!("the setting `{name}` is `{text}`: expected a width and a height in pixels, as 96x64"))
    })
}

/// A line of the setting `floats`.
fn float(line: &str) -> Result<(String, (String, String))> {
    let mut parts = line.splitn(3, ',').map(|part| part.trim().to_owned());
    match (parts.next(), parts.next(), parts.next()) {
        (Some(person), Some(ride), Some(about)) => Ok((person, (ride, about))),
        _ => Err(Error::new(format!("the setting `floats` has `{line}`: expected person, float, sentence"))),
    }
}
