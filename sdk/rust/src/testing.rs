//! Runs a stage in a test on the host, as a node would.
//!
//! ```
//! use littoral_sdk::prelude::*;
//! use littoral_sdk::testing::{Harness, rows};
//!
//! struct Double;
//! impl Stage for Double {
//!     fn open(_: &Schema, _: &Config) -> Result<Self> {
//!         Ok(Self)
//!     }
//!     fn ports(&self) -> Vec<Port> {
//!         vec![Port::main([Field::new("n", Type::S64)])]
//!     }
//!     fn process(&mut self, batch: &Batch, out: &mut Output) -> Result<()> {
//!         let numbers = batch.s64("n")?;
//!         for row in 0..batch.rows() {
//!             match numbers.get(row) {
//!                 Some(number) => out.row(MAIN).s64(number * 2).end(),
//!                 None => out.reject(row, "there is no number"),
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let input = Schema::new([Field::nullable("n", Type::S64)]);
//! let mut double = Harness::<Double>::open(&input, &[])?;
//! let batch = rows(&input, |out| {
//!     out.row(MAIN).s64(21);
//!     out.row(MAIN).null();
//! });
//! let step = double.process(&batch, 0)?;
//! assert_eq!(step.outputs[0].1.s64("n")?.get(0), Some(42));
//! assert_eq!(step.rejected, [(1, "there is no number".to_owned())]);
//! # Ok::<(), Error>(())
//! ```

use std::collections::BTreeSet;

use crate::batch::{Batch, Schema};
use crate::keyed::{restore_all, snapshot_all};
use crate::output::{MAIN, Output, Port, Step};
use crate::stage::{Config, Stage};
use crate::{Error, Result};

/// A batch of rows written as a stage writes them, to the port [`MAIN`].
///
/// # Panics
/// When the rows do not fit the schema.
#[must_use]
#[allow(clippy::panic)]
pub fn rows(schema: &Schema, write: impl FnOnce(&mut Output)) -> Batch {
    let mut output = Output::new(vec![Port { name: MAIN.to_owned(), schema: schema.clone() }], 0);
    write(&mut output);
    match output.finish() {
        Ok(step) => {
            let empty = || Output::empty_batch(schema);
            step.outputs.into_iter().next().map_or_else(empty, |(_, batch)| batch)
        }
        Err(mistake) => panic!("{mistake}"),
    }
}

/// A stage, called as a node calls it.
#[derive(Debug)]
pub struct Harness<S> {
    stage: S,
    ports: Vec<Port>,
}

impl<S: Stage> Harness<S> {
    /// Makes the stage.
    ///
    /// # Errors
    /// When it refuses the columns or the settings, or declares ports that a node would refuse.
    pub fn open(input: &Schema, config: &[(&str, &str)]) -> Result<Self> {
        let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self::open_with(input, &Config::new(config))
    }

    pub(crate) fn open_with(input: &Schema, config: &Config) -> Result<Self> {
        let stage = S::open(input, config)?;
        let ports = stage.ports();
        check_ports(&ports)?;
        Ok(Self { stage, ports })
    }

    /// Processes rows.
    ///
    /// # Errors
    /// The stage's own, or a mistake in what it put out.
    pub fn process(&mut self, batch: &Batch, watermark_us: i64) -> Result<Step> {
        let mut output = Output::new(self.ports.clone(), watermark_us);
        self.stage.process(batch, &mut output)?;
        output.finish()
    }

    /// Fires a timer.
    ///
    /// # Errors
    /// As [`process`](Self::process).
    pub fn on_timer(&mut self, time_us: i64) -> Result<Step> {
        let mut output = Output::new(self.ports.clone(), time_us);
        self.stage.on_timer(time_us, &mut output)?;
        output.finish()
    }

    /// The groups whose state changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<u32> {
        let dirty: BTreeSet<u32> = self.stage.state().into_iter().flat_map(|part| part.take_dirty()).collect();
        dirty.into_iter().collect()
    }

    /// The state of key groups.
    pub fn snapshot(&mut self, groups: &[u32]) -> Vec<(u32, Vec<u8>)> {
        let parts = self.stage.state();
        groups.iter().map(|group| (*group, snapshot_all(&parts, *group))).collect()
    }

    /// Gives the state of key groups back.
    ///
    /// # Errors
    /// When it is no state of this stage.
    pub fn restore(&mut self, groups: &[(u32, Vec<u8>)]) -> Result<()> {
        let mut parts = self.stage.state();
        groups.iter().try_for_each(|(group, bytes)| restore_all(&mut parts, *group, bytes))
    }

    /// The stage itself.
    pub fn stage(&mut self) -> &mut S {
        &mut self.stage
    }

    /// What the stage puts out.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }
}

fn check_ports(ports: &[Port]) -> Result<()> {
    let mut names = BTreeSet::new();
    match ports.iter().find(|port| port.name == "dead-letter" || !names.insert(&port.name)) {
        None => Ok(()),
        Some(port) => Err(Error::new(format!("the port name `{}` is reserved or declared twice", port.name))),
    }
}
