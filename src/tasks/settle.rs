//! Asks servers what they run of what was pushed, and writes down what each has.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use chrono::{DateTime, Utc};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::sync::Notify;

use super::{TICK, backoff, reconcile::loading::Pushed};
use crate::{
    authority::Authority,
    error::Result,
    model::view::ResolverType,
    nkey::{Account, PublicKey},
    resolver::{Effective, EffectiveAnswer, Loaded, PushOutcome, Resolver, StoreResult, SystemResolver},
    store::{
        accounts::AccountServer,
        pushes::{DueAccount, PushReport},
    },
};

/// For so many answers it is worth asking what servers run while more are to be pushed.
const ENOUGH: usize = 512;

/// So many times at the same time.
const SETTLING: usize = 4;

/// For so many accounts at a time servers are asked.
const ASKING: usize = 128;

/// What a server runs of one account is an answer as long as the names of so many.
const NAMES: usize = 64;

/// So many accounts a server has loaded, it is assumed, until it has been asked.
const LOADED: usize = 16 * NAMES;

/// An account and what the servers answered to its JWT.
pub(super) type Answered = (DueAccount, PushOutcome);

/// One pushed account and what each server has of it.
type Settled = (PushReport, Vec<AccountServer>);

/// Servers are asked what they run, and it is written down, while the next accounts are pushed. Of one account the
/// older generation is written down first.
pub(super) struct Settling {
    running: FuturesUnordered<BoxFuture<'static, HashSet<PublicKey<Account>>>>,
    accounts: HashSet<PublicKey<Account>>,
    pushed: Pushed,
    /// How many accounts a server has loaded, when last asked.
    loaded: Arc<AtomicUsize>,
}

impl Settling {
    /// Nothing is under way; what every live server has is said to `pushed`.
    pub(super) fn new(pushed: Pushed) -> Self {
        let loaded = Arc::new(AtomicUsize::new(LOADED));
        Self { running: FuturesUnordered::new(), accounts: HashSet::new(), pushed, loaded }
    }

    /// Begins with what was `answered` if there is room, except for accounts that are being settled; of one that was
    /// pushed twice the newer push waits. What is not begun with stays there. It never waits: what is to be pushed
    /// next would wait as well.
    pub(super) fn begin(
        &mut self,
        authority: &Arc<Authority>,
        resolver: &Arc<SystemResolver>,
        answered: &mut Vec<Answered>,
    ) {
        if self.running.len() >= SETTLING {
            return;
        }
        let mut accounts = HashSet::with_capacity(answered.len());
        let (first, wait) = answered
            .drain(..)
            .partition(|(due, _)| !self.accounts.contains(&due.account) && accounts.insert(due.account));
        *answered = wait;
        if accounts.is_empty() {
            return;
        }
        self.accounts.extend(&accounts);
        let (pushed, loaded) = (self.pushed.clone(), Arc::clone(&self.loaded));
        let settling = tokio::spawn(settle_all(Arc::clone(authority), Arc::clone(resolver), pushed, loaded, first));
        self.running.push(Box::pin(async move {
            if settling.await.is_err() {
                tracing::error!("settling a push panicked");
            }
            accounts
        }));
    }

    /// Whether it is time: there are many answers, or, when all are claimed (`enough`), so many and nothing is being
    /// settled.
    pub(super) fn may_begin(&self, answered: usize, enough: Option<usize>) -> bool {
        answered >= ENOUGH || enough.is_some_and(|enough| answered >= enough && self.running.is_empty())
    }

    /// The next one is over; false: none is under way.
    pub(super) async fn next(&mut self) -> bool {
        let Some(accounts) = self.running.next().await else { return false };
        self.accounts.retain(|account| !accounts.contains(account));
        true
    }
}

