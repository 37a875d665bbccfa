//! Dry runs: what a change would do, and that trying it does nothing.

use std::collections::BTreeSet;

use nats_authority::{
    authority::{
        Actor, Proposal,
        requests::{ChangeOrganization, NewCredential, NewOrganization, Reason},
    },
    dev::nats::Stop,
    error::Kind,
    model::{EnvType, OrgSlug},
    resolver::Resolver,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use crate::{
    ledger::{Ledger, acme, ledger},
    support::{http::Http, stack::Stack},
};

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

fn env(text: &str) -> EnvType {
    text.parse().unwrap()
}

/// Every row of every table, as text.
pub async fn dump(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut rows = Vec::new();
    for table in tables {
        let sql = format!("SELECT t::text AS row FROM \"{table}\" t ORDER BY 1");
        let found = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        rows.extend(found.iter().map(|row| format!("{table} {}", row.get::<String, _>("row"))));
    }
    rows
}

async fn issue(l: &Ledger, name: &str) -> nats_authority::authority::Issued {
    let request = NewCredential { name: name.to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    l.authority.issue(&l.actor, &slug(), &env("prod"), request).await.unwrap()
}

#[tokio::test]
async fn trying_a_change_signs_nothing_and_leaves_every_row_as_it_was() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let credential = issue(&l, "v1").await.credential;
    let (slug, prod, staging) = (slug(), env("prod"), env("stg"));
    let other = NewOrganization { slug: "other".to_owned(), ..acme(&["prod"]) };
    let reason = Reason::default();
    let limits = ChangeOrganization {
        plan: Some("m".to_owned()),
        limits: Some(serde_json::json!({"conn": 7})),
        ..ChangeOrganization::default()
    };
    let name = ChangeOrganization { display_name: Some("Acme".to_owned()), ..ChangeOrganization::default() };
    let (before, signed) = (dump(l.database.url()).await, l.authority.tokens_signed());
    assert!(signed > 0);
    // The change, and whether a generation would be minted.
    let proposals = [
        (Proposal::Onboard(&other), true),
        (Proposal::Onboard(&acme(&["prod"])), false),
        (Proposal::Change(&slug, &limits), true),
        (Proposal::Change(&slug, &name), false),
        (Proposal::Suspend(&slug, &reason), true),
        (Proposal::Resume(&slug, &reason), false),
        (Proposal::Delete(&slug), true),
        (Proposal::PutEnvironment(&slug, &staging), true),
        (Proposal::PutEnvironment(&slug, &prod), false),
        (Proposal::DeleteEnvironment(&slug, &prod), true),
        (Proposal::Revoke(credential.id, &reason), true),
    ];
    for (proposal, minted) in proposals {
        let preview = l.authority.preview(&l.actor, proposal).await.unwrap();
        let what = format!("{proposal:?}");
        assert_eq!(preview.next_generation, preview.generation + i64::from(minted), "{what}");
        assert_eq!(preview.before.as_ref() != Some(&preview.after), minted, "{what}");
        assert_eq!(dump(l.database.url()).await, before, "{what}");
        assert_eq!(l.authority.tokens_signed(), signed, "{what}");
    }
}

#[tokio::test]
async fn a_change_under_the_previewed_generation_is_that_change_or_refused() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let credential = issue(&l, "v1").await.credential;
    let (slug, reason) = (slug(), Reason::default());
    let preview = l.authority.preview(&l.actor, Proposal::Suspend(&slug, &reason)).await.unwrap();
    let at = |generation| Actor { if_generation: Some(generation), ..l.actor.clone() };

    // Somebody else is faster.
    l.authority.revoke(&l.actor, credential.id, reason.clone()).await.unwrap();
    let before = dump(l.database.url()).await;
    let late = at(preview.generation);
    let codes = [
        l.authority.suspend(&late, &slug, reason.clone()).await.map(drop),
        l.authority.resume(&late, &slug, reason.clone()).await.map(drop),
        l.authority.delete(&late, &slug, false).await.map(drop),
        l.authority.change(&late, &slug, ChangeOrganization::default()).await.map(drop),
        l.authority.put_environment(&late, &slug, &env("prod")).await.map(drop),
        l.authority.delete_environment(&late, &slug, &env("prod")).await.map(drop),
        l.authority.revoke(&late, credential.id, reason.clone()).await.map(drop),
        l.authority.onboard(&late, acme(&["prod"])).await.map(drop),
        l.authority.preview(&late, Proposal::Suspend(&slug, &reason)).await.map(drop),
    ]
    .map(|result| result.err().map(|error| (error.kind(), error.code())));
    assert_eq!(codes, [Some((Kind::Changed, "generation-changed")); 9]);
    assert_eq!(dump(l.database.url()).await, before);

    let preview = l.authority.preview(&l.actor, Proposal::Suspend(&slug, &reason)).await.unwrap();
    let done = l.authority.suspend(&at(preview.generation), &slug, reason).await.unwrap();
    assert_eq!(done.resolver.generation, preview.next_generation);
    let token = l.authority.store().account_jwt(preview.account).await.unwrap().unwrap();
    let claims = nats_authority::jwt::decode::<nats_authority::jwt::Account>(&token).unwrap().claims;
    assert_eq!((claims.nats, token.len()), (preview.after, preview.bytes_after));
}

