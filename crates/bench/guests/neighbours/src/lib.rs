//! The functions of `bench-neighbour`: an honest one, and four that misbehave, chosen by the last part of the path.

use std::hint::black_box;

use littoral_sdk::http::{Request, Response, text};

/// Steps that take an honest function about a millisecond.
const HONEST_STEPS: u32 = work::SPIN_STEPS / 10;
/// How much the allocating one takes at once, until it gets no more.
const ALLOCATION_BYTES: usize = 1 << 20;
/// How many lines the logging one writes before it answers.
const LINES: usize = 10_000;

/// Does what the last part of the path names.
fn behave(request: Request) -> Response {
    match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "busy" => text(200, work::spin(black_box(HONEST_STEPS)).to_string()),
        "spin" => loop {
            black_box(work::spin(black_box(HONEST_STEPS)));
        },
        "allocate" => {
            let mut taken = Vec::new();
            loop {
                // Written to, so that the memory is really there; the allocator aborts at the limit.
                taken.push(black_box(vec![1_u8; ALLOCATION_BYTES]));
            }
        }
        "log" => {
            for line in 0..LINES {
                println!("line {line} of a function that has much to say and says it again and again and again");
            }
            text(200, "said")
        }
        "trap" => std::process::abort(),
        _ => text(200, "hello"),
    }
}

littoral_sdk::handler!(behave);
