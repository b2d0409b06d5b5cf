//! The functions of `bench-density`: small services of the kind that people deploy by the hundred, with and without
//! libraries, so that their sizes differ. Each is an example of this package and becomes a component of its own; each
//! answers to the body of a request, or to a sample if there is none.

use std::borrow::Cow;

use littoral_sdk::http::Request;

/// An answer, or why there is none.
pub type Answer = littoral_sdk::Result<String>;

/// The text of a request.
#[must_use]
pub fn input<'r>(request: &'r Request, sample: &'static str) -> Cow<'r, str> {
    if request.body().is_empty() { sample.into() } else { String::from_utf8_lossy(request.body()) }
}
