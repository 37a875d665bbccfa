//! A server that loads an account while it cannot serve what the account imports leaves it incomplete, and does nothing
//! when it is sent the same JWT again: what was seen of nats-server, on which the repair stands.

use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectOptions};
use futures::StreamExt;
use nats_authority::{
    authority::reconcile::respelled,
    dev::nats::{Cluster, ClusterSpec},
    nkey::{Account, KeyPair, PublicKey, User},
};
use serde_json::{Value, json};

use crate::{
    resolver::{generate, key, operator_key, sign, system_account, trust, user},
    support,
};

const SUBJECT: &str = "renew.me";

/// An account JWT with these imports and exports.
fn account(subject: PublicKey<Account>, iat: i64, imports: &Value, exports: &Value) -> String {
    let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1});
    let nats = json!({"limits": unlimited, "signing_keys": [key::<Account>("account_signing").public()],
        "default_permissions": {"pub": {}, "sub": {}}, "authorization": {}, "type": "account", "version": 2,
        "imports": imports, "exports": exports});
    sign(&operator_key(), json!({"jti": format!("{iat}"), "iat": iat, "name": "test", "sub": subject, "nats": nats}))
}

/// One server, and a user of its system account.
struct Server {
    cluster: Cluster,
    client: Client,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let dir = support::temp_dir();
        let mut spec = ClusterSpec::new(dir.path(), "incomplete", trust());
        spec.nodes = 1;
        let cluster = Cluster::start(spec).await.unwrap();
        let url = cluster.servers()[0].url();
        let client = connect(&url, system_account()).await.unwrap();
        Self { cluster, client, _dir: dir }
    }

    async fn update(&self, jwt: &str) {
        let answer = self.client.request("$SYS.REQ.CLAIMS.UPDATE", jwt.to_owned().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert_eq!(answer["data"]["code"], 200, "{answer}");
    }

    /// What it runs: the JWT, and whether it is complete.
    async fn runs(&self, account: PublicKey<Account>) -> (String, bool) {
        let subject = format!("$SYS.REQ.SERVER.{}.ACCOUNTZ", self.client.server_info().server_id);
        let answer = self.client.request(subject, json!({"account": account}).to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        let detail = &answer["data"]["account_detail"];
        (detail["jwt"].as_str().unwrap().to_owned(), detail["complete"].as_bool().unwrap())
    }
}

pub async fn connect(url: &str, account: PublicKey<Account>) -> Result<Client, ConnectError> {
    let user = user(account, chrono::TimeDelta::hours(1));
    let key: std::sync::Arc<KeyPair<User>> = std::sync::Arc::new(user.key);
    let options = ConnectOptions::with_jwt(user.jwt, move |nonce| {
        let key = std::sync::Arc::clone(&key);
        async move { Ok(key.sign(&nonce).to_vec()) }
    });
    options.request_timeout(Some(Duration::from_secs(5))).connect(url).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_another_spelling_has_an_incomplete_account_loaded_anew() {
    let server = Server::start().await;
    let (exporter, importer) = (generate::<Account>().public(), generate::<Account>().public());
    let exports = json!([{"name": "renew", "subject": SUBJECT, "type": "service"}]);
    let imports = json!([{"name": "renew", "subject": SUBJECT, "account": exporter, "type": "service"}]);
    let (bare, none) = (account(exporter, 1_700_000_001, &json!([]), &json!([])), json!([]));
    server.update(&bare).await;
    let ours = account(importer, 1_700_000_002, &imports, &none);
    server.update(&ours).await;
    let client = connect(&server.cluster.servers()[0].url(), importer).await.unwrap();
    assert_eq!(server.runs(importer).await, (ours.clone(), false), "what it imports is not exported");

    // A server remembers whose exports were missing until that account changes. Here that changes nothing yet; where
    // both are loaded at once, it has changed before the server remembers.
    server.update(&respelled(&bare).unwrap()).await;
    let full = account(exporter, 1_700_000_003, &none, &exports);
    server.update(&full).await;
    assert_eq!(server.runs(importer).await, (ours.clone(), false), "the exporter does not mend it any more");

    server.update(&ours).await;
    assert_eq!(server.runs(importer).await, (ours.clone(), false), "it has this one already");
    server.update(&respelled(&ours).unwrap()).await;
    server.update(&ours).await;
    assert_eq!(server.runs(importer).await, (ours, true));

    let answering = connect(&server.cluster.servers()[0].url(), exporter).await.unwrap();
    let mut asked = answering.subscribe(SUBJECT).await.unwrap();
    // The server has taken the subscription once it comes round; `flush` says only that it was sent.
    for sender in [&answering, &client] {
        sender.publish(SUBJECT, "".into()).await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(5), asked.next()).await;
        assert!(heard.is_ok_and(|message| message.is_some()), "the import works");
    }
}
