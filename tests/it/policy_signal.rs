//! The real service is told by a signal to read plans and roles again, and dies while accounts follow.

use std::fs;

use nats_authority::dev::process::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::support::{edit, http::Http, knobs::sized, site::Site, stack::eventually};

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
}

/// What `GET /policies` says of the files that were to be loaded last.
async fn refused(site: &Site) -> Option<String> {
    site.http().get("/api/v1/policies").await.1["refused"].as_str().map(str::to_owned)
}

async fn reloads(site: &Site, result: &str) -> u64 {
    let text = reqwest::get(&site.replicas[0].metrics).await.unwrap().text().await.unwrap();
    let series = format!("nats_authority_policy_reloads_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_taken_change_nothing_and_it_is_said() {
    let mut site = Site::start(1, 1).await;
    site.http().onboard("acme", &["prod"]).await;
    let body = json!({"name": "anna", "role": "org-viewer", "organizations": ["acme"]});
    let (_, anna) = site.http().post("/api/v1/tokens", body).await;
    let anna = Http::new(&site.http().url, anna["secret"].as_str().unwrap());
    let sees = async || anna.get("/api/v1/orgs/acme").await.0 == 200;
    assert!(sees().await);
    let fingerprint = async |site: &Site| site.http().get("/api/v1/policies").await.1["fingerprint"].clone();
    let before = fingerprint(&site).await;
    assert_eq!((refused(&site).await, reloads(&site, "refused").await), (None, 0));

    // Each with what is said of it: the file, and what is wrong there.
    let plan = site.policies().join("plans/s.toml");
    let good_plan = fs::read_to_string(&plan).unwrap();
    let access = site.policies().join("api.cedar");
    let broken = [
        (&access, "@id(\"a\")\npermit (principal, action", "api.cedar:2"),
        (&access, "@id(\"a\") permit (principal, action == Action::\"fly\", resource);", "fly"),
        (&access, "permit (principal, action, resource);", "a policy has no @id"),
        (&plan, "connections = \"many\"", "plans/s.toml"),
        (&plan, &good_plan.replace("connections = 100", "connections = 0"), "connections"),
    ];
    for (number, (file, text, why)) in (1..).zip(broken) {
        fs::write(file, text).unwrap();
        site.replicas[0].signal(Signal::HUP);
        eventually("the refusal is told", || async { reloads(&site, "refused").await == number }).await;
        eventually("and why", || async { refused(&site).await.is_some_and(|words| words.contains(why)) }).await;
        assert!(sees().await && fingerprint(&site).await == before, "what was in force is: {why}");
        // What is in the file is not what somebody comes in by.
        assert_eq!(anna.get("/api/v1/tokens").await.0, 403);
        if *file == plan {
            fs::write(&plan, &good_plan).unwrap();
        } else {
            fs::remove_file(&access).unwrap();
        }
    }
    let log = site.replicas[0].log();
    let told = log.lines().filter(|line| line.contains("plans and roles stay as they were"));
    let told: Vec<_> = told.filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
    assert_eq!(told.len(), 5, "{log}");
    assert!(told[0].contains("api.cedar:2") && told[4].contains("plans/s.toml"), "{told:?}");

    // A good one is taken, and there is nothing to tell any more.
    let taken = reloads(&site, "taken").await;
    let only = "@id(\"admins-only\") permit (principal in Role::\"sovereign-admin\", action, resource);";
    fs::write(&access, only).unwrap();
    site.replicas[0].signal(Signal::HUP);
    eventually("it is in force", || async { !sees().await }).await;
    eventually("it is said", || async { reloads(&site, "taken").await == taken + 1 }).await;
    assert_eq!(refused(&site).await, None);
    let (_, loads) = site.http().get("/api/v1/audit?action=access.load").await;
    assert_eq!(loads["items"][0]["detail"], json!({"builtin": false, "policies": ["admins-only"]}));
    fs::remove_file(&access).unwrap();
    site.replicas[0].signal(Signal::HUP);
    eventually("the built-in one is in force again", || async { sees().await }).await;
}
