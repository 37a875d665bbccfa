//! Durable pull consumers of environments, on the event stream or a further one: what may be asked for, and what is recorded of it. Strict
//! roles create nothing in JetStream, so the authority does; the provision task makes and removes
//! them. Nothing here lets a caller choose where a consumer delivers: it pulls, always.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    environments::no_environment,
    organizations::no_organization,
    requests::NewConsumer,
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    jwt::subject,
    model::{
        ConsumerConfig, EnvState, EnvType, Environment, ItemName, ItemState, OrgSlug, Organization,
        size::{format_duration, parse_duration},
        view::ConsumerView,
    },
    store::{
        audit,
        environments::{self, EnvironmentRow},
        items::{CONSUMERS, Item, STREAMS},
        organizations,
    },
};

/// How long a consumer waits for an acknowledgement when nothing is said, seconds: JetStream's own default.
const ACK_WAIT: i64 = 30;

/// The longest wait for an acknowledgement, seconds.
const MAX_ACK_WAIT: i64 = 86_400;

/// How many messages may be unacknowledged when nothing is said: JetStream's own default.
const MAX_ACK_PENDING: i64 = 1000;

/// The highest of the counts that a caller may set.
const MAX_COUNT: i64 = 1_000_000;

/// The most filter subjects. Each also stands in the audit log.
const MAX_FILTERS: usize = 32;

/// The longest filter subject, bytes: it stands in the subject of the request that makes the consumer.
const MAX_FILTER: usize = 255;

impl Authority {
    /// Adds a consumer; finds it when it is there with the same content. The flag says whether it was
    /// made now.
    pub async fn put_consumer(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &NewConsumer,
    ) -> Result<(ConsumerView, bool)> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, made) = self.put_consumer_in(change.work(), actor, slug, env_type, name, request).await?;
        if made {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok((view, made))
    }

    pub(super) async fn put_consumer_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &NewConsumer,
    ) -> Result<(Organization, ConsumerView, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let config = config(&environment, request)?;
        let (org, row) = lock_environment(work, slug, env_type).await?;
        if row.state == EnvState::Deleting {
            return Err(Error::conflict("environment-deleting", "the environment is being deleted"));
        }
        if let Some(found) = CONSUMERS.find(work.rows(), row.id, name).await? {
            if found.state == ItemState::Deleting {
                return Err(Error::conflict(
                    "consumer-deleting",
                    "the consumer is being deleted; wait until it is gone and try again",
                ));
            }
            if found.config != config {
                return Err(Error::conflict(
                    "consumer-exists",
                    format!("there is a consumer '{name}' with other content; delete it first or choose another name"),
                ));
            }
            return Ok((org, consumer_view(&environment, &found), false));
        }
        if let Some(stream) = &config.stream {
            let found = STREAMS.find(work.rows(), row.id, stream).await?;
            if found.is_none_or(|found| found.state == ItemState::Deleting) {
                let detail =
                    format!("the environment has no further stream '{stream}'; add it with PUT …/streams/{stream}");
                return Err(Error::field("no-stream", "/stream", detail));
            }
        }
        let id = self.id();
        CONSUMERS.insert(work.rows(), row.id, id, name, &config, self.now()).await?;
        let event = self.event(
            actor,
            "consumer.create",
            Some(slug),
            target(&environment, name),
            json!({"stream": config.stream_in(&environment), "config": config}),
        );
        audit::record(work.rows(), &event).await?;
        let made = Item { id, name: name.clone(), config, state: ItemState::Pending, error: None, made: false };
        Ok((org, consumer_view(&environment, &made), true))
    }

    /// Removes a consumer: how far it has read is forgotten, the messages stay.
    pub async fn delete_consumer(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<ConsumerView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, goes) = self.delete_consumer_in(change.work(), actor, slug, env_type, name).await?;
        if goes {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok(view)
    }

    pub(super) async fn delete_consumer_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<(Organization, ConsumerView, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let (org, row) = lock_environment(work, slug, env_type).await?;
        let mut found =
            CONSUMERS.find(work.rows(), row.id, name).await?.ok_or_else(|| no_consumer(&environment, name))?;
        let goes = found.state != ItemState::Deleting;
        if goes {
            CONSUMERS.start_deletion(work.rows(), found.id, self.now()).await?;
            let event = self.event(actor, "consumer.delete", Some(slug), target(&environment, name), json!({}));
            audit::record(work.rows(), &event).await?;
            found.state = ItemState::Deleting;
            found.error = None;
        }
        Ok((org, consumer_view(&environment, &found), goes))
    }

    /// One consumer.
    pub async fn consumer(&self, slug: &OrgSlug, env_type: &EnvType, name: &ItemName) -> Result<ConsumerView> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let id = self.environment_id(slug, env_type).await?;
        let row = CONSUMERS.one(&self.store, id, name).await?.ok_or_else(|| no_consumer(&environment, name))?;
        Ok(consumer_view(&environment, &row))
    }

    /// The consumers of an environment.
    pub async fn consumers(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<Vec<ConsumerView>> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let rows = CONSUMERS.of(&self.store, self.environment_id(slug, env_type).await?).await?;
        Ok(rows.iter().map(|row| consumer_view(&environment, row)).collect())
    }

    /// Waits until the consumer of `view` is made, or is gone. Returns what is the case then or after
    /// `timeout`.
    pub async fn wait_consumer(
        &self,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        timeout: Duration,
        view: ConsumerView,
    ) -> Result<ConsumerView> {
        let look = || self.consumer(slug, env_type, name);
        self.wait_item(slug, timeout, view, look, |view| (&mut view.state, &mut view.error)).await
    }

    pub(super) async fn environment_id(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<Uuid> {
        let org = self.require_organization(slug).await?;
        let rows = self.store.environments(&[org.id]).await?.remove(&org.id).unwrap_or_default();
        let row = rows.into_iter().find(|row| row.env_type == *env_type);
        row.map(|row| row.id).ok_or_else(|| no_environment(slug, env_type))
    }
}

