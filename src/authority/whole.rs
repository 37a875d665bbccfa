//! How far all servers are with all accounts. Counting that reads every account, so it is done for all who ask at the
//! same time together, and who does not care gets what was counted a moment ago.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use super::{Authority, convergence};
use crate::{error::Result, model::view::Convergence, store::figures::AccountsCount};

/// Between two counts while somebody waits.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How old a count may be for who does not care: at least so much, and so many times longer than it took, so that asking
/// costs the database at most a twentieth of its time.
const LATELY: Duration = Duration::from_secs(1);
const SHARE: u32 = 20;

/// A count that had to wait, for a database that was down for example, says nothing of what the next one costs.
const OLDEST: Duration = Duration::from_secs(5);

/// How far the servers are with the whole of it.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The sum.
    pub state: Convergence,
    /// The known servers that lack anything, by name.
    pub missing: Vec<String>,
    /// What was counted.
    pub count: AccountsCount,
    /// When.
    pub counted_at: DateTime<Utc>,
    /// How long counting took.
    pub took: Duration,
    /// Since when each count found all converged; none: this one did not.
    pub converged_since: Option<DateTime<Utc>>,
    /// When a count last found all converged; none: none has since the service started.
    pub converged_at: Option<DateTime<Utc>>,
}

impl Authority {
    /// How far the servers are; counted at `not_before` or later.
    pub async fn whole(&self, not_before: DateTime<Utc>) -> Result<Arc<Whole>> {
        let mut last = self.whole.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.counted_at >= not_before) {
            return Ok(Arc::clone(last));
        }
        let (started, counted_at, standing) = (Instant::now(), self.now(), self.standing());
        let servers = standing.servers.iter().map(|server| &server.row);
        let servers: Vec<_> = servers.map(|row| (row.name.clone(), row.id.clone(), row.live)).collect();
        let count = self.store.count_accounts(&servers).await?;
        let (state, missing) = convergence::whole(&standing, &count);
        let converged = (state == Convergence::Converged).then_some(counted_at);
        let before = last.as_ref();
        let whole = Arc::new(Whole {
            state,
            missing,
            count,
            counted_at,
            took: started.elapsed(),
            converged_since: converged.map(|at| before.and_then(|before| before.converged_since).unwrap_or(at)),
            converged_at: converged.or_else(|| before?.converged_at),
        });
        *last = Some(Arc::clone(&whole));
        Ok(whole)
    }

    /// How far the servers are, as counted within the last second; where counting takes long, a little earlier.
    pub async fn whole_lately(&self) -> Result<Arc<Whole>> {
        let took = self.whole.lock().await.as_ref().map(|last| last.took).unwrap_or_default();
        let age = TimeDelta::from_std(LATELY.max((took * SHARE).min(OLDEST))).unwrap_or(TimeDelta::MAX);
        self.whole(self.now() - age).await
    }

    /// Waits until a count that begins from now on finds all converged. Returns what is the case then or after
    /// `timeout`.
    pub async fn wait_whole(&self, timeout: Duration) -> Result<Arc<Whole>> {
        let deadline = Instant::now() + timeout;
        loop {
            let whole = self.whole(self.now()).await?;
            if whole.state == Convergence::Converged || Instant::now() >= deadline {
                return Ok(whole);
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
        }
    }
}
