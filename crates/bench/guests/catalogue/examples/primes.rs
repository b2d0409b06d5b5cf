//! Primes below a number, by Eratosthenes' sieve.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let limit: usize = text.trim().parse::<usize>()?.min(100_000);
    let mut composite = vec![false; limit + 1];
    let mut out = String::new();
    for number in 2..=limit {
        if composite.get(number) == Some(&false) {
            out += &format!("{number} ");
            composite.iter_mut().skip(number * number).step_by(number).for_each(|slot| *slot = true);
        }
    }
    Ok(out)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "200"))
}

littoral_sdk::handler!(handle);
