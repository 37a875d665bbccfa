//! What must not grow with the number of issued credentials: to list, show and issue.

use std::{fmt::Write, time::Instant};

use anyhow::{Context, Result};
use nats_authority::{
    clock::{Clock, SystemClock},
    entropy::SystemEntropy,
    model::ids,
    nkey::{Seed, User},
};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    deployment::Deployment,
    http::Http,
    report::{Report, percentile},
};

/// Whose credentials they are.
pub const ORGANIZATION: &str = "ledger-bench";

const SIZES: [u64; 3] = [1_000, 100_000, 1_000_000];

/// How often each is measured.
const SAMPLES: usize = 200;

/// What each takes, milliseconds.
struct Times {
    list: f64,
    show: f64,
    issue: f64,
}

pub async fn run(report: &mut Report, deployment: &Deployment) -> Result<()> {
    let mut http = deployment.http().await?;
    let org = format!(r#"{{"slug":"{ORGANIZATION}","environments":["prod"]}}"#);
    http.post("/api/v1/orgs", &org, "Prefer: wait=20\r\n").await?;
    issue(&mut http).await?;
    let mut connection = PgConnection::connect(&deployment.database_url).await?;
    let mut smallest: Option<Times> = None;
    for size in SIZES {
        fill(&mut connection, size).await?;
        // The service closes connections on which nothing came for long.
        let mut http = deployment.http().await?;
        // The first round is for caches.
        measure(&mut http).await?;
        let times = measure(&mut http).await?;
        let base = smallest.as_ref().unwrap_or(&times);
        for (what, time, base) in [
            ("list 100 credentials", times.list, base.list),
            ("show a credential", times.show, base.show),
            ("issue a credential", times.issue, base.issue),
        ] {
            report.row(
                &format!("{what}, {size} in the ledger, p50"),
                format!("{time:.2} ms"),
                format!("{base:.2} ms with {}", SIZES[0]),
                Some(time / base),
                "<= 1.5x",
                time <= base * 1.5,
            );
        }
        smallest.get_or_insert(times);
    }
    Ok(())
}

async fn measure(http: &mut Http) -> Result<Times> {
    let list = format!("/api/v1/orgs/{ORGANIZATION}/credentials?limit=100");
    let page: Value = serde_json::from_slice(&http.send("GET", &list, "", "").await?)?;
    let ids: Vec<_> =
        page["items"].as_array().context("items")?.iter().filter_map(|item| item["id"].as_str()).collect();
    let (mut lists, mut shows, mut issues) = (Vec::new(), Vec::new(), Vec::new());
    for sample in 0..SAMPLES {
        lists.push(timed(http.send("GET", &list, "", "")).await?);
        shows.push(timed(http.send("GET", &format!("/api/v1/credentials/{}", ids[sample % ids.len()]), "", "")).await?);
        issues.push(timed(issue(http)).await?);
    }
    let p50 = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        percentile(&times, 0.5)
    };
    Ok(Times { list: p50(lists), show: p50(shows), issue: p50(issues) })
}

async fn issue(http: &mut Http) -> Result<Vec<u8>> {
    let path = format!("/api/v1/orgs/{ORGANIZATION}/envs/prod/credentials");
    http.post(&path, r#"{"name":"viewer-1","role":"viewer"}"#, "").await
}

async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<f64> {
    let started = Instant::now();
    work.await?;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

/// The credential that is copied: environment, name, role, issuing key, who issued it, the audit event.
type Sample = (Uuid, String, String, String, String, Uuid);

/// Copies an issued credential until there are `size` in the ledger: each with an id and a user key of its own,
/// issued one after the other within the last weeks.
async fn fill(connection: &mut PgConnection, size: u64) -> Result<()> {
    let sample: Sample = sqlx::query_as(
        "SELECT c.environment_id, c.name, c.role, c.issuer_key, c.issued_by, c.audit_event FROM credentials c
         JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
         WHERE o.slug = $1 ORDER BY c.id LIMIT 1",
    )
    .bind(ORGANIZATION)
    .fetch_one(&mut *connection)
    .await?;
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM credentials").fetch_one(&mut *connection).await?;
    let lacking = size.saturating_sub(u64::try_from(there)?);
    // The rows refer to what the copied one refers to: looking it up once is enough.
    sqlx::query("SET session_replication_role = replica").execute(&mut *connection).await?;
    let mut rows = made(sample, lacking);
    let mut copy = connection
        .copy_in_raw(
            "COPY credentials (id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at,
                 issued_by, audit_event) FROM STDIN",
        )
        .await?;
    while let Some(chunk) = rows.recv().await {
        copy.send(chunk.into_bytes()).await?;
    }
    copy.finish().await?;
    sqlx::query("SET session_replication_role = origin").execute(&mut *connection).await?;
    sqlx::query("VACUUM ANALYZE credentials").execute(connection).await?;
    Ok(())
}

/// The rows, in the text format of COPY. Keys are made, as real ones are, in a thread of their own.
fn made(sample: Sample, count: u64) -> tokio::sync::mpsc::Receiver<String> {
    const CHUNK: u64 = 1_000;
    let (sender, rows) = tokio::sync::mpsc::channel(8);
    std::thread::spawn(move || {
        let entropy = SystemEntropy::new();
        let (environment_id, name, role, issuer_key, issued_by, audit_event) = sample;
        let (now, sha256) = (SystemClock.unix(), "07".repeat(32));
        let mut text = String::new();
        for number in 1..=count {
            let (id, user) =
                (ids::new_id(&SystemClock, &entropy), Seed::<User>::generate(&entropy).key_pair().public());
            // A few weeks old at most, so that all are valid.
            let age = (count - number) % 3_000_000;
            let issued = now.saturating_sub_unsigned(age);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "{id}\t{environment_id}\t{name}\t{role}\t{user}\t{issuer_key}\t\\\\x{sha256}\t{}\t{}\t{issued_by}\t{audit_event}",
                time(issued),
                time(issued + 90 * 86_400),
            );
            if number % CHUNK == 0 || number == count {
                // Nobody reads any more: the measurement has failed.
                if sender.blocking_send(std::mem::take(&mut text)).is_err() {
                    return;
                }
            }
        }
    });
    rows
}

fn time(unix: i64) -> String {
    chrono::DateTime::from_timestamp(unix, 0).unwrap_or_default().to_rfc3339()
}
