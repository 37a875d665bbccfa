//! Pushing every account, beside a bare loop over the same JWTs with as many in flight.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures::StreamExt;
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::{deployment::Deployment, report::Report};

const SIZES: [usize; 2] = [100, 1_000];
const IN_FLIGHT: usize = 128;

pub async fn run(report: &mut Report, deployment: &Deployment) -> Result<()> {
    let mut http = deployment.http().await?;
    let mut made = 0;
    for size in SIZES {
        while made < size {
            http.post("/api/v1/orgs", &format!(r#"{{"slug":"push-{made}"}}"#), "").await?;
            made += 1;
        }
        settled(deployment).await?;
        let mut connection = PgConnection::connect(&deployment.database_url).await?;
        let jwts: Vec<String> =
            sqlx::query_scalar("SELECT jwt FROM accounts WHERE state = 'live' AND kind = 'organization'")
                .fetch_all(&mut connection)
                .await?;
        let count = jwts.len();
        let limit = bare(deployment, jwts).await?;
        let started = Instant::now();
        deployment.service.authority.store().all_due(deployment.service.authority.now()).await?;
        deployment.service.authority.push_wanted.notify_one();
        settled(deployment).await?;
        let ours = rate(count + 1, started);
        let ratio = ours / limit;
        report.row(
            &format!("push every account, {count} of them, to 3 servers"),
            format!("{ours:.0}/s"),
            format!("{limit:.0}/s bare loop"),
            Some(ratio),
            ">= 0.8 of the limit",
            ratio >= 0.8,
        );
    }
    Ok(())
}

/// Publishes each JWT and counts three answers, with 128 accounts in flight.
async fn bare(deployment: &Deployment, jwts: Vec<String>) -> Result<f64> {
    let link = deployment.service.resolver.connection().link()?;
    let client = link.client().clone();
    let count = jwts.len();
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
    for (number, jwt) in jwts.into_iter().enumerate() {
        places.recv().await;
        client.publish_with_reply("$SYS.REQ.CLAIMS.UPDATE", format!("{inbox}.{number}"), Bytes::from(jwt)).await?;
    }
    counting.await?;
    Ok(rate(count, started))
}

/// Waits until nothing is due.
async fn settled(deployment: &Deployment) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_mins(2);
    while deployment.service.authority.store().account_counts().await?.1 > 0 {
        ensure!(tokio::time::Instant::now() < end, "accounts are still due");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn rate(count: usize, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64()
}
