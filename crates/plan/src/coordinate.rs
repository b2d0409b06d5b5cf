//! Network coordinates: the round trip between any two nodes, without probing every pair.
//!
//! Vivaldi with heights (Dabek et al., SIGCOMM 2004): each node is a mass on springs to those it has measured, and
//! moves a little with each sample, the less the surer it is and the less sure the other is. What a sample or another's
//! coordinate can do is bounded, for either may be absurd: a node that lies moves others by [`STEP_US_MAX`] at most, and
//! is moved back by the next honest sample.

use littoral_model::condition::Coordinate;

/// How far a sample moves a node at most, as a share of what is missing (`c_c` of the paper).
const STEP_SHARE: f64 = 0.25;
/// How much a sample counts for the node's error at most (`c_e` of the paper).
const ERROR_SHARE: f64 = 0.25;
/// The farthest that one sample moves a node, in microseconds.
pub const STEP_US_MAX: f64 = 25_000.0;
/// A node that claims to be surer than this is not believed to be.
const ERROR_MIN: f64 = 0.05;
/// A node that is less sure than this knows nothing; where it starts.
const ERROR_MAX: f64 = 1.0;
/// The least height, in microseconds: the way through the node itself.
const HEIGHT_US_MIN: f64 = 10.0;
/// The longest round trip that is believed, in microseconds: longer ones are of a queue, not of a network.
pub const RTT_US_MAX: u64 = 5_000_000;
/// The farthest from the origin that a coordinate is believed, in microseconds.
const PLACE_US_MAX: f64 = 10_000_000.0;
/// Predictions count as known where both ends err by less than this, in thousandths: beyond, a path over measured links
/// says more.
pub const ERROR_PERMILLE_KNOWN: u16 = 400;

/// Finds a node's own coordinate.
#[derive(Clone, Copy, Debug)]
pub struct Locator {
    point_us: [f64; 3],
    height_us: f64,
    error: f64,
}

impl Default for Locator {
    fn default() -> Self {
        Self { point_us: [0.0; 3], height_us: HEIGHT_US_MIN, error: ERROR_MAX }
    }
}

impl Locator {
    /// Takes in a measured round trip to a node at `peer`. `draw` is random: it says in which direction nodes at the same
    /// place part. Whether the sample was believed.
    pub fn observe(&mut self, rtt_us: u64, peer: &Coordinate, draw: u64) -> bool {
        let other = Self::from(peer);
        if rtt_us == 0 || rtt_us > RTT_US_MAX || !other.is_believable() {
            return false;
        }
        let rtt = rtt_us as f64;
        let apart: [f64; 3] = difference(self.point_us, other.point_us);
        let flat = norm(apart);
        let distance = flat + self.height_us + other.height_us;
        let weight = self.error / (self.error + other.error.max(ERROR_MIN));
        let wrong = ((distance - rtt).abs() / rtt).min(ERROR_MAX);
        let share = ERROR_SHARE * weight;
        self.error = (wrong * share + self.error * (1.0 - share)).clamp(0.0, ERROR_MAX);
        let step = (STEP_SHARE * weight * (rtt - distance)).clamp(-STEP_US_MAX, STEP_US_MAX);
        let (direction, flat_part) =
            if flat < 1.0 { (direction(draw), 1.0) } else { (scaled(apart, 1.0 / flat), flat / distance) };
        for (at, along) in self.point_us.iter_mut().zip(direction) {
            *at = (*at + step * flat_part * along).clamp(-PLACE_US_MAX, PLACE_US_MAX);
        }
        let up = step * (self.height_us + other.height_us) / distance;
        self.height_us = (self.height_us + up).clamp(HEIGHT_US_MIN, PLACE_US_MAX);
        true
    }

    /// Where the node is, as it is told to others.
    #[must_use]
    pub fn coordinate(&self) -> Coordinate {
        // In range: all three are clamped.
        Coordinate {
            point_us: self.point_us.map(|at| at.round() as i32),
            height_us: self.height_us.round() as u32,
            error_permille: (self.error * 1_000.0).round() as u16,
        }
    }

    fn is_believable(&self) -> bool {
        self.point_us.iter().chain([&self.height_us]).all(|at| at.abs() <= PLACE_US_MAX)
    }
}

impl From<&Coordinate> for Locator {
    fn from(coordinate: &Coordinate) -> Self {
        Self {
            point_us: coordinate.point_us.map(f64::from),
            height_us: f64::from(coordinate.height_us),
            error: (f64::from(coordinate.error_permille) / 1_000.0).min(ERROR_MAX),
        }
    }
}

/// The predicted round trip between two nodes, in microseconds.
#[must_use]
pub fn estimate_us(a: &Coordinate, b: &Coordinate) -> u64 {
    let flat = norm(difference(a.point_us.map(f64::from), b.point_us.map(f64::from)));
    flat.round() as u64 + u64::from(a.height_us) + u64::from(b.height_us)
}

/// Whether a prediction between two nodes says more than a guess.
#[must_use]
pub fn is_known(a: &Coordinate, b: &Coordinate) -> bool {
    a.error_permille.max(b.error_permille) < ERROR_PERMILLE_KNOWN
}

fn difference(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    let ([a0, a1, a2], [b0, b1, b2]) = (a, b);
    [a0 - b0, a1 - b1, a2 - b2]
}

fn scaled(vector: [f64; 3], by: f64) -> [f64; 3] {
    vector.map(|part| part * by)
}

fn norm(vector: [f64; 3]) -> f64 {
    vector.iter().map(|part| part * part).sum::<f64>().sqrt()
}

/// A direction of length 1: 21 bits of the draw for each axis.
fn direction(draw: u64) -> [f64; 3] {
    let axis = |shift: u32| ((draw >> shift) & 0x1f_ffff) as f64 / 1_048_576.0 - 1.0;
    let vector = [axis(0), axis(21), axis(42)];
    let length = norm(vector);
    if length > 0.0 { scaled(vector, 1.0 / length) } else { [1.0, 0.0, 0.0] }
}
