//! The examples of the OpenAPI document are true: each request is sent to a running deployment as it stands there,
//! and does what it says; each answer is as the document describes it. `UPDATE_EXAMPLES=1` writes the answers anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nats_authority::dev::process::Signal;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::support::{
    self,
    deployment::Deployment,
    document::{fits, operations},
    knobs,
    stack::eventually,
};

/// What is not sent: `forget_server` wants a server that is gone for good, and answers nothing that could be shown.
const NOT_SENT: &[&str] = &["forget_server"];

/// What is sent, in this order. A name behind `@` is who asks, else the token of the bundle; `+WHAT=POINTER` keeps
/// a part of the answer for paths that come later.
const STEPS: &[&str] = &[
    "healthz",
    "readyz",
    "onboard_organization +accountId=/accountId",
    "show_organization",
    "list_organizations",
    "put_environment envType=stg",
    "show_environment envType=prod",
    "list_environments",
    "put_stream",
    "show_stream",
    "list_streams",
    "put_consumer",
    "show_consumer",
    "list_consumers",
    "issue_credential +credential=/credential/id",
    "issue_credentials",
    "show_credential id=credential",
    "list_credentials",
    "list_endings",
    "ask_can_i",
    "rotate_credential id=credential +credential=/credential/id",
    "revoke_credential id=credential",
    "revoke_credentials",
    "show_revocations",
    "list_plans",
    "list_roles",
    "show_policies",
    "diff_policies",
    "list_organization_keys",
    "rotate_organization_keys +first=/items/0/id",
    "list_key_rotations",
    "show_key_rotation id=first",
    "cancel_key_rotation id=first",
    "rotate_organization_keys +second=/items/0/id @asker",
    "approve_key_rotation id=second @officer",
    "hasten_key_rotation id=second @officer",
    "show_operator +jwt=/jwt",
    "set_operator_jwt",
    "list_operator_keys",
    "rotate_operator_key +operator=/id @asker",
    "list_operator_rotations",
    "show_operator_rotation id=operator",
    "approve_operator_rotation id=operator @officer",
    "propose_operator_jwt",
    "cancel_operator_rotation id=operator",
    "show_sealing_keys",
    "reseal",
    "show_server_config",
    "issue_system_credential",
    "show_resolver",
    "reconcile",
    "create_token +token=/token/id",
    "list_tokens",
    "revoke_token id=token",
    "list_audit_events",
    "export_audit_log",
    "verify_audit_log",
    "probe_accounts",
    "show_account_jwt",
    "show_operator_jwt",
    "delete_consumer",
    "delete_stream",
    "delete_environment envType=stg",
    "change_organization",
    "suspend_organization",
    "resume_organization",
    "delete_organization",
];

/// A deployment with what was learnt from it.
struct Walk {
    url: String,
    client: Client,
    tokens: BTreeMap<&'static str, String>,
    known: BTreeMap<String, String>,
}

/// One of [`STEPS`].
#[derive(Default)]
struct Step {
    id: &'static str,
    caller: &'static str,
    /// Parameters of the path: words, or names of what was kept.
    given: Vec<(&'static str, &'static str)>,
    keep: Option<(&'static str, &'static str)>,
}

impl Step {
    fn parse(text: &'static str) -> Self {
        let mut words = text.split(' ');
        let mut step = Self { id: words.next().unwrap(), caller: "admin", ..Self::default() };
        for word in words {
            match word.split_once('=') {
                Some((name, pointer)) if name.starts_with('+') => step.keep = Some((&name[1..], pointer)),
                Some(given) => step.given.push(given),
                None => step.caller = word.strip_prefix('@').unwrap(),
            }
        }
        step
    }
}

