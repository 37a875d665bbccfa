//! The same request under the same idempotency key is carried out once.

use std::collections::BTreeSet;

use axum::body::Body;
use chrono::TimeDelta;
use nats_authority::{
    authority::{Actor, requests::NewCredential},
    model::CallerRole,
    store::{
        idempotency::{Claim, Keyed, Operation},
        listing::Filter,
        page::Page,
        tokens,
    },
};
use serde_json::{Value, json};

use super::{Answer, Api};

const ORGS: &str = "/api/v1/orgs";
const CREDENTIALS: &str = "/api/v1/orgs/acme/envs/prod/credentials";

async fn post_as(api: &Api, token: &str, path: &str, key: &str, body: &Value) -> Answer {
    let request = axum::http::Request::builder()
        .method("POST")
        .uri(path)
        .header("authorization", format!("Bearer {token}"))
        .header("idempotency-key", key)
        .header("content-type", "application/json");
    api.send(request.body(Body::from(body.to_string())).unwrap()).await
}

async fn post(api: &Api, path: &str, key: &str, body: &Value) -> Answer {
    post_as(api, &api.ledger.admin_token, path, key, body).await
}

async fn credentials(api: &Api) -> usize {
    let page = Page { limit: 1000, after: None };
    api.ledger.authority.credentials(&"acme".parse().unwrap(), &Filter::default(), &page).await.unwrap().0.len()
}

