//! Looks again at what was pushed, for a server may have been loading the account at that very moment.
//!
//! A server loads an account when its first client comes, and may come to run what it had stored before the push: seen
//! on nats-server 2.15.1, wherever both fall within a millisecond or two (`tests/it/loading.rs`). Asked right after the
//! push it says that it has not loaded the account, which is true; and what it loads then stays until another JWT comes.
//! So whatever was pushed is looked at twice more, and all that servers have loaded some time after the start and after
//! a server appeared or came back, when many clients come at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    check::{Memory, check_some},
    database::Database,
    ledger::Key,
    looks::Looks,
};
use crate::{authority::Authority, error::Result, resolver::SystemResolver};

/// Until whatever was being loaded is so, most likely.
const SOON: Duration = Duration::from_millis(500);
/// Until it is so on a server with very much to do; from then on.
const LATER: Duration = Duration::from_secs(5);
/// So many accounts are compared with one question to the ledger.
const TOGETHER: usize = 256;

/// Where is said what was pushed.
#[derive(Clone, Debug)]
pub(in crate::tasks) struct Pushed(mpsc::UnboundedSender<Key>);

impl Pushed {
    /// Every live server has it.
    pub(in crate::tasks) fn settled(&self, account: Key) {
        // Nobody listens any more when the service ends.
        let _ = self.0.send(account);
    }
}

/// Where it is heard.
#[derive(Debug)]
pub(in crate::tasks) struct Heard(mpsc::UnboundedReceiver<Key>);

/// Both ends. Unbounded: what is waited for is far less than what was pushed itself.
pub(in crate::tasks) fn channel() -> (Pushed, Heard) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (Pushed(sender), Heard(receiver))
}

pub(in crate::tasks) async fn run(
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    Heard(mut heard): Heard,
    stop: CancellationToken,
) {
    let ledger = Database::new(Arc::clone(&authority));
    let mut looks = Looks::new(SOON, LATER, usize::MAX);
    let mut roll = resolver.registry().roll();
    let mut everything_at = None;
    let mut batch = Vec::new();
    loop {
        let everything = async {
            match everything_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let pushed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            count = heard.recv_many(&mut batch, TOGETHER) => {
                if count == 0 {
                    return;
                }
                let now = Instant::now();
                batch.drain(..).for_each(|account| looks.add(account, now));
                continue;
            }
            // Also at the start, when the first one appears.
            Ok(()) = roll.changed() => {
                everything_at = Some(Instant::now() + LATER);
                continue;
            }
            () = everything => {
                everything_at = None;
                None
            }
            () = looks.next() => Some(looks.take(Instant::now())),
        };
        if let Err(error) = look(&authority, &resolver, &ledger, pushed.as_deref()).await {
            tracing::warn!(%error, cause = error.internal_report(), "what servers have loaded could not be compared");
            let now = Instant::now();
            match pushed {
                Some(pushed) => pushed.into_iter().for_each(|account| looks.add(account, now)),
                None => everything_at = Some(now + LATER),
            }
        }
    }
}

/// Compares those that some server has loaded of what was pushed; none: of all.
async fn look(
    authority: &Arc<Authority>,
    resolver: &SystemResolver,
    ledger: &Database,
    pushed: Option<&[Key]>,
) -> Result<()> {
    let loaded = resolver.loaded().await?;
    let loaded: HashSet<Key> = loaded.into_iter().filter_map(|server| server.accounts).flatten().collect();
    let accounts: Vec<Key> = match pushed {
        Some(pushed) => pushed.iter().copied().filter(|account| loaded.contains(account)).collect(),
        None => loaded.into_iter().collect(),
    };
    for some in accounts.chunks(TOGETHER) {
        let present = authority.store().present_among(some).await?;
        let findings = check_some(ledger, resolver, present, &mut Memory::default()).await?;
        if !findings.repairs.is_empty() || !findings.deleted.is_empty() {
            super::tell(authority, &findings);
        }
    }
    Ok(())
}
