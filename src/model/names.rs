//! The names that callers choose, parsed once: a value of these types is well-formed.
//!
//! `{org}-{env_type}` is one subject token. An env type never holds a hyphen, so the token splits
//! unambiguously at its last one: `acme-prod` is a legal organization and `acme-prod-dev` its
//! development environment.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    nkey::{PublicKey, User},
};

/// The slug of an organization: `^[a-z][a-z0-9-]{2,31}$`. Immutable for the life of its account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct OrgSlug(String);

/// The type of an environment: `^[a-z][a-z0-9]{1,15}$`, and one that the configuration knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct EnvType(String);

/// A name that a caller gives to one of its things (a credential, a consumer, a stream):
/// `^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`. No dot, no wildcard, no white space: it may stand in a subject.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ItemName(String);

macro_rules! text_type {
    ($type:ty) => {
        impl $type {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_type!(OrgSlug);
text_type!(EnvType);
text_type!(ItemName);

impl FromStr for OrgSlug {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let well_formed = (3..=32).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::field(
                "invalid-slug",
                "/slug",
                "a slug has 3 to 32 characters of a-z, 0-9 and '-' and starts with a letter",
            ))
        }
    }
}

impl FromStr for EnvType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let well_formed = (2..=16).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::field(
                "invalid-env-type",
                "/envType",
                "an environment type has 2 to 16 characters of a-z and 0-9, starts with a letter and has no hyphen",
            ))
        }
    }
}

impl FromStr for ItemName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let well_formed = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if well_formed {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::field(
                "invalid-name",
                "/name",
                "a name has 1 to 63 characters of A-Z, a-z, 0-9, '-' and '_' and starts with a letter or digit",
            ))
        }
    }
}

/// One environment of one organization and every NATS name that follows from it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Environment {
    /// Its organization.
    pub org: OrgSlug,
    /// Its type.
    pub env_type: EnvType,
}

impl Environment {
    /// The environment of `org` with this type.
    pub fn new(org: OrgSlug, env_type: EnvType) -> Self {
        Self { org, env_type }
    }

    /// `{org}-{env_type}`: one subject token.
    pub fn name(&self) -> String {
        format!("{}-{}", self.org, self.env_type)
    }

    /// `ws.{org}-{env_type}.>`
    pub fn subjects(&self) -> String {
        format!("ws.{}.>", self.name())
    }

    /// The event stream, `ws-{org}-{env_type}-events`.
    pub fn stream(&self) -> String {
        format!("ws-{}-events", self.name())
    }

    /// A further stream, `ws-{org}-{env_type}-{name}`.
    pub fn further_stream(&self, name: &ItemName) -> String {
        format!("ws-{}-{name}", self.name())
    }

    /// The KV bucket, `ws-{org}-{env_type}-state`.
    pub fn bucket(&self) -> String {
        format!("ws-{}-state", self.name())
    }
}

/// The inbox of one user, `_INBOX.<user public key>`: a shared `_INBOX.>` would let one environment
/// read the replies of another, for both live in one account.
pub fn inbox_prefix(user: PublicKey<User>) -> String {
    format!("_INBOX.{user}")
}

/// What the platform account offers, and every organization's account imports: the service that renews
/// credentials. In an organization's account a user asks on [`renewal_subject`].
pub const RENEWAL: &str = "authority.renew";

/// Where a user asks for the renewal of its own credential; `user` is its public key, or what servers
/// put it in the place of.
pub fn renewal_subject(user: impl fmt::Display) -> String {
    format!("{RENEWAL}.{user}")
}

/// Which well-formed names a deployment allows; from the configuration.
#[derive(Clone, Debug)]
pub struct NameRules {
    reserved: Vec<String>,
    reserved_prefixes: Vec<String>,
    env_types: Vec<EnvType>,
}

impl NameRules {
    /// The rules with these reserved slugs, reserved slug prefixes and environment types. Every
    /// environment type is a reserved slug as well.
    pub fn new(reserved: Vec<String>, reserved_prefixes: Vec<String>, env_types: Vec<EnvType>) -> Self {
        Self { reserved, reserved_prefixes, env_types }
    }

    /// Accepts a slug for a new organization.
    pub fn check_slug(&self, slug: &OrgSlug) -> Result<()> {
        let text = slug.as_str();
        let reserved = self.reserved.iter().any(|name| name == text)
            || self.env_types.iter().any(|env_type| env_type.as_str() == text)
            || self.reserved_prefixes.iter().any(|prefix| text.starts_with(prefix.as_str()));
        if reserved {
            return Err(Error::field(
                "reserved-slug",
                "/slug",
                format!("'{slug}' is reserved for the platform; choose another slug"),
            ));
        }
        Ok(())
    }

    /// Accepts an environment type.
    pub fn check_env_type(&self, env_type: &EnvType) -> Result<()> {
        if self.env_types.contains(env_type) {
            return Ok(());
        }
        let known: Vec<_> = self.env_types.iter().map(EnvType::as_str).collect();
        Err(Error::field(
            "unknown-env-type",
            "/envType",
            format!("'{env_type}' is no environment type here; known: {}", known.join(", ")),
        ))
    }

    /// The reserved slugs and the reserved beginnings of slugs.
    pub fn reserved(&self) -> (&[String], &[String]) {
        (&self.reserved, &self.reserved_prefixes)
    }

    /// The environment types.
    pub fn env_types(&self) -> &[EnvType] {
        &self.env_types
    }
}

impl Default for NameRules {
    fn default() -> Self {
        let reserved = [
            "system",
            "flux",
            "crossplane",
            "catalyst",
            "gitea",
            "hetzner",
            "huawei",
            "oci",
            "aws",
            "gcp",
            "azure",
            "contabo",
            "rtz",
            "dmz",
            "mgt",
        ];
        let env_types = ["prod", "stg", "uat", "dev", "poc"];
        Self::new(
            reserved.map(str::to_owned).to_vec(),
            vec!["kube-".to_owned()],
            env_types.map(|text| EnvType(text.to_owned())).to_vec(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs() {
        for good in ["acme", "acme-prod", "a-1", "abc"] {
            good.parse::<OrgSlug>().unwrap();
        }
        for bad in ["", "ab", "1ab", "-ab", "Acme", "ac.me", "acmé", "a b", "ac*e", "ac>e", &"a".repeat(33)] {
            assert_eq!(bad.parse::<OrgSlug>().unwrap_err().code(), "invalid-slug", "{bad}");
        }
        let rules = NameRules::default();
        for reserved in ["system", "kube-x", "prod", "mgt"] {
            let slug = reserved.parse();
            assert!(slug.is_ok_and(|slug| rules.check_slug(&slug).is_err()), "{reserved}");
        }
        assert!(rules.check_slug(&"kubelet".parse().unwrap()).is_ok());
    }

    #[test]
    fn env_types_never_hold_a_hyphen() {
        assert!("pro-d".parse::<EnvType>().is_err());
        let rules = NameRules::default();
        assert!(rules.check_env_type(&"prod".parse().unwrap()).is_ok());
        assert!(rules.check_env_type(&"qa".parse().unwrap()).is_err());
    }

    #[test]
    fn names_of_an_environment() {
        let env = Environment::new("acme-prod".parse().unwrap(), "dev".parse().unwrap());
        assert_eq!(env.subjects(), "ws.acme-prod-dev.>");
        assert_eq!(env.stream(), "ws-acme-prod-dev-events");
        assert_eq!(env.bucket(), "ws-acme-prod-dev-state");
    }
}
