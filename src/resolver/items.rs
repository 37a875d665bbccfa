//! Durable pull consumers and further streams of an environment: made and removed as a user of the
//! organization's account that may do just that. Consumers pull: what is made here never has a delivery
//! subject. Streams copy from the event stream: they have no subjects of their own.
//!
//! Each carries the id of its row as metadata, so that what somebody else made under the same name is told
//! from what we made and could not record.

use std::{collections::HashMap, time::Duration};

use async_nats::{
    Client,
    jetstream::{
        Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy as Begin, pull},
        context::{ConsumerInfoErrorKind, GetStreamErrorKind},
        stream::{Config, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, Source, StorageType, SubjectTransform},
    },
};
use uuid::Uuid;

use super::jetstream::{context, delete_stream, failed};
use crate::{
    error::Result,
    model::{ConsumerConfig, DeliverPolicy, Retention, StreamConfig},
};

/// The metadata that says which row it is of.
const MARK: &str = "nats-authority.id";

/// A consumer.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Its stream in JetStream.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// The id of its row.
    pub id: Uuid,
    /// What it does.
    pub config: ConsumerConfig,
}

/// A further stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its name in JetStream.
    pub name: String,
    /// The stream that it copies from.
    pub source: String,
    /// The id of its row.
    pub id: Uuid,
    /// How often it is stored.
    pub replicas: usize,
    /// What it does.
    pub config: StreamConfig,
}

/// Something that is made and removed as a whole.
pub trait Made: Send + Sync {
    /// The subjects that a user needs who makes it, or who removes it.
    fn requests(&self, removes: bool) -> Vec<String>;

    /// Makes it; finds it when it is there with the same configuration. One of another configuration,
    /// which somebody else made, is left as it is and reported.
    fn make(&self, client: Client) -> impl Future<Output = Result<()>> + Send;

    /// Removes it; what is not there is removed. Unless `made` says that it is ours, what is there without
    /// our mark is left as it is.
    fn remove(&self, client: Client, made: bool) -> impl Future<Output = Result<()>> + Send;
}

fn mark(id: Uuid) -> HashMap<String, String> {
    HashMap::from([(MARK.to_owned(), id.to_string())])
}

fn is_marked(metadata: &HashMap<String, String>, id: Uuid) -> bool {
    metadata.get(MARK).is_some_and(|mark| *mark == id.to_string())
}

impl Made for Consumer {
    fn requests(&self, removes: bool) -> Vec<String> {
        let Self { stream, name, config, .. } = self;
        if removes {
            return ["INFO", "DELETE"].map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{name}")).to_vec();
        }
        let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
        // A single filter stands in the subject, so that permissions can tell what is read.
        vec![match config.filter_subjects.as_slice() {
            [filter] => format!("{subject}.{filter}"),
            _ => subject,
        }]
    }

    async fn make(&self, client: Client) -> Result<()> {
        let config = &self.config;
        let (filter_subject, filter_subjects) = match config.filter_subjects.as_slice() {
            [filter] => (filter.clone(), Vec::new()),
            filters => (String::new(), filters.to_vec()),
        };
        let wanted = pull::Config {
            durable_name: Some(self.name.clone()),
            name: Some(self.name.clone()),
            deliver_policy: match config.deliver_policy {
                DeliverPolicy::All => Begin::All,
                DeliverPolicy::New => Begin::New,
                DeliverPolicy::Last => Begin::Last,
            },
            ack_policy: AckPolicy::Explicit,
            ack_wait: Duration::from_secs(config.ack_wait_seconds.unsigned_abs()),
            max_deliver: config.max_deliver.unwrap_or(-1),
            max_ack_pending: config.max_ack_pending,
            filter_subject,
            filter_subjects,
            metadata: mark(self.id),
            ..pull::Config::default()
        };
        let made = context(client).create_consumer_strict_on_stream(wanted, &self.stream).await;
        made.map(drop).map_err(|error| failed(&self.title(), error))
    }

    async fn remove(&self, client: Client, made: bool) -> Result<()> {
        let context = context(client);
        if !made && !self.is_ours(&context).await? {
            return Ok(());
        }
        match context.delete_consumer_from_stream(&self.name, &self.stream).await {
            Err(error) if !is_gone(&error.kind()) => Err(failed(&self.title(), error)),
            _ => Ok(()),
        }
    }
}

