//! Many callers at once over HTTP: nothing fails, nothing is lost, every server has everything.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use nats_authority::{
    jwt,
    nkey::{Account, PublicKey},
    resolver::Resolver,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{Connection, PgConnection, Row};

use crate::support::stack::{Stack, eventually};

const ORGS: usize = 200;
/// Those with an environment; making streams takes the cluster longer than everything else here.
const WITH_ENVIRONMENT: usize = 20;
const CREDENTIALS: usize = 2_000;
const REVOKED: usize = 100;
const AT_ONCE: usize = 64;

/// Sends requests, many at a time; fails unless each is answered with `status`.
async fn all<F: Future<Output = (u16, Value)>>(status: u16, requests: impl Iterator<Item = F>) -> Vec<Value> {
    let answers: Vec<_> = stream::iter(requests).buffer_unordered(AT_ONCE).collect().await;
    let answers = answers.into_iter().map(|(answered, body)| {
        assert_eq!(answered, status, "{body}");
        body
    });
    answers.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_organizations_and_thousands_of_credentials() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    let onboard = (0..ORGS).map(|n| {
        let environments: &[&str] = if n < WITH_ENVIRONMENT { &["prod"] } else { &[] };
        http.post("/api/v1/orgs", json!({"slug": format!("org-{n}"), "plan": "s", "environments": environments}))
    });
    let orgs = all(201, onboard).await;
    let http = &http;
    let issue = (0..CREDENTIALS).map(|n| async move {
        let path = format!("/api/v1/orgs/org-{}/envs/prod/credentials", n % WITH_ENVIRONMENT);
        http.post(&path, json!({"name": format!("c{n}"), "role": "publisher"})).await
    });
    let issued = all(201, issue).await;
    // Changes of few accounts by many callers: each mints, most in the same second as others.
    let revoke = issued.iter().take(REVOKED).map(|answer| async move {
        let id = answer["credential"]["id"].as_str().unwrap();
        http.post(&format!("/api/v1/credentials/{id}/revoke"), json!({})).await
    });
    all(200, revoke).await;
    eventually("everything is converged", || async {
        let (_, page) = http.get("/api/v1/orgs?limit=1000").await;
        let orgs = page["items"].as_array().unwrap();
        orgs.len() == ORGS && orgs.iter().all(|org| org["resolver"]["state"] == "converged")
    })
    .await;

    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    credentials_are_recorded(&mut database, &issued).await;
    generations_increase(&mut database).await;
    let accounts: BTreeSet<PublicKey<Account>> =
        orgs.iter().map(|org| org["accountId"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(accounts.len(), ORGS);
    let listings = stack.resolver.list().await.unwrap();
    assert_eq!(listings.len(), 3);
    for listing in listings {
        let stored: BTreeSet<_> = listing.accounts.unwrap().into_iter().collect();
        assert!(stored.is_superset(&accounts), "{} lacks accounts", listing.server.name);
    }
    accounts_name_their_keys(&mut database, &stack, &issued, &accounts).await;
}

/// Each credential that was answered is in the ledger, with the hash of the JWT that left.
async fn credentials_are_recorded(database: &mut PgConnection, issued: &[Value]) {
    let rows = sqlx::query("SELECT id::text, user_key, jwt_sha256 FROM credentials").fetch_all(database).await.unwrap();
    let recorded: BTreeMap<String, (String, Vec<u8>)> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let answered = issued.iter().map(|answer| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let sha256 = Sha256::digest(answer["jwt"].as_str().unwrap()).to_vec();
        (text(&answer["credential"]["id"]), (text(&answer["credential"]["userKey"]), sha256))
    });
    let answered: BTreeMap<_, _> = answered.collect();
    assert_eq!(answered.len(), CREDENTIALS);
    assert!(recorded == answered, "{} recorded, {} answered", recorded.len(), answered.len());
    let users: BTreeSet<_> = recorded.values().map(|(user, _)| user).collect();
    assert_eq!(users.len(), CREDENTIALS);
}

/// Resolvers keep the newer of two JWTs by issue time: it has to increase with the generation.
async fn generations_increase(database: &mut PgConnection) {
    let rows = sqlx::query("SELECT account_key, generation, iat FROM account_generations ORDER BY 1, 2")
        .fetch_all(database)
        .await
        .unwrap();
    let mut accounts: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for row in &rows {
        accounts.entry(row.get(0)).or_default().push((row.get(1), row.get(2)));
    }
    assert_eq!(accounts.len(), ORGS + 2, "every organization, the system and the platform account");
    for (account, generations) in accounts {
        let counted: Vec<i64> = generations.iter().map(|(generation, _)| *generation).collect();
        let expected: Vec<i64> = (1..).take(counted.len()).collect();
        assert_eq!(counted, expected, "{account}");
        assert!(generations.windows(2).all(|pair| pair[0].1 < pair[1].1), "{account}: {generations:?}");
    }
    assert!(rows.len() > ORGS + 1 + WITH_ENVIRONMENT, "revoking minted: {}", rows.len());
}

/// What every server runs of an account names exactly the keys that the ledger has for it, and the
/// issuers of its users are among them.
async fn accounts_name_their_keys(
    database: &mut PgConnection,
    stack: &Stack,
    issued: &[Value],
    accounts: &BTreeSet<PublicKey<Account>>,
) {
    let rows =
        sqlx::query("SELECT account_key, public_key FROM signing_keys WHERE state = 'active' AND kind <> 'operator'")
            .fetch_all(database)
            .await
            .unwrap();
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in &rows {
        keys.entry(row.get(0)).or_default().insert(row.get(1));
    }
    let mut issuers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for answer in issued {
        let claims = jwt::decode::<jwt::User>(answer["jwt"].as_str().unwrap()).unwrap().claims;
        let account = claims.nats.issuer_account.unwrap().to_string();
        issuers.entry(account).or_default().insert(claims.issuer.to_string());
    }
    assert_eq!(issuers.len(), WITH_ENVIRONMENT);
    let lookups = stream::iter(accounts)
        .map(|account| async move { (account.to_string(), stack.resolver.lookup(*account).await.unwrap()) });
    let lookups: Vec<_> = lookups.buffer_unordered(AT_ONCE).collect().await;
    for (account, answers) in lookups {
        assert_eq!(answers.len(), 3, "{account}");
        for token in answers {
            let claims = jwt::decode::<jwt::Account>(&token.unwrap()).unwrap().claims;
            assert_eq!(claims.issuer, stack.authority.operator_signing_key().any());
            let named: BTreeSet<_> = claims.nats.signing_keys.0.keys().map(ToString::to_string).collect();
            assert_eq!(named, keys[&account], "{account}");
            assert!(issuers.get(&account).is_none_or(|issuers| issuers.is_subset(&named)), "{account}");
        }
    }
}
