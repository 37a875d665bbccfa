//! Composition: the claims of an account as a pure function of what the ledger and the policies say.
//! Nothing here reads a clock, a database or a file; the same input gives the same claims.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    jwt::{
        self,
        account::{SigningKeys, UserScope},
        limits::AccountLimits,
    },
    nkey::{Account, PublicKey, User},
};

/// All that an organization's account follows from.
#[derive(Clone, Debug)]
pub struct Composition {
    /// Name of the account: the organization's slug.
    pub name: String,
    /// What the account is to be.
    pub shape: Shape,
    /// Limits of the plan with the organization's overrides.
    pub limits: AccountLimits,
    /// Plain signing keys: they sign users that carry their own permissions.
    pub plain_keys: Vec<PublicKey<Account>>,
    /// Scoped signing keys, one for each role in each environment.
    pub scoped_keys: Vec<(PublicKey<Account>, UserScope)>,
    /// Revoked users that servers could still accept, with the time in Unix seconds.
    pub revocations: Vec<(PublicKey<User>, i64)>,
}

/// What an account is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Its users can connect.
    Open,
    /// No connection is allowed, the data stays (suspended).
    Closed,
    /// No connection, every user issued before this time (Unix seconds) revoked: about to be deleted.
    Tombstone(i64),
}

/// Composes the account's claims.
pub fn compose(composition: &Composition) -> jwt::Account {
    let mut account = jwt::Account::new(composition.limits.clone());
    let mut keys = BTreeMap::new();
    keys.extend(composition.plain_keys.iter().map(|key| (*key, None)));
    keys.extend(composition.scoped_keys.iter().map(|(key, scope)| (*key, Some(scope.clone()))));
    account.signing_keys = SigningKeys(keys);
    account.revocations = composition.revocations.iter().map(|(user, at)| (user.to_string(), *at)).collect();
    match composition.shape {
        Shape::Open => {}
        Shape::Closed => close(&mut account),
        Shape::Tombstone(at) => {
            close(&mut account);
            // The cutoff covers every single entry.
            account.revocations = BTreeMap::from([("*".to_owned(), at)]);
        }
    }
    account
}

/// `conn: 0` closes every connection at once (nats-server 2.15.1, seen on loopback).
fn close(account: &mut jwt::Account) {
    account.limits.conn = 0;
    account.limits.leaf = 0;
}

/// The hash by which two compositions are told apart: everything but issue time and id.
pub fn content_hash(name: &str, account: &jwt::Account) -> serde_json::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(serde_json::to_vec(account)?);
    Ok(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{entropy::SeededEntropy, nkey::KeyPair};

    fn composition(seed: u64, plain: usize, scoped: usize, revoked: usize) -> Composition {
        let entropy = SeededEntropy::new(seed);
        let account_key = || KeyPair::<Account>::generate(&entropy).public();
        Composition {
            name: "acme".to_owned(),
            shape: Shape::Open,
            limits: AccountLimits { conn: 10, ..AccountLimits::unlimited() },
            plain_keys: (0..plain).map(|_| account_key()).collect(),
            scoped_keys: (0..scoped)
                .map(|n| (account_key(), UserScope { role: format!("r{n}"), ..UserScope::default() }))
                .collect(),
            revocations: (0..revoked)
                .map(|n| (KeyPair::<User>::generate(&entropy).public(), i64::try_from(n).unwrap()))
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn the_order_of_the_input_does_not_matter(seed: u64, plain in 0_usize..3, scoped in 0_usize..6, revoked in 0_usize..6) {
            let given = composition(seed, plain, scoped, revoked);
            let mut turned = given.clone();
            turned.plain_keys.reverse();
            turned.scoped_keys.reverse();
            turned.revocations.reverse();
            let (a, b) = (compose(&given), compose(&turned));
            prop_assert_eq!(content_hash("acme", &a).unwrap(), content_hash("acme", &b).unwrap());
            prop_assert_eq!(a.signing_keys.0.len(), plain + scoped);
            prop_assert_eq!(a.revocations.len(), revoked);
        }

        #[test]
        fn every_part_changes_the_hash(seed: u64) {
            let given = composition(seed, 1, 2, 2);
            let hash = |c: &Composition| content_hash(&c.name, &compose(c)).unwrap();
            let base = hash(&given);
            let mut changed = vec![given.clone(), given.clone(), given.clone(), given.clone(), given.clone(), given.clone()];
            changed[0].plain_keys.clear();
            changed[1].scoped_keys[0].1.role.push('x');
            changed[2].revocations[0].1 += 1;
            changed[3].limits.conn += 1;
            changed[4].shape = Shape::Closed;
            changed[5].name.push('x');
            for changed in changed {
                prop_assert_ne!(hash(&changed), base);
            }
        }
    }

    #[test]
    fn a_closed_account_lets_nobody_in_and_keeps_its_storage() {
        let mut given = composition(1, 1, 1, 1);
        given.limits.jetstream.disk_storage = 1 << 30;
        given.shape = Shape::Closed;
        let closed = compose(&given);
        assert_eq!((closed.limits.conn, closed.limits.leaf), (0, 0));
        assert_eq!(closed.limits.jetstream.disk_storage, 1 << 30);
        given.shape = Shape::Tombstone(99);
        let tombstone = compose(&given);
        assert_eq!(tombstone.limits.conn, 0);
        assert_eq!(tombstone.revocations, BTreeMap::from([("*".to_owned(), 99)]));
    }
}
