//! What surrounds every request: its id, its span, its figures, its time limit, the headers of every
//! answer, and the place where problems are written. Neither headers nor bodies nor queries are
//! logged: there may be secrets in them.

use std::{any::Any, convert::Infallible, fmt, time::Duration};

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::{Instant, timeout};
use tracing::Instrument;

use super::{
    ApiState, misplaced,
    prefer::Prefer,
    problem::{Refusal, render},
};
use crate::error::Error;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over, characters.
const MAX_ID: usize = 128;

/// How long an answer may take, beyond what the caller wants to wait.
const LIMIT: Duration = Duration::from_secs(30);

/// The id of a request: the caller's, if it is sane, else a new one.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

impl RequestId {
    fn taken_over(headers: &HeaderMap) -> Option<Self> {
        let id = headers.get(X_REQUEST_ID)?;
        let sane = (1..=MAX_ID).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
            && !misplaced::holds_secret(id.as_bytes());
        sane.then(|| Self(id.clone()))
    }

    fn new(id: uuid::Uuid) -> Self {
        Self(HeaderValue::from_str(&id.to_string()).unwrap_or(HeaderValue::from_static("-")))
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self(HeaderValue::from_static("-"))))
    }
}

/// The outermost layer.
pub(super) async fn surround(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::taken_over(request.headers()).unwrap_or_else(|| RequestId::new(state.authority.id()));
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!("request", %method, route, request_id = %id);
    let limit = LIMIT + Prefer::of(request.headers()).wait();
    async {
        let answer = async {
            match misplaced::require_none_in(&request) {
                Ok(()) => next.run(request).await,
                Err(refusal) => refusal.into_response(),
            }
        };
        let response = timeout(limit, answer).await.unwrap_or_else(|_| {
            let error =
                Error::unavailable("timeout", "the answer took too long; look at what is the case and try again");
            Refusal::from(error).into_response()
        });
        let mut response = render(response, &id.to_string());
        let headers = response.headers_mut();
        headers.insert(X_REQUEST_ID, id.0.clone());
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let (status, took) = (response.status().as_u16(), started.elapsed());
        count(method.as_str(), &route, status, took);
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // Probes come every few seconds and say nothing new.
        if matches!(route.as_str(), "/healthz" | "/readyz") {
            tracing::debug!(status, milliseconds, "answered");
        } else {
            tracing::info!(status, milliseconds, "answered");
        }
        response
    }
    .instrument(span)
    .await
}

fn count(method: &str, route: &str, status: u16, took: Duration) {
    let method = match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method.to_owned(),
        // Whatever a caller writes there would be a new time series.
        _ => "other".to_owned(),
    };
    let labels = [("method", method), ("route", route.to_owned()), ("status", status.to_string())];
    metrics::counter!("nats_authority_http_requests_total", &labels).increment(1);
    metrics::histogram!("nats_authority_http_request_duration_seconds", &labels[..2]).record(took.as_secs_f64());
}

/// The answer when a handler panicked.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Refusal::from(Error::internal(format!("a handler panicked: {}", words.unwrap_or("no words")))).into_response()
}

/// The answer to a path that is no route.
pub(super) async fn no_route() -> Refusal {
    Error::not_found("no-route", "there is nothing at this path; GET /openapi.json says what is where").into()
}

/// The answer to a method that a route does not have; the header `Allow` names those that it has.
pub(super) fn no_method() -> Refusal {
    Refusal::http(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "this path does not know the method; the header 'Allow' names those that it knows",
    )
}