/// Asks what servers run of what was pushed, and writes it down: of what no server has loaded at once.
async fn settle_all(
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    pushed: Pushed,
    names: Arc<AtomicUsize>,
    answered: Vec<Answered>,
) {
    let (authority, resolver) = (authority.as_ref(), resolver.as_ref());
    let live: Vec<_> = resolver.registry().expected().iter().map(|server| server.name.clone()).collect();
    // Asked after the push: a server that loads an account from now on loads the new JWT.
    let loaded = if one_by_one(answered.len(), names.load(Ordering::Relaxed)) {
        None
    } else {
        resolver.loaded().await.ok().inspect(|loaded| names.store(most_loaded(loaded), Ordering::Relaxed))
    };
    let (mut idle, mut running) = (Vec::new(), Vec::new());
    for (due, outcome) in answered {
        match loaded.as_deref().and_then(|loaded| not_loaded(loaded, due.account)) {
            Some(nowhere) => idle.push((due, outcome, nowhere)),
            None => running.push((due, outcome)),
        }
    }
    let live = &live;
    let idle = stream::iter(idle)
        .map(|(due, outcome, nowhere)| async move { settle(authority, resolver, due, &outcome, &nowhere, live).await });
    let running = stream::iter(running).map(|(due, outcome)| async move {
        let effective = resolver.effective(due.account).await.unwrap_or_default();
        settle(authority, resolver, due, &outcome, &effective, live).await
    });
    let (idle, running) = (idle.buffer_unordered(ASKING).collect(), running.buffer_unordered(ASKING).collect());
    futures::join!(record(authority, &pushed, idle), record(authority, &pushed, running));
}

/// Whether to ask for each of so many accounts what servers run, and not first which of all they have loaded: that
/// answer has the names of all, `loaded` of them.
fn one_by_one(accounts: usize, loaded: usize) -> bool {
    accounts <= (loaded / NAMES).max(1)
}

/// How many accounts that server has loaded that has loaded most.
fn most_loaded(loaded: &[Loaded]) -> usize {
    loaded.iter().filter_map(|server| server.accounts.as_ref()).map(HashSet::len).max().unwrap_or(LOADED)
}

/// Writes down what each server has, and tells whoever waits for these accounts.
async fn record(authority: &Authority, pushed: &Pushed, settled: impl Future<Output = Vec<Settled>>) {
    let settled = settled.await;
    if settled.is_empty() {
        return;
    }
    let (reports, servers): (Vec<_>, Vec<_>) = settled.into_iter().unzip();
    // Not written, the accounts stay leased and are pushed again when the lease is over.
    match authority.store().report_push(&reports, &servers.concat(), authority.now()).await {
        Ok(reported) => {
            if reported.gone {
                authority.reconcile_wanted.notify_one();
            }
            if reported.overtaken {
                authority.push_wanted.notify_one();
            }
            // Both look at what servers have; where that is as before, their next tick is soon enough.
            if reported.changed {
                authority.clients_wanted.notify_one();
                authority.provision_wanted.notify_one();
            }
        }
        Err(error) => tracing::warn!(%error, cause = error.internal_report(), "a push could not be recorded"),
    }
    for report in &reports {
        authority.announce(report.account);
        if report.again_at.is_none() {
            pushed.settled(report.account);
        }
    }
    let again_at = reports.iter().filter_map(|report| report.again_at).min();
    if let Some(again_at) = again_at {
        wake_at(Arc::clone(&authority.push_wanted), again_at, authority.now());
    }
}

/// What is to be pushed again is so as soon as its pause is over, and not with the next tick.
fn wake_at(wanted: Arc<Notify>, at: DateTime<Utc>, now: DateTime<Utc>) {
    let pause = (at - now).to_std().unwrap_or_default();
    if pause < TICK {
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            wanted.notify_one();
        });
    }
}

/// What ACCOUNTZ would say of an account that no server has loaded; none: some have, or did not say.
fn not_loaded(loaded: &[Loaded], account: PublicKey<Account>) -> Option<Vec<EffectiveAnswer>> {
    let answer = |server: &Loaded| {
        let accounts = server.accounts.as_ref()?;
        let effective = Effective::NotLoaded;
        (!accounts.contains(&account)).then(|| EffectiveAnswer { server: server.server.clone(), effective })
    };
    loaded.iter().map(answer).collect()
}

