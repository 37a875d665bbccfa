//! Further streams of environments: what may be asked for, and what is recorded of it. JetStream lets no
//! two streams have overlapping subjects, and all subjects of an environment belong to its event stream.
//! So a further stream has none of its own: it copies from the event stream what its filters say, and
//! keeps that in its own way. The provision task makes and removes it.

use std::time::Duration;

use serde_json::json;

use super::{
    Actor, Authority,
    consumers::{bounded, filters, lock_environment, target},
    requests::NewStream,
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    model::{
        EnvState, EnvType, Environment, ItemName, ItemState, OrgSlug, Organization, StreamConfig,
        size::{format_duration, parse_duration, parse_size},
        view::StreamView,
    },
    store::{
        audit,
        items::{CONSUMERS, Item, STREAMS},
    },
};

/// The smallest stream, bytes.
const MIN_BYTES: i64 = 1024;

/// The longest time to keep a message, seconds.
const MAX_AGE: i64 = 10 * 365 * 86_400;

impl Authority {
    /// Adds a stream; finds it when it is there with the same content. The flag says whether it was made
    /// now.
    pub async fn put_stream(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &NewStream,
    ) -> Result<(StreamView, bool)> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, made) = self.put_stream_in(change.work(), actor, slug, env_type, name, request).await?;
        if made {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok((view, made))
    }

    pub(super) async fn put_stream_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &NewStream,
    ) -> Result<(Organization, StreamView, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        if environment.further_stream(name) == environment.stream() {
            let detail = "this is the name of the environment's event stream; choose another one";
            return Err(Error::field("reserved-name", "name", detail));
        }
        let config = config(&environment, request)?;
        let (org, row) = lock_environment(work, slug, env_type).await?;
        if row.state == EnvState::Deleting {
            return Err(Error::conflict("environment-deleting", "the environment is being deleted"));
        }
        if let Some(found) = STREAMS.find(work.rows(), row.id, name).await? {
            if found.state == ItemState::Deleting {
                let detail = "the stream is being deleted; wait until it is gone and try again";
                return Err(Error::conflict("stream-deleting", detail));
            }
            if found.config != config {
                return Err(Error::conflict(
                    "stream-exists",
                    format!("there is a stream '{name}' with other content; delete it first or choose another name"),
                ));
            }
            return Ok((org, stream_view(&environment, &found), false));
        }
        let id = self.id();
        STREAMS.insert(work.rows(), row.id, id, name, &config, self.now()).await?;
        let detail = json!({"stream": environment.further_stream(name), "config": config});
        let event = self.event(actor, "stream.create", Some(slug), target(&environment, name), detail);
        audit::record(work.rows(), &event).await?;
        let made = Item { id, name: name.clone(), config, state: ItemState::Pending, error: None, made: false };
        Ok((org, stream_view(&environment, &made), true))
    }

    /// Removes a stream with what it has copied; the event stream keeps its messages.
    pub async fn delete_stream(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<StreamView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, goes) = self.delete_stream_in(change.work(), actor, slug, env_type, name).await?;
        if goes {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok(view)
    }

    pub(super) async fn delete_stream_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<(Organization, StreamView, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let (org, row) = lock_environment(work, slug, env_type).await?;
        let mut found = STREAMS.find(work.rows(), row.id, name).await?.ok_or_else(|| no_stream(&environment, name))?;
        let goes = found.state != ItemState::Deleting;
        if goes {
            let consumers = CONSUMERS.list(work.rows(), row.id).await?;
            let reading: Vec<_> = consumers
                .iter()
                .filter(|consumer| consumer.config.stream.as_ref() == Some(name))
                .map(|consumer| consumer.name.as_str())
                .collect();
            if !reading.is_empty() {
                let detail = format!("consumers read from it: {}; delete them first", reading.join(", "));
                return Err(Error::conflict("stream-in-use", detail));
            }
            STREAMS.start_deletion(work.rows(), found.id, self.now()).await?;
            let event = self.event(actor, "stream.delete", Some(slug), target(&environment, name), json!({}));
            audit::record(work.rows(), &event).await?;
            found.state = ItemState::Deleting;
            found.error = None;
        }
        Ok((org, stream_view(&environment, &found), goes))
    }

    /// One stream.
    pub async fn stream(&self, slug: &OrgSlug, env_type: &EnvType, name: &ItemName) -> Result<StreamView> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let id = self.environment_id(slug, env_type).await?;
        let row = STREAMS.one(&self.store, id, name).await?.ok_or_else(|| no_stream(&environment, name))?;
        Ok(stream_view(&environment, &row))
    }

    /// The further streams of an environment.
    pub async fn streams(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<Vec<StreamView>> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let rows = STREAMS.of(&self.store, self.environment_id(slug, env_type).await?).await?;
        Ok(rows.iter().map(|row| stream_view(&environment, row)).collect())
    }

    /// Waits until the stream of `view` is made, or is gone. Returns what is the case then or after
    /// `timeout`.
    pub async fn wait_stream(
        &self,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        timeout: Duration,
        view: StreamView,
    ) -> Result<StreamView> {
        let look = || self.stream(slug, env_type, name);
        self.wait_item(slug, timeout, view, look, |view| (&mut view.state, &mut view.error)).await
    }
}

/// What was asked for, checked, with every default filled in.
fn config(environment: &Environment, request: &NewStream) -> Result<StreamConfig> {
    let max_bytes = parse_size(&request.max_bytes)
        .filter(|bytes| *bytes >= MIN_BYTES)
        .ok_or_else(|| Error::field("invalid-size", "/maxBytes", "this is a size of at least 1KiB, such as 16MiB"))?;
    let max_age_seconds = request.max_age.as_deref().map(|text| parse_duration("/maxAge", text)).transpose()?;
    if max_age_seconds.is_some_and(|age| age > MAX_AGE) {
        return Err(Error::field("invalid-duration", "/maxAge", "a stream keeps messages at most 3650d"));
    }
    let per_subject = request.max_messages_per_subject;
    Ok(StreamConfig {
        filter_subjects: filters(environment, &request.filter_subjects)?,
        max_bytes,
        max_age_seconds,
        max_messages_per_subject: per_subject.map(|count| bounded("/maxMessagesPerSubject", count)).transpose()?,
        retention: request.retention.unwrap_or_default(),
    })
}

fn stream_view(environment: &Environment, row: &Item<StreamConfig>) -> StreamView {
    StreamView {
        name: row.name.to_string(),
        stream: environment.further_stream(&row.name),
        source: environment.stream(),
        filter_subjects: row.config.filter_subjects.clone(),
        max_bytes: row.config.max_bytes,
        max_age: row.config.max_age_seconds.map(format_duration),
        max_messages_per_subject: row.config.max_messages_per_subject,
        retention: row.config.retention,
        state: row.state,
        error: row.error.clone(),
    }
}

fn no_stream(environment: &Environment, name: &ItemName) -> Error {
    Error::not_found("no-stream", format!("environment '{}' has no further stream '{name}'", environment.name()))
}
