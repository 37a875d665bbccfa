//! Other layouts than three full resolvers in one cluster: one server, clusters joined by gateways, servers that cache,
//! servers that ask a URL, and servers that look for an account that only the ledger has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shows the times that were measured")]

use std::time::Duration;

use async_nats::{Client, ConnectOptions, connection::State};
use futures::StreamExt;
use nats_authority::{
    authority::requests::{NewSystemCredential, Reason},
    dev::{
        nats::{ClusterSpec, Group, ResolverKind, Stop},
        process::Signal,
    },
    model::{
        OrgSlug, OrgState,
        view::{Convergence, ResolverType},
    },
    nkey::{Account, PublicKey},
    policy::Policies,
    resolver::Resolver,
};
use tokio::time::Instant;

use crate::support::{
    door::Door,
    stack::{Stack, arrived, eventually},
};

pub async fn layout(layout: impl FnOnce(&mut ClusterSpec, &str)) -> Stack {
    Stack::with_layout(Policies::builtin().unwrap(), layout).await
}

/// The kind of resolver of each server, by name.
async fn kinds(stack: &Stack, wanted: &[(&str, ResolverType)]) {
    eventually("every server's kind of resolver is known", || async {
        let standing = stack.authority.standing();
        wanted.iter().all(|(name, kind)| {
            standing.servers.iter().any(|server| server.row.name == *name && server.told.resolver == Some(*kind))
        })
    })
    .await;
}

pub async fn account(stack: &Stack, slug: &str) -> PublicKey<Account> {
    stack.converged(slug).await.account_id.parse().unwrap()
}

/// Waits until a comparison that began from now on found all servers right.
async fn agreed(stack: &Stack) {
    let from = stack.authority.now() + chrono::TimeDelta::milliseconds(200);
    eventually("agreed", || async { stack.authority.compared().agreed_at.is_some_and(|at| at > from) }).await;
}

async fn stored_by(stack: &Stack, account: PublicKey<Account>, servers: usize) {
    let jwt = stack.authority.store().account_jwt(account).await.unwrap().unwrap();
    eventually("stored", || async {
        let answers = stack.resolver.lookup(account).await.unwrap();
        answers.len() == servers && answers.iter().all(|answer| answer.as_ref() == Some(&jwt))
    })
    .await;
}

async fn deleted(stack: &Stack, slug: &str) {
    let slug: OrgSlug = slug.parse().unwrap();
    stack.authority.delete(&stack.actor, &slug, false).await.unwrap();
    eventually("deleted", || async { stack.authority.organization(&slug).await.unwrap().state == OrgState::Deleted })
        .await;
}

async fn closed(client: &Client) {
    eventually("closed", || async { client.connection_state() == State::Disconnected }).await;
}

