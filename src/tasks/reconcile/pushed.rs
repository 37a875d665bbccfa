//! Looks at once at accounts of which somebody pushes another JWT than the ledger wants: an old one brings a
//! revoked user back, and the tick would find it only half a minute later.
//!
//! Bounded, whoever pushes what: what is heard while [`HEARD`] wait is left to the tick, so is what comes while
//! [`SUSPECTS`] accounts are looked at, and one account is looked at about twice a second at most.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    check::{Memory, check_some},
    database::Database,
    ledger::{Hash, Key},
};
use crate::{
    authority::Authority,
    error::Result,
    resolver::{SystemResolver, updates},
    tasks::listen_always,
};

/// Pushes that may wait to be compared with the ledger, and are compared together.
const HEARD: usize = 1024;
/// Accounts that may wait to be looked at.
const SUSPECTS: usize = 256;
/// For how long pushes are collected, so that the ledger is not asked about each of many.
const COLLECT: Duration = Duration::from_millis(40);
/// Until what was heard has reached all servers, most likely; from then on.
const SOON: Duration = Duration::from_millis(60);
/// Until it has reached a server that is slow, or until what we pushed was overtaken.
const LATER: Duration = Duration::from_secs(1);

pub(in crate::tasks) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let (sender, mut heard) = mpsc::channel(HEARD);
    let listening = listen_always(resolver.connection(), &stop, |link| {
        let sender = sender.clone();
        // Where there is no room, the tick finds it.
        async move { updates::follow(&link, |account, hash| _ = sender.try_send((account, hash))).await }
    });
    let looking = async {
        let ledger = Database::new(Arc::clone(&authority));
        let mut suspects = Suspects::default();
        let mut batch = Vec::new();
        loop {
            let looked = tokio::select! {
                count = heard.recv_many(&mut batch, HEARD) => {
                    if count == 0 {
                        return;
                    }
                    tokio::time::sleep(COLLECT).await;
                    while batch.len() < HEARD && let Ok(another) = heard.try_recv() {
                        batch.push(another);
                    }
                    note(&authority, &mut batch, &mut suspects).await
                }
                () = suspects.next() => look(&authority, &resolver, &ledger, suspects.take(Instant::now())).await,
            };
            if let Err(error) = looked {
                tracing::warn!(%error, cause = error.internal_report(), "pushed account JWTs could not be compared");
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = listening => {}
        () = looking => {}
    }
}

/// Compares what was heard with the ledger. Whoever has just been pushed by us has what it should.
async fn note(authority: &Authority, batch: &mut Vec<(Key, Hash)>, suspects: &mut Suspects) -> Result<()> {
    let mut heard: HashMap<Key, Vec<Hash>> = HashMap::new();
    for (account, hash) in batch.drain(..) {
        heard.entry(account).or_default().push(hash);
    }
    let accounts: Vec<_> = heard.keys().copied().collect();
    let now = Instant::now();
    for (account, present) in authority.store().present_among(&accounts).await? {
        let wanted = present.map(|present| present.sha256);
        if heard.get(&account).is_some_and(|hashes| hashes.iter().any(|hash| Some(*hash) != wanted)) {
            suspects.add(account, now);
        }
    }
    Ok(())
}

async fn look(
    authority: &Arc<Authority>,
    resolver: &SystemResolver,
    ledger: &Database,
    accounts: Vec<Key>,
) -> Result<()> {
    let present = authority.store().present_among(&accounts).await?;
    let findings = check_some(ledger, resolver, present, &mut Memory::default()).await?;
    if !findings.repairs.is_empty() || !findings.deleted.is_empty() {
        super::tell(authority, &findings);
    }
    Ok(())
}

/// The accounts to be looked at, and when: pure, apart from waiting.
#[derive(Debug, Default)]
struct Suspects(HashMap<Key, (Instant, u8)>);

impl Suspects {
    /// Something else than it should have was pushed to it.
    fn add(&mut self, account: Key, now: Instant) {
        if let Some((_, looks)) = self.0.get_mut(&account) {
            // It is looked at soon, or was a moment ago.
            *looks = 2;
        } else if self.0.len() < SUSPECTS {
            self.0.insert(account, (now + SOON, 2));
        }
    }

    /// Those whose time has come; each is looked at once more, later.
    fn take(&mut self, now: Instant) -> Vec<Key> {
        let mut due = Vec::new();
        self.0.retain(|account, (at, looks)| {
            if *at <= now {
                due.push(*account);
                *looks -= 1;
                *at = now + LATER;
            }
            *looks > 0
        });
        due
    }

    async fn next(&self) {
        match self.0.values().map(|(at, _)| *at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SystemEntropy,
        nkey::{Account, KeyPair},
    };

    fn key() -> Key {
        KeyPair::<Account>::generate(&SystemEntropy::new()).public()
    }

    #[test]
    fn an_account_is_looked_at_soon_and_once_more_however_often_it_is_pushed() {
        let (account, start) = (key(), Instant::now());
        let mut suspects = Suspects::default();
        suspects.add(account, start);
        suspects.add(account, start);
        assert_eq!(suspects.take(start), []);
        assert_eq!(suspects.take(start + SOON), [account]);
        assert_eq!(suspects.take(start + SOON), []);
        assert_eq!(suspects.take(start + SOON + LATER), [account]);
        assert_eq!(suspects.take(start + 10 * LATER), [], "nothing came meanwhile");

        // Pushed a thousand times in ten seconds.
        let mut looks = 0;
        for step in 0..1000 {
            let now = start + Duration::from_millis(10 * step);
            suspects.add(account, now);
            looks += suspects.take(now).len();
        }
        assert!((9..=11).contains(&looks), "{looks}");
    }

    #[test]
    fn no_more_than_so_many_wait() {
        let (mut suspects, now) = (Suspects::default(), Instant::now());
        for _ in 0..2 * SUSPECTS {
            suspects.add(key(), now);
        }
        assert_eq!(suspects.take(now + SOON).len(), SUSPECTS);
    }
}
