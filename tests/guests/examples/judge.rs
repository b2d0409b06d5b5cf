//! Exports functions for expressions in SQL, by itself and in an interface.

wit_bindgen::generate!({ world: "judge", path: "wit/judge.wit" });

use exports::acme::judge::verdicts;

struct Judge;

impl Guest for Judge {
    fn detect(mean: f64) -> f64 {
        (mean - 50.0).abs() / 10.0
    }
}

impl verdicts::Guest for Judge {
    fn grade(score: Option<f64>, strict: bool) -> Option<String> {
        let limit = if strict { 1.0 } else { 3.0 };
        match score {
            None => Some("unknown".to_owned()),
            Some(score) if score > limit => Some("bad".to_owned()),
            Some(_) => None,
        }
    }

    fn scale(values: Vec<f64>, by: Vec<u32>) -> Vec<f64> {
        values.into_iter().zip(by).map(|(value, by)| value * f64::from(by)).collect()
    }

    fn root(squares: Vec<f64>, factors: Vec<f64>) -> Vec<f64> {
        assert!(squares.iter().all(|square| *square > 0.0), "a square is not positive");
        let finite = squares.into_iter().zip(factors).filter(|(square, _)| square.is_finite());
        finite.map(|(square, factor)| square.sqrt() * factor).collect()
    }

    fn check(values: Vec<Option<i64>>) -> Vec<Result<Option<i64>, String>> {
        let check = |value| match value {
            Some(13) => Err("13 is not wanted".to_owned()),
            Some(0) => Ok(None),
            other => Ok(other.map(|value: i64| value * 2).or(Some(-1))),
        };
        values.into_iter().map(check).collect()
    }

    fn drop_odd(values: Vec<i64>) -> Vec<i64> {
        values.into_iter().filter(|value| value % 2 == 0).collect()
    }

    fn misbehave(how: String) -> Result<String, String> {
        match how.as_str() {
            "trap" => panic!("on purpose"),
            "spin" => loop {
                std::hint::black_box(());
            },
            "large" => Ok("x".repeat(70 << 20)),
            "refuse" => Err("it was told to".to_owned()),
            other => Ok(other.to_uppercase()),
        }
    }

    fn outline(of: (f64, f64)) -> f64 {
        of.0 + of.1
    }
}

export!(Judge);
