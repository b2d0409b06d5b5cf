//! `wasi:config`: what the manifest sets; and `wasi:logging`: lines of the function's log.

use super::bindings::proposals::wasi::config::store as config;
use super::bindings::proposals::wasi::logging::logging;
use crate::host::Host;

/// How many lines of one message are logged, and how much of a line and of its context: a log is read by people, and a
/// guest must not keep the host busy.
const LINES_MAX: usize = 100;
const LINE_BYTES_MAX: usize = 4_000;
const CONTEXT_BYTES_MAX: usize = 80;

impl config::Host for Host {
    fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        let config = &self.surroundings().config;
        let found = config.iter().find(|(known, _)| *known == key);
        Ok(Ok(found.map(|(_, value)| value.clone())))
    }

    fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.surroundings().config.clone()))
    }
}

impl logging::Host for Host {
    fn log(&mut self, level: logging::Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            logging::Level::Trace => "TRACE",
            logging::Level::Debug => "DEBUG",
            logging::Level::Info => "INFO",
            logging::Level::Warn => "WARN",
            logging::Level::Error => "ERROR",
            logging::Level::Critical => "CRITICAL",
        };
        let context = cut(&context, CONTEXT_BYTES_MAX).replace(['\r', '\n'], " ");
        let context = if context.is_empty() { context } else { format!(" {context}:") };
        for line in message.lines().take(LINES_MAX) {
            self.report(&format!("{level}{context} {}", cut(line, LINE_BYTES_MAX)));
        }
        Ok(())
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}
