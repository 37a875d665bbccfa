//! Renewal over NATS: a connected user asks for a fresh JWT of its own and gets it from the authority, and nobody
//! else's.

use std::{io::Write, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions};
use futures::{StreamExt, future::join_all};
use nats_authority::{
    authority::{
        Issued,
        requests::{ChangeOrganization, NewCredential, Reason, Revoke, Rotate},
    },
    jwt::{self, creds, envelope},
    model::CredentialState,
    nkey::{KeyPair, PublicKey, Seed, User},
    resolver::Resolver,
    store::{audit::Filter, page::Page},
};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::support::stack::{Stack, eventually};

/// Asks and waits for the answer.
async fn ask(client: &Client, subject: String) -> async_nats::Message {
    let request = client.request(subject, "".into());
    tokio::time::timeout(Duration::from_secs(20), request).await.expect("an answer in time").expect("an answer")
}

async fn renew(client: &Client, issued: &Issued) -> async_nats::Message {
    ask(client, format!("authority.renew.{}", issued.credential.user_key)).await
}

fn code(answer: &async_nats::Message) -> String {
    answer
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Nats-Service-Error-Code"))
        .map(ToString::to_string)
        .unwrap_or_default()
}

fn claims(answer: &async_nats::Message) -> jwt::Claims<jwt::User> {
    let text = std::str::from_utf8(&answer.payload).unwrap();
    envelope::decode(text).unwrap_or_else(|error| panic!("{error}: {text}")).claims
}

/// Makes a credential older, so that it is time to renew it.
async fn age(stack: &Stack, credentials: &[Uuid], interval: &str) {
    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    let sql = "UPDATE credentials SET issued_at = issued_at - $2::text::interval WHERE id = ANY($1)";
    sqlx::query(sql).bind(credentials).bind(interval).execute(&mut database).await.unwrap();
}

fn seed(issued: &Issued) -> Seed<User> {
    creds::parse(issued.creds.as_ref().unwrap()).unwrap().1
}

/// Connects with any JWT and any key.
async fn connect_with(stack: &Stack, token: &str, key: Arc<KeyPair<User>>) -> Result<Client, async_nats::ConnectError> {
    let token = token.to_owned();
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let (token, key) = (token.clone(), Arc::clone(&key));
        async move {
            let mut auth = async_nats::Auth::new();
            auth.jwt = Some(token);
            auth.signature = Some(key.sign(&nonce).to_vec());
            Ok(auth)
        }
    });
    options.connect(stack.cluster.servers()[0].url()).await
}

async fn events(stack: &Stack, action: &str) -> Vec<nats_authority::model::view::AuditEventView> {
    let filter = Filter { action: Some(action.to_owned()), ..Filter::default() };
    let page = Page { limit: 1000, after: None };
    stack.authority.store().audit_events(&filter, &page).await.unwrap().0
}

async fn ready(environments: &[&str]) -> Stack {
    let stack = Stack::start(3).await;
    stack.onboard("acme", environments).await;
    stack.converged("acme").await;
    stack
}

