//! A column of moments, checked: what is counted with them does not leave 64 bits.

use littoral_sdk::batch::Numbers;
use littoral_sdk::prelude::*;

/// Moments are within this of 1970, in microseconds: 36,000 years. Differences of two, and sums of one and a setting, fit 64 bits.
const MOMENT_US_MAX: u64 = 1 << 60;

/// A column of moments.
#[derive(Debug)]
pub struct Moments<'a> {
    name: &'a str,
    cells: Numbers<'a, i64>,
}

impl<'a> Moments<'a> {
    /// This column of a batch.
    ///
    /// # Errors
    /// When the batch lacks it.
    pub fn of(batch: &'a Batch, name: &'a str) -> Result<Self> {
        Ok(Self { name, cells: batch.timestamp(name)? })
    }

    /// The moment of a row, in microseconds since 1970.
    ///
    /// # Errors
    /// When it has none, or one that is no moment anybody means.
    pub fn get(&self, row: usize) -> Result<i64> {
        match self.cells.get(row) {
            Some(us) if us.unsigned_abs() < MOMENT_US_MAX => Ok(us),
            Some(us) => {
                Err(Error::new(format!("`{}` is {us} µs since 1970: expected a moment within 36,000 years", self.name)))
            }
            None => Err(Error::new(format!("`{}` is missing", self.name))),
        }
    }
}
