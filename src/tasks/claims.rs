//! What the push task has claimed, and whether it still may push it.
//!
//! Servers keep whatever comes last, also an older JWT. A replica that was stopped for a while, or
//! waited long for a server, holds claims for accounts that others have minted and pushed since. So a
//! push begins only when the ledger has just said that the claim stands: within [`FRESH`] of the
//! claim, or after asking again. A claim ends when the account is minted, and when it runs out.

use std::{collections::HashSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    authority::Authority,
    nkey::{Account, PublicKey},
    store::pushes::DueAccount,
};

/// How long the word of the ledger counts. Time that passes while the process is stopped counts too.
const FRESH: Duration = Duration::from_millis(500);

/// How long other replicas leave a claimed account alone, seconds. A replica that dies holds up its
/// claims so long.
pub(super) const LEASE: i64 = 10;

/// A slow database: so often it is asked before the push is left to whoever claims the account next.
const TRIES: usize = 3;

/// The accounts of one claim.
pub(super) struct Claims {
    authority: Arc<Authority>,
    state: Mutex<State>,
}

struct State {
    /// When the ledger was last asked.
    asked: Instant,
    lease: DateTime<Utc>,
    /// Whose push has not begun.
    waiting: HashSet<PublicKey<Account>>,
}

impl Claims {
    /// `asked` is when the claim was sent to the ledger, not when it answered.
    pub(super) fn new(authority: Arc<Authority>, due: &[DueAccount], asked: Instant) -> Self {
        let lease = due.first().map_or_else(DateTime::default, |due| due.lease);
        let waiting = due.iter().map(|due| due.account).collect();
        Self { authority, state: Mutex::new(State { asked, lease, waiting }) }
    }

    /// Whether a push of `account` may begin, now: the lease under which it then is. With `more` it
    /// will be asked for once more.
    pub(super) async fn begin(&self, account: PublicKey<Account>, more: bool) -> Option<DateTime<Utc>> {
        let mut state = self.state.lock().await;
        let mut tries = 0;
        while state.asked.elapsed() > FRESH {
            tries += 1;
            if tries > TRIES {
                tracing::warn!(%account, "the database is too slow to say that the account may be pushed");
                return None;
            }
            let asked = Instant::now();
            // One question for all that wait.
            let waiting: Vec<_> = state.waiting.iter().copied().collect();
            match self.authority.store().renew_claims(&waiting, state.lease, LEASE, self.authority.now()).await {
                Ok((lease, held)) => *state = State { asked, lease, waiting: held },
                Err(error) => {
                    tracing::warn!(%error, cause = error.internal_report(), %account, "push");
                    return None;
                }
            }
        }
        let ours = if more { state.waiting.contains(&account) } else { state.waiting.remove(&account) };
        ours.then_some(state.lease)
    }
}
