//! The audit log on a stream of the platform account: each event once, in order, also after outages.

use std::time::Duration;

use async_nats::jetstream::{self, Context};
use nats_authority::{
    jwt::{Permissions, permissions::Permission},
    model::audit::{ChainCheck, ExportedLink},
    resolver::{UserCredential, audit_stream::NAME},
};
use sqlx::{Connection, PgConnection};

use crate::support::stack::{Stack, eventually};

async fn reader(stack: &Stack) -> Context {
    let allow = ["STREAM.INFO", "STREAM.MSG.GET"].map(|verb| format!("$JS.API.{verb}.{NAME}")).to_vec();
    let permissions = Permissions { publish: Permission { allow, deny: Vec::new() }, ..Permissions::default() };
    let user = stack.authority.platform_user("test", permissions).await.unwrap();
    let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap();
    let credential = UserCredential { jwt: user.jwt, key: user.key, expires_at };
    let mut context = jetstream::new(stack.resolver.connection().connect_as(credential).await.unwrap());
    context.set_timeout(Duration::from_secs(2));
    context
}

/// Everything that the stream has, checked as a chain from its start.
async fn published(context: &Context) -> Vec<ExportedLink> {
    let stream = context.get_stream(NAME).await.unwrap();
    let (mut links, mut check) = (Vec::new(), ChainCheck::new(None));
    for sequence in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let text = std::str::from_utf8(&message.payload).unwrap();
        let link: ExportedLink = serde_json::from_str(text).unwrap();
        check.step(&serde_json::from_str::<ExportedLink>(text).unwrap().into_found().unwrap()).unwrap();
        assert_eq!(link.position(), i64::try_from(sequence).unwrap());
        links.push(link);
    }
    links
}

async fn all_published(stack: &Stack) {
    eventually("all events are published", async || {
        let store = stack.authority.store();
        stack.authority.link_audit_events().await.unwrap();
        store.audit_unpublished().await.unwrap() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_published_once_and_in_order_also_after_outages() {
    let mut stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    for n in 0..20 {
        stack.issue("acme", "prod", if n % 2 == 0 { "viewer" } else { "publisher" }).await;
    }
    all_published(&stack).await;
    let before = published(&reader(&stack).await).await.len();
    assert!(before > 22, "{before}");

    // A process that died between the stream's answer and its note of it: the stream knows better.
    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    sqlx::query("UPDATE audit_progress SET published = published - 7").execute(&mut database).await.unwrap();
    // What comes while no server answers waits.
    for index in 0..3 {
        stack.cluster.stop_server(index, nats_authority::dev::nats::Stop::Kill).await.unwrap();
    }
    for _ in 0..5 {
        stack.issue("acme", "prod", "viewer").await;
    }
    for index in 0..3 {
        stack.cluster.start_server(index).await.unwrap();
    }
    stack.servers_live(3).await;
    all_published(&stack).await;
    let verdict = stack.authority.verify_audit(None).await.unwrap();
    assert!(verdict.intact, "{verdict:?}");
    let links = published(&reader(&stack).await).await;
    assert!(links.len() >= before + 5, "{} {before}", links.len());
}
