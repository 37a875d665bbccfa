//! The decision in the rotation of a signing key: what its next step is, or what it waits for. No
//! database, no server, no clock; `key_steps` gathers the facts and applies the step.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Standing, convergence};
use crate::{
    model::{RotationState, view::ServerView},
    store::accounts::AccountServer,
};

/// What the decision goes by.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How far the rotation is.
    pub state: RotationState,
    /// The old key has left, or is to leave, before the new one signs.
    pub immediately: bool,
    /// The end of the grace time is the end of whoever still uses the old key.
    pub force: bool,
    /// Organization or environment are being deleted: there is nothing left to rotate.
    pub pointless: bool,
    /// The end of the grace time, once the new key signs.
    pub retire_after: Option<DateTime<Utc>>,
    /// The present time.
    pub now: DateTime<Utc>,
    /// Which servers have the generation that carries the last step.
    pub spread: Spread,
    /// The credentials that the old key has signed and servers still accept.
    pub under_old: Remaining,
}

/// Which servers have a generation of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many servers are live.
    pub live: usize,
    /// Live servers that do not run it.
    pub lagging: Vec<String>,
    /// Known servers that are away and lack it: they would come back with what was before.
    pub away: Vec<String>,
}

/// Credentials that still count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remaining {
    /// How many.
    pub count: i64,
    /// When the last of them ends.
    pub last_end: Option<DateTime<Utc>>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new key signs from now on; the old one, if it is still in the account, retires.
    Activate,
    /// The old key leaves the account.
    Remove,
    /// The old key is gone from every server.
    Finish,
    /// There is nothing left to rotate.
    Abandon,
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
    /// Any server: none can be reached.
    AnyServer,
    /// These servers, which are live and do not run the account as it should be.
    Servers(Vec<String>),
    /// These servers, which are away and may come back with the old key.
    Away(Vec<String>),
    /// The end of the grace time.
    Grace(DateTime<Utc>),
    /// Credentials under the old key that are neither rotated nor expired.
    Credentials(Remaining),
}

/// The next step. Where several things are waited for, the first one is told.
pub fn decide(facts: &Facts) -> Step {
    if facts.state.is_over() {
        return Step::Over;
    }
    if facts.pointless {
        return Step::Abandon;
    }
    match facts.state {
        RotationState::Proposed => Step::Wait(Wait::Approval),
        // A credential under a key that a server does not know yet is refused there.
        RotationState::Pending => runs_live(&facts.spread).map_or(Step::Activate, Step::Wait),
        RotationState::Retiring => remain(facts).map_or(Step::Remove, Step::Wait),
        RotationState::Removing => gone_everywhere(&facts.spread).map_or(Step::Finish, Step::Wait),
        RotationState::Done | RotationState::Cancelled => Step::Over,
    }
}

fn runs_live(spread: &Spread) -> Option<Wait> {
    if spread.live == 0 {
        return Some(Wait::AnyServer);
    }
    (!spread.lagging.is_empty()).then(|| Wait::Servers(spread.lagging.clone()))
}

fn gone_everywhere(spread: &Spread) -> Option<Wait> {
    runs_live(spread).or_else(|| (!spread.away.is_empty()).then(|| Wait::Away(spread.away.clone())))
}

fn remain(facts: &Facts) -> Option<Wait> {
    match facts.retire_after {
        Some(end) if facts.now < end => Some(Wait::Grace(end)),
        _ if facts.force || facts.under_old.count == 0 => None,
        _ => Some(Wait::Credentials(facts.under_old)),
    }
}

impl Spread {
    /// Which servers have `generation`.
    pub fn of(generation: i64, standing: &Standing, has: &[AccountServer]) -> Self {
        let view = convergence::view(generation, standing, has);
        let lacks = |server: &&ServerView| {
            server.stored < generation
                || server.effective.is_some_and(|runs| runs < generation)
                || server.error.is_some()
        };
        let names = |live: bool| {
            let lacking = view.servers.iter().filter(|server| server.live == live).filter(lacks);
            lacking.map(|server| server.name.clone()).collect()
        };
        Self {
            live: view.servers.iter().filter(|server| server.live).count(),
            lagging: names(true),
            away: names(false),
        }
    }
}

impl Wait {
    /// The servers that are waited for.
    pub fn servers(&self) -> &[String] {
        match self {
            Self::Servers(names) | Self::Away(names) => names,
            _ => &[],
        }
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Secs, true);
        match self {
            Self::Approval => f.write_str("the approval of a second person with the role security-officer"),
            Self::AnyServer => f.write_str("the servers: none can be reached"),
            Self::Servers(names) => write!(f, "the servers to run the changed account: {}", names.join(", ")),
            Self::Away(names) => {
                write!(
                    f,
                    "servers that are away and may come back with the old key: {}; start or forget them",
                    names.join(", ")
                )
            }
            Self::Grace(end) => write!(f, "the end of the grace time at {}", time(end)),
            Self::Credentials(left) => {
                write!(f, "{} credential{} under the old key", left.count, if left.count == 1 { "" } else { "s" })?;
                if let Some(end) = &left.last_end {
                    write!(f, ", the last of which ends at {}", time(end))?;
                }
                f.write_str("; rotate or revoke them, or hasten the rotation")
            }
        }
    }
}

#[cfg(test)]
#[path = "key_rotation_tests.rs"]
mod tests;
