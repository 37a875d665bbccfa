//! Account claims.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    claims::{Common, Payload},
    limits::{AccountLimits, UserLimits},
    permissions::Permissions,
};
use crate::nkey::{self, Kind, PublicKey};

/// The `nats` object of an account JWT. Servers check neither that its issuer is trusted nor its
/// times when it is pushed to a resolver; they do when they load it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What it takes from other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// What it offers to other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Its limits.
    #[serde(default)]
    pub limits: AccountLimits,
    /// Which keys besides its own may sign users, sorted by key. Removing one, or changing its scope
    /// in any way, closes every user of that key.
    #[serde(default, skip_serializing_if = "SigningKeys::is_empty")]
    pub signing_keys: SigningKeys,
    /// Users that are refused: key or `*` to Unix seconds; revoked when the time is >= the user's `iat`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, i64>,
    /// Permissions of users that carry none.
    #[serde(default)]
    pub default_permissions: Permissions,
    /// Subject mappings.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mappings: BTreeMap<String, Vec<WeightedMapping>>,
    /// Auth callout.
    #[serde(default)]
    pub authorization: ExternalAuthorization,
    /// Where message traces go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<MessageTrace>,
    /// In which account JetStream's cluster traffic flows, `system` or `owner`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_traffic: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_url: Option<String>,
    /// Tags, type, version.
    #[serde(flatten)]
    pub common: Common,
}

impl Account {
    /// An account with `limits` and nothing else.
    pub fn new(limits: AccountLimits) -> Self {
        Self {
            imports: Vec::new(),
            exports: Vec::new(),
            limits,
            signing_keys: SigningKeys::default(),
            revocations: BTreeMap::new(),
            default_permissions: Permissions::default(),
            mappings: BTreeMap::new(),
            authorization: ExternalAuthorization::default(),
            trace: None,
            cluster_traffic: None,
            description: None,
            info_url: None,
            common: Common::of::<Self>(),
        }
    }
}

impl Payload for Account {
    const TYPE: Option<&'static str> = Some("account");
    const ISSUERS: &'static [Kind] = &[Kind::Operator, Kind::Account];
    const SUBJECT: Option<Kind> = Some(Kind::Account);

    fn common(&self) -> &Common {
        &self.common
    }
}

/// Signing keys by key, each with its scope or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SigningKeys(pub BTreeMap<PublicKey<nkey::Account>, Option<UserScope>>);

impl SigningKeys {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for SigningKeys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(key, scope)| match scope {
            None => SigningKeyWire::Plain(*key),
            Some(scope) => SigningKeyWire::Scoped(Box::new(ScopeWire {
                kind: USER_SCOPE.to_owned(),
                key: *key,
                scope: scope.clone(),
            })),
        }))
    }
}

impl<'de> Deserialize<'de> for SigningKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut keys = BTreeMap::new();
        for wire in Vec::<SigningKeyWire>::deserialize(deserializer)? {
            let (key, scope) = match wire {
                SigningKeyWire::Plain(key) => (key, None),
                SigningKeyWire::Scoped(wire) if wire.kind == USER_SCOPE => (wire.key, Some(wire.scope)),
                SigningKeyWire::Scoped(wire) => {
                    return Err(serde::de::Error::custom(format!("unknown signing key kind '{}'", wire.kind)));
                }
            };
            keys.insert(key, scope);
        }
        Ok(Self(keys))
    }
}

const USER_SCOPE: &str = "user_scope";

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum SigningKeyWire {
    Plain(PublicKey<nkey::Account>),
    Scoped(Box<ScopeWire>),
}

#[derive(Serialize, Deserialize)]
struct ScopeWire {
    kind: String,
    key: PublicKey<nkey::Account>,
    #[serde(flatten)]
    scope: UserScope,
}

/// The scope of a signing key: what each user that it signs may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UserScope {
    /// The role's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub role: String,
    /// Permissions and limits; may hold `{{subject()}}` and the like.
    #[serde(default)]
    pub template: ScopeTemplate,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Permissions and limits of a scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ScopeTemplate {
    /// Permissions.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// Limits.
    #[serde(flatten)]
    pub limits: UserLimits,
}

/// What an account takes from another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The exporter's subject.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// The exporter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<PublicKey<nkey::Account>>,
    /// The activation JWT, for exports that ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The older way to say `local_subject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The subject in the importing account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_subject: Option<String>,
    /// `stream` or `service`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Shares connection information with the exporter (services).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub share: bool,
    /// Traces may cross (streams).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_trace: bool,
}

/// What an account offers to others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The subject.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// `stream` or `service`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Importers need an activation.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_req: bool,
    /// Revoked activations: importer to Unix seconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub revocations: BTreeMap<String, i64>,
    /// `Singleton`, `Stream` or `Chunked` (services).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_type: Option<String>,
    /// How long answers may take, nanoseconds (services).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_threshold: Option<i64>,
    /// Latency samples (services).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_latency: Option<ServiceLatency>,
    /// Which token, counted from 1, must be the importer's account id; it must be a `*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_token_position: Option<u32>,
    /// Shown to others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advertise: bool,
    /// Traces may cross (services).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_trace: bool,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_url: Option<String>,
}

/// Latency samples of a service export. `sampling` is a percentage or `"headers"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLatency {
    /// 1 to 100, or the text `headers`.
    pub sampling: serde_json::Value,
    /// Where samples go.
    pub results: String,
}

/// One target of a mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightedMapping {
    /// The target.
    pub subject: String,
    /// Percent; absent means the rest (100 when alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u8>,
    /// Only in this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

/// Auth callout of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAuthorization {
    /// Users that bypass it and serve it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth_users: Vec<PublicKey<nkey::User>>,
    /// Accounts that it may place users in, or `*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_accounts: Vec<String>,
    /// Encrypts requests and answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xkey: Option<PublicKey<nkey::Curve>>,
}

/// Where message traces go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageTrace {
    /// The subject.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dest: String,
    /// Percent; absent means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling: Option<u8>,
}
