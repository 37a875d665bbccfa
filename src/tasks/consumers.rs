//! Makes and removes the consumers of ready environments, as part of the provision task. Connects for
//! each as a user that may do just that and lives two minutes; what a consumer is was decided before.

use futures::StreamExt;

use super::backoff;
use crate::{
    authority::Authority,
    error::Result,
    model::{ConsumerState, Environment},
    resolver::{SystemResolver, UserCredential, jetstream},
    store::consumers::DueConsumer,
};

/// How many consumers are claimed, and worked on, at a time.
const AT_ONCE: i64 = 8;

/// How long other replicas leave a claimed consumer alone, seconds.
const LEASE: i64 = 30;

/// Works on what is due; tells how many that were.
pub(super) async fn provision_due(authority: &Authority, resolver: &SystemResolver) -> Result<usize> {
    let due = authority.store().claim_due_consumers(AT_ONCE, LEASE, authority.now()).await?;
    let count = due.len();
    let mut done = futures::stream::iter(due).map(|due| one(authority, resolver, due)).buffer_unordered(count.max(1));
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(count)
}

async fn one(authority: &Authority, resolver: &SystemResolver, due: DueConsumer) -> Result<()> {
    let store = authority.store();
    match work(authority, resolver, &due).await {
        Ok(()) => store.consumer_done(due.row.id, due.row.state).await?,
        Err(error) => {
            let cause = error.internal_report();
            let environment = Environment::new(due.org.clone(), due.env_type.clone()).name();
            tracing::warn!(%error, cause, environment, consumer = %due.row.name, "provision");
            let again_at = authority.now() + backoff(due.attempts);
            store.consumer_failed(due.row.id, due.row.state, &error.to_string(), again_at).await?;
        }
    }
    authority.announce(due.account);
    Ok(())
}

async fn work(authority: &Authority, resolver: &SystemResolver, due: &DueConsumer) -> Result<()> {
    let stream = Environment::new(due.org.clone(), due.env_type.clone()).stream();
    let name = due.row.name.as_str();
    let removes = due.row.state == ConsumerState::Deleting;
    let subject = if removes {
        jetstream::consumer_removal(&stream, name)
    } else {
        jetstream::consumer_creation(&stream, name, &due.row.config)
    };
    let user = authority.consumer_provisioner(&due.org, due.account, subject).await?;
    let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
    let credential = UserCredential { jwt: user.jwt, key: user.key, expires_at };
    let client = resolver.connection().connect_as(credential).await?;
    if removes {
        jetstream::remove_consumer(client, &stream, name).await
    } else {
        jetstream::make_consumer(client, &stream, name, &due.row.config).await
    }
}