#[tokio::test]
async fn the_same_request_has_the_same_answer() {
    let api = Api::start().await;
    let body = json!({"slug": "acme", "environments": ["prod"]});
    let first = post(&api, ORGS, "k1", &body).await;
    let view = first.ok(201);
    assert_eq!(first.header("idempotency-replayed"), "");
    let again = post(&api, ORGS, "k1", &body).await;
    assert_eq!(again.ok(201), view);
    assert_eq!((again.header("idempotency-replayed"), again.header("location")), ("true", "/api/v1/orgs/acme"));
    // Another body, and another path, are other requests.
    let other = post(&api, ORGS, "k1", &json!({"slug": "acme"})).await;
    assert_eq!(other.problem(409).0, "idempotency-key-reused");
    let other = post(&api, "/api/v1/orgs/acme/suspend", "k1", &body).await;
    assert_eq!(other.problem(409).0, "idempotency-key-reused");
    // After a day it is a new one.
    api.ledger.authority.store().forget_keys(api.ledger.authority.now() + TimeDelta::seconds(60)).await.unwrap();
    let new = post(&api, ORGS, "k1", &body).await;
    assert_eq!((new.header("idempotency-replayed"), new.status.as_u16()), ("", 200));
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free() {
    let api = Api::start().await;
    let refused = post(&api, ORGS, "k1", &json!({"slug": "acme", "plan": "none"})).await;
    assert_eq!(refused.problem(422).1, "/plan");
    post(&api, ORGS, "k1", &json!({"slug": "acme"})).await.ok(201);
    for key in ["", "two words", &"x".repeat(256)] {
        let tried = post(&api, "/api/v1/orgs?dryRun=true", key, &json!({"slug": "beta"})).await;
        assert_eq!(tried.problem(422).0, "invalid-idempotency-key");
        let answer = post(&api, ORGS, key, &json!({"slug": "acme"})).await;
        assert_eq!(answer.problem(422).0, "invalid-idempotency-key", "{key}");
    }
}

#[tokio::test]
async fn two_callers_share_no_key() {
    let api = Api::start().await;
    let authority = &api.ledger.authority;
    let token = nats_authority::authority::bundle::new_token(&nats_authority::entropy::SystemEntropy::new());
    let new = tokens::NewToken {
        id: authority.id(),
        name: "other".to_owned(),
        sha256: nats_authority::authority::bundle::token_hash(&token),
        role: CallerRole::SovereignAdmin,
        organizations: Vec::new(),
        expires_at: Some(authority.now() + chrono::TimeDelta::days(1)),
        created_by: None,
    };
    let mut tx = authority.store().begin().await.unwrap();
    tokens::insert(&mut tx, &new, authority.now()).await.unwrap();
    tx.commit().await.unwrap();
    post(&api, ORGS, "k1", &json!({"slug": "acme"})).await.ok(201);
    post_as(&api, &token, ORGS, "k1", &json!({"slug": "other"})).await.ok(201);
}

#[tokio::test]
async fn a_secret_is_shown_once() {
    let api = Api::start().await;
    api.onboard().await;
    let body = json!({"name": "c1", "role": "viewer"});
    let first = post(&api, CREDENTIALS, "k1", &body).await.ok(201);
    let again = post(&api, CREDENTIALS, "k1", &body).await;
    let told = again.ok(200);
    assert_eq!(told["credentials"][0]["id"], first["credential"]["id"]);
    assert_eq!(told["done"], json!([{"action": "credential.issue", "target": first["credential"]["id"]}]));
    assert!(first["creds"].is_string() && !again.text().contains("BEGIN"), "{}", again.text());
    assert!(!again.text().contains(first["jwt"].as_str().unwrap()));
    assert_eq!(credentials(&api).await, 1);
    let rotate = format!("/api/v1/credentials/{}/rotate", first["credential"]["id"].as_str().unwrap());
    let new = post(&api, &rotate, "k2", &json!({})).await.ok(201);
    let told = post(&api, &rotate, "k2", &json!({})).await.ok(200);
    assert_eq!(told["credentials"][0]["id"], new["credential"]["id"]);
    let batch = json!({"items": [{"name": "a", "role": "viewer"}, {"name": "b", "role": "viewer"}]});
    let path = format!("{CREDENTIALS}/batch");
    post(&api, &path, "k3", &batch).await.ok(201);
    assert_eq!(post(&api, &path, "k3", &batch).await.ok(200)["credentials"].as_array().unwrap().len(), 2);
    assert_eq!(credentials(&api).await, 4);
}

#[tokio::test]
async fn sixty_four_at_once_issue_one() {
    let api = Api::start().await;
    api.onboard().await;
    let body = json!({"name": "c1", "role": "viewer"});
    let answers = (0..64).map(|_| post(&api, CREDENTIALS, "k1", &body));
    let answers = futures::future::join_all(answers).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 63);
    let ids: BTreeSet<_> = answers
        .iter()
        .map(Answer::json)
        .map(|body| body["credential"]["id"].as_str().or(body["credentials"][0]["id"].as_str()).unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(credentials(&api).await, 1);
}

/// What a process does before it is killed: it claims the key.
async fn begin(api: &Api, body: &Value) -> Operation {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in ["POST", CREDENTIALS.strip_prefix("/api/v1").unwrap(), &body.to_string()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let keyed = Keyed { caller: "token:admin".to_owned(), key: "k1".to_owned(), fingerprint: hash.finalize().into() };
    let authority = &api.ledger.authority;
    let until = authority.now() + TimeDelta::seconds(30);
    match authority.store().claim_key(&keyed, authority.id(), authority.now(), until).await.unwrap() {
        Claim::Begin(operation) => operation,
        other => panic!("{other:?}"),
    }
}

async fn issue(api: &Api, operation: Operation) -> nats_authority::error::Result<()> {
    let actor = Actor { operation: Some(operation), ..Actor::caller("token:admin", [CallerRole::SovereignAdmin]) };
    let new = NewCredential { name: "c1".to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
    api.ledger.authority.issue(&actor, &"acme".parse().unwrap(), &"prod".parse().unwrap(), new).await.map(drop)
}

#[tokio::test]
async fn killed_between_commit_and_answer_it_is_told_and_not_done_again() {
    let api = Api::start().await;
    api.onboard().await;
    let body = json!({"name": "c1", "role": "viewer"});
    let operation = begin(&api, &body).await;
    issue(&api, operation).await.unwrap();
    api.ledger.clock.advance(31);
    let told = post(&api, CREDENTIALS, "k1", &body).await.ok(200);
    assert_eq!(told["credentials"][0]["name"], "c1");
    assert_eq!(credentials(&api).await, 1);
}

#[tokio::test]
async fn killed_before_its_commit_another_takes_over_and_it_cannot_commit_any_more() {
    let api = Api::start().await;
    api.onboard().await;
    let body = json!({"name": "c1", "role": "viewer"});
    let operation = begin(&api, &body).await;
    api.ledger.clock.advance(31);
    post(&api, CREDENTIALS, "k1", &body).await.ok(201);
    // It was only slow: it wakes up and goes on.
    assert!(issue(&api, operation).await.is_err());
    assert_eq!(credentials(&api).await, 1);
    post(&api, CREDENTIALS, "k1", &body).await.ok(200);
}
