//! What has to be true once everything is quiet: of the database, of the servers, and of every answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use futures::{StreamExt, stream};
use nats_authority::jwt;
use rand::{SeedableRng, rngs::StdRng, seq::IteratorRandom};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, Row};

use super::load::{Credential, Fate, Told};
use crate::support::{
    deployment::{Deployment, connect},
    http::Http,
    site::Site,
    stack::eventually,
};

/// Where to look.
pub struct Scene<'a> {
    pub http: &'a Http,
    pub database_url: &'a str,
    /// URL and resolver folder of each server.
    pub servers: Vec<(String, PathBuf)>,
}

impl<'a> Scene<'a> {
    pub fn of_site(site: &'a Site) -> Self {
        let servers = site.cluster.servers().iter().map(|server| (server.url(), server.resolver_dir()));
        Self { http: site.http(), database_url: site.database.url(), servers: servers.collect() }
    }

    pub fn of_deployment(dev: &'a Deployment) -> Self {
        let count = dev.stack["servers"].as_array().unwrap().len();
        let servers = (0..count).map(|index| {
            let config = Path::new(dev.text(&format!("/servers/{index}/config")));
            (dev.text(&format!("/servers/{index}/url")).to_owned(), config.parent().unwrap().join("jwt"))
        });
        Self { http: &dev.http, database_url: dev.text("/databaseUrl"), servers: servers.collect() }
    }

    /// Waits until the service says that every server has everything, and checks all that has to hold.
    /// Of the credentials, `sample` in each state are tried on servers.
    pub async fn check(&self, told: &Told, sample: usize, seed: u64) {
        eventually("everything has converged", || async {
            let (_, status) = self.http.get("/api/v1/resolver").await;
            status["accounts"]["due"] == 0
        })
        .await;
        let mut database = PgConnection::connect(self.database_url).await.unwrap();
        answers_are_true(&mut database, told).await;
        nothing_is_without_its_record(&mut database).await;
        generations_increase(&mut database).await;
        keys_are_in_accounts(&mut database).await;
        self.servers_store_the_ledger(&mut database).await;
        self.servers_obey(told, sample, seed).await;
    }

    /// Every server has, byte for byte, the accounts of the ledger and no others.
    pub async fn servers_store_the_ledger(&self, database: &mut PgConnection) {
        let rows = sqlx::query("SELECT account_key, jwt FROM accounts WHERE state <> 'deleted' AND jwt IS NOT NULL");
        let rows = rows.fetch_all(database).await.unwrap();
        let wanted: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for (url, dir) in &self.servers {
            let stored = stored(dir);
            let differ: Vec<_> = wanted.iter().filter(|(key, jwt)| stored.get(*key) != Some(jwt)).collect();
            assert!(differ.is_empty(), "{url} differs in {} of {} accounts", differ.len(), wanted.len());
            assert_eq!(stored.len(), wanted.len(), "{url} has others");
        }
    }

    async fn servers_obey(&self, told: &Told, sample: usize, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        for (fates, works) in [(&[Fate::Live, Fate::Superseded][..], true), (&[Fate::Revoked][..], false)] {
            let of = told.credentials.values().filter(|credential| fates.contains(&credential.fate));
            let tried: Vec<&Credential> = of.choose_multiple(&mut rng, sample);
            let servers = self.servers.iter().map(|(url, _)| url).cycle();
            let attempts = tried.iter().zip(servers).map(|(credential, url)| async move {
                let connected = connect(url, &credential.issued).await;
                assert_eq!(connected.is_ok(), works, "{fates:?} on {url}: {:?}", credential.issued["credential"]);
            });
            let count = tried.len();
            stream::iter(attempts).buffer_unordered(16).collect::<Vec<()>>().await;
            println!("{count} credentials {} on servers", if works { "work" } else { "are refused" });
            assert!(count > 0, "none was {fates:?}");
        }
    }
}

/// What a server stores, by account, read from its disk.
pub fn stored(dir: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let jwts = files.filter(|path| path.extension().is_some_and(|extension| extension == "jwt"));
    jwts.map(|path| {
        let key = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (key, std::fs::read_to_string(path).unwrap())
    })
    .collect()
}

