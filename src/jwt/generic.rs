//! Generic claims: a map without a type of its own, as the resolver's DELETE takes it.

use serde::{Deserialize, Deserializer, Serialize};

use super::claims::{Common, Payload};
use crate::nkey::{self, Kind, PublicKey};

/// The `nats` object of a generic JWT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generic {
    /// Everything but tags, type and version.
    #[serde(flatten, deserialize_with = "without_common")]
    pub data: serde_json::Map<String, serde_json::Value>,
    /// Tags, type, version.
    #[serde(flatten)]
    pub common: Common,
}

/// A flattened map is given every field, also those that have their own place beside it.
fn without_common<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<serde_json::Map<String, serde_json::Value>, D::Error> {
    let mut data = serde_json::Map::deserialize(deserializer)?;
    data.retain(|name, _| !COMMON.contains(&name.as_str()));
    Ok(data)
}

/// The names in [`Common`].
pub(super) const COMMON: [&str; 3] = ["tags", "type", "version"];

impl Generic {
    /// The request to delete `accounts` from a full resolver (`$SYS.REQ.CLAIMS.DELETE`); `sub` and
    /// `iss` must be the same operator key that the servers trust.
    pub fn delete_accounts(accounts: &[PublicKey<nkey::Account>]) -> Self {
        let list = accounts.iter().map(|key| serde_json::Value::String(key.to_string())).collect();
        let data = [("accounts".to_owned(), serde_json::Value::Array(list))].into_iter().collect();
        Self { data, common: Common::of::<Self>() }
    }
}

impl Payload for Generic {
    const TYPE: Option<&'static str> = None;
    const ISSUERS: &'static [Kind] = &[Kind::Operator, Kind::Account, Kind::User, Kind::Server, Kind::Cluster];
    const SUBJECT: Option<Kind> = None;

    fn common(&self) -> &Common {
        &self.common
    }
}
