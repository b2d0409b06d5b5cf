//! How failures are told: what went wrong, what to do next, and the exit status.
//!
//! 0 is success, 1 a failure, 2 a wrong command line or an invalid manifest.

use std::fmt;
use std::process::ExitCode;

use littoral_node::admin::error::AdminError;

/// The exit status of a wrong command line or an invalid manifest.
pub(crate) const EXIT_USAGE: u8 = 2;

/// A command line that is well-formed and still wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    message: String,
    hint: Option<String>,
}

impl Usage {
    /// What is wrong.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// What to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// An invalid manifest: its findings, rendered already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidManifest {
    /// The findings, each pointing at its line.
    pub(crate) rendered: String,
}

impl fmt::Display for InvalidManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

impl std::error::Error for InvalidManifest {}

/// An error with what to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hinted {
    /// What went wrong.
    pub(crate) message: String,
    /// What to do next.
    pub(crate) hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// Fails with what went wrong and what to do next.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted { message: message.into(), hint: hint.into() }.into()
}

/// The text for standard error, and the exit status.
pub(crate) fn render(error: &anyhow::Error) -> (String, ExitCode) {
    if let Some(invalid) = error.downcast_ref::<InvalidManifest>() {
        return (format!("{}\n", invalid.rendered.trim_end()), ExitCode::from(EXIT_USAGE));
    }
    let mut status = ExitCode::FAILURE;
    let mut hint = None;
    let mut text = String::new();
    // An `AdminError` shows its hint itself; here it has a line of its own.
    let messages = error.chain().map(|cause| match cause.downcast_ref::<AdminError>() {
        Some(admin) => admin.message.clone(),
        None => cause.to_string(),
    });
    for (number, message) in messages.enumerate() {
        text.push_str(if number == 0 { "error: " } else { "  caused by: " });
        text.push_str(&message);
        text.push('\n');
    }
    for cause in error.chain() {
        if let Some(usage) = cause.downcast_ref::<Usage>() {
            status = ExitCode::from(EXIT_USAGE);
            hint = hint.or(usage.hint.clone());
        }
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            hint = hint.or(Some(hinted.hint.clone()));
        }
        if let Some(admin) = cause.downcast_ref::<AdminError>() {
            hint = hint.or(admin.hint.clone());
            if !admin.findings.is_empty() {
                status = ExitCode::from(EXIT_USAGE);
            }
            for finding in &admin.findings {
                text.push_str(&format!(
                    "  {}:{}:{}: {}\n",
                    finding.file, finding.line, finding.column, finding.message
                ));
            }
        }
    }
    if let Some(hint) = hint {
        text.push_str(&format!("help: {hint}\n"));
    }
    (text, status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use anyhow::Context as _;

    use super::*;

    fn text(error: &anyhow::Error) -> String {
        render(error).0
    }

    #[test]
    fn causes_and_the_hint_have_lines_of_their_own() {
        let admin = AdminError::unavailable("no node answers at /x").hint("start one");
        let error = Err::<(), _>(admin).context("cannot deploy").unwrap_err();
        assert_eq!(text(&error), "error: cannot deploy\n  caused by: no node answers at /x\nhelp: start one\n");
        assert_eq!(format!("{:?}", render(&error).1), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_wrong_command_line_is_status_2() {
        let error = anyhow::Error::from(Usage::new("there is no context `x`").hint("add it"));
        assert_eq!(text(&error), "error: there is no context `x`\nhelp: add it\n");
        assert_eq!(format!("{:?}", render(&error).1), format!("{:?}", ExitCode::from(EXIT_USAGE)));
    }

    #[test]
    fn findings_stand_alone() {
        let error = anyhow::Error::from(InvalidManifest { rendered: "error: x\n --> a:1:2\n\n".to_owned() });
        assert_eq!(text(&error), "error: x\n --> a:1:2\n");
    }
}
