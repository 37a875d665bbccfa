//! Pushes due accounts to every server and records what each has. An account stays due until every
//! live server stores its generation and, where it has loaded the account, runs it.
//!
//! While some are pushed the next ones are claimed, and of those before it is asked what servers run. One
//! account is never pushed twice at the same time: after a reconnect a push is sent again, and the older JWT
//! could come last.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    TICK, backoff,
    claims::{Claims, LEASE},
    nudged,
};
use crate::{
    authority::{Authority, reconcile::respelled},
    error::{Error, Result},
    model::view::ResolverType,
    nkey::{Account, PublicKey},
    resolver::{Effective, EffectiveAnswer, Loaded, PushJob, PushOutcome, Resolver, StoreResult, SystemResolver},
    store::{
        accounts::AccountServer,
        pushes::{DueAccount, PushReport, Reported},
    },
};

/// How many accounts are claimed at a time: no more than are pushed within a good part of the time for which the
/// ledger's word counts.
const CLAIM: i64 = 512;

/// The first claim is small, so that pushing begins at once.
const FIRST: i64 = 64;

/// How many pushes are under way at a time.
const IN_FLIGHT: usize = 128;

/// For how many pushes at a time it is asked what servers run, at most.
const SETTLE: usize = 512;

/// The same towards the end, whenever nothing is being settled: what is left then is little.
const SETTLE_SOON: usize = 64;

/// So many of them at the same time, before pushing waits.
const SETTLING: usize = 4;

/// Up to so many accounts are asked for one by one what servers run; for more, servers are first
/// asked which of all they have loaded.
const FEW: usize = 16;

/// How long to wait for a due account that somebody has locked; again and again, up to the second.
const HELD: Duration = Duration::from_millis(5);

/// What came of a look for due accounts.
enum Look {
    /// Some were pushed.
    Pushed,
    /// Nothing is due, or nobody is there.
    Idle,
    /// Some are due, and in the hands of a transaction: of one that reports an earlier push, mostly.
    Held,
}

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let mut settling = Settling::default();
    let mut pause = HELD;
    loop {
        let look = push_due(&authority, &resolver, &mut settling, &stop).await.unwrap_or_else(|error| {
            tracing::warn!(%error, cause = error.internal_report(), "push");
            Look::Idle
        });
        let wait = match look {
            Look::Pushed => Duration::ZERO,
            Look::Held => pause,
            Look::Idle => TICK,
        };
        pause = if matches!(look, Look::Held) { (pause * 2).min(TICK) } else { HELD };
        // What comes next does not wait for a server that is slow to say what it runs.
        if !nudged(&authority.push_wanted, wait, &stop).await {
            while settling.next().await {}
            return;
        }
    }
}

/// An account and what the servers answered to its JWT.
type Answered = (DueAccount, PushOutcome);

/// One pushed account and what each server has of it.
type Pushed = (PushReport, Vec<AccountServer>);

/// Servers are asked what they run, and it is written down, while the next accounts are pushed. Of one account the
/// older generation is written down first.
#[derive(Default)]
struct Settling(VecDeque<(HashSet<PublicKey<Account>>, JoinHandle<()>)>);

impl Settling {
    async fn begin(&mut self, authority: &Arc<Authority>, resolver: &Arc<SystemResolver>, answered: Vec<Answered>) {
        if answered.is_empty() {
            return;
        }
        let accounts: HashSet<_> = answered.iter().map(|(due, _)| due.account).collect();
        while self.0.len() >= SETTLING || self.0.iter().any(|(before, _)| !before.is_disjoint(&accounts)) {
            self.next().await;
        }
        let settling = settle_all(Arc::clone(authority), Arc::clone(resolver), answered);
        self.0.push_back((accounts, tokio::spawn(settling)));
    }

    /// So many answers are worth it; at the `end`, when all are claimed, fewer.
    fn may_begin(&self, answered: usize, end: bool) -> bool {
        answered >= SETTLE
            || end && answered >= SETTLE_SOON && self.0.iter().all(|(_, settling)| settling.is_finished())
    }

    /// Waits for the oldest; false: none is under way.
    async fn next(&mut self) -> bool {
        let Some((_, settling)) = self.0.pop_front() else { return false };
        if settling.await.is_err() {
            tracing::error!("settling a push panicked");
        }
        true
    }
}

/// Pushes under way.
#[derive(Default)]
struct Pushes<'a> {
    running: FuturesUnordered<BoxFuture<'a, (PublicKey<Account>, Option<Answered>)>>,
    accounts: HashSet<PublicKey<Account>>,
    answered: Vec<Answered>,
}

impl Pushes<'_> {
    /// The next one is over; false: none is under way.
    async fn next(&mut self) -> bool {
        let Some((account, answered)) = self.running.next().await else { return false };
        self.accounts.remove(&account);
        self.answered.extend(answered);
        true
    }

    /// There is room for a push of `account`.
    fn may_begin(&self, account: PublicKey<Account>) -> bool {
        self.running.len() < IN_FLIGHT && !self.accounts.contains(&account)
    }
}

/// Accounts of one claim, and when it was sent to the ledger.
type Claimed = JoinHandle<Result<(Vec<DueAccount>, Instant)>>;