impl Walk {
    async fn start(dev: &Deployment) -> Self {
        let admin = std::fs::read_to_string(dev.text("/tokenFile")).unwrap().trim().to_owned();
        let mut tokens = BTreeMap::from([("admin", admin)]);
        // Two persons: who asks for a rotation does not approve it.
        for (name, role) in [("asker", "sovereign-admin"), ("officer", "security-officer")] {
            let (status, made) = dev.http.post("/api/v1/tokens", json!({"name": name, "role": role})).await;
            assert_eq!(status, 201, "{made}");
            tokens.insert(name, made["secret"].as_str().unwrap().to_owned());
        }
        let known = [("org", "acme"), ("envType", "prod")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self { url: dev.text("/apiUrl").to_owned(), client: Client::new(), tokens, known: known.into_iter().collect() }
    }

    /// The path with the parameters that the step gives, those that are known, and else those of the document.
    fn path(&self, path: &str, step: &Step, operation: &Value) -> String {
        let mut path = path.to_owned();
        for (name, value) in &step.given {
            path = path.replace(&format!("{{{name}}}"), self.known.get(*value).map_or(value, String::as_str));
        }
        for (name, value) in &self.known {
            path = path.replace(&format!("{{{name}}}"), value);
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            if let (Some(name), Some(example)) = (parameter["name"].as_str(), parameter["example"].as_str()) {
                path = path.replace(&format!("{{{name}}}"), example);
            }
        }
        assert!(!path.contains('{'), "{path}");
        path
    }

    async fn send(&self, method: &str, path: &str, step: &Step, body: Option<&Value>) -> (StatusCode, String) {
        let method: Method = method.to_uppercase().parse().unwrap();
        let request = self.client.request(method, format!("{}{path}", self.url)).header("prefer", "wait=30");
        let mut request = request.bearer_auth(&self.tokens[step.caller]);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Sends the example, holds the answer against the document, and gives it.
    async fn take(&mut self, step: &Step) -> (u16, Value) {
        let (method, path, operation) = operations().find(|(.., it)| it["operationId"] == step.id).unwrap();
        let mut body = operation.pointer("/requestBody/content/application~1json/example").cloned();
        if step.id == "set_operator_jwt" {
            // The only one that no other deployment could take.
            body = Some(json!({"jwt": self.known["jwt"]}));
        }
        let path = self.path(path, step, operation);
        let (mut status, mut text) = self.send(method, &path, step, body.as_ref()).await;
        // A rotation is hastened once its new key has reached the servers.
        while step.id == "hasten_key_rotation" && text.contains("key-rotation-state") {
            tokio::time::sleep(Duration::from_millis(50)).await;
            (status, text) = self.send(method, &path, step, body.as_ref()).await;
        }
        assert!(status.is_success(), "{}: {status} {text}", step.id);
        let answer = &operation["responses"][status.as_str()];
        let (media_type, content) = answer["content"].as_object().unwrap().iter().next().unwrap();
        let value = if media_type == "application/json" { serde_json::from_str(&text).unwrap() } else { json!(text) };
        fits(content, &value, step.id);
        if let Some((name, pointer)) = step.keep {
            let kept = value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("{pointer}: {value}"));
            self.known.insert(name.to_owned(), kept.to_owned());
        }
        (status.as_u16(), value)
    }
}

/// An answer as it can be shown: nothing that was ever secret, nothing long.
fn shown(value: &Value) -> Value {
    match value {
        Value::String(text) => json!(shown_text(text)),
        Value::Array(items) => items.iter().take(2).map(shown).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| (name.clone(), shown(value))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

fn shown_text(text: &str) -> String {
    if text.contains("-----BEGIN") {
        return "-----BEGIN NATS USER JWT-----\neyJ0eXAi…\n------END NATS USER JWT------\n…".to_owned();
    }
    if text.starts_with("nauth_") {
        return "nauth_…".to_owned();
    }
    let line = |line: &str| {
        let words = line.split(' ').map(|word| match word.trim_matches('"') {
            token if token.starts_with("eyJ") => word.replace(token, "eyJ0eXAi…"),
            _ => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    };
    let lines = if text.starts_with('{') { 1 } else { 12 };
    text.lines().take(lines).map(line).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_taken_and_answered_as_described() {
    let folder = support::open_dir();
    let mut dev = Deployment::start(&folder.path().join("state"), &["--nodes", "1"]).await;
    let mut walk = Walk::start(&dev).await;
    let mut answers = BTreeMap::new();
    for text in STEPS {
        let step = Step::parse(text);
        let (status, answer) = walk.take(&step).await;
        answers.insert(step.id, (status, answer));
    }
    let all: BTreeSet<_> = operations().map(|(.., operation)| operation["operationId"].as_str().unwrap()).collect();
    let sent: BTreeSet<_> = answers.keys().chain(NOT_SENT).copied().collect();
    assert_eq!(sent, all);
    if knobs::number("UPDATE_EXAMPLES", 0) == 1 {
        update(&answers);
    }
    eventually("the organization is gone", || async {
        dev.http.get("/api/v1/orgs/acme").await.1["state"] == json!("deleted")
    })
    .await;
    assert_eq!(dev.end(Signal::INT).await, Some(0));
}

fn update(answers: &BTreeMap<&str, (u16, Value)>) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/examples.json");
    let mut examples: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    for (id, (status, answer)) in answers {
        let example = examples.entry((*id).to_owned()).or_insert_with(|| json!({}));
        example["status"] = json!(status.to_string());
        example["answer"] = shown(answer);
    }
    std::fs::write(file, serde_json::to_string_pretty(&examples).unwrap() + "\n").unwrap();
}
