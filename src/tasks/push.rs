//! Pushes due accounts to every server; [`super::settle`] records what each has. An account stays due until every
//! live server stores its generation and, where it has loaded the account, runs it.
//!
//! While some are pushed the next ones are claimed, also what becomes due meanwhile, and of those before it is asked
//! what servers run. One account is never pushed twice at the same time: after a reconnect a push is sent again, and
//! the older JWT could come last.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    TICK,
    claims::{Claims, LEASE},
    nudged,
    reconcile::loading::Pushed,
    settle::{Answered, Settling},
};
use crate::{
    authority::{Authority, reconcile::respelled},
    error::{Error, Result},
    nkey::{Account, PublicKey},
    resolver::{PushJob, Resolver, SystemResolver},
    store::pushes::DueAccount,
};

/// How many accounts are claimed at a time, while those of the claim before are pushed: both within the time for which
/// the ledger's word counts, or it is asked again for half of them.
const CLAIM: usize = 256;

/// How many pushes are under way at a time.
const IN_FLIGHT: usize = 128;

/// The first claim is of as many, so that pushing begins at once.
const FIRST: usize = IN_FLIGHT;

/// When all are claimed, so many answers are worth it to ask what servers run. Where more become due again and again,
/// as many as are still waited for: whoever waits for an account waits neither for a crowd nor for the last of it.
const SOON: usize = 64;

/// With so many answers that are not being settled no more are pushed: they are in memory, and claimed for a while only.
const UNSETTLED: usize = 2048;

/// How long to wait for a due account that somebody has locked; again and again, up to the second.
const HELD: Duration = Duration::from_millis(5);

/// When to look whether more is due than was found: what somebody had locked. Whatever becomes due nudges.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What came of a look for due accounts.
enum Look {
    /// Some were pushed.
    Pushed,
    /// Nothing is due, or nobody is there.
    Idle,
    /// Some are due, and in the hands of a transaction: of one that reports an earlier push, mostly.
    Held,
}

pub(super) async fn run(
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    pushed: Pushed,
    stop: CancellationToken,
) {
    let mut settling = Settling::new(pushed);
    let mut pause = HELD;
    loop {
        let look = push_due(&authority, &resolver, &mut settling, &stop).await.unwrap_or_else(|error| {
            tracing::warn!(%error, cause = error.internal_report(), "push");
            Look::Idle
        });
        let wait = match look {
            Look::Pushed => LOOK_AGAIN,
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

/// Accounts of one claim, and when it was sent to the ledger.
type Claimed = (Vec<DueAccount>, Instant);

fn claim(authority: &Arc<Authority>, limit: usize) -> JoinHandle<Result<Claimed>> {
    let authority = Arc::clone(authority);
    tokio::spawn(async move {
        let asked = Instant::now();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Ok((authority.store().claim_due_accounts(limit, LEASE, authority.now()).await?, asked))
    })
}

/// Pushes under way, and those that wait for their turn.
struct Pushes<'a> {
    resolver: &'a SystemResolver,
    waiting: VecDeque<(DueAccount, Arc<Claims>)>,
    running: FuturesUnordered<BoxFuture<'a, (PublicKey<Account>, Option<Answered>)>>,
    accounts: HashSet<PublicKey<Account>>,
    answered: Vec<Answered>,
}

impl Pushes<'_> {
    /// Begins as many as there is room for, in turn.
    fn begin(&mut self) {
        while let Some((due, _)) = self.waiting.front()
            && self.running.len() < IN_FLIGHT
            && self.accounts.insert(due.account)
            && let Some((due, claims)) = self.waiting.pop_front()
        {
            self.running.push(Box::pin(push_one(self.resolver, claims, due)));
        }
    }

    /// The next one is over; none under way: never.
    async fn next(&mut self) {
        let Some((account, answered)) = self.running.next().await else { return std::future::pending().await };
        self.accounts.remove(&account);
        self.answered.extend(answered);
    }
}

/// Pushes what is due and what becomes due meanwhile, until nothing is left.
async fn push_due(
    authority: &Arc<Authority>,
    resolver: &Arc<SystemResolver>,
    settling: &mut Settling,
    stop: &CancellationToken,
) -> Result<Look> {
    if !somebody_is_there(resolver) {
        return Ok(Look::Idle);
    }
    let (mut limit, mut count, mut failed) = (FIRST, 0, None);
    // Something becomes due meanwhile, and there may be no end to that.
    let mut more = false;
    let mut next = Some(claim(authority, limit));
    let mut pushes = Pushes {
        resolver,
        waiting: VecDeque::new(),
        running: FuturesUnordered::new(),
        accounts: HashSet::new(),
        answered: Vec::new(),
    };
    loop {
        pushes.begin();
        let end = next.is_none() && pushes.waiting.is_empty();
        let idle = end && pushes.running.is_empty();
        let enough = if more { pushes.running.len().max(1) } else { SOON };
        if idle || settling.may_begin(pushes.answered.len(), end.then_some(enough)) {
            settling.begin(authority, resolver, &mut pushes.answered);
        }
        if idle && pushes.answered.is_empty() {
            break;
        }
        tokio::select! {
            claimed = join(&mut next), if pushes.waiting.is_empty() && pushes.answered.len() < UNSETTLED => match claimed {
                Ok((due, asked)) => {
                    count += due.len();
                    next = (due.len() == limit && !stop.is_cancelled()).then(|| claim(authority, CLAIM));
                    limit = CLAIM;
                    let claims = Arc::new(Claims::new(Arc::clone(authority), &due, asked));
                    pushes.waiting.extend(due.into_iter().map(|due| (due, Arc::clone(&claims))));
                }
                Err(error) => failed = Some(error),
            },
            () = pushes.next() => {}
            () = authority.push_wanted.notified(), if end && failed.is_none() && !stop.is_cancelled() => {
                more = true;
                next = somebody_is_there(resolver).then(|| claim(authority, CLAIM));
            }
            // What has answered may be settled now.
            true = settling.next() => {}
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    if count > 0 {
        return Ok(Look::Pushed);
    }
    Ok(if authority.store().any_due(authority.now()).await? { Look::Held } else { Look::Idle })
}

fn somebody_is_there(resolver: &SystemResolver) -> bool {
    resolver.connection().state().borrow().connected && !resolver.registry().expected().is_empty()
}

/// What came of the claim under way, which is over then; none under way: never.
async fn join(next: &mut Option<JoinHandle<Result<Claimed>>>) -> Result<Claimed> {
    let Some(claim) = next else { return std::future::pending().await };
    let claimed = claim.await;
    *next = None;
    claimed.map_err(|error| Error::internal("a claim panicked").with_source(error))?
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
