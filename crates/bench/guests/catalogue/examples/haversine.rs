//! The distance between two places on earth, in kilometres.

use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let degrees = text.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
    let [a, b, c, d] = degrees.as_slice() else { return Err(Error::new("expected two latitudes and longitudes")) };
    let half = |from: f64, to: f64| ((to - from).to_radians() / 2.0).sin().powi(2);
    let h = half(*a, *c) + a.to_radians().cos() * c.to_radians().cos() * half(*b, *d);
    Ok(format!("{:.1}\n", 12742.0 * h.sqrt().asin()))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "52.52 13.40 48.86 2.35"))
}

littoral_sdk::handler!(handle);
