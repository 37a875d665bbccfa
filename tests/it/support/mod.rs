//! What the tests share: a directory and a database for each test.
//!
//! All tests of a process use one Postgres, without fsync, that dies with the process.

pub mod deployment;
pub mod document;
pub mod door;
pub mod http;
pub mod issuer;
pub mod knobs;
pub mod lone;
pub mod run;
pub mod secrets;
pub mod site;
pub mod stack;

use std::{
    collections::HashMap,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nats_authority::{
    dev::{
        place,
        postgres::{Durability, Postgres},
    },
    store::Store,
};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::{Mutex, OnceCell};

/// A database that no other test uses.
pub struct TestDatabase {
    url: String,
}

impl TestDatabase {
    /// Where to connect.
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// An empty database.
pub async fn database() -> TestDatabase {
    let postgres = &server().await.postgres;
    TestDatabase { url: postgres.create_database(&name("test"), None).await.expect("a database") }
}

/// A database as `migrate` leaves it. It runs once for each `template` name in the process, on the
/// URL that it is given, and must have closed its connections when it returns; the tests get copies.
pub async fn database_from<F: Future<Output = ()>>(template: &str, migrate: impl FnOnce(String) -> F) -> TestDatabase {
    let server = server().await;
    let cell = server.templates.lock().await.entry(template.to_owned()).or_default().clone();
    let template = cell
        .get_or_init(|| async {
            let name = name("template");
            migrate(server.postgres.create_database(&name, None).await.expect("a template")).await;
            name
        })
        .await;
    // Copies of one template exclude each other only briefly, and Postgres waits for them.
    let url = server.postgres.create_database(&name("test"), Some(template)).await.expect("a copy of the template");
    TestDatabase { url }
}

/// A database with the ledger's tables.
pub async fn migrated_database() -> TestDatabase {
    database_from("ledger", |url| async move {
        let url = SecretString::from(url);
        let store = Store::connect(&url, 2, Duration::from_secs(10)).await.expect("a connection");
        store.migrate().await.expect("migrations");
        store.close().await;
    })
    .await
}

/// Writes the plans and roles that come with the program into `dir/plans` and `dir/roles`.
pub fn copy_policies(dir: &Path) {
    for folder in ["plans", "roles"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, dir.join(folder).join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// Replaces `from` in a file, which has to hold it.
pub fn edit(path: impl AsRef<Path>, from: &str, to: &str) {
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{} has no {from:?}: {text}", path.as_ref().display());
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Where databases, servers and the tests themselves write: `TEST_FILES`, or else below the target folder.
fn files() -> PathBuf {
    std::env::var_os("TEST_FILES").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
}

/// A directory that is removed with the value.
pub fn temp_dir() -> TempDir {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("it-").disable_cleanup(run::dir().is_some());
    let tmp = run::dir().map_or_else(files, |run| run.join("files"));
    builder.tempdir_in(tmp).expect("a directory")
}

/// A directory that other users may enter too: Postgres runs as one of them when we are root.
pub fn open_dir() -> TempDir {
    let dir = temp_dir();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
    dir
}

struct TestServer {
    postgres: Postgres,
    templates: Mutex<HashMap<String, Arc<OnceCell<String>>>>,
    /// Its lock says that the server's directory is in use.
    _slot: File,
}

async fn server() -> &'static TestServer {
    static SERVER: OnceCell<TestServer> = OnceCell::const_new();
    SERVER
        .get_or_init(|| async {
            let (dir, slot) = free_slot(&run::dir().map_or_else(files, Path::to_owned));
            let postgres = Postgres::start(&dir, Durability::Fast).await.expect("a Postgres for the tests");
            if run::dir().is_some() {
                log_statements(&postgres.url()).await;
            }
            TestServer { postgres, templates: Mutex::default(), _slot: slot }
        })
        .await
}

/// Has a Postgres log every statement with what is bound to it.
pub async fn log_statements(url: &str) {
    let mut database = PgConnection::connect(url).await.unwrap();
    for setting in ["log_statement = 'all'", "log_parameter_max_length_on_error = -1"] {
        sqlx::query(AssertSqlSafe(format!("ALTER SYSTEM SET {setting}"))).execute(&mut database).await.unwrap();
    }
    sqlx::query("SELECT pg_reload_conf()").execute(&mut database).await.unwrap();
}

/// An empty directory that no other test process uses. What an earlier one left there is removed: it
/// could not do so itself, because a process-wide value is never dropped.
fn free_slot(tmp: &Path) -> (PathBuf, File) {
    (0..)
        .find_map(|number| {
            let lock = File::create(tmp.join(format!("postgres-{number}.lock"))).expect("a lock file");
            lock.try_lock().ok()?;
            let dir = tmp.join(format!("postgres-{number}"));
            for old in place::elsewhere(&dir).into_iter().chain([dir.clone()]) {
                // Its Postgres may be ending just now: then this is not the slot to take.
                if old.exists() {
                    fs::remove_dir_all(&old).ok()?;
                }
            }
            Some((dir, lock))
        })
        .expect("numbers do not end")
}

fn name(kind: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{kind}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}
