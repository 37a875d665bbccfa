//! What a revocation does to an account: pure. Single entries, the cutoff `*` and new signing keys can
//! each refuse the same users; they differ in what else they hit and in how large the account becomes.
//! Here is decided which of them is taken. Nothing here reads the ledger.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    nkey::{Account, PublicKey, User},
    store::revocations::Revoked,
};

/// Bytes that one entry adds to the token: `"U…":1764000000,` is 70 bytes of JSON, in base64 a third more.
pub const ENTRY_BYTES: usize = 94;

/// How long after its end a revoked credential keeps its entry: clocks of servers differ.
pub const SKEW: TimeDelta = TimeDelta::hours(1);

/// So few entries wait until all of them are over; of more, a quarter (at least so many) is worth a push.
const FEW: usize = 64;

/// A fold leaves alone what was issued so lately, seconds: credentials that are just being recorded, and our own
/// short-lived users, of which the ledger has no rows.
pub const FOLD_AGE: i64 = 300;

/// Whether the account has to name it: servers refuse what the cutoff covers and what a key signed that
/// has left the account.
fn needs_entry(revoked: &Revoked, cutoff: Option<i64>, keys: &BTreeSet<PublicKey<Account>>) -> bool {
    cutoff.is_none_or(|cutoff| revoked.issued_at > cutoff) && keys.contains(&revoked.issuer)
}

/// The entries of an account with this cutoff and these signing keys.
pub fn entries(
    revoked: &[Revoked],
    cutoff: Option<i64>,
    keys: &BTreeSet<PublicKey<Account>>,
) -> BTreeMap<PublicKey<User>, i64> {
    let mut entries = BTreeMap::new();
    for one in revoked.iter().filter(|one| needs_entry(one, cutoff, keys)) {
        let at = entries.entry(one.user).or_insert(one.revoked_at);
        *at = one.revoked_at.max(*at);
    }
    entries
}

/// When the next mint is worth its push for what it prunes alone; none: there is nothing to prune.
pub fn prune_at(
    revoked: &[Revoked],
    cutoff: Option<i64>,
    keys: &BTreeSet<PublicKey<Account>>,
) -> Option<DateTime<Utc>> {
    let mut ends: BTreeMap<PublicKey<User>, DateTime<Utc>> = BTreeMap::new();
    for one in revoked.iter().filter(|one| needs_entry(one, cutoff, keys)) {
        let end = ends.entry(one.user).or_insert(one.expires_at);
        *end = one.expires_at.max(*end);
    }
    let mut ends: Vec<_> = ends.into_values().collect();
    ends.sort_unstable();
    let enough = ends.len().div_ceil(4).max(FEW).min(ends.len());
    // Composed are those that end after now less the skew, so at this very moment it is gone.
    ends.get(enough.checked_sub(1)?)?.checked_add_signed(SKEW)
}

/// The cutoff to which entries fold when the account has grown too large: the greatest that hits nothing
/// valid. `earliest_valid` is the issue time of the oldest valid credential.
pub fn fold(revoked: &[Revoked], cutoff: Option<i64>, earliest_valid: Option<i64>, now: i64) -> Option<i64> {
    let free = earliest_valid.map_or(i64::MAX, |valid| valid - 1).min(now - FOLD_AGE);
    let foldable = revoked.iter().map(|one| one.issued_at).filter(|at| *at <= free);
    foldable.max().filter(|at| cutoff.is_none_or(|cutoff| *at > cutoff))
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// These credentials and no other.
    Selected,
    /// Everything that was issued until this second, whether the ledger knows it or not.
    Everything(i64),
}

/// What one signing key of the account has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub key: PublicKey<Account>,
    /// Valid credentials that are to be revoked.
    pub selected: usize,
    /// There are valid credentials that are to stay.
    pub others: bool,
    /// Entries that it has already.
    pub standing: usize,
    /// Those of `selected` and `standing` that were issued after [`Situation::free_until`].
    pub late: usize,
    /// It signs and is not being rotated: a new one may take its place here and now.
    pub replaceable: bool,
}

/// What the choice follows from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// What was asked for.
    pub asked: Asked,
    /// The signing keys that have signed something that is valid or has an entry.
    pub keys: Vec<KeyUse>,
    /// The greatest cutoff that hits nothing that is to stay; none: it would hit something, or help nothing.
    pub free_until: Option<i64>,
    /// Entries that the account may have.
    pub room: usize,
}

/// What is done to the account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The new cutoff.
    pub cutoff: Option<i64>,
    /// Signing keys that leave the account, each with a new one in its place.
    pub replaced: Vec<PublicKey<Account>>,
    /// Entries that the account then has.
    pub entries: usize,
    /// More than there is room for: valid credentials have to be issued anew before this can fold.
    pub over: bool,
}

/// Chooses the smallest effect: it hits nothing but what was asked for, and of those that leave the
/// account small enough it changes the least: single entries, then a cutoff, then new signing keys.
pub fn choose(situation: &Situation) -> Effect {
    let Situation { asked, keys, free_until, room } = situation;
    let effect = |cutoff: Option<i64>, replaced: Vec<PublicKey<Account>>| {
        let left = keys.iter().filter(|usage| !replaced.contains(&usage.key));
        let entries =
            left.map(|usage| if cutoff.is_some() { usage.late } else { usage.selected + usage.standing }).sum();
        Effect { cutoff, replaced, entries, over: entries > *room }
    };
    match asked {
        Asked::Everything(until) => return effect(Some(*until), Vec::new()),
        Asked::Selected => {}
    }
    let mut chosen = effect(None, Vec::new());
    if chosen.over {
        let cut = effect(*free_until, Vec::new());
        // One that covers nobody is no help.
        if cut.entries < chosen.entries {
            chosen = cut;
        }
    }
    // Only keys whose every valid user is to go: the largest ones first, and no more than needed.
    let weight = |usage: &KeyUse| if chosen.cutoff.is_some() { usage.late } else { usage.selected + usage.standing };
    let mut replaceable: Vec<_> = keys
        .iter()
        .filter(|usage| usage.replaceable && !usage.others && usage.selected > 0 && weight(usage) > 0)
        .collect();
    replaceable.sort_by_key(|usage| (std::cmp::Reverse(weight(usage)), usage.key));
    let cutoff = chosen.cutoff;
    for usage in replaceable {
        if !chosen.over {
            break;
        }
        let mut replaced = chosen.replaced.clone();
        replaced.push(usage.key);
        chosen = effect(cutoff, replaced);
    }
    chosen
}

#[cfg(test)]
#[path = "effect_tests.rs"]
mod tests;
