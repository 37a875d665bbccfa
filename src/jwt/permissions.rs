//! What a user may publish and subscribe.

use serde::{Deserialize, Serialize};

/// Publish and subscribe permissions and the permission to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// What may be published. An empty allow list allows everything that is not denied.
    #[serde(rename = "pub", default)]
    pub publish: Permission,
    /// What may be subscribed.
    #[serde(rename = "sub", default)]
    pub subscribe: Permission,
    /// The permission to answer requests. Without a publish allow list it turns blanket publish off.
    #[serde(rename = "resp", default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponsePermission>,
}

impl Permissions {
    /// Everything is denied.
    pub fn nothing() -> Self {
        let nothing = || Permission { deny: vec![">".to_owned()], ..Permission::default() };
        Self { publish: nothing(), subscribe: nothing(), response: None }
    }
}

/// Allowed and denied subjects; deny wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// Allowed subjects; empty allows everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// Denied subjects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

impl Permission {
    /// Nothing is said.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// The permission to answer requests on their reply subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponsePermission {
    /// How many answers a request; -1 unlimited, 0 the server's default (1).
    pub max: i64,
    /// How long after the request, nanoseconds; 0 the server's default (2 minutes), negative forever.
    pub ttl: i64,
}