impl Consumer {
    fn title(&self) -> String {
        format!("{}, consumer {}", self.stream, self.name)
    }

    async fn is_ours(&self, context: &Context) -> Result<bool> {
        // Asked for without its stream's information, for which there is no permission.
        let stream = context.get_stream_no_info(&self.stream).await.map_err(|error| failed(&self.title(), error))?;
        match stream.consumer_info(&self.name).await {
            Ok(info) => Ok(is_marked(&info.config.metadata, self.id)),
            Err(error) => match error.kind() {
                ConsumerInfoErrorKind::NotFound | ConsumerInfoErrorKind::StreamNotFound => Ok(false),
                _ => Err(failed(&self.title(), error)),
            },
        }
    }
}

fn is_gone(kind: &ConsumerErrorKind) -> bool {
    let gone = [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND];
    matches!(kind, ConsumerErrorKind::JetStream(error) if gone.contains(&error.error_code()))
}

impl Made for Stream {
    fn requests(&self, removes: bool) -> Vec<String> {
        let verbs = if removes { &["INFO", "DELETE"][..] } else { &["CREATE"] };
        verbs.iter().map(|verb| format!("$JS.API.STREAM.{verb}.{}", self.name)).collect()
    }

    async fn make(&self, client: Client) -> Result<()> {
        let made = context(client).create_stream(self.wanted()).await;
        made.map(drop).map_err(|error| failed(&self.name, error))
    }

    async fn remove(&self, client: Client, made: bool) -> Result<()> {
        let context = context(client);
        if !made {
            match context.get_stream(&self.name).await {
                Ok(stream) if is_marked(&stream.cached_info().config.metadata, self.id) => {}
                Ok(_) => return Ok(()),
                Err(error) => {
                    return match error.kind() {
                        GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(()),
                        _ => Err(failed(&self.name, error)),
                    };
                }
            }
        }
        delete_stream(&context, &self.name).await
    }
}

impl Stream {
    fn wanted(&self) -> Config {
        let config = &self.config;
        let mut source = Source { name: self.source.clone(), ..Source::default() };
        match config.filter_subjects.as_slice() {
            [] => {}
            [filter] => source.filter_subject = Some(filter.clone()),
            // Without a destination a transform only filters.
            filters => {
                let only = |filter: &String| SubjectTransform { source: filter.clone(), destination: String::new() };
                source.subject_transforms = filters.iter().map(only).collect();
            }
        }
        Config {
            name: self.name.clone(),
            sources: Some(vec![source]),
            retention: match config.retention {
                Retention::Limits => RetentionPolicy::Limits,
                Retention::WorkQueue => RetentionPolicy::WorkQueue,
                Retention::Interest => RetentionPolicy::Interest,
            },
            discard: DiscardPolicy::Old,
            storage: StorageType::File,
            max_bytes: config.max_bytes,
            max_age: Duration::from_secs(config.max_age_seconds.unwrap_or_default().unsigned_abs()),
            max_messages_per_subject: config.max_messages_per_subject.unwrap_or(-1),
            num_replicas: self.replicas,
            allow_direct: true,
            metadata: mark(self.id),
            ..Config::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_filter_stands_in_the_subject() {
        let subject = |filters: &[&str]| {
            let config = ConsumerConfig {
                stream: None,
                filter_subjects: filters.iter().map(ToString::to_string).collect(),
                ack_wait_seconds: 30,
                max_deliver: None,
                max_ack_pending: 1000,
                deliver_policy: DeliverPolicy::All,
            };
            Consumer { stream: "S".to_owned(), name: "c".to_owned(), id: Uuid::nil(), config }.requests(false)
        };
        assert_eq!(subject(&[]), ["$JS.API.CONSUMER.CREATE.S.c"]);
        assert_eq!(subject(&["a.>"]), ["$JS.API.CONSUMER.CREATE.S.c.a.>"]);
        assert_eq!(subject(&["a", "b"]), ["$JS.API.CONSUMER.CREATE.S.c"]);
    }
}
