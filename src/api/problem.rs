//! Problems: the only place that knows which kind of error is which HTTP status, and the only one
//! that logs refusals. Handlers return [`Refusal`]s; `request` renders them, because only there the
//! request's id is known.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{Error, Kind};

/// The media type of problems (RFC 9457).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// How long a caller should wait before it tries again, seconds.
const RETRY_AFTER: &str = "2";

/// A refused request (RFC 9457). `code` is stable; the texts are for people.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `urn:nats-authority:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:nats-authority:problem:invalid-ttl")]
    pub kind: String,
    /// The status in words.
    #[schema(example = "Unprocessable Entity")]
    pub title: String,
    /// The HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong and what to do.
    #[schema(example = "credentials of role 'projector' live at most 365d")]
    pub detail: String,
    /// Stable, kebab-case.
    #[schema(example = "invalid-ttl")]
    pub code: String,
    /// The request's id, also in the header `X-Request-ID` and in the log.
    #[schema(example = "0199c1d2-7a4e-7b1f-9c55-1d0f6f6d2a11")]
    pub request_id: String,
    /// The refused fields, if any single one carries the fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Field>,
}

/// A refused field.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Field {
    /// JSON pointer into the body, or the name of a path or query parameter.
    #[schema(example = "/ttl")]
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What a handler answers instead of a result.
#[derive(Debug)]
pub struct Refusal(Box<Refused>);

#[derive(Debug)]
struct Refused {
    status: StatusCode,
    error: Error,
    challenge: Option<&'static str>,
    retry_after: Option<u64>,
}

impl Refusal {
    /// What HTTP itself refuses, before anything of ours is asked: malformed JSON, a wrong method.
    pub fn http(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Refused {
            status,
            error: Error::new(Kind::Invalid, code, detail),
            challenge: None,
            retry_after: None,
        }))
    }

    /// A caller that cannot be believed; `challenge` is the `WWW-Authenticate` header, `why` goes to the log.
    pub fn unauthenticated(challenge: &'static str, detail: &str, why: &str) -> Self {
        let error = Error::new(Kind::Unauthenticated, "unauthenticated", detail).with_internal(why);
        Self(Box::new(Refused { status: status(error.kind()), error, challenge: Some(challenge), retry_after: None }))
    }
}

impl Refusal {
    /// The same, with when to try again, seconds from now.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self(Box::new(Refused { status: status(error.kind()), error, challenge: None, retry_after: None }))
    }
}

/// The status of a kind of error.
fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        Kind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Kind::Unauthenticated => StatusCode::UNAUTHORIZED,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Changed => StatusCode::PRECONDITION_FAILED,
        Kind::Busy => StatusCode::TOO_MANY_REQUESTS,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    /// An empty answer that carries the refusal to [`render`].
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        let headers = response.headers_mut();
        if let Some(challenge) = self.0.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if matches!(self.0.error.kind(), Kind::Unavailable | Kind::Busy) {
            let after = self.0.retry_after.map(HeaderValue::from);
            headers.insert(header::RETRY_AFTER, after.unwrap_or(HeaderValue::from_static(RETRY_AFTER)));
        }
        response.extensions_mut().insert(Arc::<Refused>::from(self.0));
        response
    }
}

/// Writes and logs the refusal that `response` carries, if it does.
pub(super) fn render(mut response: Response, request_id: &str) -> Response {
    let Some(refusal) = response.extensions_mut().remove::<Arc<Refused>>() else { return response };
    let Refused { status, error, .. } = refusal.as_ref();
    log(*status, error);
    let problem = Problem {
        kind: format!("urn:nats-authority:problem:{}", error.code()),
        title: status.canonical_reason().unwrap_or("Refused").to_owned(),
        status: status.as_u16(),
        detail: error.to_string(),
        code: error.code().to_owned(),
        request_id: request_id.to_owned(),
        errors: error
            .fields()
            .iter()
            .map(|field| Field { pointer: field.pointer.clone(), detail: field.detail.clone() })
            .collect(),
    };
    let text = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(text);
    response
}

fn log(status: StatusCode, error: &Error) {
    let fields: Vec<_> = error.fields().iter().map(|field| field.pointer.as_str()).collect();
    if status.is_server_error() {
        tracing::error!(code = error.code(), cause = error.internal_report(), "{error}");
    } else {
        tracing::info!(code = error.code(), ?fields, cause = error.internal_report(), "refused: {error}");
    }
}
