//! Writes a number in Roman numerals.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let mut number: u32 = text.trim().parse()?;
    let mut out = String::new();
    for (value, numeral) in [
        (1000, "M"),
        (900, "CM"),
        (500, "D"),
        (400, "CD"),
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ] {
        while number >= value && out.len() < 64 {
            out += numeral;
            number -= value;
        }
    }
    Ok(out)
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "1994"))
}

littoral_sdk::handler!(handle);
