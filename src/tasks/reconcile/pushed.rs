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
    looks::Looks,
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
        let mut suspects = Looks::new(SOON, LATER, SUSPECTS);
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
async fn note(authority: &Authority, batch: &mut Vec<(Key, Hash)>, suspects: &mut Looks) -> Result<()> {
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
