//! What is secret stands in the files that are meant for it and nowhere else: not in logs at their
//! most talkative, not in the database, not in what the servers store.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use memchr::memmem;
use nats_authority::{
    authority::proof::prove,
    dev::{place, process::Signal},
    entropy::SystemEntropy,
    jwt::creds,
    model::Environment,
    nkey::{Seed, User},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::support::{self, deployment::Deployment};

/// A secret in each form in which it could be written down by mistake.
struct Secret {
    name: &'static str,
    forms: Vec<Vec<u8>>,
}

impl Secret {
    fn text(name: &'static str, text: &str) -> Self {
        Self { name, forms: vec![text.as_bytes().to_vec()] }
    }

    /// As its bytes would stand in binary, hexadecimal (with `\x` in dumps) and base64.
    fn bytes(name: &'static str, bytes: &[u8]) -> Self {
        let hex = data_encoding::HEXLOWER.encode(bytes);
        // The last character depends on what follows.
        let base64 = &B64.encode(bytes);
        let base64 = base64[..base64.len() - 1].to_owned();
        let forms = vec![
            bytes.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            base64.clone().into_bytes(),
            base64.replace('-', "+").replace('_', "/").into_bytes(),
        ];
        Self { name, forms }
    }

    fn is_in(&self, text: &[u8]) -> bool {
        self.forms.iter().any(|form| memmem::find(text, form).is_some())
    }
}

/// `S[OAUN][A-Z2-7]{56}`
fn holds_seed(bytes: &[u8]) -> bool {
    let base32 = |byte: &u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(byte);
    memchr::memchr_iter(b'S', bytes)
        .filter_map(|at| bytes.get(at..at + 58))
        .any(|window| b"OAUN".contains(&window[1]) && window[2..].iter().all(base32))
}

/// What of `secrets` a text holds.
fn found(secrets: &[Secret], text: &[u8]) -> Vec<&'static str> {
    let named = secrets.iter().filter(|secret| secret.is_in(text)).map(|secret| secret.name);
    named.chain(holds_seed(text).then_some("a seed")).collect()
}

fn files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        // A running server removes some of its files.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), into),
            Ok(kind) if kind.is_file() => into.push(entry.path()),
            _ => {}
        }
    }
}

/// Every row of every table as text.
async fn dump(url: &str) -> String {
    let mut database = PgConnection::connect(url).await.unwrap();
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut database).await.unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut text = String::new();
    for table in tables {
        let select = AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        for row in sqlx::query(select).fetch_all(&mut database).await.unwrap() {
            text += &[&table, " ", row.get(0), "\n"].concat();
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_stand_only_where_they_are_meant_to() {
    let folder = support::open_dir();
    let dir = folder.path().join("state");
    let mut dev = Deployment::start(&dir, &["--nodes", "1", "--log", "trace"]).await;
    dev.http.onboard("acme", &["prod"]).await;
    let issued = dev.http.issue("acme", "prod", json!({"name": "one", "role": "publisher"})).await;
    let own = Seed::<User>::generate(&SystemEntropy::new());
    let pair = own.key_pair();
    let environment = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
    let proof = prove(&environment, "viewer", &pair);
    let body = json!({"name": "own", "role": "viewer", "publicKey": pair.public().to_string(), "proof": proof});
    let without = dev.http.issue("acme", "prod", body).await;
    assert!(without.get("creds").is_none(), "the key is not ours");
    let items: Vec<_> = (0..3).map(|n| json!({"name": format!("b{n}"), "role": "viewer"})).collect();
    let (status, batch) = dev.http.post("/api/v1/orgs/acme/envs/prod/credentials/batch", json!({"items": items})).await;
    assert_eq!(status, 201, "{batch}");
    // The same with faults, for what is refused is easily logged.
    let (status, _) =
        dev.http.post("/api/v1/orgs", json!({"slug": "globex", "token": own.expose_text().as_str()})).await;
    assert_eq!(status, 422);
    let (status, system) =
        dev.http.post("/api/v1/operator/system-credentials", json!({"name": "tools", "ttl": "15m"})).await;
    assert_eq!(status, 201, "{system}");
    dev.connect(&issued, 0).await.unwrap();
    let id = issued["credential"]["id"].as_str().unwrap();
    assert_eq!(dev.http.post(&format!("/api/v1/credentials/{id}/revoke"), json!({"reason": "test"})).await.0, 200);
    assert_eq!(dev.http.post("/api/v1/orgs/acme/suspend", json!({})).await.0, 200);
    dev.http.converged("acme").await;

    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap().trim().to_owned();
    let hexadecimal = read("sealing.key");
    let (token, sealing) = (read("admin.token"), data_encoding::HEXLOWER.decode(hexadecimal.as_bytes()).unwrap());
    let mut secrets = vec![
        Secret::text("the administrator's token", &token),
        Secret::text("the secret part of the token", token.split_once('_').unwrap().1),
        Secret::bytes("the sealing key", &sealing),
        Secret::bytes("the caller's own key", own.expose_bytes()),
    ];
    let batched = batch["items"].as_array().unwrap().iter();
    for answer in batched.chain([&issued, &system]) {
        let (jwt, seed) = creds::parse(answer["creds"].as_str().unwrap()).unwrap();
        secrets.push(Secret::bytes("an issued key", seed.expose_bytes()));
        // Worth nothing without its key, and still no business of logs and tables.
        secrets.push(Secret::text("a user's JWT", &jwt));
    }
    let identity = Seed::<nats_authority::nkey::Operator>::parse(&read("operator-identity.seed")).unwrap();
    secrets.push(Secret::bytes("the operator's identity", identity.expose_bytes()));

    // The search finds what is there.
    let known = format!("{token} {hexadecimal} {}", *own.expose_text());
    assert_eq!(found(&secrets, known.as_bytes()).len(), 4, "{:?}", found(&secrets, known.as_bytes()));

    let dumped = dump(dev.text("/databaseUrl")).await;
    assert!(dumped.contains("acme") && dumped.contains(id));
    assert_eq!(found(&secrets, dumped.as_bytes()), Vec::<&str>::new(), "in the database");
    let log = fs::read(dir.join("service.log")).unwrap();
    assert!(String::from_utf8_lossy(&log).contains("\"TRACE\""), "the log is at its most talkative");
    assert_eq!(dev.end(Signal::INT).await, Some(0));

    let mut all = Vec::new();
    files(&dir, &mut all);
    if let Some(data) = place::elsewhere(&dir.join("postgres")) {
        files(&data, &mut all);
    }
    assert!(all.iter().any(|file| file.ends_with("global/pg_control")), "the database's own files are looked at");
    let hits: BTreeSet<_> = all
        .iter()
        .flat_map(|file| found(&secrets, &fs::read(file).unwrap()).into_iter().map(move |what| (file.as_path(), what)))
        .collect();
    let meant = [
        (dir.join("admin.token"), "the administrator's token"),
        (dir.join("admin.token"), "the secret part of the token"),
        (dir.join("operator-identity.seed"), "a seed"),
        (dir.join("sealing.key"), "the sealing key"),
    ];
    assert_eq!(hits, meant.iter().map(|(file, what)| (file.as_path(), *what)).collect::<BTreeSet<_>>());
}
