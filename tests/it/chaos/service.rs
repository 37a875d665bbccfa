//! The service killed with -9 at random moments under load.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{
    audit::Scene,
    load::{Load, prepare},
};
use crate::support::{
    knobs::{seed, sized},
    site::Site,
};

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_stays_true_when_the_service_is_killed() {
    let (kills, clients, seed) = (sized(3, 30), 64, seed());
    println!("{kills} kills under {clients} clients, CHAOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = Site::start(3, 1).await;
    prepare(site.http()).await;
    let load = Load::start(&site.https(), clients, seed);
    let mut slowest = Duration::ZERO;
    load.revokes().await;
    for _ in 0..kills {
        load.works(rng.random_range(1..100)).await;
        // Not only where an answer has just gone out.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        site.replicas[0].kill().await;
        let started = Instant::now();
        site.replicas[0].spawn();
        site.replicas[0].ready(3).await;
        slowest = slowest.max(started.elapsed());
    }
    let told = load.stop().await;
    println!(
        "{} answered, {} unanswered, {} told to try again; ready again after {slowest:?} at most",
        told.answered, told.unanswered, told.try_again
    );
    assert!(told.unanswered >= kills, "the kills were noticed");
    Scene::of_site(&site).check(&told, sized(60, 600), seed).await;
}
