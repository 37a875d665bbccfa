//! What differs is found and repaired on real servers, and nothing is sent when nothing differs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shows the times that were measured")]

use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use futures::{StreamExt, stream};
use nats_authority::{
    authority::requests::{NewSystemCredential, Reason},
    dev::nats::Stop,
    entropy::SystemEntropy,
    jwt::envelope::{HEADER, read_unverified},
    model::{OrgSlug, OrgState, view::AuditEventView},
    nkey::{Account, KeyPair, Operator, PublicKey},
    resolver::{Effective, Resolver},
    store::{audit::Filter, page::Page},
};
use tokio::time::Instant;

use crate::support::stack::{Stack, arrived, eventually};

/// Whoever got hold of a user of the system account.
struct Intruder(Client);

impl Intruder {
    async fn new(stack: &Stack) -> Self {
        let request = NewSystemCredential { name: "intruder".to_owned(), ttl: "1h".to_owned() };
        let creds = stack.authority.system_credential(&stack.actor, &request).await.unwrap();
        let options = ConnectOptions::with_credentials(&creds).unwrap();
        // The first one: no test here stops it.
        Self(options.retain_servers_order().connect(stack.cluster.urls()).await.unwrap())
    }

    async fn update(&self, jwt: &str) {
        self.0.request("$SYS.REQ.CLAIMS.UPDATE", jwt.to_owned().into()).await.unwrap();
    }
}

async fn account(stack: &Stack, slug: &str) -> PublicKey<Account> {
    stack.converged(slug).await.account_id.parse().unwrap()
}

async fn jwt(stack: &Stack, account: PublicKey<Account>) -> String {
    stack.authority.store().account_jwt(account).await.unwrap().unwrap()
}

/// Waits until so many servers store exactly what the ledger says.
async fn stored_by(stack: &Stack, account: PublicKey<Account>, servers: usize) {
    let jwt = jwt(stack, account).await;
    eventually("stored", || async {
        let answers = stack.resolver.lookup(account).await.unwrap();
        answers.len() == servers && answers.iter().all(|answer| answer.as_ref() == Some(&jwt))
    })
    .await;
}

async fn gone(stack: &Stack, account: PublicKey<Account>) {
    eventually("gone", || async { stack.resolver.lookup(account).await.unwrap().iter().all(Option::is_none) }).await;
}

async fn events(stack: &Stack, action: &str) -> Vec<AuditEventView> {
    let filter = Filter { action: Some(action.to_owned()), ..Filter::default() };
    stack.authority.store().audit_events(&filter, &Page { after: None, limit: 10 }).await.unwrap().0
}

/// Waits until a comparison that began from now on found all servers right.
async fn agreed(stack: &Stack) {
    let from = stack.authority.now() + chrono::TimeDelta::milliseconds(200);
    eventually("agreed", || async { stack.authority.compared().agreed_at.is_some_and(|at| at > from) }).await;
}

fn empty(stack: &Stack, index: usize) {
    for file in std::fs::read_dir(stack.cluster.servers()[index].resolver_dir()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_folder_is_filled_again() {
    let mut stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.onboard("other", &[]).await;
    let (acme, other) = (account(&stack, "acme").await, account(&stack, "other").await);
    let issued = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&issued, 0).await.unwrap();
    agreed(&stack).await;

    // While it runs: it would answer "updated" to the same JWT and write nothing.
    let start = Instant::now();
    empty(&stack, 0);
    stored_by(&stack, acme, 3).await;
    stored_by(&stack, other, 3).await;
    println!("emptied while it ran, filled after {:?}", start.elapsed());
    assert_eq!(client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed), 1, "nobody was closed");

    // While it is down.
    stack.cluster.stop_server(2, Stop::Kill).await.unwrap();
    empty(&stack, 2);
    let start = Instant::now();
    stack.cluster.start_server(2).await.unwrap();
    stored_by(&stack, acme, 3).await;
    stored_by(&stack, other, 3).await;
    println!("emptied while it was down, filled {:?} after its start", start.elapsed());
    agreed(&stack).await;
    for slug in ["acme", "other"] {
        assert!(stack.converged(slug).await.resolver.servers.iter().all(|server| server.live && server.stored == 1));
    }
}

