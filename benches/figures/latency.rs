//! What one caller waits for: onboarding until a client is connected, revoking until it is closed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::{ConnectOptions, Event};
use nats_authority::{
    nkey::{Account, PublicKey},
    resolver::{PushJob, Resolver},
};
use serde_json::Value;

use crate::{
    deployment::Deployment,
    report::{Report, percentile},
};

const REVOCATIONS: usize = 50;

/// Onboards `count` organizations; `with` says in the row what else there is.
pub async fn onboard(report: &mut Report, deployment: &Deployment, count: usize, with: &str) -> Result<()> {
    let (mut ours, mut bare, mut refused) = (Vec::new(), Vec::new(), 0);
    let mut http = deployment.http().await?;
    for number in 0..count {
        let slug = format!("onboard-{}-{number}", deployment.service.authority.now().timestamp_millis());
        let started = Instant::now();
        let body = http
            .post("/api/v1/orgs", &format!(r#"{{"slug":"{slug}","environments":["prod"]}}"#), "Prefer: wait=20\r\n")
            .await?;
        let path = format!("/api/v1/orgs/{slug}/envs/prod/credentials");
        let issued: Value = serde_json::from_slice(&http.post(&path, r#"{"name":"a","role":"viewer"}"#, "").await?)?;
        // Servers refuse a first connection now and then (docs/ISSUANCE.md); that costs the client a second try.
        let client = match connect(deployment, &issued, None).await {
            Err(error) if is_refusal(&error) => {
                refused += 1;
                connect(deployment, &issued, None).await
            }
            other => other,
        };
        let client = client.with_context(|| format!("{slug} as it was issued"))?;
        ours.push(started.elapsed().as_secs_f64() * 1000.0);
        drop(client);
        let org: Value = serde_json::from_slice(&body)?;
        let account: PublicKey<Account> = org["accountId"].as_str().context("accountId")?.parse()?;
        let jwt = deployment.service.authority.store().account_jwt(account).await?.context("no JWT")?;
        let started = Instant::now();
        deployment.service.resolver.push(PushJob::new(account, jwt)).await;
        let client = connect(deployment, &issued, None).await.with_context(|| format!("{slug} after a push"))?;
        bare.push(started.elapsed().as_secs_f64() * 1000.0);
        drop(client);
        // Stream and bucket are made behind the answer; the next one is measured on a quiet cluster.
        http.send("PUT", &format!("/api/v1/orgs/{slug}/envs/prod"), "", "Prefer: wait=20\r\n").await?;
    }
    println!("of {count} first connections{with}, {refused} refused once");
    slowest(with, &ours);
    ours.sort_by(f64::total_cmp);
    bare.sort_by(f64::total_cmp);
    for (name, share, reach) in [("p50", 0.5, 25.0), ("p99", 0.99, 100.0)] {
        let (ours, bare) = (percentile(&ours, share), percentile(&bare, share));
        report.row(
            &format!("onboard until a client is connected{with}, {name}"),
            format!("{ours:.1} ms"),
            format!("{bare:.1} ms bare push + connect"),
            Some(ours / bare),
            &format!("<= {reach} ms"),
            ours <= reach,
        );
    }
    Ok(())
}

fn is_refusal(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<async_nats::ConnectError>();
    error.is_some_and(|error| error.kind() == async_nats::ConnectErrorKind::AuthorizationViolation)
}

/// When the slowest were: at the beginning, say, or one after the other.
fn slowest(with: &str, times: &[f64]) {
    let mut slowest: Vec<_> = times.iter().enumerate().collect();
    slowest.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    let slowest: Vec<_> = slowest.iter().take(5).map(|(number, time)| format!("{time:.1} ms the {number}.")).collect();
    println!("slowest onboardings{with}: {}", slowest.join(", "));
}

pub async fn revoke(report: &mut Report, deployment: &Deployment) -> Result<()> {
    let mut http = deployment.http().await?;
    http.post("/api/v1/orgs", r#"{"slug":"revoke-bench","environments":["prod"]}"#, "Prefer: wait=20\r\n").await?;
    let mut times = Vec::new();
    for _ in 0..REVOCATIONS {
        let path = "/api/v1/orgs/revoke-bench/envs/prod/credentials";
        let issued: Value = serde_json::from_slice(&http.post(path, r#"{"name":"a","role":"viewer"}"#, "").await?)?;
        let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
        let _client = connect(deployment, &issued, Some(sender)).await?;
        let id = issued["credential"]["id"].as_str().context("id")?;
        let started = Instant::now();
        http.post(&format!("/api/v1/credentials/{id}/revoke"), "{}", "").await?;
        let closed = async { while !matches!(events.recv().await, Some(Event::Disconnected) | None) {} };
        tokio::time::timeout(Duration::from_secs(10), closed).await?;
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (percentile(&times, 0.5), percentile(&times, 0.99));
    report.row(
        "revoke until the client is closed, p99",
        format!("{p99:.1} ms (p50 {p50:.1})"),
        "-".to_owned(),
        None,
        "<= 100 ms",
        p99 <= 100.0,
    );
    Ok(())
}

pub async fn connect(
    deployment: &Deployment,
    issued: &Value,
    events: Option<tokio::sync::mpsc::UnboundedSender<Event>>,
) -> Result<async_nats::Client> {
    let creds = issued["creds"].as_str().context("creds")?;
    let inbox = issued["credential"]["inboxPrefix"].as_str().context("inboxPrefix")?.to_owned();
    let mut options = ConnectOptions::with_credentials(creds)?.custom_inbox_prefix(inbox);
    if let Some(events) = events {
        options = options.event_callback(move |event| {
            let events = events.clone();
            async move {
                let _ = events.send(event);
            }
        });
    }
    Ok(options.connect(deployment.cluster.urls()[0].clone()).await?)
}
