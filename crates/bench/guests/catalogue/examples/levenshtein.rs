//! The distance between two words.

use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let (a, b) = text.split_once(' ').ok_or_else(|| Error::new("expected two words"))?;
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, from) in a.chars().enumerate() {
        let mut corner = line;
        let mut left = line + 1;
        for (to, slot) in b.iter().zip(row.iter_mut().skip(1)) {
            let here = (corner + usize::from(from != *to)).min(*slot + 1).min(left + 1);
            corner = std::mem::replace(slot, here);
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    Ok(row.last().copied().unwrap_or_default().to_string())
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "kitten sitting"))
}

littoral_sdk::handler!(handle);
