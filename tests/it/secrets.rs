//! What is secret stands in the files that are meant for it and nowhere else: not in logs at their
//! most talkative, not in the audit log, not in the database, not in what the servers store.

mod operations;
mod whole_run;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use nats_authority::{
    dev::{place, process::Signal},
    entropy::SystemEntropy,
    nkey::{Operator, Seed, User},
};
use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::support::{
    self,
    deployment::{Deployment, PROGRAM},
    run,
    secrets::{Search, Secrets},
    stack::eventually,
};

/// All files below a folder.
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

/// Every row of every table as text, with the name of the table.
async fn dump(database: &mut PgConnection) -> String {
    let tables = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'public'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *database).await.unwrap();
    let mut text = String::new();
    for table in tables {
        let select = AssertSqlSafe(format!("SELECT t::text FROM {table} t"));
        for row in sqlx::query(select).fetch_all(&mut *database).await.unwrap() {
            text += &[&table, " ", row.get(0), "\n"].concat();
        }
    }
    text
}

/// Where a secret must not be, while the deployment runs.
const PLACES: [&str; 4] = ["the service's log", "Postgres' log", "the audit export", "the database dump"];

struct Places<'a>(&'a Deployment);

impl Places<'_> {
    async fn texts(&self) -> [Vec<u8>; 4] {
        let dev = self.0;
        let mut export = tokio::process::Command::new(PROGRAM);
        export.args(["audit", "export", "--url", &dev.http.url, "--token-file", dev.text("/tokenFile")]);
        let export = export.output().await.unwrap();
        assert!(export.status.success(), "{}", String::from_utf8_lossy(&export.stderr));
        let mut database = PgConnection::connect(dev.text("/databaseUrl")).await.unwrap();
        let dumped = dump(&mut database).await.into_bytes();
        let log = |pointer: &str| fs::read(dev.text(pointer)).unwrap();
        [log("/service/log"), log("/postgres/log"), export.stdout, dumped]
    }

    async fn found<'s>(&self, search: &'s Search) -> BTreeMap<&'static str, BTreeSet<&'s str>> {
        PLACES.into_iter().zip(self.texts().await.map(|text| search.found(&text))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "figures for who asks with --nocapture")]
async fn secrets_stand_only_where_they_are_meant_to() {
    let folder = support::open_dir();
    let dir = folder.path().join("state");
    let mut dev = Deployment::start(&dir, &["--nodes", "1", "--log", "trace"]).await;
    let places = Places(&dev);
    support::log_statements(dev.text("/databaseUrl")).await;
    let mut walk = operations::Walk::new(&dev).await;
    let issued = walk.every_operation().await;
    walk.every_mistake().await;
    let (mut secrets, requests) = (walk.secrets, walk.requests);

    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap().trim().to_owned();
    let sealing = data_encoding::HEXLOWER.decode(read("sealing.key").as_bytes()).unwrap();
    secrets.bytes("the sealing key", &sealing);
    secrets.text("the administrator's token", read("admin.token").split_once('_').unwrap().1);
    let identity = Seed::<Operator>::parse(&read("operator-identity.seed")).unwrap();
    secrets.bytes("the operator's identity", identity.expose_bytes());
    secrets.text("the database's password", &fs::read_to_string(dir.join("postgres/password")).unwrap());
    let kinds = secrets.kinds();
    println!("{requests} requests; secrets: {kinds:?}");
    for (kind, least) in [("a seed", 8), ("a seed's bytes", 8), ("an API token", 4), ("a user's JWT", 8)] {
        assert!(kinds[kind] >= least, "{kinds:?}");
    }
    let search = secrets.search();
    let clean: BTreeMap<_, _> = PLACES.into_iter().map(|place| (place, BTreeSet::new())).collect();
    assert_eq!(places.found(&search).await, clean);

    // It was all there to be seen.
    let [log, statements, export, dumped] = places.texts().await;
    println!(
        "bytes: log {}, statements {}, export {}, dump {}",
        log.len(),
        statements.len(),
        export.len(),
        dumped.len()
    );
    let log = String::from_utf8_lossy(&log);
    // Nobody but async-nats says anything at trace level, and that is never let through (`telemetry::no_messages`).
    assert!(log.contains("\"level\":\"DEBUG\""));
    // The libraries speak as well.
    for target in ["sqlx", "nats_authority"] {
        assert!(log.contains(&format!("\"target\":\"{target}::")), "{target}");
    }
    let id = issued["credential"]["id"].as_str().unwrap();
    for text in [&statements, &export, &dumped] {
        assert!(memchr::memmem::find(text, id.as_bytes()).is_some(), "the credential that was issued");
    }

    // And a secret that gets there is found: the id of a request is logged, recorded and stored as it comes.
    let planted = Seed::<User>::generate(&SystemEntropy::new());
    let mut planting = Secrets::default();
    planting.bytes(run::PLANTED, planted.expose_bytes());
    run::saw_bytes(run::PLANTED, planted.expose_bytes());
    let body = json!({"slug": "initech"});
    let request_id = data_encoding::HEXLOWER.encode(planted.expose_bytes());
    let header = [("x-request-id", request_id.as_str())];
    let (status, _) = dev.http.send_with(&header, Method::POST, "/api/v1/orgs", Some(body)).await;
    assert_eq!(status, 201);
    let planting = planting.search();
    eventually("it is found in all places", || async {
        places.found(&planting).await.values().all(|found| *found == [run::PLANTED].into())
    })
    .await;
    assert_eq!(places.found(&search).await, clean, "and nothing else");
    assert_eq!(dev.end(Signal::INT).await, Some(0));

    // What is in no table any more may be in a file still.
    let mut all = Vec::new();
    files(&dir, &mut all);
    if let Some(data) = place::elsewhere(&dir.join("postgres")) {
        files(&data, &mut all);
    }
    assert!(all.iter().any(|file| file.ends_with("global/pg_control")), "the database's own files are looked at");
    let mut hits = BTreeMap::new();
    for file in &all {
        let found = search.found(&fs::read(file).unwrap()).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
        if !found.is_empty() {
            hits.insert(file.strip_prefix(&dir).unwrap_or(file).display().to_string(), found);
        }
    }
    let meant = [
        "admin.token",
        "database.url",
        "operator-identity.seed",
        "postgres/password",
        "renewed.creds",
        "sealing.key",
        "stack.json",
    ];
    assert_eq!(hits.keys().map(String::as_str).collect::<Vec<_>>(), meant, "{hits:?}");
    assert_eq!(hits["stack.json"], ["the database's password".to_owned()].into());
}
