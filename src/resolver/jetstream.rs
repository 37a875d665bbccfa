//! The event stream and the bucket of an environment: made and removed as a user of the organization's
//! account. What else it has there is in `items`.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{
        self, Context, ErrorCode,
        context::{CreateStreamErrorKind, DeleteStreamErrorKind},
        kv,
        stream::{Config, DiscardPolicy, StorageType},
    },
};

use crate::error::{Error, Result};

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
    /// Names of further streams, which go with them.
    pub further: Vec<String>,
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

/// Removes them with their data, further streams first, for they copy from the event stream; what is not there is removed.
pub async fn remove(client: Client, streams: &EnvironmentStreams) -> Result<()> {
    let context = context(client);
    for name in &streams.further {
        delete_stream(&context, name).await?;
    }
    delete_stream(&context, &streams.event_stream).await?;
    delete_stream(&context, &format!("KV_{}", streams.bucket)).await
}

/// Deletes a stream; one that is not there is deleted.
pub(super) async fn delete_stream(context: &Context, name: &str) -> Result<()> {
    match context.delete_stream(name).await {
        Err(error) if !matches!(error.kind(), DeleteStreamErrorKind::JetStream(ref e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND) => {
            Err(failed(name, error))
        }
        _ => Ok(()),
    }
}

pub(super) fn context(client: Client) -> Context {
    let mut context = jetstream::new(client);
    context.set_timeout(TIMEOUT);
    context
}

pub(super) fn failed(name: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("jetstream", format!("JetStream on {name}: {error}")).with_source(error)
}
