//! How much of the service one caller, one organization and all together may take. What lies beyond is
//! refused at once and says when to come again: a queue without an end would only make everybody wait
//! for answers that nobody waits for any more. Probes are not limited here.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::{Method, header},
    middleware::Next,
    response::Response,
};
use governor::{
    DefaultKeyedRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ApiState, caller::Caller, prefer::Prefer, problem::Refusal};
use crate::error::{Error, Kind, Result};

/// What the deployer allows.
#[derive(Clone, Copy, Debug)]
pub struct LimitSettings {
    /// Requests a second of one caller; none: no limit.
    pub caller_rate: Option<NonZeroU32>,
    /// Requests a second about one organization; none: no limit.
    pub organization_rate: Option<NonZeroU32>,
    /// How many requests are worked on at a time, half of them for one caller; a large one counts as several.
    pub concurrent: usize,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { caller_rate: NonZeroU32::new(2000), organization_rate: NonZeroU32::new(1000), concurrent: 256 }
    }
}

/// How many requests may wait for each that is worked on.
const QUEUE: usize = 4;

/// How long a request waits before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many callers or organizations are remembered before those are forgotten that ask for little.
const REMEMBERED: usize = 10_000;

/// A body of so many bytes counts as one request more.
const BODY_SHARE: usize = 64 << 10;

/// What a batch counts as: its answer is many times larger than its body.
const BATCH: usize = 16;

type Rates = DefaultKeyedRateLimiter<String>;

/// The limits of one process.
pub(super) struct Limits {
    callers: Option<Rates>,
    at_once: AtOnce,
    organizations: Option<Rates>,
    working: Pool,
    /// Those that mostly wait for servers take no place from the others.
    waiting: Pool,
}

struct Pool {
    places: Arc<Semaphore>,
    size: usize,
    queued: AtomicUsize,
}

impl Limits {
    pub(super) fn new(settings: LimitSettings) -> Self {
        let rates = |rate: Option<NonZeroU32>| rate.map(|rate| RateLimiter::keyed(Quota::per_second(rate)));
        Self {
            callers: rates(settings.caller_rate),
            organizations: rates(settings.organization_rate),
            at_once: AtOnce { most: (settings.concurrent / 2).max(1), callers: Mutex::default() },
            working: Pool::new(settings.concurrent),
            waiting: Pool::new(settings.concurrent),
        }
    }
}

impl Pool {
    fn new(size: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(size)), size, queued: AtomicUsize::new(0) }
    }

    /// Takes `weight` places; refused when none comes free in time, or too many wait already.
    async fn enter(&self, weight: usize) -> Result<OwnedSemaphorePermit> {
        let places = u32::try_from(weight.min(self.size)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_many_owned(places) {
            return Ok(permit);
        }
        let _queued = Queued::join(&self.queued, self.size * QUEUE).ok_or_else(overloaded)?;
        match tokio::time::timeout(PATIENCE, Arc::clone(&self.places).acquire_many_owned(places)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(overloaded()),
        }
    }
}

/// How many requests of each caller are open. Who sends slowly holds its places long, and must not hold
/// everybody's.
struct AtOnce {
    most: usize,
    callers: Mutex<HashMap<String, usize>>,
}

impl AtOnce {
    fn enter(&self, caller: String) -> Option<Share<'_>> {
        let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let open = callers.entry(caller.clone()).or_default();
        if *open >= self.most {
            return None;
        }
        *open += 1;
        Some(Share { at_once: self, caller })
    }
}

/// A request of a caller, ended when dropped.
struct Share<'a> {
    at_once: &'a AtOnce,
    caller: String,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut callers = self.at_once.callers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = callers.get_mut(&self.caller) {
            *open -= 1;
            if *open == 0 {
                callers.remove(&self.caller);
            }
        }
    }
}

fn overloaded() -> Error {
    metrics::counter!("nats_authority_http_requests_shed_total").increment(1);
    Error::unavailable("overloaded", "there are more requests than can be answered now; nothing was changed, try again")
}

/// A place in the queue, given back when dropped.
struct Queued<'a>(&'a AtomicUsize);

