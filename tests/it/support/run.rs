//! A whole run of the tests that leaves everything behind, to be searched for secrets afterwards (`make
//! test-secrets`): logs at their most talkative, databases, files, and a list of the secrets that went over the wire.
//!
//! In any other run all of this does nothing.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use data_encoding::HEXLOWER;
use nats_authority::telemetry::no_messages;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use super::secrets::Secrets;

/// What a test put into logs, audit log and database on purpose.
pub const PLANTED: &str = "a planted secret";

/// The list of secrets: a line each, what it is and its bytes in hexadecimal.
const SEEN: &str = "seen";

/// The folder of the run, if this is one. What this process logs goes there.
pub fn dir() -> Option<&'static Path> {
    static DIR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let make = || {
        let dir = PathBuf::from(std::env::var_os("SECRETS_RUN")?);
        fs::create_dir_all(dir.join("files")).unwrap();
        let log = append(&dir.join("tests.log"));
        // Fails where a test has started logging before.
        let layer = fmt::layer().json().flatten_event(true).with_writer(Arc::new(log));
        let registry = tracing_subscriber::registry().with(EnvFilter::new("trace")).with(no_messages());
        let _ = registry.with(layer).try_init();
        Some(dir)
    };
    DIR.get_or_init(make).as_deref()
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// Notes every secret in what went over the wire.
pub fn saw(text: &str) {
    if dir().is_some() {
        let mut secrets = Secrets::default();
        secrets.learn(text);
        note(&secrets);
    }
}

/// Notes a secret that is bytes.
pub fn saw_bytes(what: &str, bytes: &[u8]) {
    if dir().is_some() {
        let mut secrets = Secrets::default();
        secrets.bytes(what, bytes);
        note(&secrets);
    }
}

/// Notes a secret that is a text of which nothing tells that it is one.
pub fn saw_text(what: &str, text: &str) {
    saw_bytes(what, text.as_bytes());
}

/// Notes a sealing key as it stands in its file.
pub fn saw_sealing_key(text: &str) {
    if let Ok(key) = HEXLOWER.decode(text.trim().as_bytes()) {
        saw_bytes("a sealing key", &key);
    }
}

fn note(secrets: &Secrets) {
    static LIST: Mutex<Option<File>> = Mutex::new(None);
    let Some(dir) = dir() else { return };
    let lines: Vec<_> = secrets.iter().map(|(what, bytes)| format!("{what}\t{}\n", HEXLOWER.encode(bytes))).collect();
    let mut list = LIST.lock().unwrap_or_else(PoisonError::into_inner);
    list.get_or_insert_with(|| append(&dir.join(SEEN))).write_all(lines.concat().as_bytes()).unwrap();
}

/// What was noted in a run.
pub fn seen(dir: &Path) -> Secrets {
    let mut secrets = Secrets::default();
    for line in fs::read_to_string(dir.join(SEEN)).unwrap().lines() {
        let (what, bytes) = line.split_once('\t').unwrap();
        secrets.bytes(what, &HEXLOWER.decode(bytes.as_bytes()).unwrap());
    }
    secrets
}
