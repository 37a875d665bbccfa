//! The streams of environments and the consumers on them: made and removed as a user of the
//! organization's account. Consumers pull: what is made here never has a delivery subject.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, Context, ErrorCode,
        consumer::{AckPolicy, DeliverPolicy as Begin, pull},
        context::{CreateStreamErrorKind, DeleteStreamErrorKind},
        kv,
        stream::{Config, ConsumerErrorKind, DiscardPolicy, StorageType},
    },
};

use crate::{
    error::{Error, Result},
    model::{ConsumerConfig, DeliverPolicy},
};

/// What an environment has in JetStream.
#[derive(Clone, Debug)]
pub struct EnvironmentStreams {
    /// Name of the event stream.
    pub event_stream: String,
    /// Its subjects.
    pub subjects: String,
    /// Its size, bytes a replica.
    pub event_bytes: i64,
    /// Name of the KV bucket.
    pub bucket: String,
    /// Its size, bytes a replica.
    pub bucket_bytes: i64,
    /// Replicas of both.
    pub replicas: usize,
}

/// How long JetStream may take; a cluster that has just started elects its leaders first.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes both where they are missing. Direct gets are allowed: strict roles read by them, for
/// whoever can create consumers can reach all of the account.
pub async fn make(client: Client, streams: &EnvironmentStreams) -> Result<()> {
    let context = context(client);
    let events = Config {
        name: streams.event_stream.clone(),
        subjects: vec![streams.subjects.clone()],
        storage: StorageType::File,
        max_bytes: streams.event_bytes,
        discard: DiscardPolicy::Old,
        num_replicas: streams.replicas,
        allow_direct: true,
        ..Config::default()
    };
    if let Err(error) = context.create_stream(events).await
        && !matches!(error.kind(), CreateStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NAME_EXIST)
    {
        return Err(failed(&streams.event_stream, error));
    }
    let bucket = kv::Config {
        bucket: streams.bucket.clone(),
        history: 1,
        max_bytes: streams.bucket_bytes,
        num_replicas: streams.replicas,
        storage: StorageType::File,
        ..kv::Config::default()
    };
    context.create_or_update_key_value(bucket).await.map_err(|error| failed(&streams.bucket, error))?;
    Ok(())
}

/// Removes both with their data; what is not there is removed.
pub async fn remove(client: Client, streams: &EnvironmentStreams) -> Result<()> {
    let context = context(client);
    for name in [streams.event_stream.clone(), format!("KV_{}", streams.bucket)] {
        if let Err(error) = context.delete_stream(&name).await
            && !matches!(error.kind(), DeleteStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND)
        {
            return Err(failed(&name, error));
        }
    }
    Ok(())
}

/// The one subject that a user needs who makes this consumer. A single filter stands in it, so that
/// permissions can tell what is read.
pub fn consumer_creation(stream: &str, name: &str, config: &ConsumerConfig) -> String {
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
    match config.filter_subjects.as_slice() {
        [filter] => format!("{subject}.{filter}"),
        _ => subject,
    }
}

/// The one subject that a user needs who removes this consumer.
pub fn consumer_removal(stream: &str, name: &str) -> String {
    format!("$JS.API.CONSUMER.DELETE.{stream}.{name}")
}

/// Makes a durable pull consumer; finds it when it is there with the same configuration. One of another
/// configuration, which somebody else made, is left as it is and reported.
pub async fn make_consumer(client: Client, stream: &str, name: &str, config: &ConsumerConfig) -> Result<()> {
    let (filter_subject, filter_subjects) = match config.filter_subjects.as_slice() {
        [filter] => (filter.clone(), Vec::new()),
        filters => (String::new(), filters.to_vec()),
    };
    let wanted = pull::Config {
        durable_name: Some(name.to_owned()),
        name: Some(name.to_owned()),
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
        ..pull::Config::default()
    };
    let made = context(client).create_consumer_strict_on_stream(wanted, stream).await;
    made.map(drop).map_err(|error| failed(&format!("{stream}, consumer {name}"), error))
}

/// Removes a consumer; what is not there is removed.
pub async fn remove_consumer(client: Client, stream: &str, name: &str) -> Result<()> {
    let gone = [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND];
    match context(client).delete_consumer_from_stream(name, stream).await {
        Err(error) if !matches!(error.kind(), ConsumerErrorKind::JetStream(ref e) if gone.contains(&e.error_code())) => {
            Err(failed(&format!("{stream}, consumer {name}"), error))
        }
        _ => Ok(()),
    }
}

fn context(client: Client) -> Context {
    let mut context = jetstream::new(client);
    context.set_timeout(TIMEOUT);
    context
}

fn failed(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("jetstream", format!("JetStream on {name}: {error}")).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_filter_stands_in_the_subject() {
        let subject = |filters: &[&str]| {
            let config = ConsumerConfig {
                filter_subjects: filters.iter().map(ToString::to_string).collect(),
                ack_wait_seconds: 30,
                max_deliver: None,
                max_ack_pending: 1000,
                deliver_policy: DeliverPolicy::All,
            };
            consumer_creation("S", "c", &config)
        };
        assert_eq!(subject(&[]), "$JS.API.CONSUMER.CREATE.S.c");
        assert_eq!(subject(&["a.>"]), "$JS.API.CONSUMER.CREATE.S.c.a.>");
        assert_eq!(subject(&["a", "b"]), "$JS.API.CONSUMER.CREATE.S.c");
    }
}
