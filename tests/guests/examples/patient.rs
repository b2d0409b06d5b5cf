//! A stage that numbers the rows of each key and takes its time for each batch, as a model does that is asked once a batch, or for each
//! row (`each-row = "true"` in its configuration). How long is in a text that a test replaces in the component, so that a variant of it
//! takes less.

use std::hint::black_box;
use std::time::Duration;

use littoral_sdk::prelude::*;

/// How long it pauses for a batch or a row, in milliseconds.
const PAUSE: &str = "pause-ms:0900";

#[derive(Debug, Default)]
struct Seen {
    count: i64,
}
littoral_sdk::impl_state!(Seen { count });

struct Patient {
    seen: Keyed<Seen>,
    pause: Duration,
    is_for_each_row: bool,
}

impl Stage for Patient {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        let (_, pause_ms) = black_box(PAUSE).split_once(':').unwrap_or_default();
        let pause_ms = pause_ms.parse()?;
        let is_for_each_row = config.get("each-row") == Some("true");
        Ok(Self { seen: Keyed::new(), pause: Duration::from_millis(pause_ms), is_for_each_row })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([
            Field::new("key", Type::Utf8),
            Field::new("value", Type::Utf8),
            Field::new("count", Type::S64),
        ])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let rows = u32::try_from(batch.rows())?;
        std::thread::sleep(if self.is_for_each_row { self.pause * rows } else { self.pause });
        let (keys, values) = (batch.utf8("key")?, batch.utf8("value")?);
        for row in 0..batch.rows() {
            let (Some(key), Some(value)) = (keys.get(row), values.get(row)) else {
                out.reject(row, "the key is missing");
                continue;
            };
            let seen = self.seen.entry(key);
            seen.count += 1;
            out.row(MAIN).utf8(key).utf8(value).s64(seen.count);
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.seen]
    }
}

littoral_sdk::stage!(Patient);
