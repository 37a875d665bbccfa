use super::*;
use crate::{entropy::SystemEntropy, nkey::KeyPair, resolver::ServerAnswer, resolver::ServerRef};

const OURS: &str = "the.pushed.token";

fn due() -> DueAccount {
    DueAccount {
        account: KeyPair::<Account>::generate(&SystemEntropy::new()).public(),
        generation: 7,
        jwt: OURS.to_owned(),
        tombstone: false,
        attempts: 1,
        rewrite: false,
        lease: DateTime::UNIX_EPOCH,
    }
}

fn running(jwt: &str, complete: bool) -> Effective {
    Effective::Running { jwt: jwt.to_owned(), complete, expired: false }
}

/// What is recorded of server n1 with id N1 when it answered `result` to the push and `id` says that it runs `effective`.
fn judged(result: StoreResult, id: &str, effective: Effective) -> Vec<AccountServer> {
    let due = due();
    let answer = ServerAnswer { name: "n1".to_owned(), id: "N1".to_owned(), result };
    let outcome = PushOutcome { account: due.account, per_server: vec![answer] };
    let server = ServerRef { name: "n1".to_owned(), id: id.to_owned() };
    judge(&due, &outcome, &[EffectiveAnswer { server, effective }])
}

#[test]
fn what_a_server_answered_and_what_it_runs_make_one_record() {
    let stored = || StoreResult::Stored;
    let refused = || StoreResult::Refused("no room".to_owned());
    let table = [
        (stored(), "N1", running(OURS, true), (7, Some(7), None)),
        (stored(), "N1", Effective::NotLoaded, (7, None, None)),
        (stored(), "N1", running("an.older.token", true), (7, Some(6), Some("another JWT"))),
        (stored(), "N1", running(OURS, false), (7, Some(7), Some("incomplete"))),
        (stored(), "N1", Effective::Failed("too busy".to_owned()), (7, None, Some("too busy"))),
        (stored(), "N1", Effective::NoAnswer, (7, None, Some("did not say"))),
        // It restarted in between: whoever says so now is another process, and what that runs counts for nothing.
        (stored(), "N2", running(OURS, true), (7, None, Some("did not say"))),
        (stored(), "N2", Effective::NotLoaded, (7, None, Some("did not say"))),
        (refused(), "N1", running("an.older.token", true), (0, Some(6), Some("no room"))),
    ];
    for (result, id, effective, (stored, runs, error)) in table {
        let case = format!("{result:?} {id} {effective:?}");
        let servers = judged(result, id, effective);
        let [server] = servers.as_slice() else { panic!("{case}: {servers:?}") };
        assert_eq!((server.server_id.as_str(), server.stored, server.effective), ("N1", stored, runs), "{case}");
        assert_eq!(server.error.is_some(), error.is_some(), "{case}: {:?}", server.error);
        let words = server.error.as_deref().unwrap_or_default();
        assert!(words.contains(error.unwrap_or_default()), "{case}: {words}");
    }
    assert_eq!(judged(StoreResult::NoAnswer, "N1", running(OURS, true)), [], "of who did not answer nothing is known");
}

#[test]
fn what_a_server_took_and_does_not_run_is_told_otherwise() {
    let table = [
        (StoreResult::Stored, running(OURS, true), false),
        (StoreResult::Stored, Effective::NotLoaded, false),
        (StoreResult::Stored, Effective::NoAnswer, false),
        (StoreResult::Stored, Effective::Failed("too busy".to_owned()), false),
        (StoreResult::Stored, running(OURS, false), true),
        // It loaded what it had stored before, while it stored this one.
        (StoreResult::Stored, running("an.older.token", true), true),
        // It has not got this one: to be sent it again is what it needs.
        (StoreResult::Refused("no room".to_owned()), running("an.older.token", true), false),
    ];
    for (result, effective, told) in table {
        let case = format!("{result:?} {effective:?}");
        assert_eq!(is_taken_in_vain(&judged(result, "N1", effective)), told, "{case}");
    }
}

#[test]
fn a_push_is_settled_when_every_live_server_has_it_and_says_nothing_against_it() {
    let good = judged(StoreResult::Stored, "N1", running(OURS, true));
    let bad = judged(StoreResult::Stored, "N1", running(OURS, false));
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert!(is_settled(&good, &names(&["n1"])));
    assert!(!is_settled(&bad, &names(&["n1"])));
    assert!(!is_settled(&good, &names(&["n1", "n2"])), "n2 said nothing");
    assert!(!is_settled(&good, &[]), "nobody is there");
}

#[test]
fn all_that_servers_have_loaded_is_asked_for_where_that_is_less_to_say() {
    let loaded = |counts: &[Option<usize>]| -> Vec<Loaded> {
        let accounts = |count: usize| (0..count).map(|_| due().account).collect();
        let loaded = |count: &Option<usize>| Loaded { server: ServerRef::default(), accounts: count.map(accounts) };
        counts.iter().map(loaded).collect()
    };
    assert_eq!(most_loaded(&loaded(&[Some(3), None, Some(7)])), 7);
    assert_eq!(most_loaded(&loaded(&[None, None])), LOADED, "nobody said");

    // Of a single account there is nothing to be saved.
    assert!(one_by_one(1, 0) && one_by_one(1, 100_000));
    assert!(!one_by_one(2, 100), "two answers are longer than a hundred names");
    assert!(one_by_one(150, 10_000) && !one_by_one(160, 10_000));
    assert!(one_by_one(16, LOADED) && !one_by_one(17, LOADED), "before anybody was asked");
}
