//! Servers that die in the middle of work, and come back.

use std::time::Duration;

use async_nats::Client;
use futures::{StreamExt, stream};
use nats_authority::dev::nats::Stop;
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::audit::{Scene, stored};
use crate::support::{
    http::Http,
    knobs::{seed, sized},
    site::Site,
    stack::eventually,
};

/// Has every server load an account, as a client that connects would.
async fn load(system: &Client, account: &str) {
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CONNZ");
    system.request(subject, "".into()).await.unwrap();
}

/// The JWT that a server runs; none: it has not loaded the account.
async fn runs(system: &Client, server_id: &str, account: &str) -> Option<String> {
    let subject = format!("$SYS.REQ.SERVER.{server_id}.ACCOUNTZ");
    let answer = system.request(subject, json!({"account": account}).to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    answer.pointer("/data/account_detail/jwt").and_then(Value::as_str).map(str::to_owned)
}

/// The ids of the live servers.
async fn server_ids(http: &Http) -> Vec<String> {
    let (_, status) = http.get("/api/v1/resolver").await;
    let live = status["servers"].as_array().unwrap().iter().filter(|server| server["live"] == true);
    live.map(|server| server["id"].as_str().unwrap().to_owned()).collect()
}

/// Every server stores and, when a client comes, runs what the ledger says of these accounts.
async fn everywhere(site: &Site, accounts: &[String]) {
    let mut database = PgConnection::connect(site.database.url()).await.unwrap();
    Scene::of_site(site).servers_store_the_ledger(&mut database).await;
    let system = site.system_client().await;
    let ids = server_ids(site.http()).await;
    assert_eq!(ids.len(), site.cluster.servers().len());
    let wanted = stored(&site.cluster.servers()[0].resolver_dir());
    let (system, ids, wanted) = (&system, &ids, &wanted);
    let checks = accounts.iter().map(|account| async move {
        for id in ids {
            // Which servers answer first is random: not all may have loaded it yet.
            eventually("runs", || async {
                load(system, account).await;
                runs(system, id, account).await.as_ref() == wanted.get(account)
            })
            .await;
        }
    });
    stream::iter(checks).buffer_unordered(16).collect::<Vec<()>>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_in_the_middle_of_onboarding() {
    let orgs = sized(150, 1000);
    let mut site = Site::start(3, 1).await;
    let http = std::sync::Arc::clone(&site.replicas[0].http);
    let onboard = |number: usize| {
        let http = std::sync::Arc::clone(&http);
        async move { http.post("/api/v1/orgs", json!({"slug": format!("org-{number}")})).await }
    };
    let mut answers = stream::iter((0..orgs).map(onboard)).buffer_unordered(16);
    let (mut accounts, mut slowest) = (Vec::new(), Duration::ZERO);
    let mut last = Instant::now();
    while let Some((status, org)) = answers.next().await {
        assert_eq!(status, 201, "{org}");
        accounts.push(org["accountId"].as_str().unwrap().to_owned());
        slowest = slowest.max(last.elapsed());
        if accounts.len() == orgs / 3 {
            site.cluster.stop_server(2, Stop::Kill).await.unwrap();
        }
        last = Instant::now();
    }
    println!("{orgs} onboarded, n3 killed after {}; longest time without an answer {slowest:?}", orgs / 3);

    let last = format!("/api/v1/orgs/org-{}", orgs - 1);
    eventually("partial, and n3 is named", || async {
        let view = http.get(&last).await.1;
        let has = |name: &str| {
            let servers = view["resolver"]["servers"].as_array().unwrap();
            servers
                .iter()
                .find(|server| server["name"] == name)
                .map(|server| (server["live"].clone(), server["stored"].clone()))
        };
        view["resolver"]["state"] == "partial"
            && has("n3") == Some((json!(false), json!(0)))
            && ["n1", "n2"].iter().all(|name| has(name) == Some((json!(true), json!(1))))
    })
    .await;

    let started = Instant::now();
    site.cluster.start_server(2).await.unwrap();
    eventually("all have converged", || async {
        let (_, page) = http.get("/api/v1/orgs?limit=1000").await;
        let orgs = page["items"].as_array().unwrap();
        orgs.iter().all(|org| org["resolver"]["state"] == "converged")
    })
    .await;
    println!("all converged {:?} after the start of n3", started.elapsed());
    everywhere(&site, &accounts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_changes_in_one_second_with_a_node_down_for_the_first() {
    let (rounds, seed) = (sized(3, 20), seed());
    println!("{rounds} rounds, CHAOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = Site::start(3, 1).await;
    let account = site.http().onboard("acme", &[]).await["accountId"].as_str().unwrap().to_owned();
    let change = |http: std::sync::Arc<Http>, conn: usize| async move {
        let body = json!({"limits": {"conn": conn}});
        let (status, view) = http.send(Method::PATCH, "/api/v1/orgs/acme", Some(body)).await;
        assert_eq!(status, 200, "{view}");
        view["resolver"]["generation"].as_i64().unwrap()
    };
    for round in 0..rounds {
        let http = std::sync::Arc::clone(&site.replicas[0].http);
        site.cluster.stop_server(2, Stop::Kill).await.unwrap();
        let first = change(std::sync::Arc::clone(&http), 1000 + 2 * round).await;
        let start = Instant::now();
        let pause = Duration::from_millis(rng.random_range(0..900));
        // The second comes before, while or after the server starts.
        let second = async {
            tokio::time::sleep(pause).await;
            (change(http, 1001 + 2 * round).await, start.elapsed())
        };
        let (started, (second, after)) = tokio::join!(site.cluster.start_server(2), second);
        started.unwrap();
        assert_eq!(second, first + 1);
        assert!(after < Duration::from_secs(1), "two changes in one second: {after:?}");
        site.http().converged("acme").await;
        println!("round {round}: second change after {after:?}, converged {:?} after the first", start.elapsed());
        everywhere(&site, std::slice::from_ref(&account)).await;
    }
}
