//! Checks an international account number.

use catalogue::{Answer, input};
use littoral_sdk::Error;
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let (country, rest) = text.split_at_checked(4).ok_or_else(|| Error::new("an IBAN has four characters at least"))?;
    let mut remainder = 0_u64;
    for character in rest.chars().chain(country.chars()) {
        let digit = character.to_digit(36).ok_or_else(|| Error::new("an IBAN has letters and digits"))?;
        remainder = (remainder * if digit > 9 { 100 } else { 10 } + u64::from(digit)) % 97;
    }
    Ok(format!("{}\n", remainder == 1))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "GB82WEST12345698765432"))
}

littoral_sdk::handler!(handle);
