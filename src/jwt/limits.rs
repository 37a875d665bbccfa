//! Limits of accounts and users. Absent means 0 on the wire, and 0 means none except where a field
//! says otherwise; -1 is unlimited.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn zero(value: &i64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn no(value: &bool) -> bool {
    !value
}

/// The limits of an account: one flat object on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLimits {
    /// Subscriptions a connection.
    #[serde(default, skip_serializing_if = "zero")]
    pub subs: i64,
    /// Bytes in all; not enforced by servers.
    #[serde(default, skip_serializing_if = "zero")]
    pub data: i64,
    /// Bytes a message.
    #[serde(default, skip_serializing_if = "zero")]
    pub payload: i64,
    /// Imports.
    #[serde(default, skip_serializing_if = "zero")]
    pub imports: i64,
    /// Exports.
    #[serde(default, skip_serializing_if = "zero")]
    pub exports: i64,
    /// Exports may hold wildcards.
    #[serde(default, skip_serializing_if = "no")]
    pub wildcards: bool,
    /// Bearer users are refused.
    #[serde(default, skip_serializing_if = "no")]
    pub disallow_bearer: bool,
    /// Client connections; lowering it closes the newest, 0 closes all.
    #[serde(default, skip_serializing_if = "zero")]
    pub conn: i64,
    /// Leaf node connections.
    #[serde(default, skip_serializing_if = "zero")]
    pub leaf: i64,
    /// JetStream limits that hold for the whole account; exclude tiers.
    #[serde(flatten)]
    pub jetstream: JetStreamLimits,
    /// JetStream limits by replica tier, `R1`, `R3`; exclude flat limits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tiered_limits: BTreeMap<String, JetStreamLimits>,
}

impl AccountLimits {
    /// No limit on anything but JetStream, which is off.
    pub fn unlimited() -> Self {
        Self {
            subs: -1,
            data: -1,
            payload: -1,
            imports: -1,
            exports: -1,
            wildcards: true,
            conn: -1,
            leaf: -1,
            ..Self::default()
        }
    }
}

/// JetStream limits. Flat ones count replicas times bytes, tiered ones bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JetStreamLimits {
    /// Bytes in memory; 0 turns memory storage off.
    #[serde(default, skip_serializing_if = "zero")]
    pub mem_storage: i64,
    /// Bytes on disk; 0 turns file storage off.
    #[serde(default, skip_serializing_if = "zero")]
    pub disk_storage: i64,
    /// Streams; 0 is unlimited.
    #[serde(default, skip_serializing_if = "zero")]
    pub streams: i64,
    /// Consumers; 0 is unlimited.
    #[serde(default, skip_serializing_if = "zero")]
    pub consumer: i64,
    /// Unacknowledged messages a consumer; 0 is unlimited.
    #[serde(default, skip_serializing_if = "zero")]
    pub max_ack_pending: i64,
    /// Bytes a memory stream; 0 is unlimited.
    #[serde(default, skip_serializing_if = "zero")]
    pub mem_max_stream_bytes: i64,
    /// Bytes a file stream; 0 is unlimited.
    #[serde(default, skip_serializing_if = "zero")]
    pub disk_max_stream_bytes: i64,
    /// Every stream has to say its `max_bytes`.
    #[serde(default, skip_serializing_if = "no")]
    pub max_bytes_required: bool,
}

/// The limits of a user or of a scope's template. Absent numbers are `None`: in a template a
/// missing one means -1, and a user under a scoped key must carry none at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLimits {
    /// Networks that the user may connect from, CIDR.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub src: Vec<String>,
    /// Times of day at which the user may connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<TimeRange>,
    /// Time zone of `times`, an IANA name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_location: Option<String>,
    /// Subscriptions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subs: Option<i64>,
    /// Bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<i64>,
    /// Bytes a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<i64>,
    /// The JWT alone is enough, no signature of the connection's nonce.
    #[serde(default, skip_serializing_if = "no")]
    pub bearer_token: bool,
    /// Only through a trusted proxy.
    #[serde(default, skip_serializing_if = "no")]
    pub proxy_required: bool,
    /// `STANDARD`, `WEBSOCKET`, `LEAFNODE`, `LEAFNODE_WS`, `MQTT`, `MQTT_WS`, `IN_PROCESS`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_connection_types: Vec<String>,
}

/// A range of times of day, `HH:MM:SS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// From.
    pub start: String,
    /// To.
    pub end: String,
}
