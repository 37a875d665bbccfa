//! The proof that a signed token's record is committed.

use crate::{
    jwt::{Claims, envelope::Signed},
    model::Credential,
};

/// A signed token whose record is committed: from now on it may leave the process. Only `store`
/// makes one, after its transaction's commit.
pub struct Recorded<T>(Signed<T>);

impl<T> Recorded<T> {
    pub(super) fn after_commit(signed: Signed<T>) -> Self {
        Self(signed)
    }

    /// A token that was signed again, if `row`, which was read here, is the record of exactly this text.
    pub fn found(signed: Signed<T>, row: &Credential) -> Option<Self> {
        (signed.sha256() == row.jwt_sha256).then_some(Self(signed))
    }

    /// The token's text.
    pub fn token(&self) -> &str {
        self.0.token()
    }

    /// What the token says.
    pub fn claims(&self) -> &Claims<T> {
        self.0.claims()
    }

    /// SHA-256 of the token's text.
    pub fn sha256(&self) -> [u8; 32] {
        self.0.sha256()
    }
}
