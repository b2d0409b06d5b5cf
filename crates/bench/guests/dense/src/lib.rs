//! What both variants of `bench-hybrid` compute: a small neural network's answers, three dense layers of 128, for so many rows.
//! The component and the container's program are built from this file, each as its compiler does by default.

/// How wide a layer is.
const WIDTH: usize = 128;
/// How many there are.
const LAYERS: usize = 3;

/// The weights of a network.
pub struct Network(Vec<f32>);

impl Network {
    /// Some weights; which does not matter.
    #[must_use]
    pub fn made_up() -> Self {
        let mut state = 2_463_534_242_u32;
        let weight = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state >> 8) as f32 / (1_u32 << 24) as f32 - 0.5
        };
        Self(std::iter::repeat_with(weight).take(LAYERS * WIDTH * WIDTH).collect())
    }

    /// The sum of the answers for so many rows.
    #[must_use]
    pub fn score(&self, rows: u32) -> f32 {
        (0..rows).map(|row| self.answer(row)).sum()
    }

    // As whoever computes in components does: 128 bits at once, which every machine has natively.
    #[cfg_attr(target_arch = "wasm32", target_feature(enable = "simd128"))]
    fn answer(&self, row: u32) -> f32 {
        let mut values = [0.0_f32; WIDTH];
        for (place, value) in values.iter_mut().enumerate() {
            *value = ((row as usize + place) % 17) as f32 / 17.0;
        }
        for layer in self.0.chunks_exact(WIDTH * WIDTH) {
            let mut next = [0.0_f32; WIDTH];
            for (value, weights) in values.iter().zip(layer.chunks_exact(WIDTH)) {
                for (sum, weight) in next.iter_mut().zip(weights) {
                    *sum += value * weight;
                }
            }
            for (value, sum) in values.iter_mut().zip(next) {
                *value = sum.clamp(0.0, 1.0);
            }
        }
        values.iter().sum()
    }
}
