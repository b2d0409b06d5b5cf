//! The other function of `bench-mesh`: `/?bytes=B&count=N` calls `echo` so many times, one call after the other, with
//! so many bytes, and answers with how long each took, in nanoseconds, separated by blanks.

use std::time::Instant;

use littoral_sdk::Error;
use littoral_sdk::fabric::{self, Payload};
use littoral_sdk::http::{Request, Response};

fn measure(request: Request) -> Result<Response, Error> {
    let number = |key: &str| {
        let pairs = request.uri().query().unwrap_or_default().split('&');
        let value =
            pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key).map(|(_, value)| value);
        value
            .and_then(|value| value.parse::<usize>().ok())
            .ok_or_else(|| Error::new(format!("`{key}` is to be a number")))
    };
    let payload = Payload { content_type: String::new(), body: vec![b'x'; number("bytes")?] };
    let mut times = String::new();
    for _ in 0..number("count")? {
        let begun = Instant::now();
        let answer = fabric::call("echo", &payload)?;
        let took = begun.elapsed();
        if answer.body.len() != payload.body.len() {
            return Err(Error::new(format!("{} bytes came back", answer.body.len())));
        }
        times.push_str(&format!("{} ", took.as_nanos()));
    }
    Ok(Response::new(times.into_bytes()))
}

littoral_sdk::handler!(measure);
