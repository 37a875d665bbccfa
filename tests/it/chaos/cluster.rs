//! The whole cluster gone for a while, and back with empty disks.

use std::{fs, sync::Arc, time::Duration};

use async_nats::jetstream::{self, consumer::PullConsumer};
use futures::{StreamExt, future::join_all};
use nats_authority::dev::nats::Stop;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::audit::Scene;
use crate::support::{deployment::connect, http::Http, knobs::sized, site::Site, stack::eventually};

async fn declare(http: &Http, org: &str) {
    let path = format!("/api/v1/orgs/{org}/envs/prod/consumers/orders");
    let body = json!({"filterSubjects": [format!("ws.{org}-prod.orders.>")]});
    let (status, view) = http.send_and_wait(Method::PUT, &path, Some(body)).await;
    assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");
    let path = format!("/api/v1/orgs/{org}/envs/prod/streams/jobs");
    let body = json!({"filterSubjects": [format!("ws.{org}-prod.jobs.>")], "maxBytes": "1MiB"});
    let (status, view) = http.send_and_wait(Method::PUT, &path, Some(body)).await;
    assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");
}

/// Publishes with one credential and fetches with another; false: something is not there.
async fn flows(url: &str, org: &str, publisher: &Value, consumer: &Value) -> bool {
    let publish = async {
        let mut context = jetstream::new(connect(url, publisher).await.ok()?);
        context.set_timeout(Duration::from_secs(2));
        context.publish(format!("ws.{org}-prod.orders.1"), "x".into()).await.ok()?.await.ok()
    };
    let fetch = async {
        let mut context = jetstream::new(connect(url, consumer).await.ok()?);
        context.set_timeout(Duration::from_secs(2));
        let orders: PullConsumer =
            context.get_consumer_from_stream("orders", format!("ws-{org}-prod-events")).await.ok()?;
        let mut batch = orders.fetch().max_messages(1).expires(Duration::from_secs(2)).messages().await.ok()?;
        batch.next().await?.ok()?.ack().await.ok()
    };
    publish.await.is_some() && fetch.await.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_from_the_database() {
    let (orgs, away) = (sized(4, 40), Duration::from_secs(sized(2, 60) as u64));
    let mut site = Site::start(3, 1).await;
    let http = Arc::clone(&site.replicas[0].http);
    let slugs: Vec<_> = (0..orgs).map(|number| format!("org-{number}")).collect();
    let mut credentials = Vec::new();
    for slug in &slugs {
        http.onboard(slug, &["prod"]).await;
        declare(&http, slug).await;
        let publisher = http.issue(slug, "prod", json!({"name": "p", "role": "publisher"})).await;
        let consumer = http.issue(slug, "prod", json!({"name": "c", "role": "consumer"})).await;
        credentials.push((publisher, consumer));
    }
    let url = site.cluster.servers()[1].url();
    let url = url.as_str();
    eventually("events flow", || flows(url, &slugs[0], &credentials[0].0, &credentials[0].1)).await;

    for index in 0..3 {
        site.cluster.stop_server(index, Stop::Kill).await.unwrap();
    }
    for server in site.cluster.servers() {
        fs::remove_dir_all(server.resolver_dir()).unwrap();
        fs::remove_dir_all(server.resolver_dir().with_file_name("jetstream")).unwrap();
    }
    eventually("not ready", || async { http.get("/readyz").await.0 == 503 }).await;
    eventually("unreachable", || async {
        http.get("/api/v1/orgs/org-0").await.1["resolver"]["state"] == "unreachable"
    })
    .await;
    tokio::time::sleep(away).await;
    let start = Instant::now();
    for index in 0..3 {
        site.cluster.start_server(index).await.unwrap();
    }
    site.replicas[0].ready(3).await;
    println!("{orgs} organizations, away for {away:?}; ready {:?} after the first server was started", start.elapsed());
    eventually("accounts are everywhere", || async {
        http.get("/api/v1/resolver").await.1["accounts"]["due"] == 0
            && connect(url, &credentials[orgs - 1].0).await.is_ok()
    })
    .await;
    println!("accounts restored after {:?}", start.elapsed());
    eventually("streams are missed", || async {
        let mut database = PgConnection::connect(site.database.url()).await.unwrap();
        restored(&mut database).await == orgs
    })
    .await;
    for slug in &slugs {
        http.converged(slug).await;
    }
    // New consumers elect their leaders.
    let all = slugs
        .iter()
        .zip(&credentials)
        .map(|(slug, (publisher, consumer))| eventually("events flow", move || flows(url, slug, publisher, consumer)));
    join_all(all).await;
    for slug in &slugs {
        eventually("the further stream is ready", || async {
            http.get(&format!("/api/v1/orgs/{slug}/envs/prod/streams/jobs")).await.1["state"] == "ready"
        })
        .await;
        let account = http.get(&format!("/api/v1/orgs/{slug}")).await.1["accountId"].as_str().unwrap().to_owned();
        let path = format!("jetstream/jetstream/{account}/streams/ws-{slug}-prod-jobs");
        for server in site.cluster.servers() {
            let folder = server.resolver_dir().with_file_name(&path);
            assert!(folder.is_dir(), "{}", folder.display());
        }
    }
    println!("streams, buckets and consumers restored after {:?}", start.elapsed());
    let mut database = PgConnection::connect(site.database.url()).await.unwrap();
    Scene::of_site(&site).servers_store_the_ledger(&mut database).await;
    assert_eq!(restored(&mut database).await, orgs, "what was lost is on record, once");
}

/// How many losses are on record.
async fn restored(database: &mut PgConnection) -> usize {
    let count = sqlx::query_scalar("SELECT count(*) FROM audit_events WHERE action = 'environment.restore'");
    let count: i64 = count.fetch_one(database).await.unwrap();
    usize::try_from(count).unwrap()
}
