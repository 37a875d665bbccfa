//! Activation claims: one account lets another one import.

use serde::{Deserialize, Serialize};

use super::claims::{Common, Payload};
use crate::nkey::{self, Kind, PublicKey};

/// The `nats` object of an activation JWT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// What may be imported.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// `stream` or `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The exporting account, mandatory when one of its signing keys is the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_account: Option<PublicKey<nkey::Account>>,
    /// Tags, type, version.
    #[serde(flatten)]
    pub common: Common,
}

impl Payload for Activation {
    const TYPE: Option<&'static str> = Some("activation");
    const ISSUERS: &'static [Kind] = &[Kind::Operator, Kind::Account];
    const SUBJECT: Option<Kind> = Some(Kind::Account);

    fn common(&self) -> &Common {
        &self.common
    }
}