/// Waits until the authority answers.
async fn answers(client: &Client, issued: &Issued) {
    eventually("the service answers", || async {
        client.request(format!("authority.renew.{}", issued.credential.user_key), "".into()).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_renews_its_own_credential_and_no_other() {
    let stack = ready(&["prod"]).await;
    let mut all = Vec::new();
    for role in ["publisher", "consumer", "projector", "viewer", "env-admin"] {
        all.push(stack.issue("acme", "prod", role).await);
    }
    let restricted = NewCredential {
        name: "restricted".to_owned(),
        role: "viewer".to_owned(),
        allowed_cidrs: vec!["127.0.0.0/8".to_owned()],
        ..NewCredential::default()
    };
    let (org, env) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    all.push(stack.authority.issue(&stack.actor, &org, &env, restricted).await.unwrap());
    let clients = join_all(all.iter().enumerate().map(|(index, one)| stack.connect(one, index % 3))).await;
    let clients: Vec<Client> = clients.into_iter().map(Result::unwrap).collect();
    answers(&clients[0], &all[0]).await;

    // A fresh one is answered again: the same text, and nothing is recorded.
    for (client, issued) in clients.iter().zip(&all) {
        assert_eq!(renew(client, issued).await.payload, issued.jwt.as_bytes(), "{}", issued.credential.role);
    }
    assert!(events(&stack, "credential.renew").await.is_empty());

    let ids: Vec<Uuid> = all.iter().map(|one| one.credential.id).collect();
    age(&stack, &ids, "1 hour").await;
    for (client, issued) in clients.iter().zip(&all) {
        let answer = renew(client, issued).await;
        let (old, new) = (envelope::decode::<jwt::User>(&issued.jwt).unwrap().claims, claims(&answer));
        assert_eq!((new.subject, new.issuer, &new.name), (old.subject, old.issuer, &old.name));
        assert_eq!(new.nats, old.nats, "the same permissions");
        assert!(new.expires >= old.expires && new.issued_at >= old.issued_at);
        // The new JWT and the old key get in, and what the ledger says follows.
        let token = std::str::from_utf8(&answer.payload).unwrap();
        connect_with(&stack, token, Arc::new(seed(issued).key_pair())).await.unwrap();
        let before = stack.authority.credential(issued.credential.id).await.unwrap();
        assert_eq!((before.state, before.ends_at), (CredentialState::Superseded, Some(before.expires_at)));
    }
    let renewed = events(&stack, "credential.renew").await;
    assert_eq!(renewed.len(), all.len());
    assert!(renewed.iter().all(|event| event.actor == format!("user:{}", event.detail["userKey"].as_str().unwrap())));
    let last = &renewed[0];
    let row = stack.authority.credential(last.target.parse().unwrap()).await.unwrap();
    assert_eq!((row.state, row.replaces), (CredentialState::Active, Some(ids[5])));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_refuse_who_asks_for_another_and_the_answer_is_useless_without_the_key() {
    let stack = ready(&["prod", "dev"]).await;
    stack.onboard("globex", &["prod"]).await;
    stack.converged("globex").await;
    let mine = stack.issue("acme", "dev", "env-admin").await;
    let sibling = stack.issue("acme", "prod", "viewer").await;
    let foreign = stack.issue("globex", "prod", "viewer").await;
    let (refusals, mut refused) = tokio::sync::mpsc::unbounded_channel();
    let client = ConnectOptions::with_credentials(mine.creds.as_ref().unwrap())
        .unwrap()
        .custom_inbox_prefix(mine.credential.inbox_prefix.clone())
        .event_callback(move |event| {
            let _ = refusals.send(event.to_string());
            async {}
        })
        .connect(stack.cluster.servers()[0].url())
        .await
        .unwrap();
    answers(&client, &mine).await;
    let me = &mine.credential.user_key;
    let organization =
        async |slug: &str| stack.authority.organization(&slug.parse().unwrap()).await.unwrap().account_id;
    let (own, other) = (organization("acme").await, organization("globex").await);
    for subject in [
        // Another one's credential: of the same account, of another one.
        format!("authority.renew.{}", sibling.credential.user_key),
        format!("authority.renew.{}", foreign.credential.user_key),
        // The account in the subject belongs to the servers.
        format!("authority.renew.{own}.{me}"),
        format!("authority.renew.{other}.{}", foreign.credential.user_key),
    ] {
        client.publish_with_reply(subject.clone(), format!("_INBOX.{me}.x"), "".into()).await.unwrap();
        client.flush().await.unwrap();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(10), refused.recv()).await.expect(&subject).unwrap();
            if event.to_lowercase().contains("permissions violation") && event.contains(&subject) {
                break;
            }
        }
    }
    assert!(events(&stack, "credential.renew").await.is_empty());

    // Somebody has seen the answer, and has another key.
    age(&stack, &[mine.credential.id], "1 hour").await;
    let answer = renew(&client, &mine).await;
    let token = std::str::from_utf8(&answer.payload).unwrap();
    let thief = Arc::new(KeyPair::<User>::generate(&nats_authority::entropy::SystemEntropy::new()));
    assert!(connect_with(&stack, token, thief).await.is_err(), "the servers' nonce has to be signed");
    assert!(connect_with(&stack, token, Arc::new(seed(&sibling).key_pair())).await.is_err());
    connect_with(&stack, token, Arc::new(seed(&mine).key_pair())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_to_get_in_is_refused() {
    let stack = ready(&["prod", "dev"]).await;
    let (rotated, expired, asks, gone) = tokio::join!(
        stack.issue("acme", "prod", "viewer"),
        stack.issue("acme", "prod", "viewer"),
        stack.issue("acme", "prod", "viewer"),
        stack.issue("acme", "dev", "viewer"),
    );
    let client = stack.connect(&rotated, 0).await.unwrap();
    answers(&client, &rotated).await;
    stack.authority.rotate(&stack.actor, rotated.credential.id, Rotate::default()).await.unwrap();
    assert_eq!(code(&renew(&client, &rotated).await), "credential-superseded");

    // The clock of the service is ahead of the servers': its word counts.
    let client = stack.connect(&expired, 1).await.unwrap();
    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    let sql = "UPDATE credentials SET issued_at = now() - interval '2 days', expires_at = now() - interval '1 day' WHERE id = $1";
    sqlx::query(sql).bind(expired.credential.id).execute(&mut database).await.unwrap();
    let answer = renew(&client, &expired).await;
    assert_eq!(code(&answer), "credential-expired");
    let words = std::str::from_utf8(&answer.payload).unwrap();
    assert!(words.starts_with("credential-expired: ") && words.contains("ask for a new one"), "{words}");
    assert!(serde_json::from_str::<serde_json::Value>(words).is_err(), "never JSON: see `Request::refuse`");

    let client = stack.connect(&asks, 2).await.unwrap();
    let subject = format!("authority.renew.{}", asks.credential.user_key);
    let answer = client.request(subject.clone(), "renew me".into()).await.unwrap();
    assert_eq!(code(&answer), "renewal-payload");
    let codes = join_all((0..20).map(|_| async { code(&ask(&client, subject.clone()).await) })).await;
    let (admitted, too_often): (Vec<_>, Vec<_>) = codes.into_iter().partition(String::is_empty);
    assert!((5..=8).contains(&admitted.len()), "{}", admitted.len());
    assert!(too_often.iter().all(|code| code == "renewal-too-often"));

    // Those that servers close cannot ask; what they would be told is the authority's own answer.
    let user = |one: &Issued| -> PublicKey<User> { one.credential.user_key.parse().unwrap() };
    let account = stack.authority.organization(&"acme".parse().unwrap()).await.unwrap().account_id.parse().unwrap();
    let refusal = async |one: &Issued| stack.authority.renew(account, user(one)).await.unwrap_err().code();
    let revoked = stack.issue("acme", "prod", "viewer").await;
    stack.authority.revoke(&stack.actor, revoked.credential.id, Reason::default()).await.unwrap();
    assert_eq!(refusal(&revoked).await, "credential-revoked");
    stack.authority.suspend(&stack.actor, &"acme".parse().unwrap(), Reason::default()).await.unwrap();
    assert_eq!(refusal(&gone).await, "organization-suspended");
    stack.authority.resume(&stack.actor, &"acme".parse().unwrap(), Reason::default()).await.unwrap();
    stack.authority.delete_environment(&stack.actor, &"acme".parse().unwrap(), &"dev".parse().unwrap()).await.unwrap();
    // It went with its environment.
    assert_eq!(refusal(&gone).await, "credential-revoked");
    let other = stack.authority.platform().unwrap();
    assert_eq!(stack.authority.renew(other, user(&gone)).await.unwrap_err().code(), "no-credential");
    stack.authority.delete(&stack.actor, &"acme".parse().unwrap(), false).await.unwrap();
    assert!(["organization-deleting", "credential-revoked"].contains(&refusal(&gone).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_hits_every_jwt_of_the_key_until_the_last_has_ended() {
    let stack = ready(&["prod"]).await;
    let issued = stack.issue("acme", "prod", "viewer").await;
    let client = stack.connect(&issued, 0).await.unwrap();
    answers(&client, &issued).await;
    age(&stack, &[issued.credential.id], "1 hour").await;
    let first = renew(&client, &issued).await;
    let token = std::str::from_utf8(&first.payload).unwrap();
    let key = Arc::new(seed(&issued).key_pair());
    let renewed = connect_with(&stack, token, Arc::clone(&key)).await.unwrap();
    // Revoking the old row, which is all that somebody may remember.
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    let successor = events(&stack, "credential.renew").await[0].target.parse().unwrap();
    let row = stack.authority.credential(successor).await.unwrap();
    assert_eq!(row.state, CredentialState::Revoked);
    assert_eq!(row.revoked_at, stack.authority.credential(issued.credential.id).await.unwrap().revoked_at);
    for client in [&client, &renewed] {
        eventually("closed", || async { client.connection_state() != async_nats::connection::State::Connected }).await;
    }
    stack.converged("acme").await;
    assert!(connect_with(&stack, token, Arc::clone(&key)).await.is_err());
    assert!(connect_with(&stack, &issued.jwt, key).await.is_err());
}

/// How many users renew at once: 200, and 2,000 where `RENEWAL_USERS` says so.
fn users() -> usize {
    #[expect(clippy::disallowed_methods, reason = "a scale of a test, not a setting of the program")]
    let wanted = std::env::var("RENEWAL_USERS");
    wanted.ok().map_or(200, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_renew_at_once_at_two_replicas_and_each_is_answered_once() {
    let stack = Stack::start(3).await;
    let roomy = nats_authority::authority::requests::NewOrganization {
        slug: "acme".to_owned(),
        plan: Some("l".to_owned()),
        environments: vec!["prod".to_owned()],
        ..Default::default()
    };
    stack.authority.onboard(&stack.actor, roomy).await.unwrap();
    let limits = ChangeOrganization { limits: Some(json!({"conn": 20_000})), ..ChangeOrganization::default() };
    stack.authority.change(&stack.actor, &"acme".parse().unwrap(), limits).await.unwrap();
    stack.converged("acme").await;
    let (other, stop) = stack.replica().await;
    let count = users();
    let (org, env) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    let mut all = Vec::with_capacity(count);
    for first in (0..count).step_by(1000) {
        let name =
            |n: usize| NewCredential { name: format!("u{n}"), role: "viewer".to_owned(), ..NewCredential::default() };
        let items = (first..count.min(first + 1000)).map(name).collect();
        all.extend(stack.authority.issue_batch(&stack.actor, &org, &env, items).await.unwrap());
    }
    let connecting = futures::stream::iter(all.iter().enumerate()).map(|(index, one)| stack.connect(one, index % 3));
    let clients: Vec<Client> = connecting.buffered(32).map(Result::unwrap).collect().await;
    answers(&clients[0], &all[0]).await;
    // Both replicas have their user in the platform account.
    eventually("both replicas answer", || async {
        let connected = stack.resolver.connections(other.platform().unwrap()).await.unwrap();
        connected.iter().map(|server| server.list.len()).sum::<usize>() >= 2
    })
    .await;
    let ids: Vec<Uuid> = all.iter().map(|one| one.credential.id).collect();
    age(&stack, &ids, "1 hour").await;

    let begun = tokio::time::Instant::now();
    let renewed = join_all(clients.iter().zip(&all).map(|(client, issued)| async move {
        let inbox = format!("{}.renewal", issued.credential.inbox_prefix);
        let mut answers = client.subscribe(inbox.clone()).await.unwrap();
        let subject = format!("authority.renew.{}", issued.credential.user_key);
        client.publish_with_reply(subject, inbox, "".into()).await.unwrap();
        let answer = tokio::time::timeout(Duration::from_mins(1), answers.next()).await.expect("in time").unwrap();
        assert_eq!(claims(&answer).subject.to_string(), issued.credential.user_key);
        answers
    }))
    .await;
    let took = begun.elapsed();
    // Past the capture of what tests print.
    let _ = writeln!(std::io::stderr(), "{count} users renewed in {took:?}");
    // A second answer would most likely be there by now.
    for mut answers in renewed {
        assert!(futures::poll!(answers.next()).is_pending(), "answered twice");
    }
    let sql = "SELECT count(*) FROM audit_events WHERE action = 'credential.renew'";
    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    let events: i64 = sqlx::query_scalar(sql).fetch_one(&mut database).await.unwrap();
    assert_eq!(usize::try_from(events).unwrap(), count);

    // One replica goes, and the other one answers all.
    stop.cancel();
    for (client, issued) in clients.iter().zip(&all).take(20) {
        answers(client, issued).await;
        claims(&renew(client, issued).await);
    }
}

/// Servers do not check the reply subject, so an answer reaches whatever subject of the account the requester
/// named. What arrives there must not be taken for a request by JetStream.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_no_request_to_jetstream() {
    let stack = ready(&["prod", "dev"]).await;
    let (mine, prod) = (stack.issue("acme", "dev", "publisher").await, stack.issue("acme", "prod", "publisher").await);
    let client = stack.connect(&mine, 0).await.unwrap();
    let prod = async_nats::jetstream::new(stack.connect(&prod, 1).await.unwrap());
    prod.publish("ws.acme-prod.a", "precious".into()).await.unwrap().await.unwrap();
    answers(&client, &mine).await;
    let subject = format!("authority.renew.{}", mine.credential.user_key);
    for (api, payload) in [("PURGE", ""), ("PURGE", "refuse me"), ("DELETE", ""), ("DELETE", "refuse me")] {
        let reply = format!("$JS.API.STREAM.{api}.ws-acme-prod-events");
        client.publish_with_reply(subject.clone(), reply, payload.to_owned().into()).await.unwrap();
    }
    // What proves that answers do arrive where they were sent: the event stream stores this one.
    client.publish_with_reply(subject, "ws.acme-prod.junk", "refuse me".into()).await.unwrap();
    let viewer = stack.issue("acme", "prod", "viewer").await;
    let reader = async_nats::jetstream::new(stack.connect(&viewer, 2).await.unwrap());
    let stream = reader.get_stream("ws-acme-prod-events").await.unwrap();
    eventually("the answer is stored", || async { stream.get_info().await.unwrap().state.messages >= 2 }).await;
    let first = stream.get_raw_message(1).await.unwrap();
    assert_eq!(first.payload.as_ref(), b"precious", "neither purged nor deleted");
}

/// What was issued before a time may be in the wrong hands, and with it the key: a younger JWT of the same key
/// goes as well, also where a cutoff does not reach it.
#[tokio::test]
async fn a_renewed_jwt_goes_with_the_one_before_it() {
    let l = crate::ledger::ledger().await;
    let org = l.authority.onboard(&l.actor, crate::ledger::acme(&["prod"])).await.unwrap().0;
    let (slug, env) = ("acme".parse().unwrap(), "prod".parse().unwrap());
    let account = org.account_id.parse().unwrap();
    let issue = async |name: &str| {
        let new = NewCredential { name: name.to_owned(), role: "viewer".to_owned(), ..NewCredential::default() };
        l.authority.issue(&l.actor, &slug, &env, new).await.unwrap()
    };
    let old = issue("old").await;
    l.clock.advance(3600);
    let before = l.authority.now();
    l.clock.advance(10);
    let user: PublicKey<User> = old.credential.user_key.parse().unwrap();
    let renewed = l.authority.renew(account, user).await.unwrap();
    let renewed = envelope::decode::<jwt::User>(&renewed.jwt).unwrap().claims.issued_at.unwrap();
    let young = issue("young").await;
    l.clock.advance(10);
    let request = Revoke { issued_before: Some(before.to_rfc3339()), ..Revoke::default() };
    let done = l.authority.revoke_selected(&l.actor, &slug, &request).await.unwrap();
    let cutoff = done.effect.cutoff.unwrap();
    assert!(cutoff < renewed, "it does not cover the younger one");
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    let revocations = envelope::decode::<jwt::Account>(&token).unwrap().claims.nats.revocations;
    assert_eq!(revocations["*"], cutoff);
    assert!(revocations[&user.to_string()] >= renewed, "{revocations:?}");
    assert_eq!(revocations.len(), 2, "and nobody else");
    assert_eq!(l.authority.renew(account, user).await.unwrap_err().code(), "credential-revoked");
    let state = l.authority.credential(young.credential.id).await.unwrap().state;
    assert_eq!(state, CredentialState::Active);
    // The entry stays until the last of the key's JWTs has ended, though the first one's end comes before.
    let lives = old.credential.expires_at.timestamp() - l.authority.now().timestamp();
    l.clock.advance(lives + 3600 + 1);
    l.authority.prune().await.unwrap();
    l.authority.revoke(&l.actor, young.credential.id, Reason::default()).await.unwrap();
    let token = l.authority.store().account_jwt(account).await.unwrap().unwrap();
    let revocations = envelope::decode::<jwt::Account>(&token).unwrap().claims.nats.revocations;
    assert!(revocations.contains_key(&user.to_string()), "{revocations:?}");
}
