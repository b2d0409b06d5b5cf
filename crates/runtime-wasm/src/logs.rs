//! What guests write to standard output and standard error, as lines, bounded.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longer lines are cut: a log is read by people.
const LINE_BYTES_MAX: usize = 4096;
/// An instance may write at once as many lines as in this time, so that what it says when it starts is not lost.
const BURST: Duration = Duration::from_secs(10);
/// How much a guest may hand over in one write.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Which of its two outputs a guest wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what guests write.
pub trait LogSink: Send + Sync {
    /// Takes a line of at most 4,096 bytes, without its end. Must not block: a guest waits for it.
    fn line(&self, stream: LogStream, text: &str);
}

/// Forgets every line.
#[derive(Debug, Clone, Copy)]
pub struct Discard;

impl LogSink for Discard {
    fn line(&self, _stream: LogStream, _text: &str) {}
}

/// One of a guest's outputs.
#[derive(Clone)]
pub struct GuestOutput(Arc<Mutex<Lines>>);

struct Lines {
    sink: Arc<dyn LogSink>,
    stream: LogStream,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// How many lines a second its function may write for ever.
    lines_per_second: u32,
    allowance: Arc<Allowance>,
    dropped: u64,
    /// The last line, which often says why a guest gave up.
    last: Option<String>,
}

/// How many lines the instances of a function may write now, all of them together; grows with time up to the burst.
#[derive(Debug, Default)]
pub(crate) struct Allowance(Mutex<Option<(Instant, f64)>>);

impl Allowance {
    /// Whether another line may be written.
    fn take(&self, lines_per_second: u32) -> bool {
        let (now, burst) = (Instant::now(), f64::from(lines_per_second) * BURST.as_secs_f64());
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (counted, lines) = left.unwrap_or((now, burst));
        let gained = now.saturating_duration_since(counted).as_secs_f64() * f64::from(lines_per_second);
        let lines = (lines + gained).min(burst);
        let is_allowed = lines >= 1.0;
        *left = Some((now, if is_allowed { lines - 1.0 } else { lines }));
        is_allowed
    }
}

impl GuestOutput {
    /// Lines go to `sink`, at most so many a second for ever, with an allowance of its own.
    #[must_use]
    pub fn alone(sink: Arc<dyn LogSink>, stream: LogStream, lines_per_second: u32) -> Self {
        Self::new(sink, stream, lines_per_second, Arc::default())
    }

    pub(crate) fn new(
        sink: Arc<dyn LogSink>,
        stream: LogStream,
        lines_per_second: u32,
        allowance: Arc<Allowance>,
    ) -> Self {
        Self(Arc::new(Mutex::new(Lines {
            sink,
            stream,
            line: Vec::new(),
            lines_per_second,
            allowance,
            dropped: 0,
            last: None,
        })))
    }

    /// Forgets the last line: a new call begins.
    pub(crate) fn begin(&self) {
        self.lines(|lines| lines.last = None);
    }

    /// The last line that was written, even if it has not ended.
    pub fn last_words(&self) -> Option<String> {
        self.lines(|lines| {
            lines.end_line();
            lines.last.clone()
        })
    }

    /// Hands on a line that has not ended, and says how many were dropped.
    pub fn flush(&self) {
        self.lines(|lines| {
            lines.end_line();
            let dropped = std::mem::take(&mut lines.dropped);
            if dropped > 0 {
                let rate = lines.lines_per_second;
                let text = format!(
                    "({dropped} lines were dropped: it may write {rate} a second; raise `limits.log-rate` in the \
                     manifest if it needs more)"
                );
                lines.sink.line(lines.stream, &text);
            }
        });
    }

    /// Adds a line of the host's own, about something that the guest did.
    pub fn host_line(&self, text: &str) {
        self.lines(|lines| {
            lines.end_line();
            lines.extend(text.as_bytes());
            lines.end_line();
        });
    }

    /// Takes what was written: a line, several, or parts of them.
    pub fn take(&self, bytes: &[u8]) {
        self.lines(|lines| {
            let mut parts = bytes.split(|byte| *byte == b'\n');
            if let Some(first) = parts.next() {
                lines.extend(first);
            }
            for part in parts {
                lines.end_line();
                lines.extend(part);
            }
        });
    }

    fn lines<R>(&self, act: impl FnOnce(&mut Lines) -> R) -> R {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for GuestOutput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestOutput").finish_non_exhaustive()
    }
}

impl Lines {
    fn extend(&mut self, bytes: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
    }

    fn end_line(&mut self) {
        if self.line.is_empty() {
            return;
        }
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = text.get(..text.floor_char_boundary(LINE_BYTES_MAX)).unwrap_or_default();
        if self.allowance.take(self.lines_per_second) {
            self.sink.line(self.stream, text);
        } else {
            self.dropped += 1;
        }
        if self.stream == LogStream::Stderr {
            // Rust's advice on backtraces follows each panic and explains nothing here.
            if !text.starts_with("note: ") {
                self.last = Some(text.to_owned());
            }
        }
    }
}

impl IsTerminal for GuestOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);
    impl LogSink for Kept {
        fn line(&self, _stream: LogStream, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }

    #[test]
    fn lines_are_put_together_and_cut() {
        let kept = Arc::new(Kept::default());
        let output = GuestOutput::new(kept.clone(), LogStream::Stderr, 100, Arc::default());
        output.take(b"one\ntw");
        output.take(b"o\n\nthree");
        output.take(&vec![b'x'; 3 * LINE_BYTES_MAX]);
        assert_eq!(output.last_words().unwrap().len(), LINE_BYTES_MAX);
        let lines = kept.0.lock().unwrap();
        assert_eq!(lines[..2], ["one", "two"]);
        assert!(lines[2].starts_with("threexxx"));
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let kept = Arc::new(Kept::default());
        let output = GuestOutput::new(kept.clone(), LogStream::Stdout, 100, Arc::default());
        for _ in 0..50_000 {
            output.take(b"again\n");
        }
        output.flush();
        let lines = kept.0.lock().unwrap();
        assert!(lines.len() < 25_000, "{}", lines.len());
        let last = lines.last().unwrap();
        assert!(last.contains("lines were dropped: it may write 100 a second; raise `limits.log-rate`"), "{last}");
    }
}
