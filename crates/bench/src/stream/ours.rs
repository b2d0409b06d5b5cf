//! Ours: a node, spoken to through a route to a stream.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};

use super::socket::{Socket, number};
use super::{ANSWER_BYTES, Queue};
use crate::fabric::{Fabric, Spec};
use crate::peers;

const NODE: &str = "cloud-1";
const MANIFEST: &str = r#"
name = "bench"
version = "1.0.0"

[streams.records]
partitions = 1
ack = "local"

[[routes]]
path = "/records"
stream = "records"
"#;

pub(super) fn about() -> anyhow::Result<String> {
    let version = peers::version(&peers::littoral()?)?;
    Ok(format!(
        "{version}, one node, one partition, ack=local (synced before each answer); POST of application/x-ndjson, a window a request; GET of Arrow, {} MiB an answer, the next one asked for when the head of one is there",
        ANSWER_BYTES >> 20
    ))
}

pub(super) fn start(folder: &Path) -> anyhow::Result<Box<dyn Queue>> {
    let fabric = Fabric::start(&peers::littoral()?, &[Spec { name: NODE, tier: "cloud", connect: &[] }])?;
    std::fs::write(folder.join("littoral.toml"), MANIFEST)?;
    fabric.deploy(folder)?;
    Ok(Box::new(Littoral { address: fabric.http(NODE)?, _fabric: fabric }))
}

struct Littoral {
    address: SocketAddr,
    _fabric: Fabric,
}

impl Queue for Littoral {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn greeting(&self, _publisher: usize) -> Vec<u8> {
        Vec::new()
    }

    fn greeted(&self, _received: &mut BytesMut) -> anyhow::Result<bool> {
        Ok(true)
    }

    fn publication(&self, _publisher: usize, payload: &str, count: usize) -> Vec<u8> {
        let body = format!("{{\"value\":\"{payload}\"}}\n").repeat(count);
        let head = "POST /records HTTP/1.1\r\nhost: bench\r\ncontent-type: application/x-ndjson\r\n";
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    fn acknowledged(&self, received: &mut BytesMut) -> anyhow::Result<usize> {
        acknowledgements(received)
    }

    fn consume(&self, records: usize, bytes: usize) -> anyhow::Result<()> {
        let mut socket = Socket::for_bodies(self.address)?;
        let (mut consumed, mut body) = (0, Vec::new());
        socket.send(&asking("start"))?;
        while consumed < records {
            let mut head = Vec::new();
            loop {
                let line = socket.line()?;
                if line.is_empty() {
                    break;
                }
                head.extend_from_slice(line);
                head.extend_from_slice(b"\r\n");
            }
            let head = Head::parse(&head)?;
            if let (200, Some(next)) = (head.status, &head.next) {
                // Where to go on is known before the rows are there.
                socket.send(&asking(next))?;
            }
            // The same memory each time.
            body.resize(head.length, 0);
            socket.fill(&mut body)?;
            anyhow::ensure!(
                head.status == 200,
                "rows were asked for and answered {}: {}",
                head.status,
                String::from_utf8_lossy(&body)
            );
            anyhow::ensure!(head.next.is_some(), "the answer says no next place");
            consumed += count(&body, bytes)?;
        }
        anyhow::ensure!(consumed == records, "{consumed} records came instead of {records}");
        Ok(())
    }
}

fn asking(from: &str) -> Vec<u8> {
    let head = "host: bench\r\naccept: application/vnd.apache.arrow.stream\r\n";
    format!("GET /records?from={from} HTTP/1.1\r\n{head}\r\n").into_bytes()
}

/// How many rows an answer has, each with a value of so many bytes, as its messages say
/// (<https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>). The rows lie there as columns: whoever
/// uses them looks at them where they are.
fn count(mut body: &[u8], bytes: usize) -> anyhow::Result<usize> {
    let mut count = 0;
    loop {
        let (_continuation, length) = (body.try_get_u32_le()?, body.try_get_u32_le()? as usize);
        if length == 0 {
            anyhow::ensure!(body.is_empty(), "{} bytes follow the end of the rows", body.len());
            return Ok(count);
        }
        let (message, rest) = body.split_at_checked(length).context("a message is cut off")?;
        let message = arrow_ipc::root_as_message(message).map_err(|error| anyhow::anyhow!("no message: {error}"))?;
        body = rest.get(usize::try_from(message.bodyLength())?..).context("rows are cut off")?;
        let Some(rows) = message.header_as_record_batch() else { continue };
        // The last column's last buffer has its texts.
        let values = rows.buffers().and_then(|buffers| buffers.iter().next_back());
        let values = values.context("rows have no values")?.length();
        anyhow::ensure!(values == (bytes as i64) * rows.length(), "values of another length came");
        count += usize::try_from(rows.length())?;
    }
}

/// What of an answer's head counts here.
struct Head {
    status: usize,
    length: usize,
    next: Option<String>,
}

impl Head {
    fn parse(head: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(head)?;
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no answer of HTTP")?;
        let mut parsed = Self { status: number(status.as_bytes())?, length: 0, next: None };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => parsed.length = number(value.as_bytes())?,
                "littoral-next" => parsed.next = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// How many records the next answer says are stored.
fn acknowledgements(received: &mut BytesMut) -> anyhow::Result<usize> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(0) };
    let head = Head::parse(received.get(..end).unwrap_or_default())?;
    let Some(body) = received.get(end + 4..end + 4 + head.length) else { return Ok(0) };
    anyhow::ensure!(
        head.status == 200,
        "a publication was answered {}: {}",
        head.status,
        String::from_utf8_lossy(body)
    );
    let published: serde_json::Value = serde_json::from_slice(body)?;
    let stored = published.get("stored").and_then(serde_json::Value::as_u64).context("no number was answered")?;
    received.advance(end + 4 + head.length);
    Ok(stored.try_into()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted() {
        let values: arrow_array::ArrayRef = std::sync::Arc::new(arrow_array::StringArray::from(vec!["four", "more"]));
        let rows = arrow_array::RecordBatch::try_from_iter([("key", values.clone()), ("value", values)]).unwrap();
        let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), rows.schema_ref()).unwrap();
        writer.write(&rows).unwrap();
        writer.write(&rows).unwrap();
        let body = writer.into_inner().unwrap();
        assert_eq!(count(&body, 4).unwrap(), 4);
        assert!(count(&body, 5).is_err());
        assert!(count(body.get(..body.len() - 20).unwrap(), 4).is_err());
    }

    #[test]
    fn answers_are_counted_however_they_come() {
        let stored = b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"stored\":16,\"repeated\":0}\n";
        assert_eq!(super::super::tests::in_pieces(stored, acknowledgements).unwrap(), 16);
        let refused = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}";
        assert!(super::super::tests::in_pieces(refused, acknowledgements).is_err());
    }
}