/// What clients were told stands in the database.
async fn answers_are_true(database: &mut PgConnection, told: &Told) {
    let rows = sqlx::query("SELECT slug, account_key FROM organizations WHERE state = 'active'");
    let rows = rows.fetch_all(&mut *database).await.unwrap();
    let orgs: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    for (slug, account) in &told.orgs {
        assert_eq!(orgs.get(slug), Some(account), "{slug} was onboarded");
    }
    let rows =
        sqlx::query("SELECT id::text, jwt_sha256, revoked_at IS NOT NULL, superseded_at IS NOT NULL FROM credentials");
    let rows = rows.fetch_all(&mut *database).await.unwrap();
    let recorded: BTreeMap<String, (Vec<u8>, bool, bool)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3)))).collect();
    let mut replaced = BTreeSet::new();
    for (id, credential) in &told.credentials {
        let Some((sha256, revoked, superseded)) = recorded.get(id) else { panic!("{id} was issued") };
        let jwt = credential.issued["jwt"].as_str().unwrap();
        assert_eq!(sha256[..], Sha256::digest(jwt)[..], "{id}");
        match credential.fate {
            Fate::Live => assert!(!revoked && !superseded, "{id} was neither rotated nor revoked"),
            Fate::Superseded => assert!(!revoked, "{id} was not revoked"),
            Fate::Revoked => assert!(revoked, "{id} was revoked"),
            Fate::Unsure => {}
        }
        replaced.extend(credential.issued["credential"]["replaces"].as_str());
    }
    for id in &replaced {
        assert!(recorded[*id].2, "{id} was rotated");
    }
    println!(
        "{} organizations, {} credentials, {} rotations, {} revocations were answered and are true; {} recorded",
        told.orgs.len(),
        told.credentials.len(),
        replaced.len(),
        told.with(Fate::Revoked).len(),
        recorded.len()
    );
}

/// Changes and audit events belong to each other, one to one.
async fn nothing_is_without_its_record(database: &mut PgConnection) {
    let queries = [
        (
            "credentials without their event",
            "SELECT count(*) FROM credentials c LEFT JOIN audit_events a ON a.id = c.audit_event
                 AND (a.action, a.target) IN (('credential.issue', c.id::text), ('credential.rotate', c.replaces::text))
                 WHERE a.id IS NULL",
        ),
        (
            "events of credentials that do not exist",
            "SELECT count(*) FROM audit_events a LEFT JOIN credentials c ON c.audit_event = a.id
                 WHERE a.action IN ('credential.issue', 'credential.rotate') AND c.id IS NULL",
        ),
        (
            "revocations without their event, or with several",
            "SELECT count(*) FROM credentials c WHERE c.revoked_at IS NOT NULL AND 1 <>
                 (SELECT count(*) FROM audit_events a WHERE a.action = 'credential.revoke' AND a.target = c.id::text)",
        ),
        (
            "events of revocations that did not happen",
            "SELECT count(*) FROM audit_events a JOIN credentials c ON c.id::text = a.target
                 WHERE a.action = 'credential.revoke' AND c.revoked_at IS NULL",
        ),
        (
            "organizations without their event, or with several",
            "SELECT count(*) FROM organizations o WHERE 1 <>
                 (SELECT count(*) FROM audit_events a WHERE a.action = 'organization.onboard' AND a.target = o.slug)",
        ),
        (
            "events of organizations that do not exist",
            "SELECT count(*) FROM audit_events a LEFT JOIN organizations o ON o.slug = a.target
                 WHERE a.action = 'organization.onboard' AND o.id IS NULL",
        ),
    ];
    for (what, query) in queries {
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut *database).await.unwrap();
        assert_eq!(count, 0, "{what}");
    }
}

/// Resolvers keep the newer of two JWTs by issue time: it increases with the generation, and no
/// generation is left out or there twice.
pub async fn generations_increase(database: &mut PgConnection) {
    let rows = sqlx::query("SELECT account_key, generation, iat FROM account_generations ORDER BY 1, 2");
    let mut accounts: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for row in &rows.fetch_all(database).await.unwrap() {
        accounts.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    for (account, generations) in accounts {
        assert!(generations.iter().zip(1..).all(|((generation, _), expected)| *generation == expected), "{account}");
        assert!(generations.windows(2).all(|pair| pair[0].1 < pair[1].1), "{account}: {generations:?}");
    }
}

/// The issuer of every credential that may be used is a key of its account's present JWT.
async fn keys_are_in_accounts(database: &mut PgConnection) {
    let rows = sqlx::query(
        "SELECT a.jwt, array_agg(DISTINCT c.issuer_key) FROM credentials c
         JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
         JOIN accounts a ON a.account_key = o.account_key WHERE c.revoked_at IS NULL GROUP BY a.jwt",
    );
    let rows = rows.fetch_all(database).await.unwrap();
    assert!(!rows.is_empty());
    for row in &rows {
        let claims = jwt::decode::<jwt::Account>(row.get(0)).unwrap().claims;
        let named: BTreeSet<_> = claims.nats.signing_keys.0.keys().map(ToString::to_string).collect();
        let needed: Vec<String> = row.get(1);
        assert!(needed.iter().all(|key| named.contains(key)), "{} lacks a key", claims.subject);
    }
}
