//! Composition: the claims of an account as a pure function of what the ledger and the policies say.
//! Nothing here reads a clock, a database or a file; the same input gives the same claims.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    jwt::{
        self,
        account::{Export, Import, SigningKeys, UserScope},
        limits::{AccountLimits, JetStreamLimits},
    },
    model::names::RENEWAL,
    nkey::{Account, PublicKey, User},
};

/// All that an organization's account follows from.
#[derive(Clone, Debug)]
pub struct Composition {
    /// Name of the account: the organization's slug.
    pub name: String,
    /// The account.
    pub account: PublicKey<Account>,
    /// The platform account.
    pub platform: PublicKey<Account>,
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
    /// Every user issued until this second is revoked.
    pub cutoff: Option<i64>,
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
    account.revocations.extend(composition.cutoff.map(|at| (EVERYBODY.to_owned(), at)));
    match composition.shape {
        Shape::Open => import_renewal(&mut account, composition),
        Shape::Closed => close(&mut account),
        Shape::Tombstone(at) => {
            close(&mut account);
            // The cutoff covers every single entry.
            account.revocations = BTreeMap::from([(EVERYBODY.to_owned(), at)]);
        }
    }
    account
}

/// Not for an account that is closed: while a server loads an account and looks for the exporters of its
/// imports, it does not know of the connection limit and the revocations yet (nats-server 2.15.1: they are
/// the last part of what it takes over, and then close who got in).
///
/// The account's own id is forced into the subject, and the exporter's account token position makes servers
/// refuse any other: a request in the platform account shows whose it is. Plans limit what organizations
/// import; what the authority makes every account import comes on top.
fn import_renewal(account: &mut jwt::Account, composition: &Composition) {
    account.imports.push(Import {
        name: Some("renew".to_owned()),
        subject: format!("{RENEWAL}.{}.*", composition.account),
        account: Some(composition.platform),
        local_subject: Some(format!("{RENEWAL}.*")),
        kind: "service".to_owned(),
        ..Import::default()
    });
    if account.limits.imports >= 0 {
        account.limits.imports = account.limits.imports.saturating_add(1);
    }
}

/// What the platform account reserves on disk, bytes of all replicas together.
pub const PLATFORM_DISK: i64 = 300 << 20;

/// Composes the platform account: it offers the renewal of credentials to every account of the operator,
/// and has room for what the authority keeps in streams of its own. Nobody but the authority is a user of it.
pub fn compose_platform(signing_keys: &[PublicKey<Account>]) -> jwt::Account {
    let limits = AccountLimits {
        imports: 0,
        disallow_bearer: true,
        leaf: 0,
        jetstream: JetStreamLimits {
            disk_storage: PLATFORM_DISK,
            streams: 8,
            consumer: 64,
            max_ack_pending: -1,
            max_bytes_required: true,
            ..JetStreamLimits::default()
        },
        ..AccountLimits::unlimited()
    };
    let mut account = jwt::Account::new(limits);
    account.signing_keys = SigningKeys(signing_keys.iter().map(|key| (*key, None)).collect());
    account.exports.push(Export {
        name: Some("renew".to_owned()),
        subject: format!("{RENEWAL}.*.*"),
        kind: "service".to_owned(),
        account_token_position: Some(3),
        ..Export::default()
    });
    account
}

/// The entry that stands for every user of the account.
const EVERYBODY: &str = "*";

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
            account: account_key(),
            platform: account_key(),
            shape: Shape::Open,
            limits: AccountLimits { conn: 10, ..AccountLimits::unlimited() },
            plain_keys: (0..plain).map(|_| account_key()).collect(),
            scoped_keys: (0..scoped)
                .map(|n| (account_key(), UserScope { role: format!("r{n}"), ..UserScope::default() }))
                .collect(),
            revocations: (0..revoked)
                .map(|n| (KeyPair::<User>::generate(&entropy).public(), i64::try_from(n).unwrap()))
                .collect(),
            cutoff: None,
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
            let mut changed = vec![given.clone(); 8];
            changed[0].plain_keys.clear();
            changed[1].scoped_keys[0].1.role.push('x');
            changed[2].revocations[0].1 += 1;
            changed[3].limits.conn += 1;
            changed[4].shape = Shape::Closed;
            changed[5].name.push('x');
            changed[6].platform = given.account;
            changed[7].cutoff = Some(1);
            for changed in changed {
                prop_assert_ne!(hash(&changed), base);
            }
        }
    }

    #[test]
    fn a_plan_without_imports_still_has_ours() {
        let mut given = composition(1, 1, 1, 0);
        for (planned, composed) in [(0, 1), (5, 6), (i64::MAX, i64::MAX), (-1, -1)] {
            given.limits.imports = planned;
            let account = compose(&given);
            assert_eq!(account.limits.imports, composed);
            assert_eq!(account.imports.len(), 1);
            assert_eq!(account.imports[0].subject, format!("authority.renew.{}.*", given.account));
        }
        for shape in [Shape::Closed, Shape::Tombstone(1)] {
            given.shape = shape;
            assert!(compose(&given).imports.is_empty());
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