pub async fn system_client(stack: &Stack) -> Client {
    let request = NewSystemCredential { name: "spy".to_owned(), ttl: "1h".to_owned() };
    let creds = stack.authority.system_credential(&stack.actor, &request).await.unwrap();
    ConnectOptions::with_credentials(&creds).unwrap().connect(stack.cluster.urls()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server() {
    let mut stack = Stack::start(1).await;
    kinds(&stack, &[("n1", ResolverType::Full)]).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    stack.connect(&issued, 0).await.unwrap();
    agreed(&stack).await;
    let before = stack.resolver.registry().expected()[0].id.clone();
    stack.cluster.stop_server(0, Stop::Kill).await.unwrap();
    stack.cluster.start_server(0).await.unwrap();
    eventually("it is seen to be another process", || async {
        stack.resolver.registry().expected().first().is_some_and(|server| server.id != before)
    })
    .await;
    stack.servers_live(1).await;
    // What it acknowledged before does not count; it is compared and found right.
    let view = stack.converged("acme").await;
    assert_eq!(view.resolver.missing, Vec::<String>::new());
    agreed(&stack).await;
    stack.connect(&issued, 0).await.unwrap();
    deleted(&stack, "acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_joined_by_gateways() {
    let mut stack = layout(|spec, _| {
        (spec.name, spec.nodes) = ("east".to_owned(), 2);
        spec.more = vec![Group { cluster: "west".to_owned(), resolver: ResolverKind::Full, nodes: 2 }];
    })
    .await;
    let full = ["n1", "n2", "n3", "n4"].map(|name| (name, ResolverType::Full));
    kinds(&stack, &full).await;
    let clusters = |stack: &Stack| -> Vec<_> {
        stack.authority.standing().servers.iter().map(|server| server.row.cluster.clone().unwrap()).collect()
    };
    assert_eq!(clusters(&stack), ["east", "east", "west", "west"]);
    stack.onboard("acme", &["prod"]).await;
    let acme = account(&stack, "acme").await;
    stored_by(&stack, acme, 4).await;
    agreed(&stack).await;
    // A question to one server stays on the side of whoever asks.
    let near = stack.resolver.known().into_iter().filter(|server| server.near).count();
    assert_eq!(near, 2, "{:?}", stack.resolver.known());
    let far: Vec<usize> = (0..4).filter(|n| !stack.resolver.known()[*n].near).collect();
    let (revoked, stays) =
        (stack.issue("acme", "prod", "publisher").await, stack.issue("acme", "prod", "viewer").await);
    stack.connect(&revoked, far[0]).await.unwrap();

    // A folder that is emptied on the far side.
    let start = Instant::now();
    for file in std::fs::read_dir(stack.cluster.servers()[far[0]].resolver_dir()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    stored_by(&stack, acme, 4).await;
    println!("emptied in the far cluster, filled after {:?}", start.elapsed());

    // The far cluster is cut off while things change.
    for index in &far {
        stack.cluster.stop_server(*index, Stop::Kill).await.unwrap();
    }
    stack.servers_live(2).await;
    stack.authority.revoke(&stack.actor, revoked.credential.id, Reason::default()).await.unwrap();
    stack.onboard("late", &["prod"]).await;
    let slug = "acme".parse().unwrap();
    eventually("partial", || async {
        let view = stack.authority.organization(&slug).await.unwrap().resolver;
        let names: Vec<_> = far.iter().map(|index| format!("n{}", index + 1)).collect();
        view.state == Convergence::Partial && view.missing == names
    })
    .await;
    let start = Instant::now();
    for index in &far {
        stack.cluster.start_server(*index).await.unwrap();
    }
    stack.servers_live(4).await;
    let late = stack.account_converged("late").await.account_id.parse().unwrap();
    stack.account_converged("acme").await;
    println!("a cluster that was cut off converged {:?} after its start", start.elapsed());
    stored_by(&stack, acme, 4).await;
    stored_by(&stack, late, 4).await;
    assert!(stack.connect(&revoked, far[0]).await.is_err(), "revoked");
    stack.connect(&stays, far[0]).await.unwrap();
    agreed(&stack).await;

    // The same with servers that are paused, and so miss nothing for good but answer nothing.
    for index in &far {
        stack.cluster.signal_server(*index, Signal::STOP).unwrap();
    }
    stack.authority.revoke(&stack.actor, stays.credential.id, Reason::default()).await.unwrap();
    eventually("not converged", || async {
        stack.authority.organization(&slug).await.unwrap().resolver.state == Convergence::Partial
    })
    .await;
    for index in &far {
        stack.cluster.signal_server(*index, Signal::CONT).unwrap();
    }
    stack.account_converged("acme").await;
    assert!(stack.connect(&stays, far[1]).await.is_err(), "revoked");
    deleted(&stack, "acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_whose_link_was_cut_converge_when_it_is_back() {
    let mut doors = Vec::new();
    let stack = layout(|spec, _| {
        (spec.name, spec.nodes) = ("east".to_owned(), 2);
        spec.more = vec![Group { cluster: "west".to_owned(), resolver: ResolverKind::Full, nodes: 2 }];
        doors.extend((1..=4).map(|n| Door::new(spec.dir.join(format!("n{n}/ports.json")))));
        spec.gateway_doors = doors.iter().map(|door| door.port).collect();
    })
    .await;
    let through = || doors.iter().map(Door::passed).sum::<usize>();
    assert!(through() >= 2, "the gateways go through the doors");
    stack.onboard("acme", &["prod"]).await;
    let acme = account(&stack, "acme").await;
    stored_by(&stack, acme, 4).await;
    agreed(&stack).await;
    let far: Vec<usize> = (0..4).filter(|n| !stack.resolver.known()[*n].near).collect();
    assert_eq!(far.len(), 2, "{:?}", stack.resolver.known());
    let issued = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&issued, far[0]).await.unwrap();
    let ids = |stack: &Stack| -> Vec<_> {
        stack.authority.standing().servers.iter().map(|server| server.row.id.clone()).collect()
    };
    let before = ids(&stack);

    // Every server goes on; only the link is gone.
    doors.iter().for_each(Door::shut);
    let start = Instant::now();
    stack.servers_live(2).await;
    println!("the cut was noticed after {:?}", start.elapsed());
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    stack.onboard("late", &[]).await;
    let missing: Vec<_> = far.iter().map(|index| format!("n{}", index + 1)).collect();
    eventually("partial", || async {
        let whole = stack.authority.whole(stack.authority.now()).await.unwrap();
        whole.state == Convergence::Partial && whole.missing == missing
    })
    .await;
    assert_eq!(client.connection_state(), State::Connected, "nobody could tell the far side");

    doors.iter().for_each(Door::open);
    let start = Instant::now();
    closed(&client).await;
    let late = account(&stack, "late").await;
    account(&stack, "acme").await;
    println!("revoked and converged on the far side {:?} after the link was back", start.elapsed());
    stored_by(&stack, acme, 4).await;
    stored_by(&stack, late, 4).await;
    assert_eq!(ids(&stack), before, "no server restarted");
    assert!(stack.connect(&issued, far[1]).await.is_err(), "revoked");
    agreed(&stack).await;
    eventually("all converged", || async {
        stack.authority.whole(stack.authority.now()).await.unwrap().state == Convergence::Converged
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_cache_and_servers_that_ask_a_url_beside_full_ones() {
    let mut stack = layout(|spec, url| {
        spec.nodes = 2;
        let group = |resolver| Group { cluster: spec.name.clone(), resolver, nodes: 1 };
        spec.more = vec![group(ResolverKind::Cache), group(ResolverKind::Url(url.to_owned()))];
    })
    .await;
    let (full, cache, url) = (ResolverType::Full, ResolverType::Cache, ResolverType::Url);
    kinds(&stack, &[("n1", full), ("n2", full), ("n3", cache), ("n4", url)]).await;
    stack.onboard("acme", &["prod"]).await;
    let acme = account(&stack, "acme").await;
    stored_by(&stack, acme, 2).await;
    agreed(&stack).await;
    let (first, second, third) = (
        stack.issue("acme", "prod", "publisher").await,
        stack.issue("acme", "prod", "viewer").await,
        stack.issue("acme", "prod", "projector").await,
    );
    // Revoked while connected: closed at once on each kind of server.
    let clients = [stack.connect(&first, 2).await.unwrap(), stack.connect(&first, 3).await.unwrap()];
    let start = Instant::now();
    stack.authority.revoke(&stack.actor, first.credential.id, Reason::default()).await.unwrap();
    for client in &clients {
        closed(client).await;
    }
    println!("closed by a caching and a URL resolver after {:?}", start.elapsed());
    stack.converged("acme").await;

    // Revoked while they are down: the caching one comes back with an old file.
    for index in [2, 3] {
        stack.cluster.stop_server(index, Stop::Kill).await.unwrap();
    }
    stack.servers_live(2).await;
    stack.authority.revoke(&stack.actor, second.credential.id, Reason::default()).await.unwrap();
    for index in [2, 3] {
        stack.cluster.start_server(index).await.unwrap();
    }
    stack.servers_live(4).await;
    let view = stack.converged("acme").await;
    assert!(view.resolver.servers.iter().all(|server| server.stored == view.resolver.generation), "{view:?}");
    for index in [2, 3] {
        assert!(stack.connect(&second, index).await.is_err(), "revoked");
        stack.connect(&third, index).await.unwrap();
    }
    agreed(&stack).await;
    deleted(&stack, "acme").await;
    assert!(stack.connect(&third, 2).await.is_err(), "deleted");
    assert!(stack.connect(&third, 3).await.is_err(), "deleted");
}

/// Counts the JWTs that servers got who looked for an account.
async fn found(spy: &mut async_nats::Subscriber) -> usize {
    let mut count = 0;
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(200), spy.next()).await {
        count += usize::from(message.payload.starts_with(b"eyJ"));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_miss_an_account_get_it_from_the_ledger() {
    // Nobody but the authority has any account.
    let mut stack = layout(|spec, _| (spec.nodes, spec.resolver) = (2, ResolverKind::Cache)).await;
    kinds(&stack, &[("n1", ResolverType::Cache), ("n2", ResolverType::Cache)]).await;
    let client = system_client(&stack).await;
    let mut spy = client.subscribe("$SYS._INBOX.>").await.unwrap();
    arrived(&client, "nobody").await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    agreed(&stack).await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    stack.connect(&issued, 0).await.unwrap();
    stack.connect(&issued, 1).await.unwrap();
    assert!(found(&mut spy).await >= 1, "a server was answered");

    // Nobody else is answered, nor is anything said of accounts that are not there.
    let acme = account(&stack, "acme").await;
    let ask =
        |account: PublicKey<Account>| client.request(format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP"), "".into());
    assert!(tokio::time::timeout(Duration::from_millis(300), ask(acme)).await.is_err(), "we answered ourselves");
    deleted(&stack, "acme").await;
    for index in [0, 1] {
        stack.cluster.stop_server(index, Stop::Kill).await.unwrap();
        stack.cluster.start_server(index).await.unwrap();
    }
    stack.servers_live(2).await;
    assert!(stack.connect(&issued, 0).await.is_err(), "deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_reloaded_is_told_and_looked_at() {
    let mut stack = Stack::start(1).await;
    let client = system_client(&stack).await;
    let mut spy = client.subscribe("$SYS._INBOX.>").await.unwrap();
    arrived(&client, "nobody").await;
    for slug in ["one", "two"] {
        stack.onboard(slug, &[]).await;
        stack.converged(slug).await;
    }
    agreed(&stack).await;
    // Before: it looks for what it misses. The repair may be as quick as the login; the answer tells.
    let (one, two) = (account(&stack, "one").await, account(&stack, "two").await);
    let load = |account: PublicKey<Account>| client.request(format!("$SYS.REQ.ACCOUNT.{account}.CONNZ"), "".into());
    let file = |stack: &Stack, account| stack.cluster.servers()[0].resolver_dir().join(format!("{account}.jwt"));
    std::fs::remove_file(file(&stack, one)).unwrap();
    load(one).await.unwrap();
    // More than one: others may have asked for the account at the same moment.
    assert!(found(&mut spy).await >= 1, "it was answered");

    stack.cluster.signal_server(0, Signal::HUP).unwrap();
    let start = Instant::now();
    eventually("seen", || async { stack.authority.standing().servers[0].told.reloaded.is_some() }).await;
    println!("a reload was noticed after {:?}", start.elapsed());
    let http = stack.serve().await;
    let (_, status) = http.get("/api/v1/resolver").await;
    let server = &status["servers"][0];
    assert_eq!((server["resolver"].as_str(), server["trustsOperator"].as_bool()), (Some("full"), Some(true)));
    let keys = stack.authority.operator_signing_key().to_string();
    assert!(server["operatorKeys"].as_array().unwrap().iter().any(|key| *key == keys), "{server}");
    assert!(server["startedAt"].is_string(), "{server}");
    let warnings = server["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().contains("until it restarts"), "{server}");
    // After: it does not look any more; what it misses it gets by a push.
    std::fs::remove_file(file(&stack, two)).unwrap();
    let start = Instant::now();
    let _ = load(two).await;
    assert_eq!(found(&mut spy).await, 0, "it looked");
    stored_by(&stack, two, 1).await;
    println!("missing after a reload, there again after {:?}", start.elapsed());
    stack.cluster.stop_server(0, Stop::Graceful).await.unwrap();
    stack.cluster.start_server(0).await.unwrap();
    eventually("fresh", || async {
        let standing = stack.authority.standing();
        standing.servers[0].row.live
            && standing.servers[0].told.started.is_some()
            && standing.servers[0].told.reloaded.is_none()
    })
    .await;
}