/// Server and number of each open connection of the organization.
async fn open(stack: &Stack) -> BTreeSet<(String, u64)> {
    let account = stack.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
    let servers = stack.resolver.connections(account).await.unwrap();
    servers.into_iter().flat_map(|s| s.list.into_iter().map(move |c| (s.server.name.clone(), c.cid))).collect()
}

/// Previews a change, does it under the previewed generation, and sees that exactly those connections
/// close that were forecast. Returns them by cause.
async fn forecast_holds(
    stack: &Stack,
    http: &Http,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Vec<(String, usize)> {
    let before = open(stack).await;
    let (status, preview) = http.send(method.clone(), &format!("{path}?dryRun=true"), body.clone()).await;
    assert_eq!(status, 200, "{preview}");
    assert_eq!(preview["connections"]["open"], before.len(), "{preview}");
    assert_eq!(preview["unaskedServers"], json!([]), "{preview}");
    let mut forecast = BTreeSet::new();
    let mut causes = Vec::new();
    for cause in preview["connections"]["byCause"].as_array().unwrap() {
        let examples = cause["examples"].as_array().unwrap();
        let named = |e: &Value| (e["server"].as_str().unwrap().to_owned(), e["cid"].as_u64().unwrap());
        forecast.extend(examples.iter().map(named));
        causes.push((cause["cause"].as_str().unwrap().to_owned(), examples.len()));
    }
    assert_eq!(open(stack).await, before, "trying closed somebody");
    let (status, done) = http.send_if(&preview["generation"], method, path, body).await;
    assert!(status < 300, "{done}");
    assert_eq!(done["resolver"]["generation"], preview["nextGeneration"], "{done}");
    stack.converged("acme").await;
    let gone = async || before.difference(&open(stack).await).cloned().collect::<BTreeSet<_>>();
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while gone().await != forecast {
        assert!(tokio::time::Instant::now() < end, "closed {:?}, forecast {forecast:?}, of {before:?}", gone().await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    causes
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_those_are_closed_that_a_preview_names() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    stack.onboard("acme", &["prod", "dev"]).await;
    stack.converged("acme").await;
    let mut clients = Vec::new();
    let mut connect = async |issued: &nats_authority::authority::Issued, server: usize| {
        clients.push(stack.connect(issued, server).await.unwrap());
    };
    let first = stack.issue("acme", "prod", "viewer").await;
    let second = stack.issue("acme", "prod", "viewer").await;
    let third = stack.issue("acme", "dev", "viewer").await;
    for (issued, server) in [(&first, 0), (&second, 0), (&second, 0), (&second, 0), (&third, 2), (&third, 0)] {
        connect(issued, server).await;
    }
    let count = |cause: &str, count: usize| vec![(cause.to_owned(), count)];
    let org = "/api/v1/orgs/acme";

    let path = format!("/api/v1/credentials/{}/revoke", first.credential.id);
    let closed = forecast_holds(&stack, &http, Method::POST, &path, Some(json!({}))).await;
    assert_eq!(closed, count("revoked", 1));

    let path = format!("{org}/envs/dev");
    let closed = forecast_holds(&stack, &http, Method::DELETE, &path, None).await;
    assert_eq!(closed, count("key-removed", 2));

    // Three are left, all on one server: it keeps the oldest two.
    let limits = json!({"limits": {"conn": 2}});
    let closed = forecast_holds(&stack, &http, Method::PATCH, org, Some(limits)).await;
    assert_eq!(closed, count("connection-limit", 1));

    let closed = forecast_holds(&stack, &http, Method::POST, &format!("{org}/suspend"), Some(json!({}))).await;
    assert_eq!(closed.len(), 1);
    assert_eq!(closed[0].0, "suspended");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_account_stores_is_told_and_who_could_not_be_asked() {
    let mut stack = Stack::start(3).await;
    let http = stack.serve().await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let client = stack.connect(&stack.issue("acme", "prod", "publisher").await, 0).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    for _ in 0..10 {
        jetstream.publish("ws.acme-prod.a", vec![b'x'; 10_000].into()).await.unwrap().await.unwrap();
    }
    let suspend = "/api/v1/orgs/acme/suspend?dryRun=true";
    let (status, preview) = http.post(suspend, json!({})).await;
    assert_eq!(status, 200, "{preview}");
    let jetstream = &preview["jetstream"];
    // The event stream and the bucket; each message stands on three servers.
    assert_eq!((&jetstream["streams"], &jetstream["memory"]), (&json!(2), &json!(0)), "{preview}");
    assert!(jetstream["disk"].as_i64().unwrap() >= 3 * 10 * 10_000, "{preview}");
    // The authority refuses limits below what it has made itself.
    assert_eq!(jetstream["exceeded"], json!([]), "{preview}");
    // A server that does not answer is named.
    stack.cluster.stop_server(2, Stop::Kill).await.unwrap();
    let (_, preview) = http.post(suspend, json!({})).await;
    assert_eq!(preview["unaskedServers"], json!(["n3"]), "{preview}");
}
