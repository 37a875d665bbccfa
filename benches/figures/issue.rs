//! Issuing over REST, beside raw inserts of the same rows into the same Postgres.

use std::time::Instant;

use anyhow::Result;
use sqlx::{Connection, PgConnection};

use crate::{
    deployment::{CONNECTIONS, Deployment},
    report::Report,
};

const PATH: &str = "/api/v1/orgs/issue-bench/envs/prod/credentials";
const SINGLE: usize = 8_000;
const BATCHES: usize = 120;
const BATCH: usize = 500;

async fn prepare(deployment: &Deployment) -> Result<()> {
    let mut http = deployment.http().await?;
    http.post("/api/v1/orgs", r#"{"slug":"issue-bench","environments":["prod"]}"#, "Prefer: wait=20\r\n").await?;
    http.post(PATH, r#"{"name":"projector-1","role":"projector"}"#, "").await?;
    Ok(())
}

pub async fn single(report: &mut Report, deployment: &Deployment) -> Result<()> {
    prepare(deployment).await?;
    // Warm up, then in turn, so that a machine that slows down slows both.
    measure_issue(deployment, 1_000).await?;
    measure_insert(deployment, 1_000, 1).await?;
    let (mut ours, mut limit) = (0.0, 0.0);
    for _ in 0..3 {
        ours += measure_issue(deployment, SINGLE / 3).await? / 3.0;
        limit += measure_insert(deployment, SINGLE / 3, 1).await? / 3.0;
    }
    let ratio = ours / limit;
    report.row(
        "issue over REST, one a request, 32 connections",
        format!("{ours:.0}/s"),
        format!("{limit:.0}/s raw INSERT"),
        Some(ratio),
        ">= 0.5 of the limit",
        ratio >= 0.5,
    );
    Ok(())
}

pub async fn batch(report: &mut Report, deployment: &Deployment) -> Result<()> {
    prepare(deployment).await?;
    let (mut ours, mut limit) = (0.0, 0.0);
    for _ in 0..3 {
        ours += measure_batches(deployment, BATCHES / 3).await? / 3.0;
        limit += measure_insert(deployment, BATCHES / 3 * BATCH, BATCH).await? / 3.0;
    }
    let ratio = ours / limit;
    report.row(
        "issue over REST in batches of 500",
        format!("{ours:.0}/s"),
        format!("{limit:.0}/s multi-row INSERT"),
        Some(ratio),
        ">= 0.5 of the limit and >= 10,000/s",
        ratio >= 0.5 && ours >= 10_000.0,
    );
    Ok(())
}

async fn measure_issue(deployment: &Deployment, total: usize) -> Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(deployment.http().await?);
    }
    let each = total / CONNECTIONS;
    let started = Instant::now();
    let work = clients.into_iter().map(|mut http| {
        tokio::spawn(async move {
            for _ in 0..each {
                http.post(PATH, r#"{"name":"projector-1","role":"projector"}"#, "").await?;
            }
            anyhow::Ok(())
        })
    });
    for done in futures::future::join_all(work).await {
        done??;
    }
    Ok(rate(each * CONNECTIONS, started))
}

async fn measure_batches(deployment: &Deployment, batches: usize) -> Result<f64> {
    let items = vec![r#"{"name":"projector-1","role":"projector"}"#; BATCH].join(",");
    let body = std::sync::Arc::new(format!("{{\"items\":[{items}]}}"));
    let started = Instant::now();
    let work = (0..4).map(|_| {
        let body = body.clone();
        async move {
            let mut http = deployment.http().await?;
            for _ in 0..batches / 4 {
                http.post(&format!("{PATH}/batch"), &body, "").await?;
            }
            anyhow::Ok(())
        }
    });
    futures::future::try_join_all(work).await?;
    Ok(rate(batches / 4 * 4 * BATCH, started))
}

/// Inserts copies of an existing credential and its audit event: the same columns, the same
/// constraints, one commit for each `rows_a_commit` of them.
async fn measure_insert(deployment: &Deployment, total: usize, rows_a_commit: usize) -> Result<f64> {
    let connections = if rows_a_commit == 1 { CONNECTIONS } else { 4 };
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut connection = PgConnection::connect(&deployment.database_url).await?;
        let row: (uuid::Uuid, String, String) = sqlx::query_as(
            "SELECT c.environment_id, c.issuer_key, a.detail::text FROM credentials c JOIN audit_events a ON a.id = c.audit_event LIMIT 1",
        )
        .fetch_one(&mut connection)
        .await?;
        open.push((connection, row));
    }
    let each = total / connections / rows_a_commit;
    let started = Instant::now();
    let work = open.into_iter().map(|(mut connection, (environment, issuer, detail))| {
        tokio::spawn(async move {
            for _ in 0..each {
                let ids: Vec<_> = (0..rows_a_commit).map(|_| new_id()).collect();
                let keys: Vec<_> = ids.iter().map(user_key).collect();
                sqlx::query(INSERT)
                    .bind(ids)
                    .bind(keys)
                    .bind(environment)
                    .bind(&issuer)
                    .bind(&detail)
                    .bind(&[7_u8; 32][..])
                    .execute(&mut connection)
                    .await?;
            }
            anyhow::Ok(())
        })
    });
    for done in futures::future::join_all(work).await {
        done??;
    }
    Ok(rate(each * connections * rows_a_commit, started))
}

const INSERT: &str = "
WITH new AS (SELECT * FROM UNNEST($1::uuid[], $2::text[]) AS n(id, user_key)),
events AS (
    INSERT INTO audit_events (id, at, actor, action, org, target, detail)
    SELECT id, now(), 'token:admin', 'credential.issue', 'issue-bench', id::text, $5::json FROM new
)
INSERT INTO credentials (id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at, issued_by, audit_event)
SELECT id, $3, 'projector-1', 'projector', user_key, $4, $6, now(), now() + interval '90 days', 'token:admin', id FROM new";

fn new_id() -> uuid::Uuid {
    nats_authority::model::ids::new_id(
        &nats_authority::clock::SystemClock,
        &nats_authority::entropy::SystemEntropy::new(),
    )
}

/// A text that looks like a user key and is unique.
fn user_key(id: &uuid::Uuid) -> String {
    let text = data_encoding::BASE32_NOPAD.encode(id.as_bytes());
    format!("U{text:A<55}")
}

#[expect(clippy::cast_precision_loss, reason = "a count")]
fn rate(count: usize, started: Instant) -> f64 {
    count as f64 / started.elapsed().as_secs_f64()
}
