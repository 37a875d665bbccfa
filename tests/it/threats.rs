//! `docs/THREATS.md` says what is stopped, and by which test that is seen: the tests are there, and nothing is said to be
//! stopped without one, or without a reason. Attacks that belong to no other part are here as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use async_nats::ConnectOptions;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use futures::StreamExt;
use nats_authority::{
    authority::requests::NewSystemCredential,
    dev::nats::Stop,
    entropy::SystemEntropy,
    model::OrgState,
    nkey::{KeyPair, Operator},
    policy::Policies,
};
use serde_json::json;

use crate::support::{
    http::Http,
    stack::{Stack, arrived, eventually},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Names with an underscore that are no test, and what they are.
const NO_TESTS: &[(&str, &str)] = &[
    ("grant_organization_reach", "an action of policies/api.cedar"),
    ("keep_keys", "a setting"),
    ("require_second_person", "a function"),
    ("strictness_problems", "a function"),
];

/// Sections that describe what cannot be stopped, or a limit that other files test.
const WITHOUT: &[(&str, &str)] = &[
    ("Servers that cache", "seen once in some ten runs with 200 clients, which no test can wait for"),
    ("Assets", "says what there is"),
    ("What separates what", "says what follows"),
    (
        "A compromised nats-server",
        "nothing of ours runs there: what it cannot do follows from the keys that it has not",
    ),
    ("A compromised service", "it can do everything; what it cannot is the identity's, which is not there"),
];

fn document() -> String {
    fs::read_to_string(Path::new(ROOT).join("docs/THREATS.md")).unwrap()
}

/// Every Rust file below the folders that hold tests, by its path.
fn sources() -> BTreeMap<String, String> {
    let (mut dirs, mut files) = (vec![Path::new(ROOT).join("src"), Path::new(ROOT).join("tests/it")], BTreeMap::new());
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(ROOT).unwrap().display().to_string();
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

/// The tests of a file: functions behind an attribute that makes them one.
fn tests(text: &str) -> BTreeSet<String> {
    let mut lines = text.lines().map(str::trim);
    let mut found = BTreeSet::new();
    while let Some(line) = lines.next() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let function = lines.find_map(|line| line.split_once("fn ")?.1.split('(').next().map(str::to_owned));
            found.extend(function);
        }
    }
    found
}

/// What stands in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(|part| part.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Whether it is a word with an underscore, or one with `::` behind.
fn is_name(part: &str) -> bool {
    let is_word = !part.is_empty()
        && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:".contains(&byte));
    let is_other = NO_TESTS.iter().any(|(other, _)| *other == part);
    is_word && !is_other && (part.contains('_') || part.contains("::"))
}

/// The names of tests among what is quoted.
fn names(text: &str) -> Vec<String> {
    quoted(text).into_iter().filter(|part| is_name(part)).collect()
}

