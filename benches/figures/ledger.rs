//! What must not grow with the number of issued credentials: to list, show and issue.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use crate::{
    deployment::Deployment,
    http::Http,
    report::{Report, percentile},
};

/// Whose credentials they are.
pub const ORGANIZATION: &str = "ledger-bench";

const SIZES: [i64; 3] = [1_000, 100_000, 1_000_000];

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

/// Copies an issued credential until there are `size`: the same row with another id and key.
async fn fill(connection: &mut PgConnection, size: i64) -> Result<()> {
    sqlx::query(
        "WITH one AS (
             SELECT c AS credential FROM credentials c JOIN environments e ON e.id = c.environment_id
             JOIN organizations o ON o.id = e.organization_id WHERE o.slug = $2 ORDER BY c.id LIMIT 1
         ), copies AS (
             SELECT jsonb_populate_record(one.credential, jsonb_build_object(
                 'id', gen_random_uuid(),
                 'user_key', 'U' || rpad(translate(upper(md5($1::text || '/' || n::text)), '0189', 'GHIJ'), 55, 'A')
             )) AS copy FROM one, generate_series((SELECT count(*) FROM credentials) + 1, $1) n
         )
         INSERT INTO credentials SELECT (copy).* FROM copies",
    )
    .bind(size)
    .bind(ORGANIZATION)
    .execute(&mut *connection)
    .await?;
    sqlx::query("ANALYZE credentials").execute(connection).await?;
    Ok(())
}
