//! What every token says: the top-level claims around one typed `nats` object.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::lint::Rules;
use crate::nkey::AnyPublicKey;

/// The claims of one token. Field order is the order on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned"))]
pub struct Claims<T> {
    /// For whom the token is meant; servers check it for authorization requests only.
    #[serde(rename = "aud", default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// End of validity, Unix seconds.
    #[serde(rename = "exp", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Identifier; ours is a hash of the whole payload, no server verifies it. Never a key.
    #[serde(rename = "jti", default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Time of issue, Unix seconds. Strictly increasing per account, for resolvers compare it.
    #[serde(rename = "iat", default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<i64>,
    /// Who signed.
    #[serde(rename = "iss")]
    pub issuer: AnyPublicKey,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Begin of validity, Unix seconds.
    #[serde(rename = "nbf", default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// Whose token it is.
    #[serde(rename = "sub")]
    pub subject: AnyPublicKey,
    /// The typed part.
    pub nats: T,
}

/// The end of every `nats` object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Common {
    /// Free labels; templates read them lower-cased.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The kind of claims; absent in generic claims.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The version of the format.
    pub version: u8,
}

impl Common {
    /// The end of the `nats` object of this kind of claims.
    pub fn of<T: Payload>() -> Self {
        Self { tags: Vec::new(), kind: T::TYPE.map(str::to_owned), version: VERSION }
    }
}

/// The version of the format that we write and read.
pub const VERSION: u8 = 2;

/// A kind of claims: the typed `nats` object. Sealed by `lint::Rules`, which says what must hold before one is signed.
pub trait Payload:
    Rules + Clone + PartialEq + std::fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// The `type` on the wire; none for generic claims.
    const TYPE: Option<&'static str>;
    /// Which kinds of key may sign it.
    const ISSUERS: &'static [crate::nkey::Kind];
    /// Which kind of key it is about; none: any.
    const SUBJECT: Option<crate::nkey::Kind>;
    /// The end of the object.
    fn common(&self) -> &Common;
}
