//! What to do about an account when what a server stores or runs is compared with the ledger: pure.
//!
//! Nothing here asks a server or the database; `tasks::reconcile` brings the facts and carries the
//! decision out, and so does the simulated cluster of the tests.
//!
//! | the ledger says | a server stores | what follows |
//! |---|---|---|
//! | it is on its way (due for the push task) | anything | nothing: the push task is at it |
//! | generation *n* | generation *n* | nothing |
//! | generation *n* | a later one | nothing: minted while we looked |
//! | generation *n* | nothing | push: missing |
//! | generation *n* | an earlier one, and some live server never acknowledged *n* | push: stale |
//! | generation *n* | an earlier one, though all live servers acknowledged *n* | push: somebody replayed it |
//! | generation *n* | what we never minted, signed by a key that is not the operator's | push: foreign |
//! | generation *n* | what we never minted, under the operator's key | push: it differs |
//! | deleted | nothing | nothing |
//! | deleted | anything | delete again |
//! | no such account | anything | report: never touched |
//!
//! A tombstone is a generation like others until the servers have deleted it. What a server *runs*
//! is judged by the same table, except that not having loaded an account is no fault, that whatever else
//! it runs is pushed as "not running", and that the right one without its imports is pushed as "incomplete".

use crate::nkey::{Account, PublicKey};

/// What the ledger says of an account that it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Desired {
    /// Every server has to store it.
    Stored {
        /// The present generation.
        generation: i64,
        /// It is due: the push task brings it to the servers now.
        moving: bool,
        /// Every live server acknowledged the present generation since its last start.
        acknowledged: bool,
    },
    /// No server may store it.
    Deleted,
}

/// What a server stores under an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copy {
    /// Nothing.
    Absent,
    /// A JWT that we minted, byte for byte.
    Ours(i64),
    /// A JWT that we never minted.
    Other {
        /// Who signed it by its own words; none: it is no JWT.
        issuer: Option<String>,
        /// That is the operator's key.
        ours: bool,
    },
}

/// Why an account is pushed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A server does not store it.
    Missing,
    /// A server missed an update.
    Stale {
        /// What it stores.
        generation: i64,
    },
    /// A server runs the present generation without what it imports: it loaded the account while it loaded those, and
    /// does not try again (2.15.1).
    Incomplete,
    /// A server stores the present generation and runs another JWT.
    NotRunning,
    /// A server stores something under our key that we never minted.
    Differs,
    /// A server that had the present generation has an earlier one.
    ReplayedOld {
        /// Which one.
        generation: i64,
    },
    /// A server stores what a stranger signed; it runs it from its next start on.
    ForeignSigned {
        /// The stranger, as the JWT names it.
        issuer: Option<String>,
    },
}

impl Reason {
    /// The name in metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Stale { .. } => "stale",
            Self::Incomplete => "incomplete",
            Self::NotRunning => "not-running",
            Self::Differs => "differs",
            Self::ReplayedOld { .. } => "replayed",
            Self::ForeignSigned { .. } => "foreign",
        }
    }
}

/// An account that has to be pushed, with what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The account.
    pub account: PublicKey<Account>,
    /// Why.
    pub reason: Reason,
    /// Servers would do nothing, believing that they have it: see [`respelled`].
    pub rewrite: bool,
    /// How many of the copies that were seen are wrong.
    pub wrong: usize,
    /// How many copies were seen.
    pub seen: usize,
}

/// What follows, the graver the greater.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// All is as it should be, or is being brought there.
    Nothing,
    /// An account that we do not know: somebody else's. It is never touched.
    ReportUnknown,
    /// The present JWT has to be pushed.
    Push(Reason),
    /// It was deleted and came back.
    DeleteAgain,
}

/// See the module's table. `desired` is none for an account that the ledger does not know.
pub fn decide(desired: Option<&Desired>, stored: &Copy) -> Action {
    let (generation, acknowledged) = match (desired, stored) {
        (None | Some(Desired::Deleted), Copy::Absent) | (Some(Desired::Stored { moving: true, .. }), _) => {
            return Action::Nothing;
        }
        (None, _) => return Action::ReportUnknown,
        (Some(Desired::Deleted), _) => return Action::DeleteAgain,
        (Some(Desired::Stored { generation, acknowledged, .. }), _) => (*generation, *acknowledged),
    };
    match stored {
        Copy::Absent => Action::Push(Reason::Missing),
        Copy::Ours(has) if *has >= generation => Action::Nothing,
        Copy::Ours(has) if acknowledged => Action::Push(Reason::ReplayedOld { generation: *has }),
        Copy::Ours(has) => Action::Push(Reason::Stale { generation: *has }),
        Copy::Other { ours: true, .. } => Action::Push(Reason::Differs),
        Copy::Other { issuer, .. } => Action::Push(Reason::ForeignSigned { issuer: issuer.clone() }),
    }
}

/// The gravest of what follows from several servers' copies.
pub fn decide_all<'c>(desired: Option<&Desired>, stored: impl IntoIterator<Item = &'c Copy>) -> Action {
    stored.into_iter().map(|copy| decide(desired, copy)).max().unwrap_or(Action::Nothing)
}

/// The same for what a server runs, `complete` with all that it imports; [`Copy::Absent`]: it has not loaded the account.
pub fn decide_running(desired: Option<&Desired>, runs: &Copy, complete: bool) -> Action {
    match (desired, runs) {
        // What it runs of others is their business; what it runs of deleted accounts ends with them.
        (None | Some(Desired::Deleted | Desired::Stored { moving: true, .. }), _) | (_, Copy::Absent) => {
            Action::Nothing
        }
        _ => match decide(desired, runs) {
            Action::Push(_) => Action::Push(Reason::NotRunning),
            _ if !complete => Action::Push(Reason::Incomplete),
            other => other,
        },
    }
}

/// How often to ask a question that one of `servers` answers at random so that with certainty of
/// 1 - 10^-`nines` each of them answered at least once.
///
/// A server is missed by one question with probability 1 - 1/n, by m questions with (1 - 1/n)^m.
pub fn asks(servers: usize, nines: u32) -> usize {
    if servers <= 1 {
        return servers;
    }
    let servers = f64::from(u32::try_from(servers).unwrap_or(u32::MAX));
    // Any of them may be the one that is missed.
    let wanted = -(f64::from(nines) * std::f64::consts::LN_10 + servers.ln());
    let count = (wanted / (1.0 - servers.recip()).ln()).ceil();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and small for any cluster")]
    let count = count as usize;
    count
}

/// The same token, byte for byte another text: the last character of a signature carries four bits that
/// no decoder looks at.
///
/// A full resolver goes by the hash of what it stored last. When its file is gone or was changed
/// beneath it, or it runs the account without what that imports, pushing the same text again changes nothing, though it
/// says "jwt updated"; pushing this and then the token itself does. Nothing is revived or revoked in between, for both say the same.
pub fn respelled(token: &str) -> Option<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = token.split_at_checked(token.len().checked_sub(1)?)?;
    let value = ALPHABET.iter().position(|letter| last.as_bytes() == [*letter])?;
    let other = char::from(*ALPHABET.get(value ^ 1)?);
    Some(format!("{rest}{other}"))
}

#[cfg(test)]
#[path = "reconcile_tests.rs"]
mod tests;
