//! How far a value is from what was usual before it, in deviations. Compiled into the component and into the benchmark, which runs it
//! without one.

/// How much of what is usual a new value makes up.
const SHARE: f64 = 0.01;

/// What is usual, so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    mean: f64,
    variance: f64,
}

impl Spread {
    /// Judges a value, and takes it in.
    pub(crate) fn judge(&mut self, value: f64) -> f64 {
        let off = value - self.mean;
        let score = off / (self.variance + 1e-9).sqrt();
        self.mean += SHARE * off;
        self.variance = (1.0 - SHARE) * (self.variance + SHARE * off * off);
        score
    }
}
