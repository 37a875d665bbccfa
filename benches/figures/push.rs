//! Pushing every account, beside a bare loop over the same JWTs with as many in flight.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use nats_authority::nkey::{Account, PublicKey};
use sqlx::{Connection, PgConnection};
use tokio::{sync::mpsc, time::timeout};

use crate::{cpu::Cpu, deployment::Deployment, report::Report};

const IN_FLIGHT: usize = 128;

/// How many pushes are measured at least, and in how many rounds at least: theirs and ours in turn, so that a
/// machine that slows down slows both.
const PUSHES: usize = 10_000;
const ROUNDS: usize = 3;

/// So long nothing happens at all only when something is wrong.
const LONG: Duration = Duration::from_mins(2);

/// Pushes every account that there is, about `size`, beside the bare loop.
pub async fn run(report: &mut Report, deployment: &Deployment, size: usize) -> Result<()> {
    settled(deployment).await?;
    let mut connection = PgConnection::connect(&deployment.database_url).await?;
    let accounts: Vec<(String, String)> =
        sqlx::query_as("SELECT account_key, jwt FROM accounts WHERE state = 'live' AND kind = 'organization'")
            .fetch_all(&mut connection)
            .await?;
    let count = accounts.len();
    let keys: HashSet<PublicKey<Account>> = accounts.iter().map(|(key, _)| key.parse()).collect::<Result<_, _>>()?;
    let (mut ours, mut limit) = (0.0, 0.0);
    let (mut our_cpu, mut limit_cpu) = (Cpu::default(), Cpu::default());
    let rounds = (PUSHES / size).clamp(ROUNDS, 20);
    for _ in 0..rounds {
        let before = Cpu::now(deployment)?;
        limit += bare(deployment, &accounts).await?;
        let between = Cpu::now(deployment)?;
        limit_cpu.add(before, between);
        let started = Instant::now();
        let authority = &deployment.service.authority;
        let mut progress = authority.progress();
        authority.store().all_due(authority.now(), || authority.push_wanted.notify_one()).await?;
        let mut left: HashSet<_> = keys.clone();
        // As whoever waits for an account learns of it; having missed some, it remains to ask the ledger.
        while !left.is_empty() {
            match timeout(LONG, progress.recv()).await? {
                Ok(account) => _ = left.remove(&account),
                Err(_) => break,
            }
        }
        let announced = started.elapsed();
        // Announced, and to be done again: then it took as long as that.
        let asked = Instant::now();
        let done = if settled_by(&mut connection).await? { announced } else { announced + asked.elapsed() };
        ours += rate(count, done);
        our_cpu.add(between, Cpu::now(deployment)?);
    }
    let pushed = rounds * count;
    println!(
        "microseconds of processor time for each account of {size}: {}; bare loop: {}",
        our_cpu.each(pushed),
        limit_cpu.each(pushed)
    );
    let (ours, limit) = (ours / as_float(rounds), limit / as_float(rounds));
    let ratio = ours / limit;
    report.row(
        &format!("push every account of {size} organizations to 3 servers"),
        format!("{ours:.0}/s"),
        format!("{limit:.0}/s bare loop"),
        Some(ratio),
        ">= 0.8 of the limit",
        ratio >= 0.8,
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// Publishes each JWT and counts three answers, with 128 accounts in flight.
async fn bare(deployment: &Deployment, accounts: &[(String, String)]) -> Result<f64> {
    let link = deployment.service.resolver.connection().link()?;
    let client = link.client().clone();
    let count = accounts.len();
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.*")).await?;
    let (free, mut places) = mpsc::unbounded_channel();
    for _ in 0..IN_FLIGHT {
        free.send(())?;
    }
    let started = Instant::now();
    let counting = tokio::spawn(async move {
        let mut heard = vec![0_u8; count];
        let mut whole = 0;
        while whole < count {
            let Some(message) = answers.next().await else { break };
            let number: usize =
                message.subject.rsplit('.').next().and_then(|token| token.parse().ok()).unwrap_or_default();
            heard[number] += 1;
            if heard[number] == 3 {
                whole += 1;
                if free.send(()).is_err() {
                    break;
                }
            }
        }
    });
    for (number, (account, jwt)) in accounts.iter().enumerate() {
        places.recv().await;
        let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE");
        client.publish_with_reply(subject, format!("{inbox}.{number}"), Bytes::from(jwt.clone())).await?;
    }
    counting.await?;
    Ok(rate(count, started.elapsed()))
}

/// Waits until nothing is due.
pub async fn settled(deployment: &Deployment) -> Result<()> {
    settled_by(&mut PgConnection::connect(&deployment.database_url).await?).await.map(drop)
}

/// The same over a connection that there is: to open one takes as long as pushing thirty accounts. Asks an index: to
/// count all accounts again and again would load what is measured. The platform's account is pushed as well, and not
/// among those that are measured. Returns whether it was so at once.
async fn settled_by(connection: &mut PgConnection) -> Result<bool> {
    let end = tokio::time::Instant::now() + LONG;
    let mut at_once = true;
    let due = "SELECT p.due_at IS NOT NULL FROM account_pushes p JOIN accounts USING (account_key)
        WHERE kind = 'organization' ORDER BY p.due_at LIMIT 1";
    while sqlx::query_scalar::<_, bool>(due).fetch_optional(&mut *connection).await?.is_some() {
        ensure!(tokio::time::Instant::now() < end, "accounts are still due");
        at_once = false;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(at_once)
}

fn rate(count: usize, time: Duration) -> f64 {
    as_float(count) / time.as_secs_f64()
}
