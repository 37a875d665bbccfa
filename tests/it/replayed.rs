//! An old account JWT that somebody puts back is out again within moments, with the settings of production, where
//! servers are compared with the ledger every half minute only.

#![expect(clippy::print_stdout, reason = "shows the times that were measured")]

use std::time::Duration;

use async_nats::Client;
use nats_authority::{
    entropy::SystemEntropy,
    nkey::{Account, KeyPair},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;

use crate::{
    chaos::audit::stored,
    support::{deployment::connect, site::Site, stack::eventually},
};

/// Far less than the tick, and enough for a busy machine.
const SOON: Duration = Duration::from_secs(8);

struct Scene {
    site: Site,
    /// Somebody with a user of the system account.
    intruder: Client,
    database: PgConnection,
    account: String,
    revoked: Value,
}

impl Scene {
    /// An organization with a revoked user, everywhere.
    async fn start() -> Self {
        let site = Site::start(3, 1).await;
        let http = site.http();
        let account = http.onboard("acme", &["prod"]).await["accountId"].as_str().unwrap().to_owned();
        let revoked = http.issue("acme", "prod", json!({"name": "p", "role": "publisher"})).await;
        let path = format!("/api/v1/credentials/{}/revoke", revoked["credential"]["id"].as_str().unwrap());
        let (status, answer) = http.send_and_wait(Method::POST, &path, None).await;
        assert_eq!(status, 200, "{answer}");
        http.converged("acme").await;
        let intruder = site.system_client().await;
        let database = PgConnection::connect(site.database.url()).await.unwrap();
        Self { site, intruder, database, account, revoked }
    }

    async fn jwt(&mut self, order: &str) -> String {
        let sql =
            format!("SELECT jwt FROM account_generations WHERE account_key = $1 ORDER BY generation {order} LIMIT 1");
        sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).bind(&self.account).fetch_one(&mut self.database).await.unwrap()
    }

    fn stored_everywhere(&self, jwt: &str) -> bool {
        let servers = self.site.cluster.servers();
        servers.iter().all(|server| stored(&server.resolver_dir()).get(&self.account).is_some_and(|has| has == jwt))
    }

    /// How often the audit log says that an old one was put back.
    async fn noticed(&mut self) -> i64 {
        let sql = "SELECT count(*) FROM audit_events WHERE action = 'account.replayed-jwt'";
        sqlx::query_scalar(sql).fetch_one(&mut self.database).await.unwrap()
    }

    async fn refused_everywhere(&self) -> bool {
        for url in self.site.cluster.urls() {
            if connect(&url, &self.revoked).await.is_ok() {
                return false;
            }
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_jwt_is_out_again_long_before_the_tick_and_under_a_flood() {
    let mut scene = Scene::start().await;
    let (old, present) = (scene.jwt("ASC").await, scene.jwt("DESC").await);
    assert!(scene.refused_everywhere().await);
    // Servers listen to three subjects.
    let subjects = [
        format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", scene.account),
        format!("$SYS.ACCOUNT.{}.CLAIMS.UPDATE", scene.account),
        "$SYS.REQ.CLAIMS.UPDATE".to_owned(),
    ];
    for (subject, times) in subjects.iter().zip(1..) {
        let start = Instant::now();
        scene.intruder.request(subject.clone(), old.clone().into()).await.unwrap();
        while scene.noticed().await < times {
            assert!(start.elapsed() < SOON, "{subject}: not noticed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        eventually("the present one is everywhere", || async { scene.stored_everywhere(&present) }).await;
        eventually("refused", || scene.refused_everywhere()).await;
        println!("{subject}: out again after {:?}", start.elapsed());
        assert!(start.elapsed() < SOON, "{subject}: {:?}", start.elapsed());
    }
    flooded(&mut scene, &old, &present).await;
}

/// Old ones of an account and of accounts that nobody knows, as fast as they can be sent.
async fn flooded(scene: &mut Scene, old: &str, present: &str) {
    let before = scene.noticed().await;
    let start = Instant::now();
    let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", scene.account);
    let unknown: Vec<_> = (0..500).map(|_| KeyPair::<Account>::generate(&SystemEntropy::new()).public()).collect();
    for _ in 0..2 {
        for account in &unknown {
            scene.intruder.publish(subject.clone(), old.to_owned().into()).await.unwrap();
            let other = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.UPDATE");
            scene.intruder.publish(other, old.to_owned().into()).await.unwrap();
        }
        scene.intruder.flush().await.unwrap();
    }
    let sent = start.elapsed();
    eventually("the present one is everywhere", || async { scene.stored_everywhere(present) }).await;
    eventually("refused", || scene.refused_everywhere()).await;
    let took = start.elapsed();
    let (status, _) = scene.site.http().get("/readyz").await;
    assert_eq!(status, 200);
    let noticed = scene.noticed().await - before;
    println!("2,000 pushes in {sent:?}: noticed {noticed} times, out again after {took:?}");
    assert!(noticed > 0 && noticed < 10 + 2 * i64::try_from(took.as_secs()).unwrap(), "{noticed}");
    assert!(took < sent + 2 * SOON, "{took:?}");
}
