use super::*;
use crate::{entropy::SeededEntropy, nkey::KeyPair};

fn keys() -> [PublicKey<Operator>; 2] {
    let entropy = SeededEntropy::new(1);
    [0, 1].map(|_| KeyPair::<Operator>::generate(&entropy).public())
}

/// Three live servers: whether each trusts the old and the new key.
fn facts(state: RotationState, listed: &[usize], trust: [(Option<bool>, Option<bool>); 3]) -> Facts {
    let keys = keys();
    let server = |(index, (trusts_old, trusts_new)): (usize, (Option<bool>, Option<bool>))| Server {
        name: format!("n{}", index + 1),
        live: true,
        trusts_old,
        trusts_new,
    };
    Facts {
        state,
        old_key: keys[0],
        new_key: (state != RotationState::Proposed).then_some(keys[1]),
        listed: listed.iter().map(|index| keys[*index]).collect(),
        servers: trust.into_iter().enumerate().map(server).collect(),
        unsigned: 0,
        lagging: Vec::new(),
    }
}

const OLD: (Option<bool>, Option<bool>) = (Some(true), Some(false));
const BOTH: (Option<bool>, Option<bool>) = (Some(true), Some(true));
const NEW: (Option<bool>, Option<bool>) = (Some(false), Some(true));
const MUTE: (Option<bool>, Option<bool>) = (None, None);

#[test]
fn each_step_waits_for_its_servers() {
    use RotationState::{Cancelled, Done, Pending, Proposed, Removing, Retiring};
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let table = [
        (Proposed, vec![0], [OLD; 3], Step::Wait(Wait::Approval)),
        (Pending, vec![0], [OLD; 3], Step::Wait(Wait::JwtWithBoth)),
        // Servers that trust it already do not stand for the JWT that all will be restarted with.
        (Pending, vec![0], [BOTH; 3], Step::Wait(Wait::JwtWithBoth)),
        (Pending, vec![0, 1], [OLD, BOTH, OLD], Step::Wait(Wait::Restart(names(&["n1", "n3"])))),
        (Pending, vec![0, 1], [BOTH, BOTH, MUTE], Step::Wait(Wait::Restart(names(&["n3"])))),
        (Pending, vec![0, 1], [BOTH; 3], Step::Activate),
        (Retiring, vec![0, 1], [BOTH; 3], Step::Wait(Wait::JwtWithoutOld)),
        (Removing, vec![1], [NEW, BOTH, NEW], Step::Wait(Wait::RestartAgain(names(&["n2"])))),
        (Removing, vec![1], [NEW, NEW, MUTE], Step::Wait(Wait::RestartAgain(names(&["n3"])))),
        (Removing, vec![1], [NEW; 3], Step::Finish),
        (Done, vec![1], [NEW; 3], Step::Over),
        (Cancelled, vec![0], [OLD; 3], Step::Over),
    ];
    for (state, listed, trust, step) in table {
        assert_eq!(decide(&facts(state, &listed, trust)), step, "{state:?} {listed:?} {trust:?}");
    }
}

#[test]
fn who_is_away_is_waited_for_as_well_and_nothing_goes_on_without_any() {
    use RotationState::{Pending, Removing, Retiring};
    let away = |mut facts: Facts| {
        facts.servers[1].live = false;
        facts
    };
    let n2 = || vec!["n2".to_owned()];
    assert_eq!(decide(&away(facts(Pending, &[0, 1], [BOTH, OLD, BOTH]))), Step::Wait(Wait::Away(n2())));
    assert_eq!(decide(&away(facts(Pending, &[0, 1], [BOTH, MUTE, BOTH]))), Step::Wait(Wait::Away(n2())));
    assert_eq!(decide(&away(facts(Pending, &[0, 1], [BOTH; 3]))), Step::Activate);
    assert_eq!(decide(&away(facts(Removing, &[1], [NEW, BOTH, NEW]))), Step::Wait(Wait::AwayTrusting(n2())));
    let mut late = facts(Retiring, &[0, 1], [BOTH; 3]);
    late.lagging = n2();
    assert_eq!(decide(&late), Step::Wait(Wait::Accounts(n2())));
    assert_eq!(decide(&away(late)), Step::Wait(Wait::AccountsAway(n2())));
    for (state, listed) in [(Pending, vec![0, 1]), (Retiring, vec![0, 1]), (Removing, vec![1])] {
        let mut alone = facts(state, &listed, [NEW; 3]);
        alone.servers.iter_mut().for_each(|server| server.live = false);
        assert_eq!(decide(&alone), Step::Wait(Wait::AnyServer), "{state:?}");
        alone.servers.clear();
        assert_eq!(decide(&alone), Step::Wait(Wait::AnyServer), "{state:?}");
    }
}

#[test]
fn the_operator_jwt_lists_a_key_as_long_as_something_is_under_it() {
    use RotationState::{Cancelled, Done, Pending, Proposed, Removing, Retiring};
    let [old, new] = keys();
    let wanted_of = |state, change: fn(&mut Facts)| {
        let mut facts = facts(state, &[0, 1], [BOTH; 3]);
        change(&mut facts);
        wanted(&facts)
    };
    assert_eq!(wanted_of(Proposed, |_| {}), [old]);
    assert_eq!(wanted_of(Pending, |_| {}), [old, new]);
    assert_eq!(wanted_of(Retiring, |facts| facts.unsigned = 1), [old, new]);
    assert_eq!(wanted_of(Retiring, |facts| facts.lagging = vec!["n1".to_owned()]), [old, new]);
    assert_eq!(wanted_of(Retiring, |facts| facts.servers.clear()), [old, new]);
    assert_eq!(wanted_of(Retiring, |_| {}), [new]);
    assert_eq!(wanted_of(Removing, |_| {}), [new]);
    assert_eq!(wanted_of(Done, |_| {}), [new]);
    assert_eq!(wanted_of(Cancelled, |_| {}), [old]);
}

#[test]
fn words_name_the_servers() {
    let wait = Wait::Restart(vec!["n1".to_owned(), "n3".to_owned()]);
    assert!(wait.to_string().ends_with("do not trust the new key: n1, n3"), "{wait}");
    assert_eq!(wait.servers(), ["n1", "n3"]);
    assert!(!wait.is_for_jwt() && Wait::JwtWithBoth.is_for_jwt());
}
