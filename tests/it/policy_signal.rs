//! The real service is told by a signal to read plans and roles again, and dies while accounts follow.

use nats_authority::dev::process::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{edit, knobs::sized, site::Site, stack::eventually};

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

const FOLLOWED: &str = "SELECT count(*) FROM audit_events WHERE action = 'organization.recompose'";
const SECOND: &str = "SELECT count(*) FROM accounts WHERE kind = 'organization' AND generation = 2";

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_service_has_left_is_done_after_its_restart() {
    let count = sized(200, 1000);
    let mut site = Site::start(1, 1).await;
    let slug = |n: usize| format!("org-{n:05}");
    for n in 0..count {
        let (status, view) = site.http().post("/api/v1/orgs", json!({"slug": slug(n), "plan": "s"})).await;
        assert_eq!(status, 201, "{view}");
    }
    let mut watch = PgConnection::connect(site.database.url()).await.unwrap();
    assert_eq!(number(&mut watch, SECOND).await, 0);

    // Somebody holds an organization in the middle: there the service stands when it is killed.
    let mut holder = PgConnection::connect(site.database.url()).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    let middle = i64::try_from(count / 2).unwrap();
    sqlx::query("SELECT 1 FROM organizations WHERE slug = $1 FOR UPDATE")
        .bind(slug(count / 2))
        .execute(&mut *held)
        .await
        .unwrap();
    edit(site.policies().join("plans/s.toml"), "connections = 100", "connections = 90");
    site.replicas[0].signal(Signal::HUP);
    while number(&mut watch, FOLLOWED).await < middle {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    site.replicas[0].kill().await;
    held.rollback().await.unwrap();
    assert_eq!(number(&mut watch, FOLLOWED).await, middle);
    assert_eq!(number(&mut watch, SECOND).await, middle);

    site.replicas[0].spawn();
    site.replicas[0].ready(1).await;
    eventually("every account follows", || async {
        let (_, status) = site.http().get("/api/v1/policies").await;
        status["outdatedAccounts"] == 0 && status["heldUp"] == json!([])
    })
    .await;
    // Each once: none was minted twice, none was left out.
    let all = i64::try_from(count).unwrap();
    assert_eq!(number(&mut watch, FOLLOWED).await, all);
    assert_eq!(number(&mut watch, SECOND).await, all);
    site.http().converged(&slug(count - 1)).await;

    // What cannot be taken is said, and the service goes on.
    edit(site.policies().join("plans/s.toml"), "connections = 90", "connections = 0");
    site.replicas[0].signal(Signal::HUP);
    eventually("the refusal is told", || async {
        let (_, status) = site.http().get("/api/v1/policies").await;
        status["refused"].as_str().is_some_and(|why| why.contains("plans/s.toml") && why.contains("connections"))
    })
    .await;
    assert_eq!(number(&mut watch, FOLLOWED).await, all);
}
