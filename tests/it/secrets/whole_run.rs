//! The search of what a whole run of the tests has left: `make test-secrets` runs the tests first, this then.

#![expect(clippy::print_stdout, reason = "says what was searched")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use nats_authority::{
    dev::{
        place,
        postgres::{Durability, Postgres},
    },
    model::audit::ExportedLink,
    store::Store,
};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

use super::{dump, files};
use crate::support::{
    run,
    secrets::{Search, Secrets},
};

/// So much of a file is in memory at a time, bytes.
const PIECE: usize = 16 << 20;

/// Pieces overlap by this much, so that nothing is missed between two: more than the longest of what is looked for.
const OVERLAP: usize = 16 << 10;

/// Files that are there to hold a secret, by their name, or by its end where it begins with a dot. Their secrets are
/// looked for everywhere else.
const MEANT: &[(&str, &str)] = &[
    (".creds", "what was issued, where somebody asked for it to be"),
    (".identity", "a client's certificate with its private key"),
    (".seed", "the operator's identity, which its owner takes offline"),
    (".token", "a token, where `init` or `token create` wrote it"),
    ("database.url", "how the service gets at its database"),
    ("own.nk", "a key that a user of the command line made"),
    ("password", "of the database, where Postgres is a private one"),
    ("sealing.key", "with which the service opens what is sealed"),
    ("seen", "what this search is told to look for"),
    ("tls.key", "the private key of the API's certificate"),
    ("token", "a token that a command or a service account is given"),
];

/// Files that may hold one kind of secret and no other.
const MAY: &[(&str, &str)] = &[("stack.json", "the database's password")];

/// What was searched, and where something was found.
#[derive(Default)]
struct Findings {
    bytes: BTreeMap<&'static str, u64>,
    count: BTreeMap<&'static str, usize>,
    hits: BTreeMap<(&'static str, String), BTreeSet<String>>,
}

impl Findings {
    fn look(&mut self, search: &Search, kind: &'static str, place: &str, bytes: &[u8]) {
        *self.bytes.entry(kind).or_default() += bytes.len() as u64;
        let found = search.found(bytes);
        if !found.is_empty() {
            self.hits.entry((kind, place.to_owned())).or_default().extend(found.into_iter().map(str::to_owned));
        }
    }

    fn file(&mut self, search: &Search, kind: &'static str, path: &Path) {
        *self.count.entry(kind).or_default() += 1;
        let (mut file, mut piece) = (File::open(path).unwrap(), Vec::new());
        while (&mut file).take(PIECE as u64).read_to_end(&mut piece).unwrap() > 0 {
            self.look(search, kind, &path.display().to_string(), &piece);
            piece.drain(..piece.len().saturating_sub(OVERLAP));
        }
    }
}

/// The folders in which a Postgres has been.
fn postgres_folders(all: &[PathBuf]) -> Vec<PathBuf> {
    let logs = all.iter().filter(|file| file.file_name().is_some_and(|name| name == "postgres.log"));
    logs.map(|log| log.parent().unwrap().to_owned()).collect()
}

/// Every row and every exported event of every database.
async fn databases(dir: &Path, search: &Search, findings: &mut Findings) {
    let postgres = Postgres::start(dir, Durability::Fast).await.unwrap();
    let mut all = PgConnection::connect(&postgres.url()).await.unwrap();
    let names = "SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY oid";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut all).await.unwrap();
    for name in names {
        let url = postgres.database_url(&name);
        let place = format!("{} {name}", dir.display());
        let mut database = PgConnection::connect(&url).await.unwrap();
        *findings.count.entry("database dump").or_default() += 1;
        findings.look(search, "database dump", &place, dump(&mut database).await.as_bytes());
        let chained: bool =
            sqlx::query_scalar("SELECT to_regclass('audit_chain') IS NOT NULL").fetch_one(&mut database).await.unwrap();
        database.close().await.unwrap();
        if chained {
            export(&url, &place, search, findings).await;
        }
    }
    postgres.stop().await.unwrap();
}

