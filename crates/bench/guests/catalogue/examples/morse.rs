//! Writes letters in Morse's code.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    const CODE: [&str; 26] = [
        ".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", "..", ".---", "-.-", ".-..", "--", "-.", "---",
        ".--.", "--.-", ".-.", "...", "-", "..-", "...-", ".--", "-..-", "-.--", "--..",
    ];
    let letters = text.bytes().filter_map(|byte| CODE.get(usize::from(byte.to_ascii_lowercase().wrapping_sub(b'a'))));
    Ok(letters.copied().collect::<Vec<_>>().join(" "))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "sos"))
}

littoral_sdk::handler!(handle);
