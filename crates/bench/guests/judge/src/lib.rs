//! A stage that judges each temperature by those before it.

mod spread;

use littoral_sdk::batch::Values;
use littoral_sdk::prelude::*;
use spread::Spread;

#[derive(Debug)]
struct Judge(Spread);

impl Stage for Judge {
    fn open(input: &Schema, _config: &Config) -> Result<Self> {
        input.find("machine", Type::S64)?;
        input.find("temperature", Type::F64)?;
        if input.fields.iter().any(|field| field.nullable) {
            return Err(Error::new("a column may have no value; expected what the benchmark makes"));
        }
        Ok(Self(Spread::default()))
    }

    fn ports(&self) -> Vec<Port> {
        vec![Port::main([Field::new("machine", Type::S64), Field::new("score", Type::F64)])]
    }

    fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
        let (machines, temperatures) = (batch.s64("machine")?, batch.f64("temperature")?);
        let scores = temperatures.values().iter().map(|temperature| self.0.judge(*temperature)).collect();
        out.columns(MAIN, vec![Values::S64(machines.values().to_vec()), Values::F64(scores)]);
        Ok(())
    }
}

littoral_sdk::stage!(Judge);
