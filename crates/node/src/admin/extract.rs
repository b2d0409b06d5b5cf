//! Extractors whose refusals are [`AdminError`]s, so that every error of the API has the same shape.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::AdminError;

/// The parameters in the path.
pub(super) struct PathOf<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        Path::from_request_parts(parts, state)
            .await
            .map(|Path(value)| Self(value))
            .map_err(|rejection| AdminError::invalid(rejection.body_text()))
    }
}

/// The parameters in the query.
pub(super) struct QueryOf<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AdminError> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(value)| Self(value))
            .map_err(|rejection| AdminError::invalid(rejection.body_text()))
    }
}

/// The whole body, bounded by the route's limit.
pub(super) struct RawBody(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        Bytes::from_request(request, state).await.map(Self).map_err(refuse_body)
    }
}

fn refuse_body(rejection: BytesRejection) -> AdminError {
    let error = AdminError::invalid(rejection.body_text());
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        error.hint("artefacts may have 64 MiB, all else 8 MiB: send less at once")
    } else {
        error
    }
}

/// A JSON body. The content type is not looked at: there is nothing else that it could be.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let RawBody(body) = RawBody::from_request(request, state).await?;
        serde_json::from_slice(&body)
            .map(Self)
            .map_err(|error| AdminError::invalid(format!("the body is not as /openapi.json says: {error}")))
    }
}
