//! Random schedules on a simulated cluster: every one that ends in quiet ends with every server storing
//! and running what the ledger says, and with nothing more sent.
//!
//! `CHAOS_SCHEDULES` says how many (2,000), `CHAOS_SEED` where to begin; what fails is shrunk and printed
//! with its seed.
//!
//! A target of its own, so that it can be optimized for very many schedules without the tests that need real parts.
//! That real servers do the same as simulated ones is tested there, in `tests/it/simulation.rs`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shows the seed")]

mod cluster;
mod driver;
#[expect(dead_code, reason = "shared with the tests that need real parts")]
#[path = "../it/support/knobs.rs"]
mod knobs;
mod ledger;
mod schedule;

use driver::{Bug, run};
use knobs::number;
use schedule::{Disk, Event, schedule};

/// Leaves out events as long as it still fails.
fn shrink(seed: u64, nodes: usize, mut events: Vec<Event>) -> Vec<Event> {
    let mut index = 0;
    while index < events.len() {
        let mut fewer = events.clone();
        fewer.remove(index);
        if run(seed, nodes, &fewer, None).is_err() {
            events = fewer;
            index = 0;
        } else {
            index += 1;
        }
    }
    events
}

#[test]
fn every_schedule_that_ends_in_quiet_converges() {
    let (count, first) = (number("CHAOS_SCHEDULES", 2_000), number("CHAOS_SEED", 1));
    println!("{count} schedules from seed {first}");
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (first + thread..first + count).step_by(usize::try_from(threads).unwrap()) {
                    let (nodes, events) = schedule(seed);
                    if let Err(words) = run(seed, nodes, &events, None) {
                        let events = shrink(seed, nodes, events);
                        let again = run(seed, nodes, &events, None);
                        panic!("CHAOS_SEED={seed}, {nodes} nodes: {words}; shrunk: {events:#?}: {again:?}");
                    }
                }
            });
        }
    });
}

#[test]
fn every_mistake_is_noticed() {
    for bug in
        [Bug::NoTombstones, Bug::IatNotIncreasing, Bug::TrustFirstReply, Bug::PackForAll, Bug::RepushWithoutComparison]
    {
        let caught = (1..2_000).find_map(|seed| {
            let (nodes, events) = schedule(seed);
            run(seed, nodes, &events, Some(bug)).err().map(|words| (seed, words))
        });
        let (seed, words) = caught.unwrap_or_else(|| panic!("{bug:?} was not noticed"));
        println!("{bug:?}: noticed by schedule {seed}: {words}");
    }
}

/// Two nodes; with a seed like these the second is in another cluster.
fn across_a_gateway(seed: u64, events: &[Event]) {
    run(3 * seed, 2, events, None).unwrap_or_else(|words| panic!("seed {}: {words}", 3 * seed));
}

#[test]
fn a_deleted_account_that_a_far_server_brings_back_is_deleted_again() {
    let delete = [Event::Delete(0), Event::Push, Event::Crash(1), Event::Start(1, Disk::Backup)];
    for seed in 1..20 {
        across_a_gateway(seed, &[&[Event::Change(0), Event::Push, Event::Backup(1)][..], &delete].concat());
    }
}

#[test]
fn a_far_server_is_right_only_where_it_was_heard() {
    let away = [Event::Change(0), Event::Push, Event::Check, Event::Cut(1), Event::Change(0), Event::Push];
    let back = [Event::Check, Event::Lossy(true), Event::Heal(1), Event::Check, Event::Check, Event::Check];
    for seed in 1..200 {
        across_a_gateway(seed, &[&away[..], &back].concat());
    }
}
