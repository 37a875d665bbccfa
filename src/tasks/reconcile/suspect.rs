//! What servers store and run of an account that may be wrong. Nothing here asks anybody.

use sha2::{Digest, Sha256};

use super::ledger::Hash;
use crate::{jwt::envelope::read_unverified, store::reconcile::Present};

/// A text that a server stores or runs.
#[derive(Debug)]
pub(super) enum Seen {
    Absent,
    /// The account's present JWT, of this generation: nothing of it has to be read.
    Present(i64),
    /// Any other; the issuer by its own words.
    Other {
        hash: Hash,
        issuer: Option<String>,
    },
}

impl Seen {
    pub(super) fn of(token: &str, present: Option<&Present>) -> Self {
        let hash: Hash = Sha256::digest(token).into();
        if let Some(present) = present.filter(|present| present.sha256 == hash) {
            return Self::Present(present.generation);
        }
        let claims = read_unverified(token).ok().map(|token| token.claims);
        let issuer = claims.and_then(|claims| claims.get("iss")?.as_str().map(str::to_owned));
        Self::Other { hash, issuer }
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

    /// Something of it is not as it should be, or may not be.
    pub(super) fn is_unexpected(&self) -> bool {
        let right = |seen: &Seen| match self.present {
            Some(_) => matches!(seen, Seen::Present(_)),
            None => matches!(seen, Seen::Absent),
        };
        !self.seen().all(right) || self.present.is_some() && self.runs.iter().any(|runs| !runs.complete)
    }
}

pub(super) fn seen(token: Option<&str>, present: Option<&Present>) -> Seen {
    token.map_or(Seen::Absent, |token| Seen::of(token, present))
}
