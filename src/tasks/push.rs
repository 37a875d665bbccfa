//! Pushes due accounts to every server and records what each has. An account stays due until every
//! live server stores its generation and, where it has loaded the account, runs it.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    TICK, backoff,
    claims::{Claims, LEASE},
    nudged,
};
use crate::{
    authority::{Authority, reconcile::respelled},
    error::Result,
    model::view::ResolverType,
    nkey::{Account, PublicKey},
    resolver::{Effective, EffectiveAnswer, Loaded, PushJob, PushOutcome, Resolver, StoreResult, SystemResolver},
    store::accounts::{AccountServer, DueAccount, PushReport},
};

/// How many accounts are claimed at a time.
const CLAIM: i64 = 1024;

/// How many pushes are under way at a time.
const IN_FLIGHT: usize = 128;

/// Up to so many accounts are asked for one by one what servers run; for more, servers are first
/// asked which of all they have loaded.
const FEW: usize = 16;

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let mut settling = Settling(None);
    loop {
        match push_due(&authority, &resolver, &mut settling).await {
            Ok(0) => {}
            Ok(_) => {
                authority.provision_wanted.notify_one();
                continue;
            }
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "push"),
        }
        // What comes next does not wait for a server that is slow to say what it runs.
        if !nudged(&authority.push_wanted, TICK, &stop).await {
            settling.settled().await;
            return;
        }
    }
}

/// An account and what the servers answered to its JWT.
type Answered = (DueAccount, PushOutcome);

/// One pushed account and what each server has of it.
type Pushed = (PushReport, Vec<AccountServer>);

/// Servers are asked what they run, and it is written down, while the next accounts are pushed.
struct Settling(Option<JoinHandle<()>>);

impl Settling {
    async fn begin(&mut self, authority: &Arc<Authority>, resolver: &Arc<SystemResolver>, answered: Vec<Answered>) {
        self.settled().await;
        self.0 = Some(tokio::spawn(settle_all(Arc::clone(authority), Arc::clone(resolver), answered)));
    }

    async fn settled(&mut self) {
        if let Some(settling) = self.0.take()
            && settling.await.is_err()
        {
            tracing::error!("settling a push panicked");
        }
    }
}

/// Pushes what is due now; returns how many accounts that were.
async fn push_due(
    authority: &Arc<Authority>,
    resolver: &Arc<SystemResolver>,
    settling: &mut Settling,
) -> Result<usize> {
    if !resolver.connection().state().borrow().connected || resolver.registry().expected().is_empty() {
        return Ok(0);
    }
    let asked = Instant::now();
    let due = authority.store().claim_due_accounts(CLAIM, LEASE, authority.now()).await?;
    let count = due.len();
    if count == 0 {
        return Ok(0);
    }
    let claims = Claims::new(authority, &due, asked);
    let jobs = stream::iter(due).map(|due| push_one(resolver, &claims, due));
    let answered = jobs.buffer_unordered(IN_FLIGHT).filter_map(std::future::ready).collect().await;
    settling.begin(authority, resolver, answered).await;
    Ok(count)
}

/// Asks what servers run of what was pushed, and writes it down.
async fn settle_all(authority: Arc<Authority>, resolver: Arc<SystemResolver>, answered: Vec<Answered>) {
    let (authority, resolver) = (authority.as_ref(), resolver.as_ref());
    // Asked after the push: a server that loads an account from now on loads the new JWT.
    let loaded = if answered.len() > FEW { resolver.loaded().await.ok() } else { None };
    let checks = stream::iter(answered).map(|(due, outcome)| {
        let known = loaded.as_deref().and_then(|loaded| not_loaded(loaded, due.account));
        async move {
            let effective = match known {
                Some(nowhere) => nowhere,
                None => resolver.effective(due.account).await.unwrap_or_default(),
            };
            settle(authority, resolver, due, &outcome, &effective).await
        }
    });
    let pushed: Vec<Pushed> = checks.buffer_unordered(IN_FLIGHT).collect().await;
    let (reports, servers): (Vec<_>, Vec<_>) = pushed.into_iter().unzip();
    // Not written, the accounts stay leased and are pushed again when the lease is over.
    match authority.store().report_push(&reports, &servers.concat(), authority.now()).await {
        Ok(0) => {}
        Ok(_) => authority.reconcile_wanted.notify_one(),
        Err(error) => tracing::warn!(%error, cause = error.internal_report(), "a push could not be recorded"),
    }
    for report in reports {
        authority.announce(report.account);
    }
    authority.clients_wanted.notify_one();
}

/// Pushes one account; none: others have it by now.
async fn push_one(
    resolver: &SystemResolver,
    claims: &Claims<'_>,
    mut due: DueAccount,
) -> Option<(DueAccount, PushOutcome)> {
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
) -> Pushed {
    let servers = judge(&due, outcome, effective);
    let live: Vec<_> = resolver.registry().expected().iter().map(|server| server.name.clone()).collect();
    let mut settled = is_settled(&servers, &live);
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
            let runs = effective.iter().find(|e| e.server.name == answer.name).map(|e| &e.effective);
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
