//! `littoral call`.

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use littoral_model::invocation::InvocationName;
use littoral_node::admin::queue::{InvocationState, LaterRequest};
use littoral_node::admin::types::{Base64Bytes, CallRequest, CallResponse};

use crate::app::parse_time;
use crate::args::CallArgs;
use crate::client::Client;
use crate::failure::hinted;
use crate::output;

/// The largest body, so that it fits an admin request as base64.
const BODY_BYTES_MAX: u64 = 5 << 20;
/// How long one question for the end of a call waits: below what the node may take to answer.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// The HTTP status from which a function's answer is a failure.
const STATUS_ERROR: u16 = 400;

/// Calls a function and prints its answer.
pub(super) async fn run(args: &CallArgs, client: &Client) -> anyhow::Result<ExitCode> {
    if let Some(id) = &args.result {
        return result(args, id, client).await;
    }
    let function = args.function.as_ref().context("which function is to be called?")?;
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
    if args.later {
        let later = LaterRequest { call, key: args.key.clone() };
        let accepted = client.call_later(function.app.as_str(), &function.name, &later).await?;
        output::print(&format!("{}\n", accepted.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.call(function.app.as_str(), &function.name, &call).await?;
    show(args, function.app.as_str(), &function.name, answer)
}

/// Waits for the end of an asynchronous call and prints the function's answer.
async fn result(args: &CallArgs, id: &InvocationName, client: &Client) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + parse_time("--wait", &args.wait)?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let status = client.invocation(id, left.min(WAIT_MAX).as_millis()).await?;
        match status.state {
            InvocationState::Done | InvocationState::Dead => break,
            InvocationState::Waiting if left.is_zero() => {
                let last = status.error.map(|error| format!("; the last try: {error}")).unwrap_or_default();
                let text = format!("{id} has no answer yet, after {} tries{last}", status.attempts + status.unanswered);
                return Err(hinted(text, "wait for longer with --wait; it is tried until `max-age` has passed"));
            }
            InvocationState::Waiting => {}
        }
    }
    let answer = client.invocation_result(id).await?;
    show(args, id.queue.app.app.as_str(), &id.queue.name, answer)
}

/// Prints a function's answer.
fn show(args: &CallArgs, app: &str, function: &str, answer: CallResponse) -> anyhow::Result<ExitCode> {
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
            format!("{app}/{function} answered {}", answer.status),
            format!("see what it says with `littoral logs {app}`"),
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
