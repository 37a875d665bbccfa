//! Denied attempts in the audit log, bounded: whoever is refused again and again must not fill the
//! database. The same attempt is written once a minute, and all callers together get so many events a
//! minute; what was left out is counted in the next event that is written. Attempts to change and
//! attempts to read are bounded apart: asking for much must not hide who tried to change something.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use lru::LruCache;
use serde_json::json;

use super::{Actor, Authority};
use crate::{error::Result, store::audit};

/// How long the same attempt is not written again.
const QUIET: TimeDelta = TimeDelta::minutes(1);

/// How many events are written in [`QUIET`] at most.
const MOST: u32 = 60;

/// How many attempts are told apart.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// An attempt, as far as it is told apart: who, what, on what.
type Attempt = (String, String, String);

/// What was written lately.
#[derive(Default)]
pub(super) struct Denials {
    changes: Bound,
    reads: Bound,
}

struct Bound(Mutex<Written>);

struct Written {
    lately: LruCache<Attempt, DateTime<Utc>>,
    since: DateTime<Utc>,
    count: u32,
    left_out: u64,
}

impl Default for Bound {
    fn default() -> Self {
        let since = DateTime::<Utc>::MIN_UTC;
        Self(Mutex::new(Written { lately: LruCache::new(REMEMBERED), since, count: 0, left_out: 0 }))
    }
}

impl Bound {
    /// How many were left out since the last one, if this one is to be written.
    fn admit(&self, attempt: Attempt, now: DateTime<Utc>) -> Option<u64> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.signed_duration_since(written.since) >= QUIET {
            written.since = now;
            written.count = 0;
        }
        let repeated = written.lately.get(&attempt).is_some_and(|since| now.signed_duration_since(*since) < QUIET);
        if repeated || written.count >= MOST {
            written.left_out += 1;
            return None;
        }
        written.lately.put(attempt, now);
        written.count += 1;
        Some(std::mem::take(&mut written.left_out))
    }
}

impl Authority {
    /// Writes that `actor` may not do `operation`, which `changes` something or not, on `target`, unless
    /// that was written lately.
    pub async fn record_denied(&self, actor: &Actor, operation: &str, changes: bool, target: &str) -> Result<()> {
        let attempt = (actor.identity(), operation.to_owned(), target.to_owned());
        let bound = if changes { &self.denials.changes } else { &self.denials.reads };
        let Some(left_out) = bound.admit(attempt, self.now()) else { return Ok(()) };
        let detail = json!({"operation": operation, "roles": actor.roles, "leftOut": left_out});
        let mut tx = self.store.begin().await?;
        audit::record(&mut tx, &self.event(actor, "access.denied", None, target, detail)).await?;
        tx.commit().await.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded_and_counted() {
        let denials = Bound::default();
        let start: DateTime<Utc> = "2026-01-01T00:00:00Z".parse().unwrap();
        let attempt = |n: u32| ("anna".to_owned(), "suspend_organization".to_owned(), n.to_string());
        assert_eq!(denials.admit(attempt(0), start), Some(0));
        assert_eq!(denials.admit(attempt(0), start), None);
        let written = (1..10_000).filter(|n| denials.admit(attempt(*n), start).is_some()).count();
        assert_eq!(written, 59);
        // A minute later what was left out is told; the repetition was told by the next one.
        assert_eq!(denials.admit(attempt(0), start + QUIET), Some(9_999 - 59));
        assert_eq!(denials.admit(attempt(1), start + QUIET), Some(0));
    }
}
