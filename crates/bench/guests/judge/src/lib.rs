//! A stage that judges each temperature by those before it.

mod spread;

use littoral_sdk::prelude::*;
use spread::Spread;

#[derive(Debug)]
struct Judge(Spread);

impl Stage for Judge {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("machine", Type::S64)?;
        input.find("temperature", Type::F64)?;
        Ok(Self(Spread::default()))
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([Field::new("machine", Type::S64), Field::new("score", Type::F64)])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (machines, temperatures) = (batch.s64("machine")?, batch.f64("temperature")?);
        for row in 0..batch.rows() {
            match (machines.get(row), temperatures.get(row)) {
                (Some(machine), Some(temperature)) => out.row(MAIN).s64(machine).f64(self.0.judge(temperature)).end(),
                _ => out.reject(row, "a column has no value"),
            }
        }
        Ok(())
    }
}

littoral_sdk::stage!(Judge);
