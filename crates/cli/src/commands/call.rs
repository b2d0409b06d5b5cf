//! `littoral call`.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use anyhow::Context as _;
use bytes::Bytes;
use littoral_node::admin::types::{Base64Bytes, CallRequest};

use crate::args::CallArgs;
use crate::client::Client;
use crate::failure::hinted;
use crate::output;

/// The largest body, so that it fits an admin request as base64.
const BODY_BYTES_MAX: u64 = 5 << 20;
/// The HTTP status from which a function's answer is a failure.
const STATUS_ERROR: u16 = 400;

/// Calls a function and prints its answer.
pub(super) async fn run(args: &CallArgs, client: &Client) -> anyhow::Result<ExitCode> {
    let body = args.data.as_deref().map(read_data).transpose()?;
    let method = match (&args.method, &body) {
        (Some(method), _) => method.to_uppercase(),
        (None, Some(_)) => "POST".to_owned(),
        (None, None) => "GET".to_owned(),
    };
    let call = CallRequest {
        method,
        path: args.path.clone(),
        headers: args.header.clone(),
        body_base64: Base64Bytes(body.unwrap_or_default()),
    };
    let answer = client.call(args.function.app.as_str(), &args.function.name, &call).await?;
    if args.include {
        let mut head = format!("HTTP {}\n", answer.status);
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\n"));
        }
        output::print(&format!("{head}\n"))?;
    }
    let body = answer.body_base64.0;
    output::write(&body)?;
    if !body.is_empty() && !body.ends_with(b"\n") && std::io::stdout().is_terminal() {
        output::write(b"\n")?;
    }
    if answer.status >= STATUS_ERROR {
        return Err(hinted(
            format!("{}/{} answered {}", args.function.app, args.function.name, answer.status),
            format!("see what it says with `littoral logs {}`", args.function.app),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The text itself, or what the named file or standard input has.
fn read_data(data: &str) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    match data.strip_prefix('@') {
        None => body.extend_from_slice(data.as_bytes()),
        Some("-") => {
            std::io::stdin().take(BODY_BYTES_MAX + 1).read_to_end(&mut body).context("cannot read standard input")?;
        }
        Some(path) => {
            let file = std::fs::File::open(path).with_context(|| format!("cannot open {path}"))?;
            file.take(BODY_BYTES_MAX + 1).read_to_end(&mut body).with_context(|| format!("cannot read {path}"))?;
        }
    }
    anyhow::ensure!(body.len() as u64 <= BODY_BYTES_MAX, "the body has more than 5 MiB; send it to an HTTP route");
    Ok(body.into())
}
