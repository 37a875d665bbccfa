//! Operator claims.

use serde::{Deserialize, Serialize};

use super::claims::{Common, Payload};
use crate::nkey::{self, Kind, PublicKey};

/// The `nats` object of an operator JWT. It stands in every server's configuration; any byte of
/// change makes a configuration reload fail, so a change needs a rolling restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Keys that may sign accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<PublicKey<nkey::Operator>>,
    /// Where tools push and pull accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_server_url: Option<String>,
    /// Where clients connect.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operator_service_urls: Vec<String>,
    /// The system account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_account: Option<PublicKey<nkey::Account>>,
    /// The least server version, `major.minor.patch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assert_server_version: Option<String>,
    /// Only signing keys may sign accounts; the identity key may not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict_signing_key_usage: bool,
    /// Tags, type, version.
    #[serde(flatten)]
    pub common: Common,
}

impl Payload for Operator {
    const TYPE: Option<&'static str> = Some("operator");
    const ISSUERS: &'static [Kind] = &[Kind::Operator];
    const SUBJECT: Option<Kind> = Some(Kind::Operator);

    fn common(&self) -> &Common {
        &self.common
    }
}
