//! Rotating credentials: what the ledger decides, and what clients on real servers notice.

use std::time::Duration;

use nats_authority::{
    authority::{
        Issued, proof,
        requests::{NewCredential, Reason, Rotate},
    },
    entropy::SystemEntropy,
    error::Kind,
    jwt,
    model::{CredentialState, EnvType, Environment, OrgSlug, view::AuditEventView},
    nkey::{KeyPair, User},
    store::{audit, listing::Filter, page::Page},
};

use crate::{
    ledger::{Ledger, acme, ledger},
    support::stack::{Stack, eventually},
};

async fn issue(l: &Ledger, name: &str, ttl: &str) -> Issued {
    let request = NewCredential {
        name: name.to_owned(),
        role: "viewer".to_owned(),
        ttl: Some(ttl.to_owned()),
        tags: vec!["team:a".to_owned()],
        allowed_cidrs: vec!["10.0.0.0/8".to_owned()],
        ..NewCredential::default()
    };
    l.authority.issue(&l.actor, &slug(), &prod(), request).await.unwrap()
}

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

fn prod() -> EnvType {
    "prod".parse().unwrap()
}

fn grace(text: &str) -> Rotate {
    Rotate { grace: Some(text.to_owned()), ..Rotate::default() }
}

async fn code(l: &Ledger, issued: &Issued, request: Rotate) -> (Kind, &'static str) {
    let error = l.authority.rotate(&l.actor, issued.credential.id, request).await.err().unwrap();
    (error.kind(), error.code())
}

async fn state(l: &Ledger, issued: &Issued) -> CredentialState {
    l.authority.credential(issued.credential.id).await.unwrap().state
}

async fn end(l: &Ledger) -> usize {
    l.authority.end_superseded(l.authority.now()).await.unwrap()
}

async fn count(l: &Ledger) -> usize {
    let page = Page { limit: 1000, after: None };
    l.authority.credentials(&slug(), &Filter::default(), &page).await.unwrap().0.len()
}

async fn revoked_keys(l: &Ledger) -> Vec<String> {
    let account = l.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    jwt::decode::<jwt::Account>(&token).unwrap().claims.nats.revocations.keys().cloned().collect()
}

async fn events(l: &Ledger, action: &str) -> Vec<AuditEventView> {
    let filter = audit::Filter { action: Some(action.to_owned()), ..audit::Filter::default() };
    let page = Page { limit: 1000, after: None };
    l.authority.store().audit_events(&filter, &page).await.unwrap().0
}

#[tokio::test]
async fn both_work_during_grace_and_then_only_the_new_one() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = issue(&l, "v1", "30d").await;
    l.clock.advance(3600);
    let new = l.authority.rotate(&l.actor, old.credential.id, Rotate::default()).await.unwrap();
    assert!(new.creds.is_some());
    let (was, is) = (&old.credential, &new.credential);
    assert_eq!((&is.org, &is.env_type, &is.name, &is.role), (&was.org, &was.env_type, &was.name, &was.role));
    assert_eq!((&is.tags, &is.allowed_cidrs), (&was.tags, &was.allowed_cidrs));
    assert_eq!(is.expires_at - is.issued_at, was.expires_at - was.issued_at);
    assert_eq!((is.replaces, is.ends_at), (Some(was.id), None));
    assert_ne!(is.user_key, was.user_key);
    assert_eq!(l.authority.credential(is.id).await.unwrap().replaces, Some(was.id));
    let shown = l.authority.credential(was.id).await.unwrap();
    assert_eq!(shown.state, CredentialState::Superseded);
    assert_eq!(shown.ends_at, Some(l.authority.now() + chrono::TimeDelta::hours(24)));
    let rotated = events(&l, "credential.rotate").await;
    assert_eq!(rotated.len(), 1);
    assert_eq!((rotated[0].target.clone(), rotated[0].request_id.as_deref()), (was.id.to_string(), Some("r1")));
    assert_eq!(rotated[0].detail["replacedBy"], is.id.to_string());

    l.clock.advance(24 * 3600 - 1);
    assert_eq!(end(&l).await, 0);
    assert!(revoked_keys(&l).await.is_empty());
    l.clock.advance(1);
    assert_eq!(end(&l).await, 1);
    assert_eq!(revoked_keys(&l).await, std::slice::from_ref(&was.user_key));
    let ended = l.authority.credential(was.id).await.unwrap();
    assert_eq!((ended.state, ended.ends_at), (CredentialState::Revoked, None));
    assert_eq!(ended.revocation_reason.as_deref(), Some("rotated"));
    assert_eq!(state(&l, &new).await, CredentialState::Active);
    let revoked = events(&l, "credential.revoke").await;
    assert_eq!((revoked.len(), revoked[0].actor.as_str()), (1, "task:expire"));
    assert_eq!(end(&l).await, 0, "once");
}

