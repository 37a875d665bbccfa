//! The stream of audit events in the platform account. It has each event once and in the order of the
//! chain: a message is taken only behind the one before it. Which events are published, and when,
//! stands in `tasks`.

use std::time::Duration;

use async_nats::{
    Client, HeaderMap,
    header::{NATS_EXPECTED_LAST_SEQUENCE, NATS_MESSAGE_ID},
    jetstream::{
        Context,
        context::ContextBuilder,
        stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType},
    },
};
use bytes::Bytes;
use futures::future::join_all;

use crate::{
    error::{Error, Result},
    jwt::{Permissions, permissions::Permission},
};

/// The stream's name.
pub const NAME: &str = "AUTHORITY_AUDIT";

/// Subjects of the messages: `authority.audit.<organization or _>.<action>`.
const SUBJECTS: &str = "authority.audit.>";

/// Its size, bytes a replica: of a full stream the oldest events go, they stay in the ledger.
const MAX_BYTES: i64 = 90 << 20;

/// How long JetStream may take; a cluster that has just started elects its leaders first.
const TIMEOUT: Duration = Duration::from_secs(5);

/// An event as it is published.
#[derive(Clone, Debug)]
pub struct Message {
    /// The event's identifier, the message's id.
    pub id: String,
    /// The event's organization.
    pub org: Option<String>,
    /// What was done.
    pub action: String,
    /// The exported link.
    pub text: String,
}

/// The end of the stream.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The stream's sequence there; 0: it is empty.
    pub sequence: u64,
    /// What was published there.
    pub line: Option<Bytes>,
}

/// What a user needs that makes the stream, looks at its end and publishes to it.
pub fn permissions() -> Permissions {
    let api = ["STREAM.CREATE", "STREAM.INFO", "STREAM.MSG.GET"].map(|verb| format!("$JS.API.{verb}.{NAME}"));
    let allow = api.into_iter().chain([SUBJECTS.to_owned()]).collect();
    Permissions { publish: Permission { allow, deny: Vec::new() }, ..Permissions::default() }
}

/// The stream, open.
pub struct AuditStream {
    context: Context,
}

impl AuditStream {
    /// Makes the stream where it is missing. Nothing in it can be deleted before it is too old.
    pub async fn open(client: Client, replicas: usize) -> Result<(Self, End)> {
        let context = ContextBuilder::new().timeout(TIMEOUT).ack_timeout(TIMEOUT).build(client);
        let config = Config {
            name: NAME.to_owned(),
            description: Some("Audit events of nats-authority, each bound to all before it".to_owned()),
            subjects: vec![SUBJECTS.to_owned()],
            storage: StorageType::File,
            max_bytes: MAX_BYTES,
            discard: DiscardPolicy::Old,
            num_replicas: replicas,
            deny_delete: true,
            deny_purge: true,
            ..Config::default()
        };
        let stream = context.get_or_create_stream(config).await.map_err(failed)?;
        let sequence = stream.cached_info().state.last_sequence;
        let line = match stream.get_last_raw_message_by_subject(SUBJECTS).await {
            Ok(message) => Some(message.payload),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => None,
            Err(error) => return Err(failed(error)),
        };
        Ok((Self { context }, End { sequence, line }))
    }

    /// Publishes messages behind `sequence`, all at once, and waits until the stream has them. Fails when
    /// anything else was published there meanwhile; then some of the first may have been taken.
    pub async fn publish(&self, sequence: u64, messages: Vec<Message>) -> Result<u64> {
        let mut end = sequence;
        let mut taken = Vec::with_capacity(messages.len());
        for message in messages {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_MESSAGE_ID, message.id);
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, end.to_string());
            let org = message.org.as_deref().unwrap_or("_");
            let subject = format!("authority.audit.{org}.{}", message.action);
            taken.push(self.context.publish_with_headers(subject, headers, message.text.into()).await.map_err(failed)?);
            end += 1;
        }
        for taken in join_all(taken.into_iter().map(IntoFuture::into_future)).await {
            taken.map_err(failed)?;
        }
        Ok(end)
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::unavailable("jetstream", format!("JetStream on {NAME}: {error}")).with_source(error)
}
