//! A handler that uses what the fabric gives: its path says what, its body with what.

use std::time::Duration;

use littoral_sdk::devices::{Device, Line};
use littoral_sdk::fabric::{Level, Message, Payload, call, config, context, log, publish};
use littoral_sdk::http::{Request, Response, text};
use littoral_sdk::keyvalue::Bucket;
use littoral_sdk::{Error, Result};

fn obey(request: Request) -> Result<Response> {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let body = String::from_utf8(request.into_body())?;
    let said = match parts.as_slice() {
        ["call", function] => match call(function, &Payload::plain(body)) {
            Ok(answer) => format!("{}: {}", answer.content_type, answer.text()?),
            Err(error) => format!("{error:?}"),
        },
        // The body names functions; the first is called with the others before its own name, and so on for ever.
        ["" | "again"] => {
            let (function, others) = body.split_once(' ').unwrap_or((&body, ""));
            match call(function, &Payload::plain(format!("{others} {function}").trim())) {
                Ok(answer) => answer.text()?.trim().to_owned(),
                Err(error) => format!("ended at {}: {error}", context().depth),
            }
        }
        ["publish", stream] => match publish(stream, &[Message::new(body).key("fabric")]) {
            Ok(stored) => format!("stored {stored}"),
            Err(error) => format!("{error:?}"),
        },
        ["increment", bucket, key] => Bucket::open(bucket)?.increment(key, 1)?.to_string(),
        ["set", bucket, key] => Bucket::open(bucket)?.set(key, body.as_bytes()).map(|()| "set".to_owned())?,
        ["delete", bucket, key] => Bucket::open(bucket)?.delete(key).map(|()| "deleted".to_owned())?,
        ["get", bucket, key] => {
            let value = Bucket::open(bucket)?.get(key)?;
            value.map_or("nothing".to_owned(), |value| String::from_utf8_lossy(&value).into_owned())
        }
        ["keys", bucket] => Bucket::open(bucket)?.keys(None)?.0.join(" "),
        // The body is the device's path, or that and a baud rate.
        ["ask-device", question] => {
            let (path, baud) = body.split_once(' ').unwrap_or((&body, ""));
            let line = baud.parse().ok().map(|baud| Line { baud, ..Line::default() });
            match Device::open(path, line) {
                Ok(device) => {
                    device.write(question.as_bytes())?;
                    String::from_utf8(device.read(1_024, Duration::from_secs(1))?)?
                }
                Err(error) => error.to_string(),
            }
        }
        ["config", key] => config(key).unwrap_or_else(|| "nothing".to_owned()),
        ["log"] => {
            log(Level::Warn, "example", &body);
            "logged".to_owned()
        }
        ["context"] => format!("{:?}", context()),
        _ => return Err(Error::new(format!("{path} means nothing here"))),
    };
    Ok(text(200, said + "\n"))
}

littoral_sdk::handler!(obey);
