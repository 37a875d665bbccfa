//! Revoking by a selector: what the ledger chooses, and what real servers do then.

use async_nats::Client;
use nats_authority::{
    authority::{
        Issued, Revocation,
        requests::{NewCredential, Revoke, RotateKeys},
    },
    jwt,
    model::{CredentialState, EnvType, OrgSlug},
    nkey::{Account, PublicKey},
    store::{audit, page::Page},
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::{
    ledger::{Ledger, acme, ledger},
    support::stack::{Stack, eventually},
};

fn slug() -> OrgSlug {
    "acme".parse().unwrap()
}

async fn issue(l: &Ledger, env: &str, role: &str) -> Issued {
    issue_many(l, env, role, 1).await.remove(0)
}

async fn issue_many(l: &Ledger, env: &str, role: &str, count: usize) -> Vec<Issued> {
    let env: EnvType = env.parse().unwrap();
    let mut issued = Vec::new();
    while issued.len() < count {
        let items = (issued.len()..count.min(issued.len() + 1000))
            .map(|n| NewCredential { name: format!("c{n}"), role: role.to_owned(), ..NewCredential::default() })
            .collect();
        issued.extend(l.authority.issue_batch(&l.actor, &slug(), &env, items).await.unwrap());
    }
    issued
}

async fn revoke(l: &Ledger, request: Revoke) -> Revocation {
    l.authority.revoke_selected(&l.actor, &slug(), &request).await.unwrap()
}

async fn code(l: &Ledger, request: Revoke) -> &'static str {
    l.authority.revoke_selected(&l.actor, &slug(), &request).await.unwrap_err().code()
}

fn of(env: Option<&str>, role: Option<&str>) -> Revoke {
    Revoke { env: env.map(ToOwned::to_owned), role: role.map(ToOwned::to_owned), ..Revoke::default() }
}

fn everything() -> Revoke {
    Revoke { all: true, ..Revoke::default() }
}

async fn account(l: &Ledger) -> jwt::Claims<jwt::Account> {
    let account = l.authority.organization(&slug()).await.unwrap().account_id.parse().unwrap();
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    jwt::decode::<jwt::Account>(&token).unwrap().claims
}

async fn state(l: &Ledger, id: Uuid) -> CredentialState {
    l.authority.credential(id).await.unwrap().state
}

/// Whether a server that has the account would let the credential in, as far as revocation goes.
async fn accepted(l: &Ledger, issued: &Issued) -> bool {
    let account = account(l).await.nats;
    let claims = jwt::decode::<jwt::User>(&issued.jwt).unwrap().claims;
    let signed_by: PublicKey<Account> = issued.credential.issuer_key.parse().unwrap();
    let revoked = |name: &str| account.revocations.get(name).is_some_and(|at| *at >= claims.issued_at.unwrap());
    account.signing_keys.0.contains_key(&signed_by) && !revoked("*") && !revoked(&issued.credential.user_key)
}

#[tokio::test]
async fn a_selector_revokes_what_it_names_and_nothing_else() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let prod = issue(&l, "prod", "viewer").await;
    let publisher = issue(&l, "prod", "publisher").await;
    let dev = issue(&l, "dev", "viewer").await;
    l.clock.advance(100);
    let young = issue(&l, "prod", "viewer").await;

    let before = l.authority.organization(&slug()).await.unwrap().resolver.generation;
    let tried = l.authority.try_revoke_selected(&l.actor, &slug(), &of(Some("prod"), Some("viewer"))).await.unwrap();
    assert_eq!((tried.revoked, tried.effect.entries, tried.effect.cutoff), (2, 2, None));
    assert!(tried.bytes_after > tried.bytes_before);
    assert_eq!(l.authority.organization(&slug()).await.unwrap().resolver.generation, before, "only tried");
    assert_eq!(state(&l, prod.credential.id).await, CredentialState::Active);

    let old = Revoke { issued_before: Some("1m".to_owned()), ..of(Some("prod"), Some("viewer")) };
    let done = revoke(&l, old.clone()).await;
    assert_eq!((done.revoked, done.effect.entries), (1, 1));
    assert_eq!(state(&l, prod.credential.id).await, CredentialState::Revoked);
    for other in [&publisher, &dev, &young] {
        assert_eq!(state(&l, other.credential.id).await, CredentialState::Active);
        assert!(accepted(&l, other).await);
    }
    assert!(!accepted(&l, &prod).await);
    let again = revoke(&l, old).await;
    assert_eq!((again.revoked, again.generation), (0, done.generation), "twice is no change");

    let done = revoke(&l, of(None, Some("viewer"))).await;
    assert_eq!((done.revoked, done.effect.entries), (2, 3));
    assert!(!accepted(&l, &dev).await && !accepted(&l, &young).await && accepted(&l, &publisher).await);
}

