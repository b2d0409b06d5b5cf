//! A small grey image, and the bright things in it.

/// An image of at most this many pixels is looked at.
pub(crate) const PIXELS_MAX: usize = 1 << 16;

/// How bright a pixel is that belongs to somebody.
const BRIGHT: u8 = 100;
/// The shortest side of what is taken for somebody; each of the nine parts has at least a pixel.
const SIDE_MIN: usize = 4;
/// Into how many parts a side is divided.
const PARTS: usize = 3;

/// How many numbers describe what was found.
pub(crate) const FEATURES: usize = PARTS * PARTS;

/// A grey image, row by row.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    width: usize,
    pixels: Vec<u8>,
}

/// Somebody in an image: the box around, and how bright its nine parts are, each as a share of the mean.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) x: usize,
    pub(crate) y: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) features: [f64; FEATURES],
}

impl Image {
    /// Reads an image of that width from two hexadecimal digits a pixel.
    pub(crate) fn of_hex(text: &str, width: usize) -> Result<Self, String> {
        let count = text.len() / 2;
        if !text.len().is_multiple_of(2) || count == 0 || !count.is_multiple_of(width) || count > PIXELS_MAX {
            return Err(format!(
                "the image has {} digits; expected two for each pixel, in rows of {width}",
                text.len()
            ));
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pixel = |pair: &[u8]| match *pair {
            // Two digits are below 256.
            [high, low] => Some((digit(high)? * 16 + digit(low)?) as u8),
            _ => None,
        };
        let pixels: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pixel).collect();
        Ok(Self { width, pixels: pixels.ok_or("the image has something that is no hexadecimal digit")? })
    }

    /// Everything bright that is wholly in the image, in the order of its first pixel: pixels that touch at a side belong together
    /// (connected components, with a stack in place of recursion).
    pub(crate) fn find(&self) -> Vec<Found> {
        let mut is_seen = vec![false; self.pixels.len()];
        (0..self.pixels.len()).filter_map(|start| self.around(start, &mut is_seen)).collect()
    }

    fn is_bright(&self, at: usize) -> bool {
        self.pixels.get(at).is_some_and(|pixel| *pixel >= BRIGHT)
    }

    /// What a pixel belongs to, if it is bright, has not been seen, and what it belongs to is all there and large enough.
    fn around(&self, start: usize, is_seen: &mut [bool]) -> Option<Found> {
        let (mut stack, height) = (vec![start], self.pixels.len() / self.width);
        let (mut left, mut right, mut top, mut bottom) = (self.width, 0, height, 0);
        while let Some(at) = stack.pop() {
            let is_new = is_seen.get_mut(at).is_some_and(|seen| !std::mem::replace(seen, true));
            if !is_new || !self.is_bright(at) {
                continue;
            }
            let (x, y) = (at % self.width, at / self.width);
            (left, right, top, bottom) = (left.min(x), right.max(x), top.min(y), bottom.max(y));
            stack.extend([(x > 0).then(|| at - 1), (x + 1 < self.width).then(|| at + 1)].into_iter().flatten());
            stack.extend(
                [(y > 0).then(|| at - self.width), (y + 1 < height).then(|| at + self.width)].into_iter().flatten(),
            );
        }
        if left > right {
            return None;
        }
        let (width, tall) = (right - left + 1, bottom - top + 1);
        let is_cut = left == 0 || top == 0 || right + 1 == self.width || bottom + 1 == height;
        (!is_cut && width >= SIDE_MIN && tall >= SIDE_MIN).then(|| Found {
            x: left,
            y: top,
            width,
            height: tall,
            features: self.features([left, top], [width, tall]),
        })
    }

    /// The mean of each part, as a share of the mean of all.
    fn features(&self, [left, top]: [usize; 2], [width, height]: [usize; 2]) -> [f64; FEATURES] {
        let mean = |columns: std::ops::Range<usize>, rows: std::ops::Range<usize>| {
            let count = columns.len() * rows.len();
            let pixels = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
            let sum: u64 = pixels
                .filter_map(|(x, y)| self.pixels.get((top + y) * self.width + left + x))
                .map(|pixel| u64::from(*pixel))
                .sum();
            sum as f64 / count as f64
        };
        let whole = mean(0..width, 0..height);
        let part = |side: usize, place: usize| side * place / PARTS..side * (place + 1) / PARTS;
        std::array::from_fn(|place| mean(part(width, place % PARTS), part(height, place / PARTS)) / whole)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn image(rows: &[&str]) -> Image {
        let hex: String = rows.iter().flat_map(|row| row.chars()).map(|c| if c == '.' { "20" } else { "f0" }).collect();
        Image::of_hex(&hex, rows[0].len()).unwrap()
    }

    #[test]
    fn only_what_is_whole_and_large_enough_is_found() {
        let found =
            image(&["##..........", "##.####..##.", "...####..##.", "...####.....", "...####.....", "...........#"])
                .find();
        assert_eq!(found, [Found { x: 3, y: 1, width: 4, height: 4, features: [1.0; 9] }]);
    }

    #[test]
    fn features_are_shares_of_the_mean_and_do_not_depend_on_the_light() {
        let side = |light: u32| {
            let pixel = |x: usize, y: usize| match (x, y) {
                (1..=6, 1..=6) => light * if (x - 1) / 2 == 0 { 2 } else { 1 },
                _ => 0,
            };
            let hex: String = (0..64).map(|at| format!("{:02x}", pixel(at % 8, at / 8))).collect();
            Image::of_hex(&hex, 8).unwrap().find().remove(0).features
        };
        let (dark, light) = (side(100), side(120));
        assert_eq!(dark[..3], [1.5, 0.75, 0.75]);
        assert!(dark.iter().zip(light).all(|(a, b)| (a - b).abs() < 1e-12));
    }

    #[test]
    fn what_is_no_image_is_told() {
        for (text, said) in [("", "0 digits"), ("000", "3 digits"), ("0000", "4 digits"), ("zz0000", "no hexadecimal")]
        {
            assert!(Image::of_hex(text, 3).unwrap_err().contains(said), "{text}");
        }
    }
}
