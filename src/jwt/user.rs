//! User claims.

use serde::{Deserialize, Serialize};

use super::{
    claims::{Common, Payload},
    limits::UserLimits,
    permissions::Permissions,
};
use crate::nkey::{self, Kind, PublicKey};

/// The `nats` object of a user JWT. The server reads it in CONNECT, which has to fit into
/// `max_control_line` (4,096 bytes by default).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Permissions; must be empty under a scoped key.
    #[serde(flatten)]
    pub permissions: Permissions,
    /// Limits; must be absent under a scoped key.
    #[serde(flatten)]
    pub limits: UserLimits,
    /// The account, mandatory when one of its signing keys is the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_account: Option<PublicKey<nkey::Account>>,
    /// Tags, type, version.
    #[serde(flatten)]
    pub common: Common,
}

impl User {
    /// A user under a scoped key: it must carry neither permissions nor limits.
    pub fn scoped(account: PublicKey<nkey::Account>) -> Self {
        Self {
            permissions: Permissions::default(),
            limits: UserLimits::default(),
            issuer_account: Some(account),
            common: Common::of::<Self>(),
        }
    }

    /// A user under an unscoped signing key: it carries its own permissions and limits.
    pub fn unscoped(account: PublicKey<nkey::Account>, permissions: Permissions, limits: UserLimits) -> Self {
        Self { permissions, limits, issuer_account: Some(account), common: Common::of::<Self>() }
    }
}

impl User {
    /// Says nothing about permissions and limits: the form under a scoped key.
    pub fn is_bare(&self) -> bool {
        self.permissions == Permissions::default() && self.limits == UserLimits::default()
    }
}

impl Payload for User {
    const TYPE: Option<&'static str> = Some("user");
    const ISSUERS: &'static [Kind] = &[Kind::Account];
    const SUBJECT: Option<Kind> = Some(Kind::User);

    fn common(&self) -> &Common {
        &self.common
    }
}
