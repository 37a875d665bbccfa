//! `Idempotency-Key`: a request that may be sent again until its answer has come. What was done under a
//! key is done once, whoever repeats it, at the same time or after a crash; an answer is given again for
//! a day. An answer that a handler marks `no-store` shows a secret: it is never kept, and who asks
//! again is told what was done instead.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, to_bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use tracing::Instrument;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{ApiState, caller::Caller, extract::read, prefer::Prefer, problem::Refusal};
use crate::{
    authority::Authority,
    error::{Error, Result},
    model::view::CredentialView,
    store::idempotency::{Claim, Done, Keyed, Operation},
};

/// The header's name.
pub(super) const HEADER: &str = "Idempotency-Key";

/// Says that an answer is that of an earlier request.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The longest key, characters.
const MAX_KEY: usize = 255;

/// The largest answer that is kept, bytes; of a larger one is told what was done.
const MAX_KEPT: usize = 256 << 10;

/// How long who carries out a request may take, beyond what the caller wants to wait. Longer than any
/// request may.
const LEASE: Duration = Duration::from_secs(45);

/// How long a repeated request waits for the one that is being carried out.
const PATIENCE: Duration = Duration::from_secs(20);

/// Headers of an answer that are kept with it.
const KEPT: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::LOCATION, header::ETAG, HeaderName::from_static("preference-applied")];

/// What was done under an idempotency key, when the answer itself cannot be given again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repeated {
    /// Why this is not the first answer, and what to do.
    pub detail: String,
    /// The credentials that were issued. Their secrets were in the first answer only.
    pub credentials: Vec<CredentialView>,
    /// Everything that was done, in its order.
    pub done: Vec<DoneView>,
}

/// One thing that was done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoneView {
    /// What, as in the audit log.
    #[schema(example = "credential.issue")]
    pub action: String,
    /// On what.
    pub target: String,
}

/// An answer as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

