use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn facts(state: RotationState) -> Facts {
    Facts {
        state,
        immediately: false,
        force: false,
        pointless: false,
        retire_after: None,
        now: at(0),
        spread: Spread { live: 3, ..Spread::default() },
        under_old: Remaining::default(),
    }
}

#[test]
fn what_is_waited_for() {
    use RotationState::{Cancelled, Done, Pending, Proposed, Removing, Retiring};
    let n3 = || vec!["n3".to_owned()];
    let lagging = || Spread { live: 3, lagging: n3(), away: Vec::new() };
    let away = || Spread { live: 2, lagging: Vec::new(), away: n3() };
    let left = Remaining { count: 2, last_end: Some(at(9)) };
    let table = [
        (facts(Proposed), Step::Wait(Wait::Approval)),
        (Facts { spread: Spread::default(), ..facts(Pending) }, Step::Wait(Wait::AnyServer)),
        (Facts { spread: lagging(), ..facts(Pending) }, Step::Wait(Wait::Servers(n3()))),
        // One that is away has no users; when it is back it is pushed before long.
        (Facts { spread: away(), ..facts(Pending) }, Step::Activate),
        (facts(Pending), Step::Activate),
        (Facts { retire_after: Some(at(1)), ..facts(Retiring) }, Step::Wait(Wait::Grace(at(1)))),
        (Facts { retire_after: Some(at(1)), force: true, ..facts(Retiring) }, Step::Wait(Wait::Grace(at(1)))),
        (Facts { retire_after: Some(at(0)), ..facts(Retiring) }, Step::Remove),
        (Facts { retire_after: Some(at(0)), under_old: left, ..facts(Retiring) }, Step::Wait(Wait::Credentials(left))),
        (Facts { retire_after: Some(at(0)), under_old: left, force: true, ..facts(Retiring) }, Step::Remove),
        (Facts { spread: lagging(), ..facts(Removing) }, Step::Wait(Wait::Servers(n3()))),
        // It would come back with the old key.
        (Facts { spread: away(), ..facts(Removing) }, Step::Wait(Wait::Away(n3()))),
        (Facts { spread: Spread::default(), ..facts(Removing) }, Step::Wait(Wait::AnyServer)),
        (facts(Removing), Step::Finish),
        (facts(Done), Step::Over),
        (Facts { pointless: true, ..facts(Cancelled) }, Step::Over),
        (Facts { pointless: true, ..facts(Proposed) }, Step::Abandon),
        (Facts { pointless: true, spread: lagging(), ..facts(Removing) }, Step::Abandon),
    ];
    for (facts, step) in table {
        assert_eq!(decide(&facts), step, "{facts:?}");
    }
}

/// What may happen between two looks.
#[derive(Clone, Debug)]
enum Happens {
    Approved,
    Look,
    Hours(i64),
    /// This server takes the account as it is now.
    Runs(usize),
    Goes(usize),
    Comes(usize),
    Issued,
    Rotated,
    Hastened,
    Deleted,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        2 => Just(Happens::Approved),
        8 => Just(Happens::Look),
        3 => (1_i64..20).prop_map(Happens::Hours),
        6 => (0_usize..3).prop_map(Happens::Runs),
        1 => (0_usize..3).prop_map(Happens::Goes),
        2 => (0_usize..3).prop_map(Happens::Comes),
        3 => Just(Happens::Issued),
        3 => Just(Happens::Rotated),
        1 => Just(Happens::Hastened),
        1 => Just(Happens::Deleted),
    ]
}

/// Which of the two keys are in an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holds {
    old: bool,
    new: bool,
}

/// A cluster and a ledger as small as can be: what each server holds, and which key signs.
struct World {
    facts: Facts,
    desired: Holds,
    servers: [(bool, Holds); 3],
    /// `Some(true)`: the new key signs, `Some(false)`: the old one, none: nothing signs.
    signs: Option<bool>,
    under_new: usize,
}

impl World {
    fn new(immediately: bool, force: bool) -> Self {
        let before = Holds { old: true, new: false };
        Self {
            facts: Facts { immediately, force, ..facts(RotationState::Proposed) },
            desired: before,
            servers: [(true, before); 3],
            signs: Some(false),
            under_new: 0,
        }
    }

