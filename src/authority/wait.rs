//! Waiting for the cluster: after the commit, without a transaction, until the servers have what the
//! ledger says. Nothing is pushed here; `tasks` do that, in this process or in another one.

use std::time::Duration;

use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{Instant, timeout_at},
};

use super::Authority;
use crate::{
    error::{Error, Kind, Result},
    model::{
        EnvState, ItemState, OrgSlug, OrgState,
        view::{Convergence, OrganizationView},
    },
    nkey::{Account, PublicKey},
};

/// Another replica may be the one that pushes, and it announces nothing here: look again at latest then.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

impl Authority {
    /// Waits until every live server runs the organization's account, and with `environments` until
    /// none of its environments is being made or removed; for a deletion until the organization is
    /// gone. Returns what is the case then or after `timeout`.
    pub async fn wait_converged(
        &self,
        slug: &OrgSlug,
        timeout: Duration,
        environments: bool,
    ) -> Result<OrganizationView> {
        // Before the first look: what happens between the look and the wait is not missed.
        let mut progress = self.progress();
        let deadline = Instant::now() + timeout;
        loop {
            let view = self.organization(slug).await?;
            if view.settled(environments) || Instant::now() >= deadline {
                return Ok(view);
            }
            let account = view.account_id.parse().map_err(|_| Error::internal("a view with an unreadable account"))?;
            next_look(&mut progress, account, deadline).await;
        }
    }
}

impl Authority {
    /// Waits until a consumer or a stream is made, or is gone; `look` finds it, `parts` are its state and its
    /// error. Returns what is the case then or after `timeout`.
    pub(super) async fn wait_made<V, F>(
        &self,
        slug: &OrgSlug,
        timeout: Duration,
        mut view: V,
        look: impl Fn() -> F + Send,
        parts: impl Fn(&mut V) -> (&mut ItemState, &mut Option<String>) + Send,
    ) -> Result<V>
    where
        V: Send,
        F: Future<Output = Result<V>> + Send,
    {
        if timeout.is_zero() {
            return Ok(view);
        }
        let account = self.require_organization(slug).await?.account;
        // Before the first look: what happens between the look and the wait is not missed.
        let mut progress = self.progress();
        let deadline = Instant::now() + timeout;
        loop {
            match look().await {
                Ok(now) => view = now,
                // Gone, alone or with its environment or organization.
                Err(error) if error.kind() == Kind::NotFound => {
                    let (state, words) = parts(&mut view);
                    *state = ItemState::Deleted;
                    *words = None;
                }
                Err(error) => return Err(error),
            }
            let settled = matches!(parts(&mut view).0, ItemState::Ready | ItemState::Deleted);
            if settled || Instant::now() >= deadline {
                return Ok(view);
            }
            next_look(&mut progress, account, deadline).await;
        }
    }
}

/// Waits until it is time to look again: something about `account` was announced, or enough time has
/// passed, or `deadline` has come.
pub(super) async fn next_look(
    progress: &mut Receiver<PublicKey<Account>>,
    account: PublicKey<Account>,
    deadline: Instant,
) {
    let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
    // Announced or not: the next look tells.
    let _ = timeout_at(look_again, announced(progress, account)).await;
}

impl OrganizationView {
    /// Nothing is left to be done for it in the cluster: every live server runs its account, or it is
    /// deleted. With `environments`, none of them is being made or removed either.
    pub fn settled(&self, environments: bool) -> bool {
        match self.state {
            OrgState::Deleted => true,
            OrgState::Deleting => false,
            OrgState::Active | OrgState::Suspended => {
                self.resolver.state == Convergence::Converged
                    && !(environments && self.environments.iter().any(|env| env.state != EnvState::Ready))
            }
        }
    }
}

async fn announced(progress: &mut Receiver<PublicKey<Account>>, account: PublicKey<Account>) {
    loop {
        match progress.recv().await {
            Ok(changed) if changed != account => {}
            // Having missed some, ours may have been among them.
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