fn claim(authority: &Arc<Authority>, limit: i64) -> Claimed {
    let authority = Arc::clone(authority);
    tokio::spawn(async move {
        let asked = Instant::now();
        Ok((authority.store().claim_due_accounts(limit, LEASE, authority.now()).await?, asked))
    })
}

/// Pushes what is due, until nothing is left.
async fn push_due(
    authority: &Arc<Authority>,
    resolver: &Arc<SystemResolver>,
    settling: &mut Settling,
    stop: &CancellationToken,
) -> Result<Look> {
    if !resolver.connection().state().borrow().connected || resolver.registry().expected().is_empty() {
        return Ok(Look::Idle);
    }
    let (mut next, mut pushes, mut count, mut failed) = (Some(claim(authority, FIRST)), Pushes::default(), 0, None);
    let mut limit = FIRST;
    while let Some(claimed) = next.take() {
        let (due, asked) = match claimed.await {
            Ok(Ok(claimed)) => claimed,
            Ok(Err(error)) => {
                failed = Some(error);
                break;
            }
            Err(error) => {
                failed = Some(Error::internal("a claim panicked").with_source(error));
                break;
            }
        };
        count += due.len();
        if i64::try_from(due.len()) == Ok(limit) && !stop.is_cancelled() {
            limit = CLAIM;
            next = Some(claim(authority, limit));
        }
        let claims = Arc::new(Claims::new(Arc::clone(authority), &due, asked));
        for due in due {
            while !pushes.may_begin(due.account) && pushes.next().await {}
            pushes.accounts.insert(due.account);
            pushes.running.push(Box::pin(push_one(resolver, Arc::clone(&claims), due)));
            if settling.may_begin(pushes.answered.len(), next.is_none()) {
                settling.begin(authority, resolver, std::mem::take(&mut pushes.answered)).await;
            }
        }
    }
    while pushes.next().await {
        if settling.may_begin(pushes.answered.len(), true) {
            settling.begin(authority, resolver, std::mem::take(&mut pushes.answered)).await;
        }
    }
    settling.begin(authority, resolver, pushes.answered).await;
    if let Some(error) = failed {
        return Err(error);
    }
    if count > 0 {
        return Ok(Look::Pushed);
    }
    Ok(if authority.store().any_due(authority.now()).await? { Look::Held } else { Look::Idle })
}

/// Asks what servers run of what was pushed, and writes it down.
async fn settle_all(authority: Arc<Authority>, resolver: Arc<SystemResolver>, answered: Vec<Answered>) {
    let (authority, resolver) = (authority.as_ref(), resolver.as_ref());
    let live: Vec<_> = resolver.registry().expected().iter().map(|server| server.name.clone()).collect();
    // Asked after the push: a server that loads an account from now on loads the new JWT.
    let loaded = if answered.len() > FEW { resolver.loaded().await.ok() } else { None };
    let checks = stream::iter(answered).map(|(due, outcome)| {
        let live = &live;
        let known = loaded.as_deref().and_then(|loaded| not_loaded(loaded, due.account));
        async move {
            let effective = match known {
                Some(nowhere) => nowhere,
                None => resolver.effective(due.account).await.unwrap_or_default(),
            };
            settle(authority, resolver, due, &outcome, &effective, live).await
        }
    });
    let pushed: Vec<Pushed> = checks.buffer_unordered(IN_FLIGHT).collect().await;
    let (reports, servers): (Vec<_>, Vec<_>) = pushed.into_iter().unzip();
    // Not written, the accounts stay leased and are pushed again when the lease is over.
    match authority.store().report_push(&reports, &servers.concat(), authority.now()).await {
        Ok(Reported { changed, gone }) => {
            if gone > 0 {
                authority.reconcile_wanted.notify_one();
            }
            // Both look at what servers have; where that is as before, their next tick is soon enough.
            if changed {
                authority.clients_wanted.notify_one();
                authority.provision_wanted.notify_one();
            }
        }
        Err(error) => tracing::warn!(%error, cause = error.internal_report(), "a push could not be recorded"),
    }
    for report in &reports {
        authority.announce(report.account);
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

/// Pushes one account; without answers: others have it by now.
async fn push_one(
    resolver: &SystemResolver,
    claims: Arc<Claims>,
    due: DueAccount,
) -> (PublicKey<Account>, Option<Answered>) {
    (due.account, push_claimed(resolver, &claims, due).await)
}

async fn push_claimed(resolver: &SystemResolver, claims: &Claims, mut due: DueAccount) -> Option<Answered> {
    let started = Instant::now();
    if due.rewrite
        && let Some(other) = respelled(&due.jwt)
    {
        claims.begin(due.account, true).await?;
        // Whatever comes of it, the token itself follows.
        resolver.push(PushJob::new(due.account, other)).await;
    }
    due.lease = claims.begin(due.account, false).await?;
    let outcome = resolver.push(PushJob::new(due.account, due.jwt.clone())).await;
    metrics::histogram!("nats_authority_push_duration_seconds").record(started.elapsed());
    Some((due, outcome))
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
) -> Pushed {
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
    (PushReport { account: due.account, generation: due.generation, again_at, lease: due.lease }, servers)
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
#[path = "push_tests.rs"]
mod tests;
