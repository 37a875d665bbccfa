//! The service is killed in the middle of signing every account again with the operator's new key.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio::time::Instant;

use super::audit::{Scene as Audit, generations_increase};
use crate::{
    operator_rotation_live::{Logins, Scene},
    support::{
        http::Http,
        knobs::{seed, sized},
        site::Site,
        stack::eventually,
    },
};

/// So many of the organizations have users who log in all the time.
const WITH_USERS: usize = 8;

/// Where the service stands still, in the middle of a transaction: the database itself holds it there until the test
/// lets it go, by locks of its own.
struct Holds {
    database: PgConnection,
}

impl Holds {
    /// Holds whoever signs one of `accounts` again.
    async fn new(url: &str, accounts: &[&String]) -> Self {
        let mut database = PgConnection::connect(url).await.unwrap();
        for statement in [
            "CREATE TABLE held (account text PRIMARY KEY, number int NOT NULL)",
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 PERFORM pg_advisory_xact_lock_shared(77, number) FROM held WHERE account = NEW.account_key;
                 RETURN NEW;
             END $$",
            "CREATE TRIGGER hold BEFORE INSERT ON account_generations FOR EACH ROW EXECUTE FUNCTION hold()",
        ] {
            sqlx::query(statement).execute(&mut database).await.unwrap();
        }
        for (account, number) in accounts.iter().zip(0_i32..) {
            sqlx::query("SELECT pg_advisory_lock(77, $1)").bind(number).execute(&mut database).await.unwrap();
            let insert = sqlx::query("INSERT INTO held VALUES ($1, $2)").bind(account).bind(number);
            insert.execute(&mut database).await.unwrap();
        }
        Self { database }
    }

    /// Somebody stands at this one.
    async fn stands_at(&mut self, number: i32) -> bool {
        let sql = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = 77
            AND objid = $1::int::oid AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";
        sqlx::query_scalar(sql).bind(number).fetch_one(&mut self.database).await.unwrap()
    }

    async fn let_go(&mut self, number: i32) {
        sqlx::query("SELECT pg_advisory_unlock(77, $1)").bind(number).execute(&mut self.database).await.unwrap();
    }
}

/// Of every account how many generations each key has signed.
async fn generations(database: &mut PgConnection) -> BTreeMap<String, BTreeMap<String, i64>> {
    let sql = "SELECT account_key, signed_by, count(*) FROM account_generations GROUP BY 1, 2";
    let mut accounts: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
    for row in sqlx::query(sql).fetch_all(database).await.unwrap() {
        accounts.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
    }
    accounts
}

/// How many accounts the new key has signed.
async fn signed(database: &mut PgConnection, key: &str) -> i64 {
    let sql = "SELECT count(*) FROM accounts WHERE signed_by = $1";
    sqlx::query_scalar(sql).bind(key).fetch_one(database).await.unwrap()
}

async fn onboard(http: &Http, orgs: usize) {
    let onboard = (0..orgs).map(|number| {
        let environments: &[&str] = if number < WITH_USERS { &["prod"] } else { &[] };
        http.post("/api/v1/orgs", json!({"slug": format!("org-{number}"), "environments": environments}))
    });
    stream::iter(onboard).buffer_unordered(16).for_each(async |(status, org)| assert_eq!(status, 201, "{org}")).await;
    eventually("all are everywhere", || async { http.get("/api/v1/resolver").await.1["accounts"]["due"] == 0 }).await;
}