impl<'a> Queued<'a> {
    fn join(queued: &'a AtomicUsize, most: usize) -> Option<Self> {
        if queued.fetch_add(1, Ordering::Relaxed) >= most {
            queued.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(queued))
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Before anything else is done for a request below the API's base: is there room for it?
pub(super) async fn admit(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, Refusal> {
    let waits = Prefer::of(request.headers()).wait() > Duration::ZERO;
    let pool = if waits { &state.limits.waiting } else { &state.limits.working };
    let _place = pool.enter(weight(&request)).await?;
    Ok(next.run(request).await)
}

/// How much of our memory and time it may take, in ordinary requests.
fn weight(request: &Request) -> usize {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return 1;
    }
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    // A body that does not say how long it is may have every length.
    let body = length.unwrap_or(if request.headers().contains_key(header::TRANSFER_ENCODING) {
        super::extract::MAX_BODY
    } else {
        0
    });
    let batch = if request.uri().path().ends_with("/batch") { BATCH } else { 0 };
    1 + batch + body.min(super::extract::MAX_BODY) / BODY_SHARE
}

/// Once the caller is known: has it, or the organization that it asks about, had its share?
pub(super) async fn ration(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, Refusal> {
    let limits = &state.limits;
    let caller = request.extensions().get::<Caller>().map(|caller| caller.actor.identity()).unwrap_or_default();
    if let Some(rates) = &limits.callers {
        check(rates, &caller, "you send")?;
    }
    let _share = limits.at_once.enter(caller).ok_or_else(|| {
        metrics::counter!("nats_authority_http_requests_rationed_total").increment(1);
        let detail =
            "you have more requests open than are allowed; nothing was changed, try again when others have ended";
        Refusal::from(Error::new(Kind::Busy, "too-many-at-once", detail)).retry_after(1)
    })?;
    if let (Some(rates), Some(org)) = (&limits.organizations, organization(request.uri().path())) {
        check(rates, &org.to_owned(), "there are, for this organization,")?;
    }
    Ok(next.run(request).await)
}

/// The organization that a path names.
fn organization(path: &str) -> Option<&str> {
    let org = path.strip_prefix("/orgs/")?.split('/').next()?;
    (!org.is_empty()).then_some(org)
}

fn check(rates: &Rates, key: &String, whose: &str) -> Result<(), Refusal> {
    if rates.len() > REMEMBERED {
        rates.retain_recent();
    }
    let Err(denied) = rates.check_key(key) else { return Ok(()) };
    let wait = denied.wait_time_from(DefaultClock::default().now()).as_secs() + 1;
    metrics::counter!("nats_authority_http_requests_rationed_total").increment(1);
    let detail = format!("{whose} more requests than are allowed; nothing was changed, try again in {wait} s");
    Err(Refusal::from(Error::new(Kind::Busy, "rate-limited", detail)).retry_after(wait))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(method: &str, path: &str, length: Option<usize>) -> Request {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(length) = length {
            request = request.header("content-length", length);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn what_takes_more_counts_more() {
        assert_eq!(weight(&request("GET", "/orgs", Some(1 << 20))), 1);
        assert_eq!(weight(&request("POST", "/orgs", Some(200))), 1);
        assert_eq!(weight(&request("POST", "/orgs", Some(1 << 20))), 17);
        assert_eq!(weight(&request("POST", "/orgs", Some(usize::MAX))), 17);
        assert_eq!(weight(&request("POST", "/orgs/acme/envs/prod/credentials/batch", Some(70_000))), 18);
        let chunked = Request::post("/orgs").header("transfer-encoding", "chunked").body(Body::empty()).unwrap();
        assert_eq!(weight(&chunked), 17);
    }

    #[test]
    fn organizations_are_read_off_the_path() {
        assert_eq!(organization("/orgs/acme/envs/prod"), Some("acme"));
        assert_eq!(organization("/orgs/acme"), Some("acme"));
        assert_eq!(organization("/orgs"), None);
        assert_eq!(organization("/credentials/x"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_is_refused_and_a_place_comes_free() {
        let pool = Pool::new(2);
        let first = pool.enter(1).await.unwrap();
        let second = pool.enter(1).await.unwrap();
        assert_eq!(pool.enter(1).await.unwrap_err().code(), "overloaded");
        let (third, ()) = tokio::join!(pool.enter(1), async { drop(first) });
        drop(third.unwrap());
        // More than there is counts as all there is.
        drop(second);
        drop(pool.enter(100).await.unwrap());
        assert_eq!(pool.queued.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn one_caller_has_half() {
        let at_once = AtOnce { most: 2, callers: Mutex::default() };
        let first = at_once.enter("a".to_owned()).unwrap();
        let second = at_once.enter("a".to_owned()).unwrap();
        assert!(at_once.enter("a".to_owned()).is_none() && at_once.enter("b".to_owned()).is_some());
        drop(first);
        assert!(at_once.enter("a".to_owned()).is_some());
        drop(second);
        assert!(at_once.callers.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_has_an_end() {
        let pool = Pool::new(1);
        let _place = pool.enter(1).await.unwrap();
        let began = tokio::time::Instant::now();
        let answers = futures::future::join_all((0..100).map(|_| async {
            let refused = pool.enter(1).await.is_err();
            (refused, began.elapsed())
        }))
        .await;
        assert!(answers.iter().all(|(refused, _)| *refused));
        assert_eq!(answers.iter().filter(|(_, after)| after.is_zero()).count(), 100 - QUEUE);
    }
}
