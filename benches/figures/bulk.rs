//! Revoking all of an environment while its clients are connected: until the last one is closed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::Event;
use nats_authority::{
    nkey::{Account, PublicKey},
    resolver::{PushJob, Resolver},
};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::{
    deployment::Deployment,
    latency::connect,
    report::{Report, percentile},
};

const CLIENTS: usize = 200;
const ROUNDS: usize = 10;

/// The limit is the push of the same token by itself, its clients still to be closed.
pub async fn revoke(report: &mut Report, deployment: &Deployment) -> Result<()> {
    let mut http = deployment.http().await?;
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let new = r#"{"slug":"revoke-bulk","environments":["prod"]}"#;
    let org: Value = serde_json::from_slice(&http.post("/api/v1/orgs", new, "Prefer: wait=20\r\n").await?)?;
    // Plans limit connections; here they are what is counted.
    http.send("PATCH", "/api/v1/orgs/revoke-bulk", r#"{"limits":{"conn":1000}}"#, "Prefer: wait=20\r\n").await?;
    let account: PublicKey<Account> = org["accountId"].as_str().context("accountId")?.parse()?;
    for _ in 0..ROUNDS {
        let path = "/api/v1/orgs/revoke-bulk/envs/prod/credentials";
        let issued: Value = serde_json::from_slice(&http.post(path, r#"{"name":"a","role":"viewer"}"#, "").await?)?;
        let (sender, events) = unbounded_channel();
        let mut clients = Vec::with_capacity(CLIENTS);
        for _ in 0..CLIENTS {
            clients.push(connect(deployment, &issued, Some(sender.clone())).await?);
        }
        let started = Instant::now();
        http.post("/api/v1/orgs/revoke-bulk/revocations", r#"{"env":"prod"}"#, "").await?;
        tokio::time::timeout(Duration::from_secs(30), closed(events)).await?;
        ours.push(started.elapsed().as_secs_f64() * 1000.0);
        drop(clients);
        // The account is whole on every server before it is pushed once more for comparison.
        http.send("PUT", "/api/v1/orgs/revoke-bulk/envs/prod", "", "Prefer: wait=20\r\n").await?;
        let jwt = deployment.service.authority.store().account_jwt(account).await?.context("no JWT")?;
        let started = Instant::now();
        deployment.service.resolver.push(PushJob::new(account, jwt)).await;
        bare.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    ours.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    let (p50, p99, bare) = (percentile(&ours, 0.5), percentile(&ours, 0.99), percentile(&bare, 0.5));
    report.row(
        &format!("revoke an environment until the last of {CLIENTS} clients is closed, p50"),
        format!("{p50:.1} ms (p99 {p99:.1})"),
        format!("{bare:.1} ms bare push"),
        Some(p50 / bare),
        "<= 500 ms",
        p50 <= 500.0,
    );
    Ok(())
}

/// A client that is closed tries again and is refused, so each is closed once before anything else.
async fn closed(mut events: UnboundedReceiver<Event>) {
    let mut left = CLIENTS;
    while left > 0 {
        match events.recv().await {
            Some(Event::Disconnected) => left -= 1,
            Some(_) => {}
            None => return,
        }
    }
}
