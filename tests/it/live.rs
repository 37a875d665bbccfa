//! The whole path on real servers: onboard, push, provision, issue, connect, revoke, suspend, delete.

use std::time::Duration;

use async_nats::{Client, Event};
use futures::StreamExt;
use nats_authority::{
    authority::requests::Reason,
    model::{OrgSlug, OrgState, view::Convergence},
    resolver::{Resolver, Timing},
};

use crate::support::stack::{Stack, eventually};

/// Publishes with ack; the error in words when it was refused.
async fn publish(client: &Client, subject: &str) -> Result<(), String> {
    let mut context = async_nats::jetstream::new(client.clone());
    context.set_timeout(Duration::from_secs(5));
    let ack = context.publish(subject.to_owned(), "x".into()).await.map_err(|error| error.to_string())?;
    tokio::time::timeout(Duration::from_secs(2), ack)
        .await
        .map_err(|_| "no ack".to_owned())?
        .map(drop)
        .map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_from_onboarding_to_deletion() {
    let stack = Stack::start(3).await;
    let slug: OrgSlug = "acme".parse().unwrap();
    stack.onboard("acme", &["prod", "dev"]).await;
    let view = stack.converged("acme").await;
    assert_eq!(view.resolver.servers.len(), 3);
    assert!(view.resolver.servers.iter().all(|server| server.stored == 1));
    let issued = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&issued, 1).await.unwrap();
    publish(&client, "ws.acme-prod.a").await.unwrap();
    assert!(publish(&client, "ws.acme-dev.a").await.is_err(), "the sibling environment is refused");

    // Revoke: the client is closed and stays out.
    let closed = closed_event(&stack, &issued).await;
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    closed.await.unwrap();
    stack.converged("acme").await;
    for index in 0..3 {
        assert!(stack.connect(&issued, index).await.is_err(), "revoked on server {index}");
    }

    // Suspend closes everyone, resume lets them back.
    let other = stack.issue("acme", "prod", "publisher").await;
    let client = stack.connect(&other, 0).await.unwrap();
    publish(&client, "ws.acme-prod.b").await.unwrap();
    let closed = closed_event(&stack, &other).await;
    stack.authority.suspend(&stack.actor, &slug, Reason::default()).await.unwrap();
    closed.await.unwrap();
    stack.converged("acme").await;
    assert!(stack.connect(&other, 2).await.is_err());
    stack.authority.resume(&stack.actor, &slug, Reason::default()).await.unwrap();
    stack.converged("acme").await;
    let client = stack.connect(&other, 2).await.unwrap();
    publish(&client, "ws.acme-prod.c").await.unwrap();

    // Delete: gone from every server; the slug gets another account.
    let before = stack.authority.organization(&slug).await.unwrap().account_id;
    stack.authority.delete(&stack.actor, &slug, true).await.unwrap();
    eventually("deleted", || async { stack.authority.organization(&slug).await.unwrap().state == OrgState::Deleted })
        .await;
    assert!(stack.connect(&other, 0).await.is_err());
    for answer in stack.resolver.lookup(before.parse().unwrap()).await.unwrap() {
        assert_eq!(answer, None);
    }
    stack.onboard("acme", &["prod"]).await;
    assert_ne!(stack.converged("acme").await.account_id, before);
    assert!(stack.connect(&other, 0).await.is_err(), "nothing old works in the new organization");
}

/// A connection with `issued` that reports when the server closes it.
async fn closed_event(stack: &Stack, issued: &nats_authority::authority::Issued) -> tokio::task::JoinHandle<()> {
    let (sender, mut events) = futures::channel::mpsc::unbounded();
    let client = async_nats::ConnectOptions::with_credentials(issued.creds.as_ref().unwrap())
        .unwrap()
        .custom_inbox_prefix(issued.credential.inbox_prefix.clone())
        .event_callback(move |event| {
            let sender = sender.clone();
            async move {
                let _ = sender.unbounded_send(event);
            }
        })
        .connect(stack.cluster.servers()[0].url())
        .await
        .unwrap();
    tokio::spawn(async move {
        let _client = client;
        let disconnected = async {
            while let Some(event) = events.next().await {
                if matches!(event, Event::Disconnected) {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), disconnected).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_a_server_that_is_away_until_it_is_forgotten() {
    let mut stack = Stack::start(3).await;
    let slug: OrgSlug = "acme".parse().unwrap();
    stack.onboard("acme", &[]).await;
    stack.converged("acme").await;
    stack.cluster.stop_server(2, nats_authority::dev::process::Stop::Kill).await.unwrap();
    stack.servers_live(2).await;
    stack.authority.delete(&stack.actor, &slug, false).await.unwrap();
    eventually("the others have the tombstone", || async {
        let view = stack.authority.organization(&slug).await.unwrap();
        view.resolver.servers.iter().filter(|server| server.stored == view.resolver.generation).count() == 2
    })
    .await;
    assert_eq!(stack.authority.organization(&slug).await.unwrap().state, OrgState::Deleting);
    assert_eq!(stack.authority.forget_server(&stack.actor, "n1").await.unwrap_err().code(), "server-live");
    stack.authority.forget_server(&stack.actor, "n3").await.unwrap();
    eventually("deleted", || async { stack.authority.organization(&slug).await.unwrap().state == OrgState::Deleted })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_named_and_caught_up() {
    let mut stack = Stack::start(3).await;
    stack.cluster.stop_server(2, nats_authority::dev::process::Stop::Kill).await.unwrap();
    stack.servers_live(2).await;
    stack.onboard("acme", &[]).await;
    let slug: OrgSlug = "acme".parse().unwrap();
    eventually("partial", || async {
        stack.authority.organization(&slug).await.unwrap().resolver.state == Convergence::Partial
    })
    .await;
    let view = stack.authority.organization(&slug).await.unwrap();
    let missing: Vec<_> =
        view.resolver.servers.iter().filter(|server| server.stored == 0).map(|server| server.name.as_str()).collect();
    assert_eq!(missing, ["n3"]);
    stack.cluster.start_server(2).await.unwrap();
    let view = stack.converged("acme").await;
    assert!(view.resolver.servers.iter().all(|server| server.stored == 1 && server.live));
}

/// A push waits some seconds for a server that hangs. What is to be pushed after it does not: the servers that answer
/// close a revoked user's connection at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_does_not_wait_behind_a_push_to_a_server_that_hangs() {
    let mut stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    let closed = closed_event(&stack, &issued).await;
    let link = stack.resolver.connection().link().unwrap();
    let ours = link.client().server_info().server_name;
    let hanging = [1, 2].into_iter().find(|index| format!("n{}", index + 1) != ours).unwrap();
    let mut updates = link.client().subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE").await.unwrap();
    link.client().flush().await.unwrap();
    stack.cluster.signal_server(hanging, nats_authority::dev::process::Signal::STOP).unwrap();
    stack.onboard("other", &[]).await;
    updates.next().await.unwrap();
    let pushed = tokio::time::Instant::now();
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    closed.await.unwrap();
    let waited = pushed.elapsed();
    stack.cluster.signal_server(hanging, nats_authority::dev::process::Signal::CONT).unwrap();
    assert!(waited < Timing::default().answer * 3 / 4, "closed only after {waited:?}");
    stack.converged("acme").await;
}
