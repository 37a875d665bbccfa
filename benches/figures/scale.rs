//! What grows with the number of organizations, and what must not: pushing, comparing and onboarding at
//! three sizes, and the memory of a service over the largest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use serde_json::Value;

use crate::{
    deployment::{Deployment, Replica},
    latency, ledger, push,
    report::{Report, percentile},
};

/// Numbers of organizations.
pub const SIZES: [usize; 3] = [100, 1_000, 10_000];

/// How many organizations are onboarded to measure onboarding: of fewer, the p99 is the slowest of all.
const ONBOARDINGS: usize = 200;

/// How often a comparison is measured.
const COMPARISONS: usize = 5;

/// MiB that a service over the largest deployment may take.
const MEMORY: u64 = 96;

pub async fn run(report: &mut Report, deployment: &Deployment, sizes: &[usize]) -> Result<()> {
    for &size in sizes {
        grow(deployment, size).await?;
        push::run(report, deployment, size).await?;
        compare(report, deployment, size).await?;
        latency::onboard(report, deployment, ONBOARDINGS, &format!(", with {size} organizations")).await?;
    }
    Ok(())
}

/// Pushing alone.
pub async fn push(report: &mut Report, deployment: &Deployment, sizes: &[usize]) -> Result<()> {
    for &size in sizes {
        grow(deployment, size).await?;
        push::run(report, deployment, size).await?;
    }
    Ok(())
}

/// Onboards until there are `size` organizations, and waits until all are pushed.
async fn grow(deployment: &Deployment, size: usize) -> Result<()> {
    const CALLERS: usize = 16;
    let callers = (0..CALLERS).map(|caller| async move {
        let mut http = deployment.http().await?;
        for number in (caller..size).step_by(CALLERS) {
            http.post("/api/v1/orgs", &format!(r#"{{"slug":"scale-{number}"}}"#), "").await?;
        }
        anyhow::Ok(())
    });
    futures::future::try_join_all(callers).await?;
    push::settled(deployment).await?;
    // What the changes left to do behind them, so that it is not measured with what follows.
    let end = tokio::time::Instant::now() + Duration::from_mins(5);
    while deployment.service.authority.store().audit_unpublished().await? > 0 {
        ensure!(tokio::time::Instant::now() < end, "the audit log is not published");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// A comparison of all accounts where nothing differs: its time, and that no JWT is sent.
async fn compare(report: &mut Report, deployment: &Deployment, size: usize) -> Result<()> {
    let authority = &deployment.service.authority;
    let link = deployment.service.resolver.connection().link()?;
    let mut sent = link.client().subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE").await?;
    let mut times = Vec::new();
    for _ in 0..COMPARISONS {
        let before = authority.now();
        let started = Instant::now();
        authority.reconcile_wanted.notify_one();
        while authority.compared().agreed_at.is_none_or(|at| at < before) {
            ensure!(started.elapsed() < Duration::from_mins(1), "the servers do not agree");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let repushed = sent.next().now_or_never_some();
    times.sort_by(f64::total_cmp);
    let slowest = percentile(&times, 1.0);
    let jwts = if repushed { "JWTs were sent" } else { "no JWT sent" };
    report.row(
        &format!("reconcile {size} unchanged accounts on 3 servers"),
        format!("{slowest:.0} ms, {jwts}"),
        "-".to_owned(),
        None,
        "<= 2 s and no JWT sent",
        slowest <= 2000.0 && !repushed,
    );
    Ok(())
}

trait NowOrNever {
    fn now_or_never_some(self) -> bool;
}

impl<F: Future<Output = Option<T>>, T> NowOrNever for F {
    /// Something is there already.
    fn now_or_never_some(self) -> bool {
        futures::FutureExt::now_or_never(self).flatten().is_some()
    }
}

/// A service of its own over everything that is there, before and after it compared all of it.
pub async fn memory(report: &mut Report, deployment: &Deployment) -> Result<()> {
    let replica = Replica::start(deployment).await?;
    let mut http = replica.http().await?;
    let began = Instant::now();
    // Its first comparison is that of its start.
    loop {
        let view: Value = serde_json::from_slice(&http.send("GET", "/api/v1/resolver", "", "").await?)?;
        if view["agreedAt"].is_string() {
            break;
        }
        ensure!(began.elapsed() < Duration::from_mins(2), "the replica does not agree with the servers");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = replica.resident()?;
    for _ in 0..5 {
        http.send("POST", "/api/v1/resolver/reconcile", "", "").await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let path = format!("/api/v1/orgs/{}/credentials?limit=1000", ledger::ORGANIZATION);
    for _ in 0..20 {
        http.send("GET", &path, "", "").await.context("list")?;
    }
    let after = replica.resident()?;
    report.row(
        "memory with 10,000 organizations and 1,000,000 credentials",
        format!("{after} MiB ({before} MiB before 5 comparisons and 20 lists)"),
        "-".to_owned(),
        None,
        "<= 96 MiB, flat",
        after <= MEMORY && after <= before + before / 5,
    );
    replica.stop().await
}