async fn export(url: &str, place: &str, search: &Search, findings: &mut Findings) {
    let store =
        Store::connect(&SecretString::from(url.to_owned()), 1, std::time::Duration::from_secs(10)).await.unwrap();
    let mut after = 0;
    loop {
        let links = store.audit_links(after, 1000).await.unwrap();
        let Some(last) = links.last() else { break };
        after = last.position;
        *findings.count.entry("exported events").or_default() += links.len();
        let exported: Vec<_> =
            links.into_iter().map(|link| serde_json::to_string(&ExportedLink::from(link)).unwrap()).collect();
        findings.look(search, "audit export", place, exported.join("\n").as_bytes());
    }
    store.close().await;
}

/// What a run has seen, and what stands in files that are meant to hold secrets.
fn known(dir: &Path, all: &[PathBuf]) -> Secrets {
    let mut secrets = run::seen(dir);
    for file in all.iter().filter(|file| is_meant(file)) {
        let text = fs::read_to_string(file).unwrap_or_default();
        secrets.learn(&text);
        if file.ends_with("password") {
            secrets.text("the database's password", text.trim());
        }
        if let Ok(key) = data_encoding::HEXLOWER.decode(text.trim().as_bytes())
            && key.len() == 32
        {
            secrets.bytes("a sealing key", &key);
        }
    }
    secrets
}

fn is_meant(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    MEANT.iter().any(|(meant, _)| name == *meant || (meant.starts_with('.') && name.ends_with(meant)))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "searches what a whole run has left: make test-secrets"]
async fn nothing_secret_is_left_by_the_whole_run() {
    let dir = run::dir().expect("SECRETS_RUN names the folder of the run");
    let mut all = Vec::new();
    files(dir, &mut all);
    let secrets = known(dir, &all);
    let kinds = secrets.kinds();
    println!("secrets: {kinds:?}");
    for kind in ["a seed", "an API token", "a user's JWT", "a sealing key", run::PLANTED] {
        assert!(kinds.contains_key(kind), "{kind}: {kinds:?}");
    }
    let search = secrets.search();
    let mut findings = Findings::default();
    for file in all.iter().filter(|file| !is_meant(file)) {
        let name = file.file_name().unwrap().to_string_lossy();
        let kind = if name == "log" || name.ends_with(".log") { "log" } else { "other file" };
        findings.file(&search, kind, file);
    }
    let folders = postgres_folders(&all);
    for folder in &folders {
        let mut data = Vec::new();
        if let Some(elsewhere) = place::elsewhere(folder) {
            files(&elsewhere, &mut data);
        }
        for file in &data {
            findings.file(&search, "other file", file);
        }
        databases(folder, &search, &mut findings).await;
    }
    println!("searched: {:?} of {:?}, {} Postgres", findings.bytes, findings.count, folders.len());
    assert!(findings.bytes["log"] > 100 << 20 && findings.count["database dump"] > 100, "a whole run leaves more");

    // What one test has planted is found, in each kind of place; and nothing else anywhere.
    let planted = |kind| findings.hits.iter().any(|((of, _), what)| *of == kind && what.contains(run::PLANTED));
    for kind in ["log", "database dump", "audit export"] {
        assert!(planted(kind), "the planted secret is not found in any {kind}");
    }
    for ((_, place), what) in &mut findings.hits {
        what.remove(run::PLANTED);
        for (_, kind) in MAY.iter().filter(|(name, _)| Path::new(place).ends_with(name)) {
            what.remove(*kind);
        }
    }
    findings.hits.retain(|_, what| !what.is_empty());
    assert!(findings.hits.is_empty(), "{:#?}", findings.hits);
    for elsewhere in folders.iter().filter_map(|folder| place::elsewhere(folder)) {
        fs::remove_dir_all(elsewhere).unwrap();
    }
}
