use chrono::DateTime;

use super::*;
use crate::{
    entropy::SeededEntropy,
    jwt::{
        account::SigningKeys,
        limits::{AccountLimits, JetStreamLimits},
    },
    nkey::KeyPair,
    resolver::ServerRef,
};

fn key(seed: u64) -> PublicKey<Account> {
    KeyPair::generate(&SeededEntropy::new(seed)).public()
}

fn account(change: impl FnOnce(&mut jwt::Account)) -> jwt::Account {
    let mut account = jwt::Account::new(AccountLimits { conn: 100, ..AccountLimits::unlimited() });
    let scope = |role: &str| Some(UserScope { role: role.into(), ..UserScope::default() });
    account.signing_keys = SigningKeys([(key(1), scope("one")), (key(2), scope("two")), (key(3), None)].into());
    account.revocations.insert("UOLD".into(), 50);
    change(&mut account);
    account
}

/// Four clients in the order of their connecting: two of role one, one of role two, one of the plain key.
fn clients() -> Vec<ClientConnection> {
    [("UA", 1), ("UB", 1), ("UC", 2), ("UD", 3)]
        .into_iter()
        .zip(1_u64..)
        .map(|((user, seed), cid)| ClientConnection {
            cid,
            user: Some(user.into()),
            issuer: Some(key(seed).to_string()),
            issued_at: Some(100),
            start: DateTime::from_timestamp(i64::try_from(cid).unwrap(), 0),
            ..ClientConnection::default()
        })
        .collect()
}

#[test]
fn what_closes_what() {
    use ClosingCause::{ConnectionLimit, Deleted, KeyRemoved, Revoked, RoleChanged, Suspended};
    type Change = fn(&mut jwt::Account);
    let table: [(&str, Change, [Option<ClosingCause>; 4]); 13] = [
        ("nothing", |_| {}, [None; 4]),
        ("another limit", |a| a.limits.subs = 5, [None; 4]),
        ("a new key", |a| drop(a.signing_keys.0.insert(key(9), None)), [None; 4]),
        ("suspended", |a| a.limits.conn = 0, [Some(Suspended); 4]),
        (
            "deleted",
            |a| {
                a.limits.conn = 0;
                a.revocations.insert("*".into(), 1000);
            },
            [Some(Deleted); 4],
        ),
        ("one user", |a| _ = a.revocations.insert("UB".into(), 100), [None, Some(Revoked), None, None]),
        ("a younger JWT of a revoked user", |a| _ = a.revocations.insert("UB".into(), 99), [None; 4]),
        ("everybody until then", |a| _ = a.revocations.insert("*".into(), 100), [Some(Revoked); 4]),
        ("everybody long ago", |a| _ = a.revocations.insert("*".into(), 99), [None; 4]),
        ("a key leaves", |a| drop(a.signing_keys.0.remove(&key(1))), [Some(KeyRemoved), Some(KeyRemoved), None, None]),
        (
            "a scope changes",
            |a| a.signing_keys.0.get_mut(&key(2)).unwrap().as_mut().unwrap().template.limits.subs = Some(9),
            [None, None, Some(RoleChanged), None],
        ),
        ("the oldest stay", |a| a.limits.conn = 3, [None, None, None, Some(ConnectionLimit)]),
        (
            "two causes count once",
            |a| {
                a.limits.conn = 3;
                a.revocations.insert("UD".into(), 100);
            },
            [None, None, None, Some(Revoked)],
        ),
    ];
    for (what, change, expected) in table {
        let before = account(|_| {});
        assert_eq!(causes(Some(&before), &account(change), &clients()), expected, "{what}");
    }
    assert_eq!(causes(None, &account(|_| {}), &clients()), [None; 4], "a new account has no connections");
}

#[test]
fn which_of_several_servers_closes_more_is_not_known() {
    let server = |name: &str, range: std::ops::Range<usize>| Connections {
        server: ServerRef { name: name.into(), id: String::new() },
        total: Some(range.len() as u64),
        list: clients()[range].to_vec(),
    };
    let lower = |conn| account(|a| a.limits.conn = conn);
    let servers = [server("n1", 0..2), server("n2", 2..4)];
    let closing = |conn| closing(Some(&account(|_| {})), &lower(conn), &servers);
    assert_eq!((closing(2).open, closing(2).closing, closing(2).undetermined), (4, 0, 2));
    assert_eq!((closing(1).closing, closing(1).undetermined), (2, 1));
    assert_eq!((closing(100).closing, closing(-1).undetermined), (0, 0));
    let first: Vec<_> = closing(1).by_cause[0].examples.iter().map(|c| (c.server.clone(), c.cid)).collect();
    assert_eq!(first, [("n1".to_owned(), 2), ("n2".to_owned(), 4)]);
}

#[test]
fn usage_is_compared_as_servers_count_it() {
    let copy = |name: &str, in_memory, replicas, bytes| StreamUse { name: name.into(), in_memory, replicas, bytes };
    let server = |streams: Vec<StreamUse>| Streams { server: ServerRef::default(), streams: Some(streams) };
    let servers = [
        server(vec![copy("a", false, 2, 100), copy("m", true, 1, 7)]),
        server(vec![copy("a", false, 2, 100), copy("b", false, 1, 10)]),
    ];
    let flat = |disk_storage, mem_storage, streams| {
        let limits = JetStreamLimits { mem_storage, disk_storage, streams, ..JetStreamLimits::default() };
        usage(&account(|a| a.limits.jetstream = limits), &servers)
    };
    let fits = flat(210, 7, 3);
    assert_eq!((fits.disk, fits.memory, fits.streams, fits.exceeded.len()), (210, 7, 3, 0));
    let names = |impact: JetStreamImpact| impact.exceeded.into_iter().map(|e| (e.pointer, e.used)).collect::<Vec<_>>();
    assert_eq!(names(flat(209, 7, 0)), [("/nats/limits/disk_storage".to_owned(), 210)]);
    assert_eq!(names(flat(-1, 0, 2)).len(), 2);
    let tier = |disk_storage| JetStreamLimits { disk_storage, mem_storage: -1, ..JetStreamLimits::default() };
    let tiered =
        |r1, r2| account(|a| a.limits.tiered_limits = [("R1".into(), tier(r1)), ("R2".into(), tier(r2))].into());
    assert_eq!(names(usage(&tiered(10, 100), &servers)), []);
    assert_eq!(
        names(usage(&tiered(10, 99), &servers)),
        [("/nats/limits/tiered_limits/R2/disk_storage".to_owned(), 100)]
    );
}
