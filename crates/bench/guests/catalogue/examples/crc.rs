//! The CRC-32 of a text.

use catalogue::{Answer, input};
use littoral_sdk::http::Request;

fn answer(text: &str) -> Answer {
    let crc = text.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    });
    Ok(format!("{:08x}\n", !crc))
}

fn handle(request: Request) -> Answer {
    answer(&input(&request, "123456789"))
}

littoral_sdk::handler!(handle);
