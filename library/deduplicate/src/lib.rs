//! `deduplicate@1`: lets one row of each key through in a while.
//!
//! Input: a moment, columns of the key, and any others. Output: of the rows of a key whose moments are less than `within` apart the first
//! that came, as it is; a further one passes when it is `within` or more behind the one that passed last. Rows may be out of order by as
//! much as `within`. State: a moment for each key that passed lately, of at most `memory` together; beyond that the oldest keys are
//! forgotten first, and may pass again too early.

mod seen;

use littoral_sdk::prelude::*;
use operator::{Columns, Keys, Moments, Settings};

use seen::Seen;

/// The least and the most memory, in bytes: a key group has at least a kibibyte, and all of them together fit into a commit.
const MEMORY_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=8 << 20;

/// Drops rows whose key has passed lately.
#[derive(Debug)]
pub struct Deduplicate {
    key: Vec<String>,
    time: String,
    input: Vec<Field>,
    seen: Seen,
}

impl Stage for Deduplicate {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        let settings = Settings(config);
        let (key, time) = (settings.names("key", "key")?, settings.text("time", "time").to_owned());
        Keys::check(input, &key)?;
        input.find(&time, Type::Timestamp)?;
        let memory = settings.bytes("memory", "4MiB")?;
        if !MEMORY_BYTES.contains(&memory) {
            return Err(Error::new(format!("the setting `memory` is {memory} B: expected 64KiB to 8MiB")));
        }
        let seen = Seen::new(settings.time_us("within", "1h")?, memory);
        Ok(Self { key, time, input: input.fields.clone(), seen })
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main(self.input.clone())]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, columns) = (Keys::of(batch, &self.key)?, Columns::of(batch, &self.input)?);
        let times = Moments::of(batch, &self.time)?;
        for row in 0..batch.rows() {
            match keys.get(row).and_then(|key| Ok((key, times.get(row)?))) {
                Ok((key, time_us)) if self.seen.passes(&key, time_us) => columns.put(row, out.row(MAIN)).end(),
                Ok(_) => {}
                Err(error) => out.reject(row, error.to_string()),
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.seen]
    }
}

littoral_sdk::stage!(Deduplicate);