/// Clients of a revoked user that try again and again.
const CROWD: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_jwt_lets_nobody_in_for_long() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    let acme = account(&stack, "acme").await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    let before = jwt(&stack, acme).await;
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    stack.converged("acme").await;
    assert!(stack.connect(&issued, 1).await.is_err(), "revoked");
    agreed(&stack).await;

    let intruder = Intruder::new(&stack).await;
    let start = Instant::now();
    // A crowd: some come in at the very moment in which their server is repaired, and closes those that it knows of.
    let crowd = stream::iter(0..CROWD).map(|number| {
        let (stack, issued) = (&stack, &issued);
        async move {
            let mut clients = Vec::new();
            while start.elapsed() < Duration::from_millis(500) {
                match stack.connect(issued, number % 3).await {
                    Ok(client) => clients.push(client),
                    Err(_) if clients.is_empty() => {}
                    Err(_) => break,
                }
            }
            clients
        }
    });
    let ((), revived) = tokio::join!(intruder.update(&before), crowd.buffer_unordered(CROWD).collect::<Vec<_>>());
    let revived: Vec<_> = revived.into_iter().flatten().collect();
    eventually("noticed", || async { !events(&stack, "account.replayed-jwt").await.is_empty() }).await;
    stored_by(&stack, acme, 3).await;
    eventually("out again", || async {
        revived.iter().all(|client| client.connection_state() == async_nats::connection::State::Disconnected)
    })
    .await;
    println!("replayed (revoked clients that came in: {}), out again after {:?}", revived.len(), start.elapsed());
    assert!(stack.connect(&issued, 1).await.is_err(), "revoked again");
    let event = events(&stack, "account.replayed-jwt").await.remove(0);
    assert_eq!((event.org.as_deref(), event.target), (Some("acme"), acme.to_string()));
    assert_eq!(event.detail["generation"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_jwt_is_replaced_before_a_server_believes_it() {
    let mut stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    let acme = account(&stack, "acme").await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&issued, 1).await.unwrap();
    agreed(&stack).await;
    let stranger = KeyPair::<Operator>::generate(&SystemEntropy::new());
    let mut claims = read_unverified(&jwt(&stack, acme).await).unwrap().claims;
    claims["iss"] = serde_json::json!(stranger.public());
    claims["iat"] = serde_json::json!(claims["iat"].as_i64().unwrap() + 1000);
    let body = format!("{}.{}", B64.encode(HEADER), B64.encode(claims.to_string()));
    let foreign = format!("{body}.{}", B64.encode(stranger.sign(body.as_bytes())));

    let intruder = Intruder::new(&stack).await;
    let start = Instant::now();
    intruder.update(&foreign).await;
    eventually("noticed", || async { !events(&stack, "account.foreign-jwt").await.is_empty() }).await;
    stored_by(&stack, acme, 3).await;
    println!("a foreign JWT was replaced after {:?}", start.elapsed());
    let event = events(&stack, "account.foreign-jwt").await.remove(0);
    assert_eq!((event.org.as_deref(), event.target), (Some("acme"), acme.to_string()));
    assert_eq!(event.detail["issuer"], stranger.public().to_string());
    drop(client);
    stack.cluster.stop_server(1, Stop::Graceful).await.unwrap();
    stack.cluster.start_server(1).await.unwrap();
    eventually("lets in after a restart", || async { stack.connect(&issued, 1).await.is_ok() }).await;

    // An account of somebody else is reported and left alone.
    let theirs = KeyPair::<Account>::generate(&SystemEntropy::new()).public();
    claims["sub"] = serde_json::json!(theirs);
    let body = format!("{}.{}", B64.encode(HEADER), B64.encode(claims.to_string()));
    let foreign = format!("{body}.{}", B64.encode(stranger.sign(body.as_bytes())));
    intruder.update(&foreign).await;
    eventually("reported", || async { stack.authority.compared().unknown == [theirs] }).await;
    agreed(&stack).await;
    assert_eq!(stack.resolver.lookup(theirs).await.unwrap(), vec![Some(foreign); 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_stays_deleted() {
    let mut stack = Stack::start(3).await;
    let slug: OrgSlug = "acme".parse().unwrap();
    stack.onboard("acme", &[]).await;
    let acme = account(&stack, "acme").await;
    let live = jwt(&stack, acme).await;
    stack.cluster.stop_server(2, Stop::Kill).await.unwrap();
    stack.servers_live(2).await;
    stack.authority.delete(&stack.actor, &slug, false).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stack.authority.organization(&slug).await.unwrap().state, OrgState::Deleting, "n3 still has it");
    let start = Instant::now();
    stack.cluster.start_server(2).await.unwrap();
    gone(&stack, acme).await;
    eventually("deleted", || async { stack.authority.organization(&slug).await.unwrap().state == OrgState::Deleted })
        .await;
    println!("deleted while a server was down, gone {:?} after its return", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    agreed(&stack).await;

    // A server that nobody remembered, or somebody's backup.
    let intruder = Intruder::new(&stack).await;
    let start = Instant::now();
    intruder.update(&live).await;
    eventually("noticed", || async { !events(&stack, "account.delete-again").await.is_empty() }).await;
    gone(&stack, acme).await;
    println!("a deleted account came back, gone after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let runs = stack.resolver.effective(acme).await.unwrap();
    assert!(runs.iter().all(|answer| matches!(answer.effective, Effective::NotLoaded)), "{runs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_when_nothing_differs() {
    let mut stack = Stack::start(3).await;
    for number in 0..5 {
        stack.onboard(&format!("org-{number}"), &[]).await;
    }
    for number in 0..5 {
        stack.converged(&format!("org-{number}")).await;
    }
    agreed(&stack).await;
    // A server that answered late, on a busy machine, is pushed to once more.
    eventually("nothing is due", || async { stack.authority.store().account_counts().await.unwrap().1 == 0 }).await;
    let spy = Intruder::new(&stack).await;
    let mut updates = spy.0.subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE").await.unwrap();
    arrived(&spy.0, "nobody").await;
    stack.cluster.stop_server(2, Stop::Graceful).await.unwrap();
    stack.servers_live(2).await;
    stack.cluster.start_server(2).await.unwrap();
    stack.servers_live(3).await;
    stack.authority.reconcile_wanted.notify_one();
    agreed(&stack).await;
    let id = stack.authority.standing().servers.iter().find(|server| server.row.name == "n3").unwrap().row.id.clone();
    eventually("confirmed", || async {
        let view = stack.converged("org-0").await;
        view.resolver.servers.iter().any(|server| server.id == id && server.stored == 1)
    })
    .await;
    agreed(&stack).await;
    let sent = tokio::time::timeout(Duration::from_millis(100), updates.next()).await;
    assert!(sent.is_err(), "a JWT was sent");
}