#[tokio::test]
async fn selectors_that_are_refused() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    assert_eq!(code(&l, Revoke::default()).await, "empty-selector");
    assert_eq!(code(&l, Revoke { all: true, ..of(Some("prod"), None) }).await, "all-and-selector");
    assert_eq!(code(&l, of(Some("dev"), None)).await, "no-environment");
    assert_eq!(code(&l, of(None, Some("nobody"))).await, "unknown-role");
    for (text, expected) in [("soon", "invalid-time"), ("2999-01-01T00:00:00Z", "invalid-time")] {
        assert_eq!(code(&l, Revoke { issued_before: Some(text.to_owned()), ..Revoke::default() }).await, expected);
    }
    let key = l.authority.organization(&slug()).await.unwrap().account_id;
    for text in [key.as_str(), "x"] {
        let request = Revoke { signing_key: Some(text.to_owned()), ..Revoke::default() };
        assert_eq!(code(&l, request).await, "unknown-signing-key");
    }
}

#[tokio::test]
async fn everything_is_one_cutoff_and_what_is_issued_then_is_younger() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let old = issue_many(&l, "prod", "viewer", 20).await;
    let single = issue(&l, "dev", "publisher").await;
    l.authority
        .revoke(&l.actor, single.credential.id, nats_authority::authority::requests::Reason::default())
        .await
        .unwrap();
    let done = revoke(&l, everything()).await;
    assert_eq!((done.revoked, done.effect.entries, done.effect.over), (20, 0, false));
    assert_eq!(account(&l).await.nats.revocations.keys().collect::<Vec<_>>(), ["*"], "it covers the entry too");
    assert!(!accepted(&l, &old[0]).await && !accepted(&l, &single).await);
    // In the same second.
    let new = issue(&l, "prod", "viewer").await;
    assert_eq!(new.credential.issued_at.timestamp(), done.effect.cutoff.unwrap() + 1);
    assert!(accepted(&l, &new).await);
    let rotated = l
        .authority
        .rotate(&l.actor, new.credential.id, nats_authority::authority::requests::Rotate::default())
        .await
        .unwrap();
    assert!(accepted(&l, &rotated).await);
    // And once more, still in that second: also those are hit.
    assert_eq!(revoke(&l, everything()).await.revoked, 2);
    assert!(!accepted(&l, &new).await && !accepted(&l, &rotated).await);
    l.clock.advance(1000);
    let young = issue(&l, "prod", "viewer").await;
    let before = Revoke { issued_before: Some("10m".to_owned()), ..Revoke::default() };
    assert_eq!(revoke(&l, before).await.revoked, 0);
    assert!(accepted(&l, &young).await);
}

#[tokio::test]
async fn what_a_key_has_signed_goes_and_the_key_stays() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let old = issue(&l, "prod", "viewer").await;
    let other = issue(&l, "dev", "viewer").await;
    let key = &old.credential.issuer_key;
    let request = Revoke { signing_key: Some(key.clone()), ..Revoke::default() };
    let done = revoke(&l, request.clone()).await;
    assert_eq!((done.revoked, done.effect.replaced.len(), done.effect.entries), (1, 0, 1));
    assert!(!accepted(&l, &old).await && accepted(&l, &other).await);
    let new = issue(&l, "prod", "viewer").await;
    assert_eq!(new.credential.issuer_key, *key, "who wants another key asks for its rotation");
    assert!(accepted(&l, &new).await);

    // Also of a key that is being rotated.
    let rotate = RotateKeys { public_key: Some(key.clone()), ..RotateKeys::default() };
    l.authority.propose_key_rotations(&l.actor, &slug(), &rotate).await.unwrap();
    assert_eq!(revoke(&l, request).await.revoked, 1);
    assert!(!accepted(&l, &new).await);
}