async fn settle(
    authority: &Authority,
    resolver: &SystemResolver,
    due: DueAccount,
    outcome: &PushOutcome,
    effective: &[EffectiveAnswer],
    live: &[String],
) -> Settled {
    let servers = judge(&due, outcome, effective);
    let mut settled = is_settled(&servers, live);
    if due.tombstone {
        // A server that is away would bring the account back to the others; not so one that stores nothing.
        let standing = authority.standing();
        let mut storing = standing.servers.iter().filter(|server| server.told.resolver != Some(ResolverType::Url));
        settled &= storing.all(|server| live.contains(&server.row.name));
    }
    if settled && due.tombstone {
        let storing = resolver.known().into_iter().filter(|server| server.live && server.may_store());
        let storing: Vec<_> = storing.map(|server| server.name).collect();
        match delete(authority, resolver, &due, &storing).await {
            Ok(gone) => settled = gone,
            Err(error) => {
                tracing::warn!(%error, cause = error.internal_report(), account = %due.account, "delete");
                settled = false;
            }
        }
    }
    for server in servers.iter().filter(|server| server.error.is_some()) {
        tracing::warn!(account = %due.account, server = server.server, error = server.error, "not converged");
    }
    let again_at = (!settled).then(|| authority.now() + backoff(due.attempts));
    let rewrite = is_taken_in_vain(&servers);
    (PushReport { account: due.account, generation: due.generation, again_at, lease: due.lease, rewrite }, servers)
}

/// A server took the JWT and runs the account otherwise, and pushed again as it is nothing would ever change: a server
/// does nothing on a JWT that it has already (2.15.1). It comes to this by loading an account while that, or another one
/// that it imports from, is being changed.
pub fn is_taken_in_vain(servers: &[AccountServer]) -> bool {
    servers.iter().any(|server| server.stored > 0 && server.effective.is_some() && server.error.is_some())
}

/// What each server that answered has of the account.
pub fn judge(due: &DueAccount, outcome: &PushOutcome, effective: &[EffectiveAnswer]) -> Vec<AccountServer> {
    let answered = outcome.per_server.iter().filter(|answer| answer.result != StoreResult::NoAnswer);
    answered
        .map(|answer| {
            // One that restarted in between runs what it has found on its disk, and is asked again.
            let same = |e: &&EffectiveAnswer| e.server.name == answer.name && e.server.id == answer.id;
            let runs = effective.iter().find(same).map(|e| &e.effective);
            let (effective, running_error) = match runs {
                Some(Effective::Running { jwt, .. }) if *jwt != due.jwt => {
                    (Some(due.generation - 1), Some("it runs another JWT than the one it stores".to_owned()))
                }
                Some(Effective::Running { complete: false, .. }) => (
                    Some(due.generation),
                    Some("the account is incomplete: an import is unresolved or JetStream has no room".to_owned()),
                ),
                Some(Effective::Running { .. }) => (Some(due.generation), None),
                Some(Effective::NotLoaded) => (None, None),
                Some(Effective::Failed(words)) => (None, Some(words.clone())),
                Some(Effective::NoAnswer) | None => (None, Some("it did not say what it runs".to_owned())),
            };
            let (stored, error) = match &answer.result {
                StoreResult::Refused(words) => (0, Some(words.clone())),
                _ => (due.generation, running_error),
            };
            AccountServer {
                account: due.account,
                server: answer.name.clone(),
                server_id: answer.id.clone(),
                stored,
                effective,
                error,
            }
        })
        .collect()
}

/// Every live server has it. A server that is not live is not waited for: when it comes back the
/// account becomes due again.
pub fn is_settled(servers: &[AccountServer], live: &[String]) -> bool {
    let has_it = |name: &String| servers.iter().any(|server| server.server == *name && server.error.is_none());
    !live.is_empty() && live.iter().all(has_it)
}

/// The end of the deletion saga: free the data if asked, delete on every server, say so.
async fn delete(authority: &Authority, resolver: &SystemResolver, due: &DueAccount, live: &[String]) -> Result<bool> {
    let Some((slug, purge)) = authority.store().wants_purge(due.account).await? else { return Ok(true) };
    if purge {
        resolver.purge(due.account).await?;
    }
    let request = authority.deletion_request(&slug, due.account).await?;
    let outcome = resolver.delete(vec![due.account], request).await;
    let done: Vec<_> = outcome.per_server.iter().filter(|answer| answer.is_done()).map(|answer| &answer.name).collect();
    if !live.iter().all(|server| done.contains(&server)) {
        return Ok(false);
    }
    authority.finish_deletion(&slug, due.account).await?;
    Ok(true)
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
