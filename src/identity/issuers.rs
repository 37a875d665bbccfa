//! The keys of all issuers, kept at hand: fetched by a task beside the requests, now and then and when a token
//! names a key that is not there, and kept for a while when their issuer does not answer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use chrono::{DateTime, Utc};
use tokio::{
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{Doubt, Identity, fetch::Fetcher, keys::Key, settings::IssuerSettings, token::Unverified};
use crate::clock::Clock;

/// How often keys are fetched when nothing happens.
const REFRESH: Duration = Duration::from_mins(5);

/// How long after a failure they are tried again, doubling up to the last.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(1)];

/// How long after tokens have made us fetch keys others cannot: whoever invents keys costs the issuer no more.
const COOLDOWN: Duration = Duration::from_secs(10);

/// How long a request waits for keys, from the beginning of their fetch.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many requests wait for keys of one issuer.
const WAITING: usize = 16;

/// All issuers that are believed.
pub struct Issuers {
    all: Vec<Issuer>,
    clock: Arc<dyn Clock>,
}

struct Issuer {
    settings: IssuerSettings,
    known: ArcSwapOption<Known>,
    pace: Mutex<Pace>,
    wanted: Notify,
    /// Counts fetches that came to an end.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
}

struct Known {
    keys: Vec<Key>,
    at: DateTime<Utc>,
}

/// When keys were and may be fetched.
#[derive(Default)]
struct Pace {
    /// Since when a fetch is under way.
    since: Option<Instant>,
    /// When a token last made us fetch.
    asked: Option<Instant>,
}

impl Issuers {
    /// Issuers whose keys are not there yet.
    pub fn new(settings: Vec<IssuerSettings>, clock: Arc<dyn Clock>) -> Self {
        Self { all: settings.into_iter().map(Issuer::new).collect(), clock }
    }

    /// The bearer of a token. It may wait up to a second for keys that are being fetched.
    pub async fn identify(&self, token: &str, now: DateTime<Utc>) -> Result<Identity, Doubt> {
        let token = Unverified::read(token)?;
        let issuer = self.all.iter().find(|issuer| issuer.settings.issuer == token.issuer).ok_or(Doubt::Issuer)?;
        if !issuer.settings.algorithms.contains(&token.algorithm) {
            return Err(Doubt::Algorithm);
        }
        let known = issuer.known(now);
        if known.as_ref().is_some_and(|known| token.key(&known.keys).is_some()) {
            let keys = known.as_ref().map_or(&[][..], |known| &known.keys);
            return token.verify(&issuer.settings, keys, now);
        }
        issuer.fetch_soon().await;
        let known = issuer.known(now).ok_or(Doubt::Key)?;
        token.verify(&issuer.settings, &known.keys, now)
    }

    /// Keeps the keys fresh until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let all = self.all.iter().map(|issuer| issuer.follow(self.clock.as_ref()));
        let _ = stop.run_until_cancelled(futures::future::join_all(all)).await;
    }
}

/// Asks an issuer for its keys, once: how many fit, or why there are none. For people who set it up.
pub async fn ask_once(settings: &IssuerSettings) -> Result<usize, String> {
    Ok(Fetcher::new(settings).keys(false).await?.len())
}

impl Issuer {
    fn new(settings: IssuerSettings) -> Self {
        Self {
            settings,
            known: ArcSwapOption::empty(),
            pace: Mutex::default(),
            wanted: Notify::new(),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(WAITING),
        }
    }

    /// The keys at hand, unless they are too old to be believed.
    fn known(&self, now: DateTime<Utc>) -> Option<Arc<Known>> {
        self.known.load_full().filter(|known| now - known.at < self.settings.keep_keys)
    }

    /// Has keys fetched, if that may be, and waits for it, if not too many do already.
    async fn fetch_soon(&self) {
        let mut ended = self.ended.subscribe();
        let Some(since) = self.ask() else { return };
        let Ok(_place) = self.waiting.try_acquire() else { return };
        // Too late, or the service ends: the token is judged by the keys that are there.
        let _ = timeout_at(since + PATIENCE, ended.changed()).await;
    }

    /// Since when keys are being fetched; none: they are not, and it is too early for more.
    fn ask(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut pace = self.pace();
        if let Some(since) = pace.since {
            return Some(since);
        }
        if pace.asked.is_some_and(|asked| now - asked < COOLDOWN) {
            return None;
        }
        pace.asked = Some(now);
        pace.since = Some(now);
        self.wanted.notify_one();
        Some(now)
    }

    async fn follow(&self, clock: &dyn Clock) {
        let mut source = Fetcher::new(&self.settings);
        let mut retry = RETRY[0];
        let mut asked = false;
        loop {
            self.pace().since.get_or_insert_with(Instant::now);
            let fetched = source.keys(asked).await;
            let pause = if self.take(fetched, clock.now()) { REFRESH } else { retry };
            retry = if pause == REFRESH { RETRY[0] } else { (retry * 2).min(RETRY[1]) };
            self.pace().since = None;
            self.ended.send_modify(|ended| *ended += 1);
            asked = tokio::select! {
                biased;
                () = self.wanted.notified() => true,
                () = sleep(pause) => false,
            };
        }
    }

    /// Takes over what was fetched; false: it was nothing, and what was there stays.
    fn take(&self, fetched: Result<Vec<Key>, String>, now: DateTime<Utc>) -> bool {
        let name = &self.settings.name;
        let result = if fetched.is_ok() { "fetched" } else { "failed" };
        metrics::counter!("nats_authority_issuer_key_fetches_total", "issuer" => name.clone(), "result" => result)
            .increment(1);
        match fetched {
            Ok(keys) => {
                let before = self.known.load();
                let kids = |keys: &[Key]| keys.iter().map(|key| key.kid.clone()).collect::<Vec<_>>();
                if keys.is_empty() {
                    tracing::warn!(issuer = name, "an issuer has no key with a kid that fits its algorithms");
                } else if before.as_ref().is_none_or(|before| kids(&before.keys) != kids(&keys)) {
                    tracing::info!(issuer = name, keys = keys.len(), "took over the keys of an issuer");
                }
                #[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
                metrics::gauge!("nats_authority_issuer_keys_timestamp_seconds", "issuer" => name.clone())
                    .set(now.timestamp() as f64);
                self.known.store(Some(Arc::new(Known { keys, at: now })));
                true
            }
            Err(error) => {
                tracing::warn!(issuer = name, %error, "the keys of an issuer could not be fetched; those at hand stay");
                false
            }
        }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