#[tokio::test]
async fn many_take_the_way_that_hits_nothing_else() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let stays = issue(&l, "dev", "publisher").await;
    l.clock.advance(1000);
    let many = issue_many(&l, "dev", "viewer", 500).await;
    // A cutoff would hit the publisher, which is older: the key is replaced, for all of its users go.
    let done = revoke(&l, of(Some("dev"), Some("viewer"))).await;
    assert_eq!((done.revoked, done.effect.replaced.len(), done.effect.cutoff, done.effect.entries), (500, 1, None, 0));
    assert!(!accepted(&l, &many[0]).await && !accepted(&l, &many[399]).await && accepted(&l, &stays).await);
    let old_key = &many[0].credential.issuer_key;
    let filter = audit::Filter { action: Some("key.replace".to_owned()), ..audit::Filter::default() };
    let (events, _) = l.authority.store().audit_events(&filter, &Page { limit: 10, after: None }).await.unwrap();
    assert_eq!((events.len(), &events[0].target, &events[0].detail["oldKey"]), (1, old_key, &json!(old_key)));

    let many = issue_many(&l, "dev", "viewer", 500).await;
    l.clock.advance(1000);
    let young = issue(&l, "dev", "viewer").await;
    // Neither helps: the key has a user that stays, and so is the publisher older. Entries it is, and it says so.
    let old = Revoke { issued_before: Some("10m".to_owned()), ..of(None, Some("viewer")) };
    let done = revoke(&l, old).await;
    assert_eq!((done.revoked, done.effect.entries, done.effect.over), (500, 500, true));
    assert!(!accepted(&l, &many[7]).await && accepted(&l, &stays).await && accepted(&l, &young).await);
    let view = l.authority.revocations(&slug()).await.unwrap();
    assert_eq!(view.held_back_by.first(), Some(&stays.credential.id), "{view:?}");
    // Without the one that holds it back, it folds by itself at the next mint.
    l.authority.rotate(&l.actor, stays.credential.id, grace("0s")).await.unwrap();
    l.authority.end_superseded(l.authority.now()).await.unwrap();
    let view = l.authority.revocations(&slug()).await.unwrap();
    assert!(view.bytes < 16 << 10 && view.entries <= 1 && view.cutoff.is_some(), "{view:?}");
    assert!(!accepted(&l, &many[7]).await && !accepted(&l, &stays).await && accepted(&l, &young).await);

    // All are older than what stays: a cutoff.
    let many = issue_many(&l, "prod", "viewer", 500).await;
    l.clock.advance(1000);
    let young = issue(&l, "prod", "publisher").await;
    let done = revoke(&l, Revoke { issued_before: Some("10m".to_owned()), ..of(Some("prod"), None) }).await;
    assert_eq!((done.revoked, done.effect.replaced.len()), (500, 1), "a younger one of dev is older than these");
    assert!(!accepted(&l, &many[7]).await && accepted(&l, &young).await);
}

fn grace(text: &str) -> nats_authority::authority::requests::Rotate {
    nats_authority::authority::requests::Rotate { grace: Some(text.to_owned()), ..Default::default() }
}