#[tokio::test]
async fn only_what_is_active_is_rotated_and_a_refusal_leaves_nothing() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = issue(&l, "v1", "2h").await;
    let other = issue(&l, "v2", "30d").await;
    assert_eq!(code(&l, &old, grace("soon")).await.1, "invalid-duration");
    let same = Rotate { public_key: Some(old.credential.user_key.clone()), ..Rotate::default() };
    assert_eq!(code(&l, &old, same).await, (Kind::Invalid, "public-key-unchanged"));
    l.authority.suspend(&l.actor, &slug(), Reason::default()).await.unwrap();
    assert_eq!(code(&l, &old, Rotate::default()).await, (Kind::Conflict, "organization-suspended"));
    l.authority.resume(&l.actor, &slug(), Reason::default()).await.unwrap();
    assert_eq!((state(&l, &old).await, count(&l).await), (CredentialState::Active, 2));

    let new = l.authority.rotate(&l.actor, old.credential.id, Rotate::default()).await.unwrap();
    let superseded = l.authority.credential(old.credential.id).await.unwrap();
    assert_eq!(superseded.ends_at, Some(superseded.expires_at), "its own end comes before the grace time's");
    assert_eq!(code(&l, &old, Rotate::default()).await, (Kind::Conflict, "credential-superseded"));
    l.authority.revoke(&l.actor, other.credential.id, Reason::default()).await.unwrap();
    assert_eq!(code(&l, &other, Rotate::default()).await, (Kind::Conflict, "credential-revoked"));
    l.clock.advance(2 * 3600);
    assert_eq!(code(&l, &new, Rotate::default()).await, (Kind::Conflict, "credential-expired"));
    assert_eq!(end(&l).await, 0, "what has expired needs no revocation");
    assert_eq!((count(&l).await, events(&l, "credential.rotate").await.len()), (3, 1));
}

#[tokio::test]
async fn of_many_at_once_one_rotates() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let old = issue(&l, "v1", "30d").await;
    let calls = (0..16).map(|_| l.authority.rotate(&l.actor, old.credential.id, Rotate::default()));
    let results = futures::future::join_all(calls).await;
    let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (1, 15));
    assert!(bad.into_iter().all(|result| result.err().unwrap().code() == "credential-superseded"));
    assert_eq!(count(&l).await, 2, "a refused rotation issued nothing");
}

#[tokio::test]
async fn a_refused_insert_takes_the_supersession_back() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let (old, key) = (issue(&l, "v1", "30d").await, KeyPair::<User>::generate(&SystemEntropy::new()));
    let environment = Environment::new(slug(), prod());
    let theirs = Rotate {
        public_key: Some(key.public().to_string()),
        proof: Some(proof::prove(&environment, "viewer", &key)),
        ..Rotate::default()
    };
    let first = l.authority.rotate(&l.actor, old.credential.id, theirs.clone()).await.unwrap();
    assert!(first.creds.is_none());
    assert_eq!(first.credential.user_key, key.public().to_string());
    let other = issue(&l, "v2", "30d").await;
    // The database refuses the row after the old one was marked in the same statement.
    assert_eq!(code(&l, &other, theirs.clone()).await, (Kind::Conflict, "public-key-in-use"));
    assert_eq!(state(&l, &other).await, CredentialState::Active);
    // A superseded credential keeps its key, for its revocation will name it.
    l.authority.rotate(&l.actor, first.credential.id, Rotate::default()).await.unwrap();
    assert_eq!(code(&l, &other, theirs).await, (Kind::Conflict, "public-key-in-use"));
    assert_eq!((count(&l).await, events(&l, "credential.rotate").await.len()), (4, 2));
}

#[tokio::test]
async fn several_end_in_one_generation_and_replicas_do_not_collide() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    for n in 0..10 {
        let old = issue(&l, &format!("v{n}"), "30d").await;
        l.authority.rotate(&l.actor, old.credential.id, grace(if n == 0 { "1h" } else { "0s" })).await.unwrap();
    }
    let generation = async || l.authority.organization(&slug()).await.unwrap().resolver.generation;
    let before = generation().await;
    let counts = futures::future::join_all((0..4).map(|_| end(&l))).await;
    assert_eq!(counts.iter().sum::<usize>(), 9);
    assert_eq!((generation().await, revoked_keys(&l).await.len()), (before + 1, 9));
    // A suspended organization's end too, lest they come back with it.
    l.authority.suspend(&l.actor, &slug(), Reason::default()).await.unwrap();
    l.clock.advance(3600);
    assert_eq!(end(&l).await, 1);
    assert_eq!(events(&l, "credential.revoke").await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_works_through_the_grace_time_and_is_closed_after_it() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let old = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&old, 0).await.unwrap();
    client.publish("ws.acme-prod.a", "x".into()).await.unwrap();
    client.flush().await.unwrap();
    let rotated_at = tokio::time::Instant::now();
    let new = stack.authority.rotate(&stack.actor, old.credential.id, grace("2s")).await.unwrap();
    let successor = stack.connect(&new, 1).await.unwrap();
    // The old one still gets in, and what is connected stays.
    stack.connect(&old, 2).await.unwrap();
    let js = async_nats::jetstream::new(client.clone());
    js.publish("ws.acme-prod.a", "x".into()).await.unwrap().await.unwrap();
    assert!(rotated_at.elapsed() < Duration::from_secs(2), "too slow to show anything about the grace time");
    assert_eq!(client.connection_state(), async_nats::connection::State::Connected);
    eventually("the old one is closed", || async {
        client.connection_state() != async_nats::connection::State::Connected
    })
    .await;
    assert!(rotated_at.elapsed() >= Duration::from_secs(2), "before its time");
    stack.converged("acme").await;
    for index in 0..3 {
        assert!(stack.connect(&old, index).await.is_err(), "ended on server {index}");
        stack.connect(&new, index).await.unwrap();
    }
    let js = async_nats::jetstream::new(successor);
    js.publish("ws.acme-prod.a", "x".into()).await.unwrap().await.unwrap();
}