/// Up to the new key signing: both keys are in the operator JWT, and every server trusts both.
async fn up_to_signing(scene: &mut Scene) -> String {
    scene.approve().await;
    scene.hand_in_operator_jwt("both");
    let new_key = scene.view().await["newKey"].as_str().unwrap().to_owned();
    for index in 0..3 {
        scene.restart(index).await;
    }
    new_key
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_signing_every_account_again() {
    let (orgs, kills, seed) = (sized(400, 4000), sized(3, 12), seed());
    println!("{orgs} organizations, {kills} kills, CHAOS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let site = Site::start(3, 1).await;
    onboard(site.http(), orgs).await;
    let logins = Arc::new(Logins { urls: site.cluster.urls(), ..Logins::default() });
    for number in 0..WITH_USERS {
        let creds = logins.issue(site.http(), &format!("org-{number}"), "first").await.unwrap();
        logins.creds.lock().unwrap().push(creds);
    }
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&logins).come_and_go(seed));

    let mut database = PgConnection::connect(site.database.url()).await.unwrap();
    let before = generations(&mut database).await;
    let accounts: Vec<&String> = before.keys().collect();
    // One account in each part of them: they are signed in the order of their keys.
    let part = accounts.len() / kills;
    let held: Vec<_> = (0..kills).map(|kill| accounts[kill * part + rng.random_range(0..part)]).collect();
    let mut holds = Holds::new(site.database.url(), &held).await;
    let mut scene = Scene::propose(site, &logins).await;
    let new_key = up_to_signing(&mut scene).await;

    for kill in 0..i32::try_from(kills).unwrap() {
        let end = Instant::now() + Duration::from_mins(1);
        while !holds.stands_at(kill).await {
            assert!(Instant::now() < end, "nobody signs, after {kill} kills");
        }
        println!("killed with {} of {} accounts signed", signed(&mut database, &new_key).await, accounts.len());
        scene.site.replicas[0].kill().await;
        // The transaction of the dead one ends before the service starts again, or holds its rows a while longer.
        if rng.random() {
            holds.let_go(kill).await;
            scene.site.replicas[0].spawn();
        } else {
            scene.site.replicas[0].spawn();
            holds.let_go(kill).await;
        }
    }
    scene.site.replicas[0].ready(3).await;
    scene.waits("everything is under the new key", |view| view["needsOperatorJwt"] == true).await;
    signed_once(&mut database, &before, &new_key).await;
    generations_increase(&mut database).await;
    Audit::of_site(&scene.site).servers_store_the_ledger(&mut database).await;
    assert_eq!(scene.stored_signers(), [new_key]);

    scene.hand_in_operator_jwt("without");
    for index in 0..3 {
        scene.restart(index).await;
    }
    scene.waits("it is over", |view| view["state"] == "done").await;
    let all = logins.creds.lock().unwrap().clone();
    for creds in all {
        for server in 0..3 {
            logins.login(&creds, server, "at the end").await;
        }
    }
    logins.stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    println!("{} logins", logins.count.load(Ordering::Relaxed));
    assert_eq!(*logins.refused.lock().unwrap(), Vec::<String>::new());
    assert!(logins.count.load(Ordering::Relaxed) > 100);
}

/// Each account has one generation under the new key and nothing else is new; the audit log says of each who did it.
async fn signed_once(database: &mut PgConnection, before: &BTreeMap<String, BTreeMap<String, i64>>, new_key: &str) {
    let mut expected = before.clone();
    for keys in expected.values_mut() {
        keys.insert(new_key.to_owned(), 1);
    }
    let after = generations(database).await;
    for (account, keys) in &expected {
        assert_eq!(after.get(account), Some(keys), "{account}");
    }
    assert_eq!(after.len(), expected.len());
    // Whoever looks after the platform account may have signed it before, at the start.
    let sql = "SELECT a.detail::text, array_agg(g.account_key ORDER BY g.account_key) FROM account_generations g
        JOIN audit_events a ON a.id = g.audit_event
        WHERE g.signed_by = $1 AND a.action = 'operator-key.resign' GROUP BY a.id";
    let events = sqlx::query(sql).bind(new_key).fetch_all(database).await.unwrap();
    let mut told = 0;
    for event in &events {
        let (detail, signed): (&str, Vec<String>) = (event.get(0), event.get(1));
        let detail: Value = serde_json::from_str(detail).unwrap();
        assert_eq!(detail["accounts"], json!(signed));
        told += signed.len();
    }
    assert!((expected.len() - 1..=expected.len()).contains(&told), "{told} of {} are told", expected.len());
    println!("signed in {} batches", events.len());
}
