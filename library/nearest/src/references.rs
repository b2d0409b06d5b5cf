//! The rows that others are compared with, and how far they are.

use littoral_sdk::prelude::*;

/// The most references: each row is compared with all of them.
const REFERENCES_MAX: usize = 4_096;
/// The most coordinates of each.
const COORDINATES_MAX: usize = 256;
/// The Earth's mean radius in metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// How far two rows are from one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// The length of the straight line between them.
    Euclidean,
    /// The way on the Earth between two positions, latitude and longitude in degrees; in metres.
    GreatCircle,
}

/// A reference.
#[derive(Clone, Debug, PartialEq)]
struct Reference {
    label: String,
    coordinates: Vec<f64>,
}

/// All references.
#[derive(Clone, Debug)]
pub(crate) struct References {
    /// The columns that are compared.
    pub(crate) columns: Vec<String>,
    metric: Metric,
    references: Vec<Reference>,
}

impl References {
    /// Reads them: a line with names of columns, then a line for each reference, its label and its coordinates.
    ///
    /// # Errors
    /// When a line is not so.
    pub(crate) fn parse(text: &str, metric: Metric) -> Result<Self> {
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let wrong = |what: String| Error::new(format!("the setting `references`: {what}"));
        let head = lines
            .next()
            .ok_or_else(|| wrong("expected a line with names of columns, then one for each reference".to_owned()))?;
        let columns: Vec<String> = head.split(',').skip(1).map(|name| name.trim().to_owned()).collect();
        if columns.is_empty() || columns.len() > COORDINATES_MAX || columns.iter().any(String::is_empty) {
            return Err(wrong(format!(
                "`{head}` should be a label's name and the names of 1 to {COORDINATES_MAX} columns"
            )));
        }
        if metric == Metric::GreatCircle && columns.len() != 2 {
            return Err(wrong(format!("`{head}` should be a label's name, and the columns of latitude and longitude")));
        }
        let references: Vec<Reference> = lines
            .map(|line| {
                let (label, rest) = line.split_once(',').unwrap_or((line, ""));
                let numbers: Option<Vec<f64>> = rest
                    .split(',')
                    .map(|number| number.trim().parse().ok().filter(|number: &f64| number.is_finite()))
                    .collect();
                match numbers {
                    Some(coordinates) if coordinates.len() == columns.len() => {
                        Ok(Reference { label: label.trim().to_owned(), coordinates })
                    }
                    _ => Err(wrong(format!("`{line}` should be a label and {} numbers", columns.len()))),
                }
            })
            .collect::<Result<_>>()?;
        if references.is_empty() || references.len() > REFERENCES_MAX {
            return Err(wrong(format!("there are {}; expected 1 to {REFERENCES_MAX}", references.len())));
        }
        Ok(Self { columns, metric, references })
    }

    /// The labels and distances of those that are nearest, the nearest first; of equally near ones, those that are named first.
    pub(crate) fn nearest(&self, of: &[f64], count: usize) -> Vec<(&str, f64)> {
        let away = |reference: &Reference| self.distance(of, &reference.coordinates);
        let mut all: Vec<(f64, usize)> =
            self.references.iter().enumerate().map(|(place, reference)| (away(reference), place)).collect();
        let order = |a: &(f64, usize), b: &(f64, usize)| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1));
        if count < all.len() {
            all.select_nth_unstable_by(count, order);
            all.truncate(count);
        }
        all.sort_by(order);
        all.into_iter()
            .filter_map(|(distance, place)| Some((self.references.get(place)?.label.as_str(), distance)))
            .collect()
    }

    fn distance(&self, a: &[f64], b: &[f64]) -> f64 {
        match self.metric {
            Metric::Euclidean => a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt(),
            Metric::GreatCircle => match (a, b) {
                ([latitude, longitude], [of_latitude, of_longitude]) => {
                    haversine_m([*latitude, *longitude], [*of_latitude, *of_longitude])
                }
                _ => f64::INFINITY,
            },
        }
    }
}

/// The great-circle distance of two positions in degrees, by the haversine formula.
fn haversine_m(a: [f64; 2], b: [f64; 2]) -> f64 {
    let ([a_latitude, a_longitude], [b_latitude, b_longitude]) = (a.map(f64::to_radians), b.map(f64::to_radians));
    let half = |angle: f64| (angle / 2.0).sin().powi(2);
    let h = half(b_latitude - a_latitude) + a_latitude.cos() * b_latitude.cos() * half(b_longitude - a_longitude);
    2.0 * EARTH_RADIUS_M * h.clamp(0.0, 1.0).sqrt().asin()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ways_on_the_earth_are_known() {
        let quarter = std::f64::consts::PI * EARTH_RADIUS_M / 2.0;
        for (a, b, metres) in [
            ([0.0, 0.0], [90.0, 0.0], quarter),
            ([0.0, 0.0], [0.0, 180.0], 2.0 * quarter),
            ([0.0, 179.5], [0.0, -179.5], quarter / 90.0),
            ([59.3293, 18.0686], [59.3293, 18.0686], 0.0),
            // Paris and London: 343.6 km on this sphere.
            ([48.8566, 2.3522], [51.5074, -0.1278], 343_556.0),
        ] {
            assert!((haversine_m(a, b) - metres).abs() < 10.0, "{a:?} {b:?} {}", haversine_m(a, b));
        }
    }

    #[test]
    fn wrong_references_say_which() {
        let told = |text: &str| References::parse(text, Metric::Euclidean).unwrap_err().to_string();
        assert!(told("").contains("expected a line with names"));
        assert!(told("label\na").contains("names of 1 to 256 columns"));
        assert!(told("label,x").contains("there are 0"));
        assert!(told("label,x,y\na,1").contains("`a,1` should be a label and 2 numbers"));
        assert!(told("label,x\na,inf").contains("should be a label and 1 numbers"));
        assert!(References::parse("place,x\na,1", Metric::GreatCircle).is_err());
    }
}
