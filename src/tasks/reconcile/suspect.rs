//! What servers store and run of an account that may be wrong. Nothing here asks anybody.

use sha2::{Digest, Sha256};

use super::ledger::Hash;
use crate::{jwt::envelope::read_unverified, store::reconcile::Present};

/// A text that a server stores or runs.
#[derive(Debug)]
pub(super) enum Seen {
    Absent,
    Text {
        hash: Hash,
        /// By its own words; of the present JWT it is not read.
        issuer: Option<String>,
    },
}

impl Seen {
    pub(super) fn of(token: &str, present: Option<&Present>) -> Self {
        let hash: Hash = Sha256::digest(token).into();
        if present.is_some_and(|present| present.sha256 == hash) {
            return Self::Text { hash, issuer: None };
        }
        let claims = read_unverified(token).ok().map(|token| token.claims);
        let issuer = claims.and_then(|claims| claims.get("iss")?.as_str().map(str::to_owned));
        Self::Text { hash, issuer }
    }

    pub(super) fn is(&self, wanted: &Hash) -> bool {
        matches!(self, Self::Text { hash, .. } if hash == wanted)
    }
}

/// What a server runs.
#[derive(Debug)]
pub(super) struct Runs {
    pub(super) seen: Seen,
    /// With all that the account imports, or the server is one that no push would change.
    pub(super) complete: bool,
}

/// One account that may be wrong.
#[derive(Debug, Default)]
pub(super) struct Suspect {
    pub(super) present: Option<Present>,
    pub(super) stored: Vec<Seen>,
    pub(super) runs: Vec<Runs>,
}

impl Suspect {
    /// All that servers store and run of it.
    pub(super) fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.stored.iter().chain(self.runs.iter().map(|runs| &runs.seen))
    }
}

pub(super) fn seen(token: Option<&str>, present: Option<&Present>) -> Seen {
    token.map_or(Seen::Absent, |token| Seen::of(token, present))
}