#[test]
fn every_test_that_is_named_is_there() {
    let (text, sources) = (document(), sources());
    let by_file: BTreeMap<_, _> = sources.iter().map(|(file, text)| (file.as_str(), tests(text))).collect();
    let all: BTreeSet<_> = by_file.values().flatten().cloned().collect();
    assert!(all.len() > 300, "{}", all.len());
    let named = names(&text);
    assert!(named.len() > 40, "{named:?}");
    for name in &named {
        let is_there = match name.rsplit_once("::") {
            Some((module, "")) => by_file.keys().any(|file| {
                *file == format!("tests/it/{module}.rs") || file.starts_with(&format!("tests/it/{module}/"))
            }),
            Some((_, name)) => all.contains(name),
            None => all.contains(name),
        };
        assert!(is_there, "there is no test `{name}`");
    }
    for (name, what) in NO_TESTS {
        let written = sources.values().any(|source| source.contains(name))
            || fs::read_to_string(Path::new(ROOT).join("policies/api.cedar")).unwrap().contains(name);
        assert!(written && text.contains(name), "{name}: {what}");
    }
    for path in quoted(&text).iter().filter(|part| part.starts_with("tests/") || part.starts_with("src/")) {
        assert!(Path::new(ROOT).join(path).exists(), "there is no {path}");
    }
    // A test in parentheses with its file is in that file.
    let parts: Vec<_> = text.split('`').collect();
    let mut count = 0;
    for three in parts[1..].windows(3).step_by(2) {
        let [name, between, place] = three else { continue };
        if is_name(name)
            && ["(", "in"].contains(&between.trim())
            && (place.starts_with("tests/") || place.starts_with("src/"))
        {
            let mut inside = by_file.iter().filter(|(file, _)| file.starts_with(place));
            assert!(inside.any(|(_, tests)| tests.contains(*name)), "`{name}` is not in {place}");
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn nothing_is_said_to_be_stopped_without_a_test() {
    let text = document();
    let mut rows = 0;
    let mut in_table = false;
    for line in text.lines() {
        in_table = line.starts_with("| tries |") || (in_table && line.starts_with('|'));
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if !in_table || cells[0] == "tries" || line.starts_with("|---") {
            continue;
        }
        let shown = cells.last().unwrap();
        let by_file = quoted(shown).iter().any(|part| part.starts_with("tests/it/"));
        assert!(!names(shown).is_empty() || by_file || shown.starts_with("the same"), "not shown: {line}");
        rows += 1;
    }
    assert!(rows > 30, "{rows}");
    for section in text.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        let reason = WITHOUT.iter().find(|(without, _)| *without == title);
        let shown = !names(section).is_empty();
        assert!(shown || reason.is_some(), "no test is named under '{title}'");
    }
    for (title, why) in WITHOUT {
        assert!(text.contains(&format!("\n## {title}\n")), "{title}: {why}");
    }
}

#[test]
fn no_role_comes_as_a_leaf_node_or_over_mqtt() {
    let policies = Policies::builtin().unwrap();
    assert!(policies.roles.len() >= 5);
    for (name, role) in &policies.roles {
        let template = format!("{role:?}");
        assert!(template.contains(r#"allowed_connection_types: ["STANDARD", "WEBSOCKET"]"#), "{name}: {template}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_a_deleted_organization_are_not_those_of_its_name() {
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod"]).await;
    let body = json!({"name": "anna", "role": "org-admin", "organizations": ["acme"]});
    let (status, made) = http.post("/api/v1/tokens", body).await;
    assert_eq!(status, 201, "{made}");
    let anna = Http::new(&http.url, made["secret"].as_str().unwrap());
    let acme = "/api/v1/orgs/acme";
    assert_eq!(anna.get(acme).await.0, 200);
    let first = http.converged("acme").await;
    http.send(reqwest::Method::DELETE, acme, None).await;
    let slug = "acme".parse().unwrap();
    eventually("deleted", || async { stack.authority.organization(&slug).await.unwrap().state == OrgState::Deleted })
        .await;
    let second = http.onboard("acme", &["prod"]).await;
    assert_ne!(first["accountId"], second["accountId"]);
    // As to somebody who was never there.
    let body = json!({"name": "mine", "role": "viewer"});
    let (path, stranger) = (format!("{acme}/envs/prod/credentials"), "/api/v1/orgs/nobody");
    assert_eq!(anna.get(acme).await.0, anna.get(stranger).await.0);
    for (status, answer) in
        [anna.get(acme).await, anna.get(&path.replace("/envs/prod", "")).await, anna.post(&path, body.clone()).await]
    {
        assert!([403, 404].contains(&status), "{status} {answer}");
    }
    let (_, suspend) = anna.post(&format!("{acme}/suspend"), json!({})).await;
    assert_ne!(suspend["state"], "suspended");
    http.converged("acme").await;
    assert_eq!(http.get(&path.replace("/envs/prod", "")).await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_user_deletes_no_account_and_reads_no_message() {
    let mut stack = Stack::start(1).await;
    let view = stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = stack.issue("acme", "prod", "publisher").await;
    let request = NewSystemCredential { name: "intruder".to_owned(), ttl: "1h".to_owned() };
    let creds = stack.authority.system_credential(&stack.actor, &request).await.unwrap();
    crate::support::run::saw(&creds);
    let intruder = ConnectOptions::with_credentials(&creds).unwrap();
    let intruder = intruder.connect(stack.cluster.servers()[0].url()).await.unwrap();

    // What an organization publishes does not come by. What it publishes itself does, in order.
    let mut all = intruder.subscribe(">").await.unwrap();
    intruder.publish("before", "".into()).await.unwrap();
    while all.next().await.unwrap().subject.as_str() != "before" {}
    let client = stack.connect(&issued, 0).await.unwrap();
    client.publish("ws.acme-prod.orders.made", "secret".into()).await.unwrap();
    arrived(&client, "ws.acme-prod.orders.made").await;
    intruder.publish("after", "".into()).await.unwrap();
    loop {
        let message = all.next().await.unwrap();
        assert!(!message.subject.starts_with("ws."), "{}", message.subject);
        if message.subject.as_str() == "after" {
            break;
        }
    }

    // A deletion is signed by an operator that servers trust; whose name is forged as little as another one's counts.
    let stranger = KeyPair::<Operator>::generate(&SystemEntropy::new());
    let (_, real) = stack.serve().await.get("/api/v1/operator").await;
    let real = real["publicKey"].as_str().unwrap().to_owned();
    for issuer in [stranger.public().to_string(), real] {
        let claims = json!({
            "iss": issuer, "sub": issuer, "jti": "x", "iat": stack.authority.now().timestamp(),
            "nats": {"accounts": [view.account_id], "type": "generic", "version": 2},
        });
        let header = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
        let body = format!("{}.{}", B64.encode(header), B64.encode(claims.to_string()));
        let forged = format!("{body}.{}", B64.encode(stranger.sign(body.as_bytes())));
        let answer = intruder.request("$SYS.REQ.CLAIMS.DELETE", forged.into()).await.unwrap();
        let answer = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(answer.contains("error") && !answer.contains(r#""code":200"#), "{answer}");
    }
    // Also not after it has read what it stores anew.
    drop(client);
    stack.cluster.stop_server(0, Stop::Graceful).await.unwrap();
    stack.cluster.start_server(0).await.unwrap();
    eventually("the account is there", || async { stack.connect(&issued, 0).await.is_ok() }).await;
}