/// An environment of an active organization, which nobody else changes until the transaction ends.
pub(super) async fn lock_environment(
    work: &mut Work,
    slug: &OrgSlug,
    env_type: &EnvType,
) -> Result<(Organization, EnvironmentRow)> {
    let org = organizations::lock(work.rows(), slug).await?.ok_or_else(|| no_organization(slug))?;
    work.require_generation(org.account).await?;
    org.state.require_active()?;
    let rows = environments::of(work.rows(), org.id).await?;
    let row = rows.into_iter().find(|row| row.env_type == *env_type);
    Ok((org, row.ok_or_else(|| no_environment(slug, env_type))?))
}

/// What was asked for, checked, with every default filled in.
fn config(environment: &Environment, request: &NewConsumer) -> Result<ConsumerConfig> {
    let ack_wait_seconds = match &request.ack_wait {
        None => ACK_WAIT,
        Some(text) => parse_duration("/ackWait", text)?,
    };
    if ack_wait_seconds > MAX_ACK_WAIT {
        return Err(Error::field("invalid-duration", "/ackWait", "a consumer waits at most 24h"));
    }
    let stream = request.stream.as_deref().map(str::parse::<ItemName>).transpose();
    Ok(ConsumerConfig {
        stream: stream.map_err(|error| Error::field(error.code(), "/stream", error.to_string()))?,
        filter_subjects: filters(environment, &request.filter_subjects)?,
        ack_wait_seconds,
        max_deliver: request.max_deliver.map(|count| bounded("/maxDeliver", count)).transpose()?,
        max_ack_pending: bounded("/maxAckPending", request.max_ack_pending.unwrap_or(MAX_ACK_PENDING))?,
        deliver_policy: request.deliver_policy.unwrap_or_default(),
    })
}

pub(super) fn filters(environment: &Environment, asked: &[String]) -> Result<Vec<String>> {
    if asked.len() > MAX_FILTERS {
        return Err(invalid_filter("", format!("there are at most {MAX_FILTERS} filter subjects")));
    }
    let territory = environment.subjects();
    for (index, filter) in asked.iter().enumerate() {
        let at = format!("/{index}");
        if filter.len() > MAX_FILTER || !subject::is_valid(filter) {
            let words =
                format!("this is no subject of at most {MAX_FILTER} bytes; write ws.{}.orders.>", environment.name());
            return Err(invalid_filter(&at, words));
        }
        if !subject::contains(&territory, filter) {
            return Err(invalid_filter(&at, format!("'{filter}' is not inside '{territory}'")));
        }
        // JetStream refuses it as well, but only later, where the caller may no longer look.
        if let Some(other) = asked.iter().take(index).find(|other| subject::overlap(other, filter)) {
            return Err(invalid_filter(&at, format!("'{filter}' overlaps '{other}'; filters have to be apart")));
        }
    }
    // Sorted: the same filters in another order are the same consumer.
    let mut sorted = asked.to_vec();
    sorted.sort_unstable();
    Ok(sorted)
}

fn invalid_filter(at: &str, detail: String) -> Error {
    Error::field("invalid-filter", format!("/filterSubjects{at}"), detail)
}

pub(super) fn bounded(pointer: &str, count: i64) -> Result<i64> {
    if (1..=MAX_COUNT).contains(&count) {
        return Ok(count);
    }
    Err(Error::field("invalid-count", pointer, format!("this is a number from 1 to {MAX_COUNT}")))
}

pub(super) fn target(environment: &Environment, name: &ItemName) -> String {
    format!("{}/{name}", environment.name())
}

fn consumer_view(environment: &Environment, row: &Item<ConsumerConfig>) -> ConsumerView {
    ConsumerView {
        name: row.name.to_string(),
        stream: row.config.stream_in(environment),
        filter_subjects: row.config.filter_subjects.clone(),
        ack_wait: format_duration(row.config.ack_wait_seconds),
        max_deliver: row.config.max_deliver,
        max_ack_pending: row.config.max_ack_pending,
        deliver_policy: row.config.deliver_policy,
        state: row.state,
        error: row.error.clone(),
    }
}

fn no_consumer(environment: &Environment, name: &ItemName) -> Error {
    Error::not_found("no-consumer", format!("environment '{}' has no consumer '{name}'", environment.name()))
}
