//! Errors of the admin API: few kinds, each telling what to do next.

use std::fmt;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of error it is; decides the HTTP status and what a program can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminErrorKind {
    /// The request is wrong; repeating it is of no use.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// It is understood and not allowed, or a constraint cannot be met.
    Refused,
    /// Not now: something needed cannot be reached. Try again.
    Unavailable,
    /// It contradicts a change made meanwhile.
    Conflict,
    /// A fault of the node.
    Internal,
}

/// Something in a manifest that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FindingReport {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Why something asked was not done, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
pub struct AdminError {
    /// What kind of error it is.
    pub kind: AdminErrorKind,
    /// What went wrong, in a sentence.
    pub message: String,
    /// What to do next, if that can be said.
    pub hint: Option<String>,
    /// What is wrong in the manifest, for an invalid one.
    #[serde(default)]
    pub findings: Vec<FindingReport>,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

impl AdminError {
    /// Makes an error without a hint.
    #[must_use]
    pub fn new(kind: AdminErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, findings: Vec::new() }
    }

    /// The request is wrong.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(AdminErrorKind::Invalid, message)
    }

    /// What it names does not exist.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(AdminErrorKind::NotFound, message)
    }

    /// Understood and not allowed.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(AdminErrorKind::Refused, message)
    }

    /// Not now.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(AdminErrorKind::Unavailable, message)
    }

    /// A fault of the node.
    #[must_use]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(AdminErrorKind::Internal, message)
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// How an [`AdminError`] travels: a problem document (RFC 9457) with `kind`, `hint` and `findings` added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Names the kind of error: `urn:littoral:problem:KIND`.
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The kind of error, in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, in a sentence.
    pub detail: String,
    /// What kind of error it is.
    pub kind: AdminErrorKind,
    /// What to do next, if that can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What is wrong in the manifest, for an invalid one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingReport>,
}

impl AdminErrorKind {
    fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Internal => "internal",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Invalid => "The request is wrong",
            Self::NotFound => "There is no such thing",
            Self::Refused => "Refused",
            Self::Unavailable => "Not available now",
            Self::Conflict => "Changed meanwhile",
            Self::Internal => "A fault of the node",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Conflict => StatusCode::CONFLICT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        Self {
            type_uri: format!("urn:littoral:problem:{}", error.kind.name()),
            title: error.kind.title().to_owned(),
            status: error.kind.status().as_u16(),
            detail: error.message,
            kind: error.kind,
            hint: error.hint,
            findings: error.findings,
        }
    }
}

impl From<Problem> for AdminError {
    fn from(problem: Problem) -> Self {
        Self { kind: problem.kind, message: problem.detail, hint: problem.hint, findings: problem.findings }
    }
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let problem = Problem::from(self);
        let status = problem.kind.status();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], axum::Json(problem)).into_response()
    }
}
