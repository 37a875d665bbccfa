//! Storing account JWTs (`$SYS.REQ.ACCOUNT.<id>.CLAIMS.UPDATE`).
//!
//! Every kind of resolver listens to this subject; `$SYS.REQ.CLAIMS.UPDATE`, which says the same, reaches only those
//! with a directory (seen with 2.15.1). A server that stores nothing, or caches, and has not loaded the account
//! answers that it skipped the update.
//!
//! That a server stored a JWT says neither that it trusts the issuer nor that the account runs with
//! it: it checks neither issuer nor times, and an older JWT overwrites a newer one. What runs is asked
//! in [`super::inspect`]. The caller sees to it that one account is not pushed twice at the same time.

use bytes::Bytes;

use super::{
    answers::{self, ServerAnswer, ServerRef, StoreResult},
    gather::{Asker, Gathered},
    registry::Registry,
};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

/// One account to store.
#[derive(Clone, Debug)]
pub struct PushJob {
    /// Whose JWT it is; servers refuse it when the JWT says otherwise.
    pub account: PublicKey<Account>,
    /// The JWT, without white space around it.
    pub jwt: Bytes,
}

impl PushJob {
    /// The job to store `jwt`.
    pub fn new(account: PublicKey<Account>, jwt: impl Into<Bytes>) -> Self {
        Self { account, jwt: jwt.into() }
    }
}

/// What became of a [`PushJob`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushOutcome {
    /// Whose JWT it was.
    pub account: PublicKey<Account>,
    /// Every known server, live or not, by name.
    pub per_server: Vec<ServerAnswer>,
}

impl PushOutcome {
    /// Every known server has it; not so when none is known.
    pub fn is_complete(&self) -> bool {
        !self.per_server.is_empty() && self.per_server.iter().all(ServerAnswer::is_done)
    }
}

/// Stores one account everywhere.
pub(super) async fn push(asker: &Asker<'_>, job: PushJob) -> PushOutcome {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", job.account);
    let gathered = asker.prompt().all(&subject, job.jwt, answers::store_answer).await;
    PushOutcome { account: job.account, per_server: per_server(gathered, asker) }
}

/// What each server answered. What could not be sent is nobody's answer; what is too long to be sent
/// is refused in the name of all.
pub(super) fn per_server(gathered: Result<Gathered<StoreResult>>, asker: &Asker<'_>) -> Vec<ServerAnswer> {
    let mut answers = match gathered {
        Ok(gathered) => gathered.into_all(answer, |server| answer(server, StoreResult::NoAnswer)),
        Err(error) => {
            let result = match error.kind() {
                crate::error::Kind::TooLarge => StoreResult::Refused(error.to_string()),
                _ => StoreResult::NoAnswer,
            };
            everyone(asker.registry, &result)
        }
    };
    answers.sort_by(|left, right| left.name.cmp(&right.name));
    answers
}

/// All known servers with the same result.
pub(super) fn everyone(registry: &Registry, result: &StoreResult) -> Vec<ServerAnswer> {
    let known = registry.known().into_iter();
    known.map(|server| ServerAnswer { name: server.name, id: server.id, result: result.clone() }).collect()
}

fn answer(server: ServerRef, result: StoreResult) -> ServerAnswer {
    ServerAnswer { name: server.name, id: server.id, result }
}
