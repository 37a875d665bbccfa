//! A workload that publishes all the time, while its credential and the key that signed it are replaced
//! under it: nothing is lost and nothing refused.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::{ConnectOptions, jetstream};
use nats_authority::{
    authority::{
        Actor, Issued,
        requests::{Reason, Rotate, RotateKeys},
    },
    jwt::creds,
    model::{CallerRole, CredentialState, RotationState, names::inbox_prefix},
};

use sqlx::{Connection, PgConnection};

use crate::support::{
    deployment::PROGRAM,
    stack::{Stack, eventually},
};

/// Published a second.
const RATE: u32 = 100;

/// A publisher as workloads are to be written: it looks at its creds file, connects with a new one before
/// it leaves the old connection, and waits for every acknowledgement.
struct Publisher {
    published: Arc<AtomicUsize>,
    acknowledged: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Publisher {
    fn start(urls: Vec<String>, file: PathBuf) -> Self {
        let (published, acknowledged) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let stop = Arc::<AtomicBool>::default();
        let task =
            tokio::spawn(publish(urls, file, (Arc::clone(&published), Arc::clone(&acknowledged)), Arc::clone(&stop)));
        Self { published, acknowledged, stop, task }
    }

    async fn more(&self, count: usize) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + count;
        eventually("more is acknowledged", || async { self.acknowledged.load(Ordering::Relaxed) >= goal }).await;
    }

    /// How many were published, and what went wrong.
    async fn end(self) -> (usize, usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.task.await.unwrap();
        (self.published.load(Ordering::Relaxed), self.acknowledged.load(Ordering::Relaxed), errors)
    }
}

async fn publish(
    urls: Vec<String>,
    file: PathBuf,
    (published, acknowledged): (Arc<AtomicUsize>, Arc<AtomicUsize>),
    stop: Arc<AtomicBool>,
) -> Vec<String> {
    let mut errors = Vec::new();
    let mut text = std::fs::read_to_string(&file).unwrap();
    let mut context = connect(&urls, &text).await;
    let mut waiting = tokio::task::JoinSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / RATE);
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let now = std::fs::read_to_string(&file).unwrap();
        if now != text {
            // The old connection lives on in the acknowledgements that it waits for.
            text = now;
            context = connect(&urls, &text).await;
        }
        let number = published.fetch_add(1, Ordering::Relaxed);
        match context.publish("ws.acme-prod.ticks", number.to_string().into()).await {
            Ok(ack) => {
                let (acknowledged, context) = (Arc::clone(&acknowledged), context.clone());
                waiting.spawn(async move {
                    let result = ack.await;
                    drop(context);
                    match result {
                        Ok(_) => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            None
                        }
                        Err(error) => Some(format!("{number}: {error}")),
                    }
                });
            }
            Err(error) => errors.push(format!("{number}: {error}")),
        }
    }
    errors.extend(waiting.join_all().await.into_iter().flatten());
    errors
}

async fn connect(urls: &[String], text: &str) -> jetstream::Context {
    let (_, seed) = creds::parse(text).unwrap();
    let options = ConnectOptions::with_credentials(text).unwrap();
    let client = options.custom_inbox_prefix(inbox_prefix(seed.key_pair().public())).connect(urls).await.unwrap();
    jetstream::new(client)
}

