//! The choice as a table, and against a model of what a server accepts.

use proptest::prelude::*;

use super::*;
use crate::{entropy::SeededEntropy, nkey::KeyPair};

fn key(seed: u64) -> PublicKey<Account> {
    KeyPair::<Account>::generate(&SeededEntropy::new(seed)).public()
}

fn user(seed: u64) -> PublicKey<User> {
    KeyPair::<User>::generate(&SeededEntropy::new(seed)).public()
}

/// `selected, others, standing, late` of each key.
fn situation(asked: Asked, uses: &[(usize, usize, usize, usize)], free_until: Option<i64>, room: usize) -> Situation {
    let keys = uses.iter().zip(1_u64..).map(|((selected, others, standing, late), seed)| KeyUse {
        key: key(seed),
        selected: *selected,
        others: *others > 0,
        standing: *standing,
        late: *late,
        replaceable: true,
    });
    Situation { asked, keys: keys.collect(), free_until, room }
}

#[test]
fn the_smallest_effect() {
    use Asked::{Everything, Selected};
    type Row = (&'static str, Asked, &'static [(usize, usize, usize, usize)], Option<i64>, usize);
    type Chosen = (Option<i64>, &'static [u64], usize, bool);
    let cases: [(Row, Chosen); 11] = [
        (("nothing", Selected, &[], None, 10), (None, &[], 0, false)),
        (("few get entries, though a cutoff were free", Selected, &[(3, 0, 2, 0)], Some(9), 10), (None, &[], 5, false)),
        (("many get a free cutoff", Selected, &[(30, 0, 2, 0)], Some(9), 10), (Some(9), &[], 0, false)),
        (("what is younger keeps entries", Selected, &[(30, 5, 2, 7)], Some(9), 10), (Some(9), &[], 7, false)),
        (("a whole key without a cutoff", Selected, &[(30, 0, 2, 32), (3, 9, 1, 4)], None, 10), (None, &[1], 4, false)),
        (("no more keys than needed", Selected, &[(8, 0, 0, 8), (30, 0, 0, 30)], None, 10), (None, &[2], 8, false)),
        (
            ("a cutoff that covers nobody is none", Selected, &[(30, 0, 2, 32), (3, 9, 1, 4)], Some(9), 10),
            (None, &[1], 4, false),
        ),
        (("a key with others stays", Selected, &[(30, 1, 0, 30)], None, 10), (None, &[], 30, true)),
        (
            ("a key that is not asked for stays", Selected, &[(3, 0, 0, 3), (0, 0, 30, 30)], None, 10),
            (None, &[1], 30, true),
        ),
        (("cutoff and key", Selected, &[(30, 0, 2, 20), (5, 3, 3, 2)], Some(9), 10), (Some(9), &[1], 2, false)),
        (("everything", Everything(50), &[(1, 0, 8, 1)], None, 10), (Some(50), &[], 1, false)),
    ];
    for ((what, asked, uses, free, room), (cutoff, replaced, entries, over)) in cases {
        let replaced = replaced.iter().map(|seed| key(*seed)).collect();
        assert_eq!(choose(&situation(asked, uses, free, room)), Effect { cutoff, replaced, entries, over }, "{what}");
    }
}

#[test]
fn pruning_waits_for_a_quarter_or_for_the_last_of_a_few() {
    let at = |n: i64| DateTime::from_timestamp(n, 0).unwrap();
    let signer = key(1);
    let revoked = |count: u64| -> Vec<Revoked> {
        (1..=count)
            .map(|n| {
                let expires_at = at(i64::try_from(n).unwrap());
                Revoked { user: user(n), issuer: signer, issued_at: 0, revoked_at: 1, expires_at }
            })
            .collect()
    };
    let keys = BTreeSet::from([signer]);
    let ends = |count| prune_at(&revoked(count), None, &keys).map(|end| end - SKEW);
    assert_eq!(ends(0), None);
    assert_eq!(ends(1), Some(at(1)));
    assert_eq!(ends(64), Some(at(64)));
    assert_eq!(ends(65), Some(at(64)));
    assert_eq!(ends(400), Some(at(100)));
    assert_eq!(prune_at(&revoked(9), Some(0), &keys), None, "the cutoff names none of them");
    assert_eq!(prune_at(&revoked(9), None, &BTreeSet::new()), None);
}

#[derive(Clone, Debug)]
struct Model {
    issuer: usize,
    issued_at: i64,
    revoked: bool,
    selected: bool,
}

fn model() -> impl Strategy<Value = Vec<Model>> {
    let one =
        (0..3_usize, 0..60_i64, any::<bool>(), any::<bool>()).prop_map(|(issuer, issued_at, revoked, selected)| {
            Model { issuer, issued_at, revoked, selected: selected && !revoked }
        });
    proptest::collection::vec(one, 0..60)
}

/// As nats-server 2.15.1: a signing key that it does not know, the cutoff, the user's entry.
fn accepted(
    one: &Model,
    user: PublicKey<User>,
    keys: &BTreeSet<PublicKey<Account>>,
    cutoff: Option<i64>,
    entries: &BTreeMap<PublicKey<User>, i64>,
    issuers: &[PublicKey<Account>],
) -> bool {
    keys.contains(&issuers[one.issuer])
        && cutoff.is_none_or(|at| at < one.issued_at)
        && entries.get(&user).is_none_or(|at| *at < one.issued_at)
}

proptest! {
    #[test]
    fn what_is_asked_for_is_refused_and_nothing_else(given in model(), room in 0..20_usize, asked in 0..2_usize) {
        const NOW: i64 = 100;
        let issuers = [key(1), key(2), key(3)];
        let users: Vec<_> = (0..given.len()).map(|n| user(n as u64)).collect();
        let asked = [Asked::Selected, Asked::Everything(30)][asked];
        let mut given = given;
        for one in given.iter_mut().filter(|one| !one.revoked) {
            match asked {
                Asked::Selected => {}
                Asked::Everything(until) => one.selected = one.issued_at <= until,
            }
        }
        let free_until = given.iter().filter(|one| !one.revoked && !one.selected).map(|one| one.issued_at - 1).min().unwrap_or(NOW);
        let uses = issuers.iter().enumerate().map(|(n, key)| {
            let count = |holds: &dyn Fn(&Model) -> bool| given.iter().filter(|one| one.issuer == n && holds(one)).count();
            KeyUse {
                key: *key,
                replaceable: true,
                selected: count(&|one| one.selected),
                others: count(&|one| !one.selected && !one.revoked) > 0,
                standing: count(&|one| one.revoked),
                late: count(&|one| {
                    let cutoff = if let Asked::Everything(until) = asked { until } else { free_until };
                    (one.selected || one.revoked) && one.issued_at > cutoff
                }),
            }
        });
        let situation = Situation { asked, keys: uses.collect(), free_until: Some(free_until), room };
        let effect = choose(&situation);
        prop_assert_eq!(effect.over, effect.entries > room);

        let keys: BTreeSet<_> = issuers.iter().copied().filter(|key| !effect.replaced.contains(key)).collect();
        let revoked: Vec<_> = given.iter().zip(&users).filter(|(one, _)| one.revoked || one.selected)
            .map(|(one, user)| Revoked {
                user: *user, issuer: issuers[one.issuer], issued_at: one.issued_at, revoked_at: NOW,
                expires_at: DateTime::from_timestamp(1000, 0).unwrap(),
            }).collect();
        let named = entries(&revoked, effect.cutoff, &keys);
        prop_assert_eq!(named.len(), effect.entries);
        for (one, user) in given.iter().zip(&users) {
            let stays = !one.revoked && !one.selected;
            prop_assert_eq!(accepted(one, *user, &keys, effect.cutoff, &named, &issuers), stays, "{:?}", one);
        }
        // Only what was named is hit beyond the selection, and an account is over its room only where
        // neither a cutoff nor a key could help without hitting what is to stay.
        if asked == Asked::Selected && effect.over {
            prop_assert!(situation.keys.iter().filter(|usage| !effect.replaced.contains(&usage.key))
                .all(|usage| usage.others || usage.selected == 0 || usage.late == 0));
        }

        // A fold afterwards hits nothing that is valid either.
        let earliest = given.iter().filter(|one| !one.revoked && !one.selected).map(|one| one.issued_at).min();
        if let Some(folded) = fold(&revoked, effect.cutoff, earliest, NOW + FOLD_AGE) {
            let named = entries(&revoked, Some(folded), &keys);
            for (one, user) in given.iter().zip(&users) {
                let stays = !one.revoked && !one.selected && effect.cutoff.is_none_or(|at| at < one.issued_at);
                prop_assert_eq!(accepted(one, *user, &keys, Some(folded), &named, &issuers), stays && keys.contains(&issuers[one.issuer]));
            }
        }
    }
}
