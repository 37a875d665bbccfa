//! Pushes due accounts to every server and records what each has. An account stays due until every
//! live server stores its generation and, where it has loaded the account, runs it.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{TICK, backoff, nudged};
use crate::{
    authority::{Authority, reconcile::respelled},
    error::Result,
    resolver::{Effective, EffectiveAnswer, PushJob, PushOutcome, Resolver, StoreResult, SystemResolver},
    store::accounts::{AccountServer, DueAccount, PushReport},
};

/// How many accounts are claimed at a time.
const CLAIM: i64 = 512;

/// How many pushes are under way at a time.
const IN_FLIGHT: usize = 128;

/// How long other replicas leave a claimed account alone, seconds.
const LEASE: i64 = 30;

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    loop {
        match push_due(&authority, &resolver).await {
            Ok(0) => {}
            Ok(_) => {
                authority.provision_wanted.notify_one();
                continue;
            }
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "push"),
        }
        if !nudged(&authority.push_wanted, TICK, &stop).await {
            return;
        }
    }
}

/// Pushes what is due now; returns how many accounts that were.
async fn push_due(authority: &Authority, resolver: &SystemResolver) -> Result<usize> {
    if !resolver.connection().state().borrow().connected || resolver.registry().expected().is_empty() {
        return Ok(0);
    }
    let due = authority.store().claim_due_accounts(CLAIM, LEASE, authority.now()).await?;
    let count = due.len();
    if count == 0 {
        return Ok(0);
    }
    // Reports are written while the next pushes are under way.
    let (done, mut reports) = mpsc::channel::<(PushReport, Vec<AccountServer>)>(IN_FLIGHT);
    let push = async {
        let mut pushed = stream::iter(due).map(|due| push_one(authority, resolver, due)).buffer_unordered(IN_FLIGHT);
        while let Some(report) = pushed.next().await {
            if done.send(report).await.is_err() {
                break;
            }
        }
        drop(done);
    };
    // Owns the receiver: should it fail, the pushes see that nobody listens and end.
    let record = async move {
        let mut batch = Vec::new();
        while reports.recv_many(&mut batch, IN_FLIGHT).await > 0 {
            let (reports, servers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            authority.store().report_push(&reports, &servers.concat(), authority.now()).await?;
            for report in reports {
                authority.announce(report.account);
            }
        }
        Ok(())
    };
    let ((), recorded) = tokio::join!(push, record);
    recorded.map(|()| count)
}

async fn push_one(
    authority: &Authority,
    resolver: &SystemResolver,
    due: DueAccount,
) -> (PushReport, Vec<AccountServer>) {
    let started = tokio::time::Instant::now();
    if due.rewrite
        && let Some(other) = respelled(&due.jwt)
    {
        // Whatever comes of it, the token itself follows.
        resolver.push(PushJob::new(due.account, other)).await;
    }
    let outcome = resolver.push(PushJob::new(due.account, due.jwt.clone())).await;
    let effective = resolver.effective(due.account).await.unwrap_or_default();
    metrics::histogram!("nats_authority_push_seconds").record(started.elapsed());
    let mut servers = judge(&due, &outcome, &effective);
    let live: Vec<_> = resolver.registry().expected().iter().map(|server| server.name.clone()).collect();
    let mut settled = is_settled(&servers, &live);
    if due.tombstone {
        // A server that is away would bring the account back to the others.
        settled &= authority.standing().servers.iter().all(|server| live.contains(&server.row.name));
    }
    if settled && due.tombstone {
        match delete(authority, resolver, &due).await {
            Ok(gone) => settled = gone,
            Err(error) => {
                tracing::warn!(%error, cause = error.internal_report(), account = %due.account, "delete");
                settled = false;
            }
        }
    }
    for server in servers.iter_mut().filter(|server| server.error.is_some()) {
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
async fn delete(authority: &Authority, resolver: &SystemResolver, due: &DueAccount) -> Result<bool> {
    let Some((slug, purge)) = authority.store().wants_purge(due.account).await? else { return Ok(true) };
    if purge {
        resolver.purge(due.account).await?;
    }
    let request = authority.deletion_request(&slug, due.account).await?;
    let outcome = resolver.delete(vec![due.account], request).await;
    if outcome.per_server.is_empty() || !outcome.is_complete() {
        return Ok(false);
    }
    authority.finish_deletion(&slug, due.account).await?;
    Ok(true)
}
