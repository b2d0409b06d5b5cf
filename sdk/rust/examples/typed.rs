//! A handler without HTTP: doubles a number, tells its context, waits, or calls the function that it is told.

use littoral_sdk::fabric::{HandlerError, Payload, call, context};

fn answer(request: Payload) -> Result<Payload, HandlerError> {
    let text = request.text()?.trim();
    match text.split_once(' ').unwrap_or((text, "")) {
        ("context", _) => Ok(Payload::plain(format!("{:?}", context()))),
        ("call", function) => Ok(call(function, &request)?),
        ("spin", _) => loop {
            std::hint::black_box(text);
        },
        ("fail", why) => Err(HandlerError::Failed(why.to_owned())),
        _ => {
            let number: i64 = text.parse().map_err(|_| HandlerError::Invalid(format!("`{text}` is no number")))?;
            Ok(Payload::new(request.content_type, (number * 2).to_string()))
        }
    }
}

littoral_sdk::typed_handler!(answer);
