//! A stage with state: numbers the rows of each key, so that a lost or doubled one shows in all that come after it.

use littoral_sdk::prelude::*;

#[derive(Debug, Default)]
struct Seen {
    count: i64,
}
littoral_sdk::impl_state!(Seen { count });

struct Number(Keyed<Seen>);

impl Stage for Number {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        input.find("value", Type::Utf8)?;
        Ok(Self(Keyed::new()))
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([
            Field::new("machine", Type::Utf8),
            Field::new("ts", Type::Timestamp),
            Field::new("n", Type::S64),
        ])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, values) = (batch.utf8("key")?, batch.utf8("value")?);
        for row in 0..batch.rows() {
            let seconds = values.get(row).and_then(|value| value.parse::<i64>().ok());
            let (Some(key), Some(seconds)) = (keys.get(row), seconds) else {
                out.reject(row, "it has no key, or is no number of seconds");
                continue;
            };
            let seen = self.0.entry(key);
            seen.count += 1;
            out.row(MAIN).utf8(key).timestamp(seconds * 1_000_000).s64(seen.count);
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.0]
    }
}

littoral_sdk::stage!(Number);