fn connected(client: &Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_refuse_what_was_selected_and_take_what_is_issued_in_the_same_second() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod", "dev"]).await;
    stack.converged("acme").await;
    let (prod, dev) = (stack.issue("acme", "prod", "viewer").await, stack.issue("acme", "dev", "viewer").await);
    let publisher = stack.issue("acme", "prod", "publisher").await;
    let sibling = stack.connect(&dev, 1).await.unwrap();
    let request = of(Some("prod"), None);
    let done = stack.authority.revoke_selected(&stack.actor, &slug(), &request).await.unwrap();
    assert_eq!(done.revoked, 2);
    stack.converged("acme").await;
    for index in 0..3 {
        assert!(stack.connect(&prod, index).await.is_err());
        assert!(stack.connect(&publisher, index).await.is_err());
    }
    assert!(connected(&sibling));
    stack.connect(&dev, 2).await.unwrap();

    // A key: its users go, the next one is signed with the new key.
    let request = Revoke { signing_key: Some(dev.credential.issuer_key.clone()), ..Revoke::default() };
    stack.authority.revoke_selected(&stack.actor, &slug(), &request).await.unwrap();
    stack.converged("acme").await;
    assert!(stack.connect(&dev, 0).await.is_err());
    let dev = stack.issue("acme", "dev", "viewer").await;
    stack.connect(&dev, 0).await.unwrap();

    // Everything, and at once another one.
    let done = stack.authority.revoke_selected(&stack.actor, &slug(), &everything()).await.unwrap();
    let new = stack.issue("acme", "prod", "viewer").await;
    assert!(new.credential.issued_at.timestamp() > done.effect.cutoff.unwrap());
    stack.converged("acme").await;
    for index in 0..3 {
        assert!(stack.connect(&dev, index).await.is_err());
        stack.connect(&new, index).await.unwrap();
    }
    eventually("the sibling is closed", || async { !connected(&sibling) }).await;
}

async fn open(stack: &Stack, issued: &Issued, count: usize) -> Vec<Client> {
    let connects = (0..count).map(|n| stack.connect(issued, n % 3));
    futures::future::join_all(connects).await.into_iter().map(Result::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_clients_of_an_environment_are_gone_and_the_siblings_stay() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    // Plans limit connections; here they are what is counted.
    stack.onboard("acme", &["prod", "dev"]).await;
    let unlimited = json!({"limits": {"conn": 1000}});
    assert_eq!(http.send_and_wait(Method::PATCH, "/api/v1/orgs/acme", Some(unlimited)).await.0, 200);
    stack.converged("acme").await;
    let (prod, dev) = (stack.issue("acme", "prod", "viewer").await, stack.issue("acme", "dev", "viewer").await);
    let restricted = NewCredential {
        name: "local".to_owned(),
        role: "viewer".to_owned(),
        allowed_cidrs: vec!["127.0.0.0/8".to_owned()],
        ..NewCredential::default()
    };
    let plain = stack.authority.issue(&stack.actor, &slug(), &"prod".parse().unwrap(), restricted).await.unwrap();
    let gone: Vec<Client> = [open(&stack, &prod, 180).await, open(&stack, &plain, 20).await].concat();
    let stay = open(&stack, &dev, 20).await;

    let path = "/api/v1/orgs/acme/revocations";
    let body = json!({"env": "prod", "reason": "a test"});
    let (status, preview) = http.post(&format!("{path}?dryRun=true"), body.clone()).await;
    assert_eq!((status, &preview["connections"]["closing"]), (200, &json!(200)), "{preview}");
    let (status, done) = http.send_and_wait(Method::POST, path, Some(body)).await;
    assert_eq!(status, 200, "{done}");
    let clients = json!({"gone": true, "openBefore": 200, "left": [], "unanswered": []});
    assert_eq!((&done["revoked"], &done["entries"], &done["clients"]), (&json!(2), &json!(2), &clients), "{done}");
    eventually("the clients know", || async { gone.iter().all(|client| !connected(client)) }).await;
    assert!(stay.iter().all(connected));
    for client in &stay {
        client.flush().await.unwrap();
    }

    // One alone says it as well, and without a wait nothing is claimed.
    let path = format!("/api/v1/credentials/{}/revoke", dev.credential.id);
    let (_, done) = http.send_and_wait(Method::POST, &path, None).await;
    assert_eq!((&done["clients"]["gone"], &done["clients"]["openBefore"]), (&json!(true), &json!(20)), "{done}");
    let (_, done) = http.send(Method::POST, &path, None).await;
    assert!(done.get("clients").is_none(), "{done}");
    let (status, view) = http.send(Method::GET, "/api/v1/orgs/acme/revocations", None).await;
    assert_eq!((status, &view["state"], &view["entries"]), (200, &json!("ok"), &json!(3)), "{view}");
}
