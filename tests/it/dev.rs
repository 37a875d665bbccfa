//! The private cluster and database: they start, survive what the chaos tests do to them, and leave
//! nothing behind.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, ConnectOptions};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use futures::StreamExt;
use nats_authority::{
    dev::{
        nats::{Cluster, ClusterSpec, Server, Stop, Trust},
        place,
        postgres::{Durability, Postgres},
        process::{self, Signal, is_running},
    },
    entropy::SystemEntropy,
    jwt::envelope::HEADER,
    nkey::{Account, KeyPair, Operator, Role, Seed, User},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::support::{self, run};

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

/// A key pair of the vectors.
fn key<R: Role>(name: &str) -> KeyPair<R> {
    Seed::parse(vectors()["keys"][name]["seed"].as_str().unwrap()).unwrap().key_pair()
}

/// A token signed by hand: these tests stand below everything that issues.
fn token<R: Role>(issuer: &KeyPair<R>, subject: &impl ToString, nats: &Value) -> String {
    let claims = json!({
        "jti": "dev", "iat": 1_700_000_000, "iss": issuer.public(), "name": "dev", "sub": subject.to_string(),
        "nats": nats,
    });
    let body = format!("{}.{}", B64.encode(HEADER), B64.encode(claims.to_string()));
    format!("{body}.{}", B64.encode(issuer.sign(body.as_bytes())))
}

/// The operator that the official library made, and its system account. The operator is strict: what
/// is not signed with signing keys is refused, so the account has one.
fn trust() -> Trust {
    let vectors = vectors();
    let operator = vectors["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == "operator full");
    let system = key::<Account>("system_account").public().to_string();
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let account = json!({"limits": unlimited, "signing_keys": [key::<Account>("account_signing").public()],
        "default_permissions": {"pub": {}, "sub": {}}, "authorization": {}, "type": "account", "version": 2});
    Trust {
        operator_jwt: operator.unwrap()["token"].as_str().unwrap().to_owned(),
        system_account_jwt: token(&key::<Operator>("operator_signing"), &system, &account),
        system_account: system,
    }
}

/// A connection as a user of the system account.
async fn system_client(urls: &[String]) -> Client {
    let user = Seed::<User>::generate(&SystemEntropy::new()).key_pair();
    let claims = json!({"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
        "issuer_account": key::<Account>("system_account").public()});
    let jwt = token(&key::<Account>("account_signing"), &user.public(), &claims);
    let user = Arc::new(user);
    ConnectOptions::with_jwt(jwt, move |nonce| {
        let user = user.clone();
        async move { Ok(user.sign(&nonce).to_vec()) }
    })
    .connect(urls)
    .await
    .unwrap()
}

/// The names of the servers that answer a ping of the system account, once `count` have. Right after
/// a route is formed the servers may not know of each other's subscriptions: so it asks repeatedly.
async fn answering(client: &Client, count: usize) -> BTreeSet<String> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.unwrap();
    let mut ask = tokio::time::interval(Duration::from_millis(200));
    let mut names = BTreeSet::new();
    let all = async {
        while names.len() < count {
            tokio::select! {
                _ = ask.tick() => {
                    client.publish_with_reply("$SYS.REQ.SERVER.PING.IDZ", inbox.clone(), "".into()).await.unwrap();
                }
                Some(answer) = answers.next() => {
                    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
                    names.insert(answer["name"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned());
                }
            }
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), all).await;
    assert!(in_time.is_ok(), "only {names:?} answer");
    names
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn spec(dir: &Path, nodes: usize) -> ClusterSpec {
    ClusterSpec { nodes, jetstream_max_file: 1 << 20, ..ClusterSpec::new(dir, "dev-test", trust()) }
}

#[tokio::test]
async fn three_servers_form_a_cluster_and_one_may_die_and_return() {
    let dir = support::temp_dir();
    let mut cluster = Cluster::start(spec(dir.path(), 3)).await.unwrap();
    let urls = cluster.urls();
    let client = system_client(&urls[..1]).await;
    assert_eq!(answering(&client, 3).await, names(&["n1", "n2", "n3"]));

    let killed = cluster.servers()[1].pid().unwrap();
    cluster.stop_server(1, Stop::Kill).await.unwrap();
    assert!(!is_running(killed));
    assert_eq!(cluster.servers()[1].pid(), None);
    assert_eq!(answering(&client, 2).await, names(&["n1", "n3"]));
    cluster.start_server(1).await.unwrap();
    assert_eq!(cluster.urls(), urls);
    assert_eq!(answering(&client, 3).await, names(&["n1", "n2", "n3"]));

    // Somebody else kills one: it is noticed, and started like one that was stopped.
    process::send(cluster.servers()[2].pid().unwrap(), Signal::KILL).unwrap();
    while cluster.fallen().unwrap() != [2] {
        tokio::task::yield_now().await;
    }
    cluster.start_server(2).await.unwrap();
    assert!(cluster.fallen().unwrap().is_empty());
    assert_eq!(answering(&client, 3).await, names(&["n1", "n2", "n3"]));

    let pids: Vec<u32> = cluster.servers().iter().filter_map(Server::pid).collect();
    assert_eq!(pids.len(), 3);
    cluster.stop().await.unwrap();
    assert!(pids.into_iter().all(|pid| !is_running(pid)));

    // The same directory is the same cluster again.
    let cluster = Cluster::start(spec(dir.path(), 3)).await.unwrap();
    assert_eq!(cluster.urls(), urls);
}

#[tokio::test]
async fn two_stacks_live_side_by_side_and_end_when_dropped() {
    let (one, two) = (support::temp_dir(), support::temp_dir());
    let (one, two) = tokio::join!(Cluster::start(spec(one.path(), 1)), Cluster::start(spec(two.path(), 1)));
    let stacks = [one.unwrap(), two.unwrap()];
    let mut pids = Vec::new();
    for stack in &stacks {
        assert_eq!(answering(&system_client(&stack.urls()).await, 1).await, names(&["n1"]));
        pids.extend(stack.servers().iter().filter_map(Server::pid));
    }
    assert_eq!(pids.len(), 2);
    drop(stacks);
    assert!(pids.into_iter().all(|pid| !is_running(pid)));
}

#[tokio::test]
async fn postgres_keeps_its_data_through_a_kill_and_a_restart() {
    let dir = support::temp_dir();
    let mut postgres = Postgres::start(dir.path(), Durability::Durable).await.unwrap();
    let url = postgres.create_database("kept", None).await.unwrap();
    let mut session = PgConnection::connect(&url).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 42 AS answer").execute(&mut session).await.unwrap();

    // The session is still open when the postmaster dies, and again when it is stopped.
    let killed = postgres.pid().unwrap();
    postgres.halt(Stop::Kill).await.unwrap();
    assert!(!is_running(killed));
    postgres.start_again().await.unwrap();
    assert_ne!(postgres.pid().unwrap(), killed);
    assert_eq!(answer(&url).await, 42);
    let _open = PgConnection::connect(&url).await.unwrap();
    postgres.stop().await.unwrap();

    let postgres = Postgres::start(dir.path(), Durability::Durable).await.unwrap();
    assert_eq!(postgres.database_url("kept"), url);
    assert_eq!(answer(&url).await, 42);
    let wrong = url.replace("authority:", "authority:x");
    assert!(PgConnection::connect(&wrong).await.is_err());
    let pid = postgres.pid().unwrap();
    drop(postgres);
    assert!(!is_running(pid));
}

#[tokio::test]
async fn postgres_starts_where_only_we_can_go() {
    let dir = support::temp_dir();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let locked = dir.path().join("postgres");
    for _ in 0..2 {
        let postgres = Postgres::start(&locked, Durability::Fast).await.unwrap();
        PgConnection::connect(&postgres.url()).await.unwrap();
    }
    let password = fs::metadata(locked.join("password")).unwrap();
    assert_eq!(password.permissions().mode() & 0o777, 0o600);
    // Only when we are root does another user run Postgres, and needs a place that it can reach. What is left to be
    // searched is removed by the search.
    if let (Some(elsewhere), None) = (place::elsewhere(&locked), run::dir()) {
        fs::remove_dir_all(elsewhere).unwrap();
    }
}

async fn answer(url: &str) -> i32 {
    let mut session = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar("SELECT answer FROM kept").fetch_one(&mut session).await.unwrap()
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = tokio::join!(support::database(), support::database());
    assert_ne!(one.url(), two.url());
    for database in [&one, &two] {
        let mut session = PgConnection::connect(database.url()).await.unwrap();
        sqlx::query("CREATE TABLE mine ()").execute(&mut session).await.unwrap();
    }
    let migrated = [support::database_from("mine", migrate).await, support::database_from("mine", migrate).await];
    for database in &migrated {
        let mut session = PgConnection::connect(database.url()).await.unwrap();
        sqlx::query("INSERT INTO migrated DEFAULT VALUES").execute(&mut session).await.unwrap();
    }
}

async fn migrate(url: String) {
    let mut session = PgConnection::connect(&url).await.unwrap();
    sqlx::query("CREATE TABLE migrated (id INT DEFAULT 1 PRIMARY KEY)").execute(&mut session).await.unwrap();
    session.close().await.unwrap();
}
