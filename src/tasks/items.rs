//! Makes and removes the further streams and the consumers of ready environments, as part of the provision
//! task. Connects for each as a user that may do just that and lives two minutes; what each is was
//! decided before.

use futures::StreamExt;
use serde::{Serialize, de::DeserializeOwned};

use super::backoff;
use crate::{
    authority::Authority,
    error::Result,
    model::{ConsumerConfig, Environment, ItemState, StreamConfig},
    resolver::{
        SystemResolver, UserCredential,
        items::{Consumer, Made, Stream},
    },
    store::items::{CONSUMERS, DueItem, STREAMS, Table},
};

/// How many are claimed, and worked on, at a time.
const AT_ONCE: i64 = 8;

/// How long other replicas leave a claimed one alone, seconds.
const LEASE: i64 = 30;

/// Works on what is due; tells how many that were. Streams first: consumers read from them.
pub(super) async fn provision_due(authority: &Authority, resolver: &SystemResolver, replicas: usize) -> Result<usize> {
    let streams = all(authority, resolver, &STREAMS, |due| stream(due, replicas)).await?;
    Ok(streams + all(authority, resolver, &CONSUMERS, consumer).await?)
}

fn environment<C>(due: &DueItem<C>) -> Environment {
    Environment::new(due.org.clone(), due.env_type.clone())
}

fn stream(due: &DueItem<StreamConfig>, replicas: usize) -> Stream {
    let environment = environment(due);
    Stream {
        name: environment.further_stream(&due.row.name),
        source: environment.stream(),
        id: due.row.id,
        replicas,
        config: due.row.config.clone(),
    }
}

fn consumer(due: &DueItem<ConsumerConfig>) -> Consumer {
    Consumer {
        stream: due.row.config.stream_in(&environment(due)),
        name: due.row.name.to_string(),
        id: due.row.id,
        config: due.row.config.clone(),
    }
}

async fn all<C, M>(
    authority: &Authority,
    resolver: &SystemResolver,
    table: &Table<C>,
    what: impl Fn(&DueItem<C>) -> M,
) -> Result<usize>
where
    C: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static,
    M: Made,
{
    let due = table.claim_due(authority.store(), AT_ONCE, LEASE, authority.now()).await?;
    let count = due.len();
    let each = due.into_iter().map(|due| one(authority, resolver, table, what(&due), due));
    let mut done = futures::stream::iter(each).buffer_unordered(count.max(1));
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(count)
}

async fn one<C, M>(
    authority: &Authority,
    resolver: &SystemResolver,
    table: &Table<C>,
    what: M,
    due: DueItem<C>,
) -> Result<()>
where
    C: Serialize + DeserializeOwned + Send + Sync + Unpin + 'static,
    M: Made,
{
    let (store, row) = (authority.store(), &due.row);
    let removes = row.state == ItemState::Deleting;
    let mut worked = act(authority, resolver, &what, &due, removes).await;
    // Its removal was asked for while it was made, and may have found nothing.
    if worked.is_ok() && !table.done(store, row.id, row.state).await? && !removes {
        worked = act(authority, resolver, &what, &due, true).await;
    }
    if let Err(error) = worked {
        let cause = error.internal_report();
        let environment = environment(&due).name();
        tracing::warn!(%error, cause, environment, name = %row.name, "provision");
        let again_at = authority.now() + backoff(due.attempts);
        table.failed(store, row.id, row.state, &error.to_string(), again_at).await?;
    }
    authority.announce(due.account);
    Ok(())
}

async fn act<C, M: Made>(
    authority: &Authority,
    resolver: &SystemResolver,
    what: &M,
    due: &DueItem<C>,
    removes: bool,
) -> Result<()> {
    let user = authority.item_provisioner(&due.org, due.account, what.requests(removes)).await?;
    let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
    let credential = UserCredential { jwt: user.jwt, key: user.key, expires_at };
    let client = resolver.connection().connect_as(credential).await?;
    if removes { what.remove(client, due.row.made).await } else { what.make(client).await }
}
