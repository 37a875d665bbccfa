//! Durable pull consumers and further streams of environments: their configuration and states. There is no
//! field for a delivery subject, and must not be: a consumer that pushes can push to any subject of the
//! account. Nor is there one for a stream's subjects: it copies from the event stream and nothing else.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::names::{Environment, ItemName};

/// What a consumer does, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerConfig {
    /// The further stream that it reads; none: the event stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<ItemName>,
    /// Subjects that it delivers, sorted; empty: all of the environment.
    pub filter_subjects: Vec<String>,
    /// How long it waits for an acknowledgement before it delivers again, seconds.
    pub ack_wait_seconds: i64,
    /// How often it delivers a message; none: until it is acknowledged.
    pub max_deliver: Option<i64>,
    /// How many messages may be unacknowledged.
    pub max_ack_pending: i64,
    /// Where it begins.
    pub deliver_policy: DeliverPolicy,
}

/// Where a consumer begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeliverPolicy {
    /// With the first message that the stream has.
    #[default]
    All,
    /// With messages that come after it was made.
    New,
    /// With the last message that the stream has.
    Last,
}

impl ConsumerConfig {
    /// The stream that it reads, in JetStream.
    pub fn stream_in(&self, environment: &Environment) -> String {
        self.stream.as_ref().map_or_else(|| environment.stream(), |name| environment.further_stream(name))
    }
}

/// What a further stream does, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StreamConfig {
    /// Subjects of the event stream that it copies, sorted; empty: all of the environment.
    pub filter_subjects: Vec<String>,
    /// Its size, bytes a replica.
    pub max_bytes: i64,
    /// How long it keeps a message, seconds; none: as long as there is room.
    pub max_age_seconds: Option<i64>,
    /// How many messages of one subject it keeps; none: as many as there is room for.
    pub max_messages_per_subject: Option<i64>,
    /// When messages go.
    pub retention: Retention,
}

/// When messages of a stream go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Retention {
    /// When they are too old or there is no room.
    #[default]
    Limits,
    /// When a consumer has acknowledged them: each is worked on once.
    WorkQueue,
    /// When every consumer has acknowledged them.
    Interest,
}

/// The life of a consumer or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ItemState {
    /// It is being made, once its environment is ready.
    Pending,
    /// It exists.
    Ready,
    /// It is being removed.
    Deleting,
    /// Gone; the name may be used again.
    Deleted,
}

impl ItemState {
    /// The name in the database and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
        }
    }

    /// The state of this name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Ready, Self::Deleting, Self::Deleted].into_iter().find(|state| state.as_str() == text)
    }
}
