//! Makes the event stream and the KV bucket of each new environment in its organization's account,
//! and removes them with it; then `items` makes further streams and consumers. Connects for each as a user
//! that may do just that and lives two minutes.

use std::sync::Arc;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::{TICK, backoff, items, nudged};
use crate::{
    authority::Authority,
    error::Result,
    model::{EnvState, Environment},
    resolver::{
        SystemResolver, UserCredential,
        jetstream::{self, EnvironmentStreams},
    },
    store::{environments::DueEnvironment, items::STREAMS},
};

/// How many environments are claimed, and worked on, at a time.
const AT_ONCE: i64 = 8;

/// How long other replicas leave a claimed environment alone, seconds.
const LEASE: i64 = 30;

pub(super) struct Provision {
    authority: Arc<Authority>,
    resolver: Arc<SystemResolver>,
    replicas: Option<usize>,
}

impl Provision {
    pub(super) fn new(authority: Arc<Authority>, resolver: Arc<SystemResolver>, replicas: Option<usize>) -> Self {
        Self { authority, resolver, replicas }
    }

    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            match self.everything_due().await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(error) => tracing::warn!(%error, cause = error.internal_report(), "provision"),
            }
            if !nudged(&self.authority.provision_wanted, TICK, &stop).await {
                return;
            }
        }
    }

    /// Environments first: consumers wait for their streams.
    async fn everything_due(&self) -> Result<usize> {
        if self.authority.standing().live().next().is_none() {
            return Ok(0);
        }
        let environments = self.provision_due().await?;
        Ok(environments + items::provision_due(&self.authority, &self.resolver, self.replicas()).await?)
    }

    async fn provision_due(&self) -> Result<usize> {
        let authority = &self.authority;
        let due = authority.store().claim_due_environments(AT_ONCE, LEASE, authority.now()).await?;
        let count = due.len();
        let mut done = futures::stream::iter(due).map(|due| self.one(due)).buffer_unordered(count.max(1));
        while let Some(result) = done.next().await {
            result?;
        }
        Ok(count)
    }

    async fn one(&self, due: DueEnvironment) -> Result<()> {
        let store = self.authority.store();
        match self.work(&due).await {
            Ok(()) => drop(store.environment_done(due.id, due.state).await?),
            Err(error) => {
                let cause = error.internal_report();
                tracing::warn!(%error, cause, environment = %Environment::new(due.org.clone(), due.env_type.clone()).name(), "provision");
                let again_at = self.authority.now() + backoff(due.attempts);
                store.environment_failed(due.id, due.state, &error.to_string(), again_at).await?;
            }
        }
        self.authority.announce(due.account);
        Ok(())
    }

    /// How often things are stored.
    fn replicas(&self) -> usize {
        self.replicas.unwrap_or(if self.authority.standing().jetstream_servers() >= 3 { 3 } else { 1 })
    }

    async fn work(&self, due: &DueEnvironment) -> Result<()> {
        let environment = Environment::new(due.org.clone(), due.env_type.clone());
        let sizes = self.authority.policies().plan(&due.plan)?.environment;
        let store = self.authority.store();
        let deletes = due.state == EnvState::Deleting;
        let further = if deletes { STREAMS.of(store, due.id).await? } else { Vec::new() };
        let further: Vec<_> = further.iter().map(|stream| environment.further_stream(&stream.name)).collect();
        let streams = EnvironmentStreams {
            event_stream: environment.stream(),
            subjects: environment.subjects(),
            event_bytes: sizes.event_stream_max_bytes,
            bucket: environment.bucket(),
            bucket_bytes: sizes.kv_bucket_max_bytes,
            replicas: self.replicas(),
            further,
        };
        let user = self.authority.provisioner(&due.org, &due.env_type, due.account, &streams.further).await?;
        let expires_at = chrono::DateTime::from_timestamp(user.expires_at, 0).unwrap_or_default();
        let credential = UserCredential { jwt: user.jwt, key: user.key, expires_at };
        let client = self.resolver.connection().connect_as(credential).await?;
        if deletes {
            jetstream::remove(client, &streams).await?;
            STREAMS.abandon_alone(store, due.id).await
        } else {
            jetstream::make(client, &streams).await
        }
    }
}
