//! The decision in the rotation of the operator's signing key: what its next step is, or what it waits for, and
//! which keys the operator JWT is to list meanwhile. No database, no server; `operator_steps` makes the steps.

use std::fmt;

use super::Standing;
use crate::{
    model::RotationState,
    nkey::{Operator, PublicKey},
};

/// What the decision goes by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How far the rotation is.
    pub state: RotationState,
    /// The key that is replaced.
    pub old_key: PublicKey<Operator>,
    /// The key that replaces it; none before the approval.
    pub new_key: Option<PublicKey<Operator>>,
    /// What the present operator JWT lists.
    pub listed: Vec<PublicKey<Operator>>,
    /// All known servers.
    pub servers: Vec<Server>,
    /// Accounts that the new key has not signed yet; 0 while it does not sign.
    pub unsigned: i64,
    /// Servers that may store or run an account under the old key.
    pub lagging: Vec<String>,
}

/// A server and whom it trusts.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// It answers now.
    pub live: bool,
    /// It accepts accounts that the old key signed; none: it has not said so.
    pub trusts_old: Option<bool>,
    /// It accepts those that the new key signed.
    pub trusts_new: Option<bool>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new key signs from now on.
    Activate,
    /// So many accounts are to be signed with the new key.
    Resign(i64),
    /// No server trusts the old key any more.
    Finish,
    /// Nothing yet.
    Wait(Wait),
    /// Nothing any more.
    Over,
}

/// What a rotation waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A second person.
    Approval,
    /// An operator JWT that lists both keys.
    JwtWithBoth,
    /// Any server: none can be reached.
    AnyServer,
    /// These servers, which run with an operator JWT that does not list the new key.
    Restart(Vec<String>),
    /// These servers, which are away and may come back without knowing the new key.
    Away(Vec<String>),
    /// These servers, which have not taken or not yet told of every account under the new key.
    Accounts(Vec<String>),
    /// These servers, which are away and may come back with accounts under the old key.
    AccountsAway(Vec<String>),
    /// An operator JWT without the old key.
    JwtWithoutOld,
    /// These servers, which run with an operator JWT that lists the old key.
    RestartAgain(Vec<String>),
    /// These servers, which are away and may come back trusting the old key.
    AwayTrusting(Vec<String>),
}

/// The next step. Where several things are waited for, the first one is told.
pub fn decide(facts: &Facts) -> Step {
    match facts.state {
        RotationState::Proposed => Step::Wait(Wait::Approval),
        RotationState::Pending => trusted_everywhere(facts).map_or(Step::Activate, Step::Wait),
        RotationState::Retiring if facts.unsigned > 0 => Step::Resign(facts.unsigned),
        RotationState::Retiring => Step::Wait(under_old(facts).unwrap_or(Wait::JwtWithoutOld)),
        RotationState::Removing => trusted_somewhere(facts).map_or(Step::Finish, Step::Wait),
        RotationState::Done | RotationState::Cancelled => Step::Over,
    }
}

/// The signing keys that the operator JWT is to list now.
pub fn wanted(facts: &Facts) -> Vec<PublicKey<Operator>> {
    let both = || [Some(facts.old_key), facts.new_key].into_iter().flatten().collect();
    match facts.state {
        RotationState::Proposed | RotationState::Cancelled => vec![facts.old_key],
        RotationState::Pending => both(),
        RotationState::Retiring if decide(facts) != Step::Wait(Wait::JwtWithoutOld) => both(),
        RotationState::Retiring | RotationState::Removing | RotationState::Done => facts.new_key.into_iter().collect(),
    }
}

/// A key signs nothing before every server trusts it: where it is not trusted, nobody of the account is let in.
fn trusted_everywhere(facts: &Facts) -> Option<Wait> {
    let lists = |key: Option<PublicKey<Operator>>| key.is_some_and(|key| facts.listed.contains(&key));
    if !lists(facts.new_key) || !lists(Some(facts.old_key)) {
        return Some(Wait::JwtWithBoth);
    }
    let lacks = |live: bool| named(facts, |server| server.live == live && server.trusts_new != Some(true));
    no_server(facts).or_else(|| some(lacks(true)).map(Wait::Restart)).or_else(|| some(lacks(false)).map(Wait::Away))
}

