//! Durable pull consumers of environments: their configuration and states. There is no field for a
//! delivery subject, and must not be: a consumer that pushes can push to any subject of the account.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a consumer does, with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsumerConfig {
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

/// The life of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConsumerState {
    /// It is being made, once its environment is ready.
    Pending,
    /// It exists.
    Ready,
    /// It is being removed.
    Deleting,
    /// Gone; the name may be used again.
    Deleted,
}

impl ConsumerState {
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
