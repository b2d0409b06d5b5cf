//! Squares a matrix again and again.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let size = text.trim().parse::<usize>()?.clamp(1, 64);
    let mut matrix: Vec<Vec<f64>> = (0..size).map(|r| (0..size).map(|c| ((r * c) as f64).sin()).collect()).collect();
    for _ in 0..4 {
        let column = |c: usize| matrix.iter().filter_map(move |row| row.get(c).copied());
        matrix = matrix
            .iter()
            .map(|row| (0..size).map(|c| row.iter().zip(column(c)).map(|(a, b)| a * b).sum()).collect())
            .collect();
    }
    Ok(matrix.iter().flatten().sum::<f64>().to_string())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "8"))
}

littoral_sdk::handler!(handle);
