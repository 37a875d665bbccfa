//! Two replicas of the service on one database and one cluster: one hangs, or dies.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::Client;
use futures::{StreamExt, stream};
use nats_authority::{
    dev::process::Signal,
    jwt::envelope::read_unverified,
    nkey::{Account, PublicKey},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use super::{
    audit::{Scene, generations_increase},
    load::{BASE, Load, prepare},
};
use crate::support::{
    http::Http,
    knobs::{seed, sized},
    site::Site,
    stack::{arrived, eventually},
};

/// Issue times of each account's JWTs, in the order in which they were pushed.
type Pushed = BTreeMap<PublicKey<Account>, Vec<i64>>;

/// Sees every JWT that anybody pushes, in order.
struct Spy(Arc<Mutex<(Pushed, Instant)>>);

impl Spy {
    async fn new(client: &Client) -> Self {
        let seen = Arc::new(Mutex::new((Pushed::new(), Instant::now())));
        let mut updates = client.subscribe("$SYS.REQ.ACCOUNT.*.CLAIMS.UPDATE").await.unwrap();
        arrived(client, "nobody").await;
        let notes = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Some(message) = updates.next().await {
                let claims = read_unverified(std::str::from_utf8(&message.payload).unwrap()).unwrap().claims;
                let account = claims["sub"].as_str().unwrap().parse().unwrap();
                let mut notes = notes.lock().unwrap();
                notes.0.entry(account).or_default().push(claims["iat"].as_i64().unwrap());
                notes.1 = Instant::now();
            }
        });
        Self(seen)
    }

    fn pushed(&self) -> Pushed {
        self.0.lock().unwrap().0.clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().0.values().map(Vec::len).sum()
    }

    /// For how long nothing was pushed.
    fn quiet(&self) -> Duration {
        self.0.lock().unwrap().1.elapsed()
    }
}

/// The accounts of which an older JWT was pushed after a newer one.
fn backward(pushed: &Pushed) -> Vec<(&PublicKey<Account>, &Vec<i64>)> {
    pushed.iter().filter(|(_, iats)| iats.windows(2).any(|pair| pair[1] < pair[0])).collect()
}

/// Changes every account.
async fn change(http: &Http, orgs: usize, conn: usize) {
    let changes = (0..orgs).map(|number| async move {
        let body = json!({"limits": {"conn": conn}});
        let (status, answer) = http.send(Method::PATCH, &format!("/api/v1/orgs/org-{number}"), Some(body)).await;
        assert_eq!(status, 200, "{answer}");
    });
    stream::iter(changes).buffer_unordered(16).collect::<Vec<()>>().await;
}

async fn nothing_due(http: &Http) {
    eventually("nothing is due", || async { http.get("/api/v1/resolver").await.1["accounts"]["due"] == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hung_pushes_nothing_old() {
    // More than are pushed at once.
    const ORGS: usize = 300;
    let mut site = Site::start_knowing(3, 2, 1).await;
    let (first, second) = (Arc::clone(&site.replicas[0].http), Arc::clone(&site.replicas[1].http));
    let onboard = (0..ORGS).map(|number| first.post("/api/v1/orgs", json!({"slug": format!("org-{number}")})));
    stream::iter(onboard).buffer_unordered(16).for_each(async |(status, org)| assert_eq!(status, 201, "{org}")).await;
    nothing_due(&first).await;
    let spy = Spy::new(&site.system_client().await).await;
    let mut database = PgConnection::connect(site.database.url()).await.unwrap();

    // The first replica alone, with a server that does not answer: it has claimed more than it pushes.
    // All become due at once: accounts that change one after the other are claimed in any portions.
    site.replicas[1].signal(Signal::STOP);
    site.cluster.signal_server(2, Signal::STOP).unwrap();
    sqlx::query("UPDATE accounts SET due_at = now()").execute(&mut database).await.unwrap();
    eventually("it waits in the middle of its work", || async {
        let count = spy.count();
        (128..ORGS).contains(&count) && spy.quiet() > Duration::from_millis(300)
    })
    .await;
    site.replicas[0].signal(Signal::STOP);
    let before = spy.count();

    // The other one changes all accounts and brings them everywhere.
    site.cluster.signal_server(2, Signal::CONT).unwrap();
    site.replicas[1].signal(Signal::CONT);
    change(&second, ORGS, 60).await;
    nothing_due(&second).await;
    println!(
        "{before} of {ORGS} were pushed when the first replica was stopped, {} by the second",
        spy.count() - before
    );
    assert_eq!(backward(&spy.pushed()), []);

    // The first goes on where it was, and then with something new.
    site.replicas[1].signal(Signal::STOP);
    site.replicas[0].signal(Signal::CONT);
    let (status, org) = first.post("/api/v1/orgs", json!({"slug": "marker"})).await;
    assert_eq!(status, 201, "{org}");
    first.converged("marker").await;
    site.replicas[1].signal(Signal::CONT);
    assert_eq!(backward(&spy.pushed()), [], "an older JWT was pushed over a newer one");
    nothing_due(&second).await;
    generations_increase(&mut database).await;
    Scene::of_site(&site).servers_store_the_ledger(&mut database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn either_replica_may_hang_or_die_under_load() {
    let (rounds, clients, seed) = (sized(3, 20), sized(32, 64), seed());
    println!("{rounds} rounds under {clients} clients, CHAOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut site = Site::start(3, 2).await;
    prepare(site.http()).await;
    let spy = Spy::new(&site.system_client().await).await;
    let load = Load::start(&site.https(), clients, seed);
    load.revokes().await;
    for round in 0..rounds {
        load.works(rng.random_range(1..100)).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..500))).await;
        let replica = rng.random_range(0..2);
        if round % 3 == 2 {
            site.replicas[replica].kill().await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1000))).await;
            site.replicas[replica].spawn();
            site.replicas[replica].ready(3).await;
        } else {
            site.replicas[replica].signal(Signal::STOP);
            // Every few rounds longer than any lease lasts.
            let longest = if round % 5 == 4 { 12_000 } else { 3_000 };
            tokio::time::sleep(Duration::from_millis(rng.random_range(200..longest))).await;
            site.replicas[replica].signal(Signal::CONT);
        }
    }
    let told = load.stop().await;
    println!("{} answered, {} unanswered, {} told to try again", told.answered, told.unanswered, told.try_again);
    Scene::of_site(&site).check(&told, sized(60, 600), seed).await;
    let pushed = spy.pushed();
    assert!(spy.count() > BASE, "pushes are seen");
    println!(
        "{} pushes, {} of an older JWT over a newer one, and then again of the newer",
        spy.count(),
        backward(&pushed).len()
    );
    for (account, iats) in pushed {
        assert_eq!(iats.last(), iats.iter().max(), "{account}: the newest came last");
    }
}
