//! Who asks: the bearer token of a request, looked up by its hash. Every route below `/api/v1` lies
//! behind [`authenticate`]; which callers may do what is decided in `door`, behind it.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::Response,
};
use lru::LruCache;
use tokio::time::Instant;
use uuid::Uuid;

use super::{ApiState, problem::Refusal, request::RequestId};
use crate::{
    authority::{Actor, Authority, bundle::token_hash},
    error::{Error, Result},
    policy::access::Standing,
    store::tokens::Bearer,
};

/// How long a token that was found is believed without asking the ledger again: as long a revoked
/// one lives on.
const BELIEVED: Duration = Duration::from_secs(5);

/// How many tokens are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4095);

/// The longest token that is looked at, bytes.
const MAX_TOKEN: usize = 8192;

const MISSING: &str = r#"Bearer realm="nats-authority""#;
const INVALID: &str = r#"Bearer realm="nats-authority", error="invalid_token""#;

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
    let token = bearer_token(request.headers())?;
    let now = state.authority.now();
    let bearer = state.callers.bearer(&state.authority, token).await?;
    let bearer = bearer
        .filter(|bearer| bearer.expires_at.is_none_or(|end| end > now))
        .filter(|bearer| state.break_glass || !bearer.break_glass);
    let bearer = bearer.ok_or_else(|| {
        Refusal::unauthenticated(INVALID, "the token is unknown, revoked or expired; get a valid one")
    })?;
    let mut standing = Standing::default();
    standing.add(bearer.role, bearer.organizations.iter().cloned());
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.ip().to_string());
    let actor = Actor {
        request_id: Some(request_id.to_string()),
        address,
        ..Actor::caller(format!("token:{}", bearer.name), standing.roles())
    };
    request.extensions_mut().insert(Caller { actor, standing: Arc::new(standing) });
    Ok(next.run(request).await)
}

fn bearer_token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        let detail = "the request carries no token, or several; send one header 'Authorization: Bearer …'";
        return Err(Refusal::unauthenticated(MISSING, detail));
    };
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    token
        .filter(|token| (1..=MAX_TOKEN).contains(&token.len()))
        .ok_or_else(|| Refusal::unauthenticated(MISSING, "the header 'Authorization' is not 'Bearer' and a token"))
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
            Some(bearer) => drop(self.lock().put(hash, (Arc::clone(bearer), since))),
            None => drop(self.lock().pop(&hash)),
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