/// Carries out a request once, however often it is sent with the same key.
pub(super) async fn once(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, Refusal> {
    if request.method() != Method::POST || !request.headers().contains_key(HEADER) {
        return Ok(next.run(request).await);
    }
    // Also of what is only tried: what is refused later is better refused in the trial.
    let key = key(request.headers())?;
    // Trying changes nothing, and is done anew each time.
    if super::asked::dry_run(request.uri()).unwrap_or(true) {
        return Ok(next.run(request).await);
    }
    let (mut parts, body) = request.into_parts();
    let bytes = read(body).await?;
    let keyed = Keyed { caller: caller(&mut parts)?.actor.identity(), key, fingerprint: fingerprint(&parts, &bytes) };
    let operation = match claim(&state.authority, &keyed, Prefer::of(&parts.headers).wait()).await? {
        Claim::Begin(operation) => {
            caller(&mut parts)?.actor.operation = Some(operation);
            operation
        }
        Claim::Answered(answer) => return replay(answer),
        // What was done needs no second time, and what says so is the same request: it changes nothing now.
        Claim::CarriedOut(operation) if says_the_same(&parts) => operation,
        Claim::CarriedOut(operation) => return told(&state.authority, operation).await,
        Claim::Other => {
            let detail = "this idempotency key was used for another request; use a new key for a new request";
            return Err(Error::conflict("idempotency-key-reused", detail).into());
        }
        Claim::Running => {
            let detail = "a request with this idempotency key is still being carried out; send it again later";
            return Err(Error::conflict("idempotency-key-in-use", detail).into());
        }
    };
    let request = Request::from_parts(parts, Body::from(bytes));
    let authority = Arc::clone(&state.authority);
    // A caller that goes away must not stop what it asked for halfway: the answer is for its next try, which comes
    // before the claim has run out.
    let keeper = Arc::clone(&authority);
    let carry_out = async move { keep(&keeper, operation, next.run(request).await).await };
    match tokio::spawn(carry_out.in_current_span()).await {
        Ok(response) => Ok(response),
        Err(error) => {
            end(&authority, operation).await;
            Err(Error::internal(format!("a handler ended: {error}")).into())
        }
    }
}

fn key(headers: &HeaderMap) -> Result<String> {
    let mut values = headers.get_all(HEADER).iter();
    let key = values.next().and_then(|value| value.to_str().ok()).filter(|_| values.next().is_none());
    key.filter(|key| (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()))
        .map(str::to_owned)
        .ok_or_else(|| {
            let detail = "an idempotency key is one value of 1 to 255 visible ASCII characters, such as a UUID";
            Error::field("invalid-idempotency-key", HEADER, detail)
        })
}

fn caller(parts: &mut Parts) -> Result<&mut Caller> {
    let outside = || Error::internal("a route that keeps answers lies outside of authentication");
    parts.extensions.get_mut::<Caller>().ok_or_else(outside)
}

fn fingerprint(parts: &Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let place = parts.uri.path_and_query().map_or("/", |place| place.as_str());
    for part in [parts.method.as_str().as_bytes(), place.as_bytes(), body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// Claims the key; waits for who is at it.
async fn claim(authority: &Authority, keyed: &Keyed, wait: Duration) -> Result<Claim> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        let now = authority.now();
        let lease = TimeDelta::from_std(LEASE + wait).unwrap_or_default();
        match authority.store().claim_key(keyed, authority.id(), now, now + lease).await? {
            Claim::Running if began.elapsed() < PATIENCE + wait => {}
            claim => return Ok(claim),
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

/// Requests that find what they would make, or make what is so already.
fn says_the_same(parts: &Parts) -> bool {
    let route = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
    ["/orgs", "/suspend", "/resume", "/revoke", "/reconcile"].iter().any(|end| route.ends_with(end))
}

/// Keeps the answer of a request that was carried out, and gives the key of one back that was not.
async fn keep(authority: &Authority, operation: Operation, response: Response) -> Response {
    if !response.status().is_success() {
        end(authority, operation).await;
        return response;
    }
    let shows_secret = response.headers().contains_key(header::CACHE_CONTROL);
    let length = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if shows_secret || length.is_some_and(|length: usize| length > MAX_KEPT) {
        end(authority, operation).await;
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = match to_bytes(body, usize::MAX).await {
        Ok(bytes) => bytes,
        Err(error) => {
            end(authority, operation).await;
            return Refusal::from(Error::internal("an answer broke off").with_source(error)).into_response();
        }
    };
    let kept = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= MAX_KEPT).map(|text| {
        let header = |name: &HeaderName| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some((name.to_string(), value.to_owned()))
        };
        let headers = KEPT.iter().filter_map(header).collect();
        json!(Kept { status: parts.status.as_u16(), headers, body: text.to_owned() })
    });
    let done = authority.store().answer_key(operation, kept.as_ref(), authority.now()).await;
    if let Err(error) = done {
        // The claim runs out by itself, and what was carried out is told then.
        tracing::warn!(%error, cause = error.internal_report(), "an answer could not be kept");
    }
    Response::from_parts(parts, Body::from(bytes))
}

async fn end(authority: &Authority, operation: Operation) {
    if let Err(error) = authority.store().release_key(operation, authority.now()).await {
        tracing::warn!(%error, cause = error.internal_report(), "an idempotency key could not be given back");
    }
}

fn replay(answer: serde_json::Value) -> Result<Response, Refusal> {
    let unreadable = || Error::internal("a kept answer cannot be read");
    let kept: Kept = serde_json::from_value(answer).map_err(|error| unreadable().with_source(error))?;
    let mut response = Body::from(kept.body).into_response();
    *response.status_mut() = StatusCode::from_u16(kept.status).map_err(|_| unreadable())?;
    for (name, value) in kept.headers {
        let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) else {
            return Err(unreadable().into());
        };
        response.headers_mut().insert(name, value);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Tells from the ledger what was done.
async fn told(authority: &Authority, operation: Operation) -> Result<Response, Refusal> {
    let done = authority.store().done_under(operation).await?;
    let mut credentials = Vec::new();
    for id in done.iter().filter_map(issued) {
        credentials.push(authority.credential(id).await?);
    }
    let body = Repeated {
        detail: if credentials.is_empty() {
            "this was done before; its answer is not kept, since it was lost or showed a secret".to_owned()
        } else {
            "issued before, and shown then; the secret is not kept: revoke or rotate the credential if it was lost"
                .to_owned()
        },
        credentials,
        done: done.into_iter().map(|done| DoneView { action: done.action, target: done.target }).collect(),
    };
    Ok(([(REPLAYED, HeaderValue::from_static("true"))], Json(body)).into_response())
}

/// The credential that an event issued.
fn issued(done: &Done) -> Option<Uuid> {
    match done.action.as_str() {
        "credential.issue" => Uuid::try_parse(&done.target).ok(),
        "credential.rotate" => Uuid::try_parse(done.detail.get("replacedBy")?.as_str()?).ok(),
        _ => None,
    }
}