/// As secrets are replaced under workloads: whole.
fn put(file: &Path, issued: &Issued) {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, issued.creds.as_ref().unwrap().as_str()).unwrap();
    std::fs::rename(&draft, file).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_through_rotation_and_renewal_of_a_credential_and_rotation_of_its_signing_key() {
    let stack = Stack::start(3).await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let (authority, actor) = (&stack.authority, &stack.actor);
    let officer = Actor::caller("olga", [CallerRole::SecurityOfficer]);
    let dir = crate::support::temp_dir();
    let file = dir.path().join("acme.creds");
    let first = stack.issue("acme", "prod", "publisher").await;
    put(&file, &first);
    let publisher = Publisher::start(stack.cluster.urls(), file.clone());
    publisher.more(50).await;

    // The credential: another key, the old one is closed after its grace time.
    let grace = || Rotate { grace: Some("1s".to_owned()), ..Rotate::default() };
    let second = authority.rotate(actor, first.credential.id, grace()).await.unwrap();
    put(&file, &second);
    eventually("the first credential is revoked", || async {
        authority.credential(first.credential.id).await.unwrap().state == CredentialState::Revoked
    })
    .await;
    stack.converged("acme").await;
    publisher.more(20).await;

    // The same credential over NATS: a fresh JWT for the same key, in the same file. What is young is not renewed,
    // so the ledger is told that it is older.
    let mut database = PgConnection::connect(stack.database.url()).await.unwrap();
    let older = "UPDATE credentials SET issued_at = issued_at - interval '1 hour' WHERE id = $1";
    sqlx::query(older).bind(second.credential.id).execute(&mut database).await.unwrap();
    let before = std::fs::read_to_string(&file).unwrap();
    let renewed = tokio::process::Command::new(PROGRAM)
        .args(["renew", "--server", &stack.cluster.urls()[0], "--creds"])
        .arg(&file)
        .output()
        .await
        .unwrap();
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert_ne!(std::fs::read_to_string(&file).unwrap(), before);
    publisher.more(50).await;
    let newest = "SELECT id FROM credentials WHERE replaces = $1";
    let renewed: uuid::Uuid =
        sqlx::query_scalar(newest).bind(second.credential.id).fetch_one(&mut database).await.unwrap();

    // Its signing key. Somebody does not rotate: seen, waited for, and closed when a second person says so.
    let late = stack.issue("acme", "prod", "publisher").await;
    let late_client = stack.connect(&late, 2).await.unwrap();
    let request = RotateKeys {
        public_key: Some(first.credential.issuer_key.clone()),
        grace: Some("1s".to_owned()),
        ..RotateKeys::default()
    };
    let slug = "acme".parse().unwrap();
    let id = authority.propose_key_rotations(actor, &slug, &request).await.unwrap()[0].id;
    let state = async || authority.key_rotation(id).await.unwrap().state;
    authority.approve_key_rotation(&officer, id).await.unwrap();
    eventually("the new key signs", || async { state().await == RotationState::Retiring }).await;
    // Every server lets in what the new key signs, at once.
    let third = authority.rotate(actor, renewed, grace()).await.unwrap();
    assert_ne!(third.credential.issuer_key, first.credential.issuer_key);
    for index in 0..3 {
        stack.connect(&third, index).await.unwrap();
    }
    put(&file, &third);
    eventually("it waits for the late one alone", || async {
        let words = authority.key_rotation(id).await.unwrap().waits_for.unwrap_or_default();
        words.starts_with("1 credential under the old key")
    })
    .await;
    assert_eq!(late_client.connection_state(), async_nats::connection::State::Connected);
    authority.hasten_key_rotation(&officer, id, &Reason::default()).await.unwrap();
    eventually("the old key is gone from every server", || async { state().await == RotationState::Done }).await;
    eventually("the late one is closed", || async {
        late_client.connection_state() != async_nats::connection::State::Connected
    })
    .await;
    for index in 0..3 {
        assert!(stack.connect(&late, index).await.is_err(), "the old key is gone from server {index}");
        assert!(stack.connect(&second, index).await.is_err(), "the old key is gone from server {index}");
    }
    publisher.more(50).await;
    let (sent, acknowledged, errors) = publisher.end().await;
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(sent, acknowledged);
    let admin = stack.issue("acme", "prod", "env-admin").await;
    let context = jetstream::new(stack.connect(&admin, 0).await.unwrap());
    let mut stream = context.get_stream("ws-acme-prod-events").await.unwrap();
    let messages = stream.info().await.unwrap().state.messages;
    assert_eq!(messages, u64::try_from(sent).unwrap(), "every message once");
}
