//! A stage with state: numbers the rows of each key and sums their values. Rows without a key or a number are rejected.

use littoral_sdk::prelude::*;

#[derive(Debug, Default)]
struct Seen {
    count: i64,
    sum: f64,
}
littoral_sdk::impl_state!(Seen { count, sum });

struct Count {
    seen: Keyed<Seen>,
    /// How long after the newest row the stage wants to be called again.
    idle_us: i64,
}

impl Stage for Count {
    fn open(input: &Schema, config: &Config) -> Result<Self> {
        input.find("key", Type::Utf8)?;
        Ok(Self { seen: Keyed::new(), idle_us: config.parse("IDLE_US", 1_000_000)? })
    }

    fn ports(&self) -> Vec<Port> {
        vec![
            Port::main([
                Field::new("key", Type::Utf8),
                Field::new("time", Type::Timestamp),
                Field::new("count", Type::S64),
                Field::new("sum", Type::F64),
            ]),
            Port::side("idle", [Field::new("key", Type::Utf8), Field::nullable("mean", Type::F64)]),
        ]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (keys, times, values) = (batch.utf8("key")?, batch.timestamp("time")?, batch.utf8("value")?);
        for row in 0..batch.rows() {
            let (Some(key), Some(time), Some(value)) = (keys.get(row), times.get(row), values.get(row)) else {
                out.reject(row, "the key is missing");
                continue;
            };
            let Ok(value) = value.parse::<f64>() else {
                out.reject(row, format!("`{value}` is no number"));
                continue;
            };
            let seen = self.seen.entry(key);
            seen.count += 1;
            seen.sum += value;
            out.row(MAIN).utf8(key).timestamp(time).s64(seen.count).f64(seen.sum);
            out.set_timer(time + self.idle_us);
        }
        Ok(())
    }

    fn on_timer(&mut self, _time_us: i64, out: &mut Output) -> Result<()> {
        for (key, seen) in self.seen.iter() {
            out.row("idle").utf8(key).f64(seen.sum / seen.count as f64);
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<&mut dyn KeyGroups> {
        vec![&mut self.seen]
    }
}

littoral_sdk::stage!(Count);
