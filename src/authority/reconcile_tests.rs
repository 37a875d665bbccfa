use proptest::prelude::*;

use super::*;
use crate::{
    entropy::SeededEntropy,
    nkey::{KeyPair, Operator},
};

#[expect(clippy::unnecessary_wraps, reason = "as the table takes it")]
fn stored(generation: i64, moving: bool, acknowledged: bool) -> Option<Desired> {
    Some(Desired::Stored { generation, moving, acknowledged })
}

fn foreign() -> Copy {
    Copy::Other { issuer: Some("OX".to_owned()), ours: false }
}

fn ours_unknown() -> Copy {
    Copy::Other { issuer: Some("OURS".to_owned()), ours: true }
}

#[test]
fn the_table() {
    let push = Action::Push;
    let table = [
        (stored(3, true, false), Copy::Absent, Action::Nothing),
        (stored(3, true, true), foreign(), Action::Nothing),
        (stored(3, false, true), Copy::Ours(3), Action::Nothing),
        (stored(3, false, true), Copy::Ours(4), Action::Nothing),
        (stored(3, false, true), Copy::Absent, push(Reason::Missing)),
        (stored(3, false, false), Copy::Ours(2), push(Reason::Stale { generation: 2 })),
        (stored(3, false, true), Copy::Ours(2), push(Reason::ReplayedOld { generation: 2 })),
        (stored(3, false, true), foreign(), push(Reason::ForeignSigned { issuer: Some("OX".to_owned()) })),
        (stored(3, false, false), ours_unknown(), push(Reason::Differs)),
        (Some(Desired::Deleted), Copy::Absent, Action::Nothing),
        (Some(Desired::Deleted), Copy::Ours(7), Action::DeleteAgain),
        (Some(Desired::Deleted), foreign(), Action::DeleteAgain),
        (None, Copy::Absent, Action::Nothing),
        (None, foreign(), Action::ReportUnknown),
        (None, ours_unknown(), Action::ReportUnknown),
    ];
    for (desired, copy, action) in table {
        assert_eq!(decide(desired.as_ref(), &copy), action, "{desired:?} {copy:?}");
    }
}

#[test]
fn what_runs() {
    let desired = stored(3, false, true);
    let runs = |copy| decide_running(desired.as_ref(), &copy, true);
    let incomplete = |desired: Option<Desired>, copy| decide_running(desired.as_ref(), &copy, false);
    assert_eq!(runs(Copy::Absent), Action::Nothing);
    assert_eq!(runs(Copy::Ours(3)), Action::Nothing);
    assert_eq!(runs(Copy::Ours(2)), Action::Push(Reason::NotRunning));
    assert_eq!(runs(foreign()), Action::Push(Reason::NotRunning));
    assert_eq!(decide_running(None, &foreign(), true), Action::Nothing);
    assert_eq!(incomplete(desired.clone(), Copy::Ours(3)), Action::Push(Reason::Incomplete));
    assert_eq!(incomplete(desired.clone(), Copy::Ours(2)), Action::Push(Reason::NotRunning));
    assert_eq!(incomplete(stored(3, true, true), Copy::Ours(3)), Action::Nothing);
    assert_eq!(incomplete(Some(Desired::Deleted), Copy::Ours(3)), Action::Nothing);
    assert_eq!(incomplete(None, foreign()), Action::Nothing);
}

#[test]
fn enough_questions() {
    assert_eq!([0, 1, 2, 3, 5, 10].map(|n| asks(n, 6)), [0, 1, 21, 37, 70, 153]);
}

#[test]
fn another_spelling_is_the_same_token() {
    let key = KeyPair::<Operator>::generate(&SeededEntropy::new(1));
    let account = KeyPair::<crate::nkey::Account>::generate(&SeededEntropy::new(2)).public();
    let claims = serde_json::json!({"jti": "x", "iat": 1, "iss": key.public(), "sub": account,
        "nats": {"type": "account", "version": 2}});
    let body = {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
        let body = format!("{}.{}", B64.encode(crate::jwt::envelope::HEADER), B64.encode(claims.to_string()));
        format!("{body}.{}", B64.encode(key.sign(body.as_bytes())))
    };
    let other = respelled(&body).unwrap();
    assert_ne!(other, body);
    assert_eq!(respelled(&other).unwrap(), body);
    assert_eq!(respelled(""), None);
    assert_eq!(respelled("é"), None);
}

fn any_copy() -> impl Strategy<Value = Copy> {
    prop_oneof![
        Just(Copy::Absent),
        (1..6_i64).prop_map(Copy::Ours),
        (proptest::option::of("[A-Z]{3}"), any::<bool>()).prop_map(|(issuer, ours)| Copy::Other { issuer, ours }),
    ]
}

fn any_desired() -> impl Strategy<Value = Option<Desired>> {
    prop_oneof![
        Just(None),
        Just(Some(Desired::Deleted)),
        (1..6_i64, any::<bool>(), any::<bool>()).prop_map(|(generation, moving, acknowledged)| stored(
            generation,
            moving,
            acknowledged
        )),
    ]
}

proptest! {
    /// Nothing is done exactly when the copy is right or somebody is at it already.
    #[test]
    fn silence_means_right(desired in any_desired(), copy in any_copy()) {
        let right = match (&desired, &copy) {
            (None | Some(Desired::Deleted), Copy::Absent) | (Some(Desired::Stored { moving: true, .. }), _) => true,
            (Some(Desired::Stored { generation, .. }), Copy::Ours(has)) => has >= generation,
            _ => false,
        };
        prop_assert_eq!(decide(desired.as_ref(), &copy) == Action::Nothing, right);
    }

    /// What we do not know is never pushed and never deleted; what we deleted is never pushed.
    #[test]
    fn strangers_are_left_alone(copies in proptest::collection::vec(any_copy(), 0..5)) {
        prop_assert!(decide_all(None, &copies) <= Action::ReportUnknown);
        let deleted = decide_all(Some(&Desired::Deleted), &copies);
        prop_assert!(matches!(deleted, Action::Nothing | Action::DeleteAgain));
    }

    /// One wrong copy among right ones is enough, and their order does not matter.
    #[test]
    fn the_gravest_counts(desired in any_desired(), mut copies in proptest::collection::vec(any_copy(), 0..5)) {
        let all = decide_all(desired.as_ref(), &copies);
        prop_assert!(copies.iter().all(|copy| decide(desired.as_ref(), copy) <= all));
        copies.reverse();
        prop_assert_eq!(decide_all(desired.as_ref(), &copies), all);
    }
}