    fn spread(&self) -> Spread {
        let lacking = |live: bool| {
            let names = self.servers.iter().enumerate().filter(|(_, s)| s.0 == live && s.1 != self.desired);
            names.map(|(index, _)| format!("n{index}")).collect()
        };
        Spread { live: self.servers.iter().filter(|s| s.0).count(), lagging: lacking(true), away: lacking(false) }
    }

    fn take_out(&mut self) {
        self.desired.old = false;
        self.facts.under_old.count = 0;
        if self.signs == Some(false) {
            self.signs = None;
        }
    }

    fn step(&mut self, event: &Happens) {
        let state = self.facts.state;
        match event {
            Happens::Approved if state == RotationState::Proposed => {
                self.facts.state = RotationState::Pending;
                self.desired.new = true;
                if self.facts.immediately {
                    self.take_out();
                }
            }
            Happens::Hours(hours) => self.facts.now += TimeDelta::hours(*hours),
            Happens::Runs(index) if self.servers[*index].0 => self.servers[*index].1 = self.desired,
            Happens::Goes(index) => self.servers[*index].0 = false,
            Happens::Comes(index) => self.servers[*index].0 = true,
            Happens::Issued => match self.signs {
                Some(true) => self.under_new += 1,
                Some(false) => self.facts.under_old.count += 1,
                None => {}
            },
            Happens::Rotated if self.signs == Some(true) && self.facts.under_old.count > 0 => {
                self.facts.under_old.count -= 1;
                self.under_new += 1;
            }
            Happens::Hastened if state == RotationState::Pending && !self.facts.immediately => {
                self.facts.immediately = true;
                self.take_out();
            }
            Happens::Hastened if state == RotationState::Retiring => {
                self.facts.state = RotationState::Removing;
                self.take_out();
            }
            Happens::Deleted => self.facts.pointless = true,
            Happens::Look => self.look(),
            _ => {}
        }
    }

    fn look(&mut self) {
        self.facts.spread = self.spread();
        match decide(&self.facts) {
            Step::Activate => {
                assert!(self.servers.iter().all(|(live, holds)| !live || holds.new), "a live server lacks the new key");
                assert_eq!(self.facts.state, RotationState::Pending);
                self.signs = Some(true);
                self.facts.retire_after = Some(self.facts.now + TimeDelta::hours(24));
                self.facts.state =
                    if self.facts.immediately { RotationState::Removing } else { RotationState::Retiring };
            }
            Step::Remove => {
                assert_eq!(self.facts.state, RotationState::Retiring);
                assert!(self.facts.retire_after.unwrap() <= self.facts.now, "within the grace time");
                assert!(self.facts.force || self.facts.under_old.count == 0, "users were left");
                self.facts.state = RotationState::Removing;
                self.take_out();
            }
            Step::Finish => {
                assert!(self.servers.iter().all(|(_, holds)| !holds.old), "a server still has the old key");
                assert_eq!((self.facts.state, self.signs), (RotationState::Removing, Some(true)));
                self.facts.state = RotationState::Done;
            }
            Step::Abandon => self.facts.state = RotationState::Cancelled,
            Step::Wait(wait) => assert!(!wait.to_string().is_empty()),
            Step::Over => assert!(self.facts.state.is_over()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_any_order_nobody_is_refused_and_it_ends(
        events in prop::collection::vec(happens(), 0..80), immediately: bool, force: bool,
    ) {
        let mut world = World::new(immediately, force);
        for event in &events {
            world.step(event);
            // What the ledger still counts under the old key is let in everywhere.
            if world.facts.under_old.count > 0 && !world.facts.pointless {
                prop_assert!(world.servers.iter().all(|(_, holds)| holds.old));
            }
            prop_assert!(world.desired.old || world.desired.new);
        }
        // Left alone, with every server up and every credential rotated, it ends.
        for _ in 0..4 {
            world.step(&Happens::Approved);
            for index in 0..3 {
                world.step(&Happens::Comes(index));
                world.step(&Happens::Runs(index));
            }
            while world.signs == Some(true) && world.facts.under_old.count > 0 {
                world.step(&Happens::Rotated);
            }
            world.step(&Happens::Look);
            world.step(&Happens::Hours(30));
        }
        prop_assert!(world.facts.state.is_over(), "{:?}", world.facts);
    }
}