/// Nothing under the old key may be left where the old key is about to be no longer trusted.
fn under_old(facts: &Facts) -> Option<Wait> {
    let lags = |live: bool| named(facts, |server| server.live == live && facts.lagging.contains(&server.name));
    no_server(facts)
        .or_else(|| some(lags(true)).map(Wait::Accounts))
        .or_else(|| some(lags(false)).map(Wait::AccountsAway))
}

fn trusted_somewhere(facts: &Facts) -> Option<Wait> {
    let trusts = |live: bool| named(facts, |server| server.live == live && server.trusts_old != Some(false));
    no_server(facts)
        .or_else(|| some(trusts(true)).map(Wait::RestartAgain))
        .or_else(|| some(trusts(false)).map(Wait::AwayTrusting))
}

fn no_server(facts: &Facts) -> Option<Wait> {
    facts.servers.iter().all(|server| !server.live).then_some(Wait::AnyServer)
}

fn named(facts: &Facts, which: impl Fn(&Server) -> bool) -> Vec<String> {
    facts.servers.iter().filter(|server| which(server)).map(|server| server.name.clone()).collect()
}

fn some(names: Vec<String>) -> Option<Vec<String>> {
    (!names.is_empty()).then_some(names)
}

/// How the known servers stand to two keys.
pub fn servers(standing: &Standing, old: PublicKey<Operator>, new: Option<PublicKey<Operator>>) -> Vec<Server> {
    let servers = standing.servers.iter().map(|server| Server {
        name: server.row.name.clone(),
        live: server.row.live,
        trusts_old: server.trusts(old),
        trusts_new: new.and_then(|key| server.trusts(key)),
    });
    servers.collect()
}

impl Wait {
    /// The servers that are waited for.
    pub fn servers(&self) -> &[String] {
        match self {
            Self::Restart(names)
            | Self::Away(names)
            | Self::Accounts(names)
            | Self::AccountsAway(names)
            | Self::RestartAgain(names)
            | Self::AwayTrusting(names) => names,
            Self::Approval | Self::JwtWithBoth | Self::AnyServer | Self::JwtWithoutOld => &[],
        }
    }

    /// It waits for somebody who signs an operator JWT.
    pub fn is_for_jwt(&self) -> bool {
        matches!(self, Self::JwtWithBoth | Self::JwtWithoutOld)
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.servers().join(", ");
        match self {
            Self::Approval => f.write_str("the approval of a second person with the role security-officer"),
            Self::JwtWithBoth => f.write_str(
                "an operator JWT that lists both keys, signed offline: `nats-authority operator jwt proposal`",
            ),
            Self::JwtWithoutOld => f.write_str(
                "an operator JWT without the old key, signed offline: `nats-authority operator jwt proposal`",
            ),
            Self::AnyServer => f.write_str("the servers: none can be reached"),
            Self::Restart(_) => write!(
                f,
                "servers to be restarted with the present `nats-authority operator server-config`, for they do not trust the new key: {names}"
            ),
            Self::RestartAgain(_) => write!(
                f,
                "servers to be restarted with the present `nats-authority operator server-config`, for they still trust the old key: {names}"
            ),
            Self::Accounts(_) => write!(f, "servers to take the accounts that the new key has signed: {names}"),
            Self::Away(_) => write!(
                f,
                "servers that are away and may come back without trusting the new key: {names}; start or forget them"
            ),
            Self::AccountsAway(_) => write!(
                f,
                "servers that are away and may come back with accounts under the old key: {names}; start or forget them"
            ),
            Self::AwayTrusting(_) => {
                write!(f, "servers that are away and may come back trusting the old key: {names}; start or forget them")
            }
        }
    }
}

#[cfg(test)]
#[path = "operator_rotation_tests.rs"]
mod tests;
