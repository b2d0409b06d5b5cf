//! A handler that does what the path says, for tests of limits.

use littoral_sdk::http::{Request, Response, text};

#[allow(clippy::panic)]
fn obey(request: Request) -> Response {
    match request.uri().path() {
        "/trap" => panic!("told to trap"),
        "/spin" => loop {
            std::hint::black_box(&request);
        },
        "/grow" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
                std::hint::black_box(&hoard);
            }
        }
        "/exit" => std::process::exit(1),
        "/talk" => {
            (0..10_000).for_each(|line| eprintln!("line {line}"));
            text(200, "talked")
        }
        "/large" => text(200, "x".repeat(4 << 20)),
        "/page/x" => {
            // A page that takes long, some tens of milliseconds, and much memory.
            std::hint::black_box(vec![1_u8; 20 << 20]);
            (0..20_000_000_u32).for_each(|step| {
                std::hint::black_box(step);
            });
            text(200, "page")
        }
        "/headers" => text(200, format!("{:?}", request.headers())),
        path => text(200, format!("{} {path} {} bytes", request.method(), request.body().len())),
    }
}

littoral_sdk::handler!(obey);
