//! Who asks: the bearer token of a request, ours looked up by its hash, others' checked by `identity`; without
//! one the client certificate of its connection. Every
//! route below `/api/v1` lies behind [`authenticate`]; which callers may do what is decided in `door`, behind it.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use axum_server::tls::TlsInfo;
use lru::LruCache;
use tokio::time::Instant;
use uuid::Uuid;

use super::{ApiState, problem::Refusal, request::RequestId};
use crate::{
    authority::{Actor, Authority, bundle::token_hash},
    error::{Error, Result},
    identity::{Doubt, Identity, token::MAX_TOKEN},
    policy::access::Standing,
    store::tokens::Bearer,
};

/// How long a token that was found is believed without asking the ledger again, if it holds in the whole
/// deployment: as long a revoked one lives on.
const BELIEVED: Duration = Duration::from_secs(5);

/// How many tokens are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// When a token is refused, at the earliest, from when it came: how long that takes does not show why.
const REFUSED_AFTER: Duration = Duration::from_millis(10);

const MISSING: &str = r#"Bearer realm="nats-authority""#;
const INVALID: &str = r#"Bearer realm="nats-authority", error="invalid_token""#;

/// What is answered to those that are not believed: the challenge, and the words.
const TOKEN: (&str, &str) =
    (INVALID, "the token is unknown, revoked, expired, or not for this service; get a valid one");
const CERTIFICATE: (&str, &str) =
    (MISSING, "the client certificate names no caller of this service; get a valid one, or send a token");

/// An authenticated caller, for handlers whose change can neither be tried nor carry a condition.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What the audit log says of it.
    pub actor: Actor,
    /// What it is, and where.
    pub standing: Arc<Standing>,
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        super::asked::refuse_conditions(parts)?;
        Ok(Self::of(parts)?)
    }
}

impl Caller {
    /// The caller that [`authenticate`] has found.
    pub(super) fn of(parts: &Parts) -> Result<Self> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Error::internal("a route that needs a caller lies outside of authentication"))
    }
}

/// Lets only authenticated callers pass.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    request_id: RequestId,
    mut request: Request,
    next: Next,
) -> Result<Response, Refusal> {
    let came = Instant::now();
    // Whoever shows a token wants to be its bearer, whatever the connection shows beside it.
    let shown = Some(request.extensions()).filter(|_| !request.headers().contains_key(header::AUTHORIZATION));
    let (found, refusal) = match shown.and_then(certificate) {
        Some(certificate) => {
            (state.certificates.identify(certificate, state.authority.now()).map(Known::from), CERTIFICATE)
        }
        None => (who(&state, bearer_token(request.headers())?).await?, TOKEN),
    };
    let Known { subject, issuer, standing } = match found {
        Ok(known) => known,
        Err(doubt) => return Err(refused(doubt, refusal, came).await),
    };
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.ip().to_string());
    let roles = standing.roles();
    let actor = Actor { request_id: Some(request_id.to_string()), issuer, address, ..Actor::caller(subject, roles) };
    request.extensions_mut().insert(Caller { actor, standing: Arc::new(standing) });
    Ok(next.run(request).await)
}

/// Somebody who is believed.
struct Known {
    subject: String,
    issuer: Option<String>,
    standing: Standing,
}

impl From<Identity> for Known {
    fn from(Identity { subject, issuer, standing }: Identity) -> Self {
        Self { subject, issuer: Some(issuer), standing }
    }
}

/// The certificate that the client has shown in the handshake, DER.
fn certificate(connection: &Extensions) -> Option<&[u8]> {
    connection.get::<Arc<TlsInfo>>()?.peer_certificates.first().map(Vec::as_slice)
}

/// The bearer of a token: one of ours, or an issuer's, which alone has points in it.
async fn who(state: &ApiState, token: &str) -> Result<Result<Known, Doubt>> {
    let now = state.authority.now();
    if token.len() > MAX_TOKEN {
        return Ok(Err(Doubt::TooLong));
    }
    if token.contains('.') {
        return Ok(state.issuers.identify(token, now).await.map(Known::from));
    }
    let bearer = state.callers.bearer(&state.authority, token).await?;
    let bearer = bearer
        .filter(|bearer| bearer.expires_at.is_none_or(|end| end > now))
        .filter(|bearer| state.break_glass || !bearer.break_glass);
    let Some(bearer) = bearer else { return Ok(Err(Doubt::Unknown)) };
    let mut standing = Standing::default();
    standing.add(bearer.role, bearer.organizations.iter().cloned());
    Ok(Ok(Known { subject: format!("token:{}", bearer.name), issuer: None, standing }))
}

/// The one answer to every token, and to every certificate, that is not believed.
async fn refused(doubt: Doubt, (challenge, detail): (&'static str, &str), came: Instant) -> Refusal {
    metrics::counter!("nats_authority_callers_refused_total", "reason" => doubt.as_str()).increment(1);
    tokio::time::sleep_until(came + REFUSED_AFTER).await;
    Refusal::unauthenticated(challenge, detail, doubt.as_str())
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let missing = |detail| Refusal::unauthenticated(MISSING, detail, "no token");
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing("the request carries no token, or several; send one header 'Authorization: Bearer …'"));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token
        .filter(|token| !token.is_empty())
        .ok_or_else(|| missing("the header 'Authorization' is not 'Bearer' and a token"))
}

/// Tokens that were found lately. Unknown ones are never remembered, and nothing here makes a token
/// valid that the ledger has not called valid within the last seconds.
pub(super) struct Callers {
    found: Mutex<Found>,
}

/// By the token's hash: its bearer, and since when that is known.
type Found = LruCache<[u8; 32], (Arc<Bearer>, Instant)>;

impl Default for Callers {
    fn default() -> Self {
        Self { found: Mutex::new(LruCache::new(REMEMBERED)) }
    }
}

impl Callers {
    async fn bearer(&self, authority: &Authority, token: &str) -> Result<Option<Arc<Bearer>>> {
        let hash = token_hash(token);
        if let Some((bearer, since)) = self.lock().get(&hash)
            && since.elapsed() < BELIEVED
        {
            return Ok(Some(Arc::clone(bearer)));
        }
        // Measured from before the look: a revocation during it is not believed away for longer.
        let since = Instant::now();
        let bearer = authority.store().bearer(&hash, authority.now()).await?.map(Arc::new);
        match &bearer {
            // Who holds in organizations is known by their names. A freed name may be another one's within
            // the second, onboarded by another replica: so the ledger is asked each time.
            Some(bearer) if bearer.organizations.is_empty() => drop(self.lock().put(hash, (Arc::clone(bearer), since))),
            _ => drop(self.lock().pop(&hash)),
        }
        Ok(bearer)
    }

    /// Believes this token no longer; other processes do for [`BELIEVED`].
    pub(super) fn forget(&self, id: Uuid) {
        let mut found = self.lock();
        let hashes: Vec<_> = found.iter().filter(|(_, (bearer, _))| bearer.id == id).map(|(hash, _)| *hash).collect();
        for hash in hashes {
            found.pop(&hash);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
