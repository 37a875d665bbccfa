//! Every operation of the API once as it is meant, over a real deployment, and once with secrets where they do not belong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use nats_authority::{
    authority::proof::prove,
    entropy::SystemEntropy,
    model::Environment,
    nkey::{Seed, User},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    deployment::{Deployment, PROGRAM},
    http::{Http, as_text},
    secrets::Secrets,
    stack::eventually,
};

/// Calls operations by their id and keeps what it sent and got.
pub struct Walk<'a> {
    dev: &'a Deployment,
    operations: BTreeMap<String, (Method, String)>,
    called: BTreeSet<String>,
    /// Every secret that went over the wire.
    pub secrets: Secrets,
    /// Requests that were answered.
    pub requests: usize,
    /// Who stays connected: what servers tell about them holds their JWTs.
    clients: Vec<async_nats::Client>,
}

impl<'a> Walk<'a> {
    /// Of the operations that the service describes.
    pub async fn new(dev: &'a Deployment) -> Self {
        let (_, document) = dev.http.get("/openapi.json").await;
        let mut operations = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let id = operation["operationId"].as_str().unwrap().to_owned();
                operations.insert(id, (method.to_uppercase().parse().unwrap(), path.clone()));
            }
        }
        Self { dev, operations, called: BTreeSet::new(), secrets: Secrets::default(), requests: 0, clients: Vec::new() }
    }

    /// Calls one with what its path needs, such as `org=acme`, and a query behind `?`.
    async fn by(&mut self, http: &Http, operation: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let (method, template) = &self.operations[operation];
        let (parts, query) = path.split_once('?').unwrap_or((path, ""));
        let mut url = template.clone();
        for (name, value) in parts.split(' ').filter_map(|part| part.split_once('=')) {
            url = url.replace(&format!("{{{name}}}"), value);
        }
        assert!(!url.contains('{'), "{operation}: {url}");
        self.called.insert(operation.to_owned());
        let (status, answer) = http.send(method.clone(), &format!("{url}?{query}"), body).await;
        self.secrets.learn(&as_text(&answer));
        self.requests += 1;
        (status, answer)
    }

    /// As the administrator, with success.
    async fn ok(&mut self, operation: &str, path: &str, body: impl Into<Option<Value>>) -> Value {
        let dev = self.dev;
        self.ok_by(&dev.http, operation, path, body).await
    }

    async fn ok_by(&mut self, http: &Http, operation: &str, path: &str, body: impl Into<Option<Value>>) -> Value {
        let (status, answer) = self.by(http, operation, path, body.into()).await;
        assert!((200..300).contains(&status), "{operation} {path}: {status} {answer}");
        answer
    }

    /// All of them; returns the first credential that was issued.
    pub async fn every_operation(&mut self) -> Value {
        self.questions().await;
        let issued = self.organizations_and_credentials().await;
        self.renewal(&issued).await;
        self.rotated_and_revoked(issued["credential"]["id"].as_str().unwrap()).await;
        let (boss, officer) = self.tokens().await;
        self.keys(&boss, &officer).await;
        self.ends().await;
        self.operator(&boss, &officer).await;
        let all: BTreeSet<_> = self.operations.keys().cloned().collect();
        assert_eq!(self.called, all, "a new operation is to be called here as well");
        issued
    }

    async fn questions(&mut self) {
        for operation in ["healthz", "readyz", "probe_accounts", "show_operator_jwt", "list_plans", "list_roles"] {
            self.ok(operation, "", None).await;
        }
        for operation in ["show_policies", "show_operator", "list_operator_keys", "show_server_config", "show_resolver"]
        {
            self.ok(operation, "", None).await;
        }
        for operation in ["show_sealing_keys", "list_audit_events", "list_operator_rotations", "list_endings"] {
            self.ok(operation, "", None).await;
        }
        let files = |folder: &str| -> BTreeMap<String, String> {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(folder);
            let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
            let text = |file: &Path| fs::read_to_string(file).unwrap();
            files.map(|file| (file.file_stem().unwrap().to_str().unwrap().to_owned(), text(&file))).collect()
        };
        let body = json!({"plans": files("plans"), "roles": files("roles")});
        self.ok("diff_policies", "", body).await;
        self.ok("reseal", "", json!({})).await;
        self.ok("reconcile", "", None).await;
        // A server that is live cannot be forgotten.
        let (dev, name) = (self.dev, self.dev.text("/servers/0/name").to_owned());
        let (status, _) = self.by(&dev.http, "forget_server", &format!("name={name}"), None).await;
        assert_eq!(status, 409);
    }

    async fn organizations_and_credentials(&mut self) -> Value {
        self.ok("onboard_organization", "", json!({"slug": "acme", "environments": ["prod", "dev"]})).await;
        let acme = self.dev.http.converged("acme").await;
        let account = format!("accountId={}", acme["accountId"].as_str().unwrap());
        self.ok("show_account_jwt", &account, None).await;
        self.ok("change_organization", "org=acme", json!({"plan": "m", "allowOrganizationReach": true})).await;
        self.ok("list_organizations", "", None).await;
        let (org, env) = ("org=acme", "org=acme envType=prod");
        for operation in ["show_organization", "list_environments", "list_credentials", "list_organization_keys"] {
            self.ok(operation, org, None).await;
        }
        self.ok("put_environment", "org=acme envType=poc", None).await;
        self.dev.http.converged("acme").await;
        self.ok("show_environment", env, None).await;
        self.ok("put_stream", &format!("{env} name=jobs"), json!({"maxBytes": "1MiB"})).await;
        self.ok("put_consumer", &format!("{env} name=c"), json!({"stream": "jobs"})).await;
        for operation in ["show_stream", "show_consumer"] {
            let name = if operation == "show_stream" { "jobs" } else { "c" };
            self.ok(operation, &format!("{env} name={name}"), None).await;
        }
        self.ok("list_streams", env, None).await;
        self.ok("list_consumers", env, None).await;

        let issued = self.ok("issue_credential", env, json!({"name": "one", "role": "publisher"})).await;
        let own = Seed::<User>::generate(&SystemEntropy::new());
        self.secrets.bytes("a caller's own key", own.expose_bytes());
        let pair = own.key_pair();
        let environment = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
        let proof = prove(&environment, "viewer", &pair);
        let body = json!({"name": "own", "role": "viewer", "publicKey": pair.public().to_string(), "proof": proof});
        let without = self.ok("issue_credential", env, body).await;
        assert!(without.get("creds").is_none(), "the key is not ours");
        let permissions = json!({"publish": {"allow": ["ws.acme-prod.orders.>"]}});
        let body = json!({"name": "custom", "role": "custom", "permissions": permissions, "allowedCidrs": ["::1/128"]});
        self.ok("issue_credential", env, body).await;
        let items: Vec<_> = (0..3).map(|n| json!({"name": format!("b{n}"), "role": "viewer"})).collect();
        self.ok("issue_credentials", env, json!({"items": items})).await;
        let id = format!("id={}", issued["credential"]["id"].as_str().unwrap());
        self.ok("show_credential", &id, None).await;
        self.ok("ask_can_i", "", json!({"org": "acme", "envType": "prod", "role": "viewer", "publish": "x"})).await;
        self.ok("issue_system_credential", "", json!({"name": "tools", "ttl": "15m"})).await;
        issued
    }

    /// Over NATS, by the command that applications run.
    async fn renewal(&mut self, issued: &Value) {
        self.clients.push(self.dev.connect(issued, 0).await.unwrap());
        let file = self.dev.dir.join("renewed.creds");
        fs::write(&file, issued["creds"].as_str().unwrap()).unwrap();
        let server = self.dev.text("/servers/0/url");
        // Who answers is there a moment after the servers have the platform account.
        eventually("somebody renews", || async {
            let mut command = tokio::process::Command::new(PROGRAM);
            command.args(["renew", "--server", server, "--creds"]).arg(&file);
            let done = command.output().await.unwrap();
            let words = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success() || words.contains("nats-no-answer"), "{words}");
            done.status.success()
        })
        .await;
        self.secrets.learn(&fs::read_to_string(&file).unwrap());
    }

    /// Returns an administrator and a security officer who are two persons.
    async fn tokens(&mut self) -> (Http, Http) {
        let boss = self.ok("create_token", "", json!({"name": "boss", "role": "sovereign-admin"})).await;
        let body = json!({"name": "officer", "role": "security-officer"});
        let officer = self.ok("create_token", "", body).await;
        let body = json!({"name": "anna", "role": "org-admin", "organizations": ["acme"]});
        let anna = self.ok("create_token", "", body).await;
        self.ok("list_tokens", "", None).await;
        let denied = Http::new(&self.dev.http.url, anna["secret"].as_str().unwrap());
        assert_eq!(self.by(&denied, "list_tokens", "", None).await.0, 403);
        self.ok("revoke_token", &format!("id={}", anna["token"]["id"].as_str().unwrap()), None).await;
        let caller = |made: &Value| Http::new(&self.dev.http.url, made["secret"].as_str().unwrap());
        (caller(&boss), caller(&officer))
    }

    async fn keys(&mut self, boss: &Http, officer: &Http) {
        let mut ask = async |role: &str| {
            let body = json!({"envType": "prod", "role": role, "grace": "2h"});
            let proposed = self.ok_by(boss, "rotate_organization_keys", "org=acme", body).await;
            format!("id={}", proposed["items"][0]["id"].as_str().unwrap())
        };
        let (taken, left) = (ask("publisher").await, ask("viewer").await);
        self.ok_by(officer, "approve_key_rotation", &taken, None).await;
        self.ok("list_key_rotations", "", None).await;
        self.ok("show_key_rotation", &taken, None).await;
        self.ok("cancel_key_rotation", &left, json!({"reason": "not now"})).await;
        self.dev.http.converged("acme").await;
        let dev = self.dev;
        eventually("the old key retires", || async {
            let path = format!("/api/v1/key-rotations/{}", taken.trim_start_matches("id="));
            dev.http.get(&path).await.1["state"] == "retiring"
        })
        .await;
        self.ok_by(officer, "hasten_key_rotation", &taken, None).await;
    }

    async fn rotated_and_revoked(&mut self, credential: &str) {
        let id = format!("id={credential}");
        let rotated = self.ok("rotate_credential", &id, json!({"grace": "1h"})).await;
        self.ok("revoke_credential", &id, json!({"reason": "test"})).await;
        self.ok("revoke_credentials", "org=acme", json!({"role": "viewer"})).await;
        self.ok("show_revocations", "org=acme", None).await;
        self.clients.push(self.dev.connect(&rotated, 0).await.unwrap());
    }

    async fn ends(&mut self) {
        let env = "org=acme envType=prod";
        self.ok("delete_consumer", &format!("{env} name=c"), None).await;
        let dev = self.dev;
        eventually("the consumer is gone", || async {
            dev.http.get("/api/v1/orgs/acme/envs/prod/consumers").await.1["items"] == json!([])
        })
        .await;
        self.ok("delete_stream", &format!("{env} name=jobs"), None).await;
        self.ok("delete_environment", "org=acme envType=poc", None).await;
        self.ok("suspend_organization", "org=acme", json!({})).await;
        self.ok("resume_organization", "org=acme", json!({})).await;
        self.dev.http.converged("acme").await;
        self.ok("onboard_organization", "", json!({"slug": "globex"})).await;
        self.ok("delete_organization", "org=globex?purge=true", None).await;
        self.ok("verify_audit_log", "", None).await;
        self.ok("export_audit_log", "", None).await;
    }

    async fn operator(&mut self, boss: &Http, officer: &Http) {
        let id = |rotation: &Value| format!("id={}", rotation["id"].as_str().unwrap());
        let first = self.ok("rotate_operator_key", "", json!({})).await;
        self.ok("show_operator_rotation", &id(&first), None).await;
        self.ok("cancel_operator_rotation", &id(&first), json!({})).await;
        let second = self.ok_by(boss, "rotate_operator_key", "", json!({})).await;
        self.ok_by(officer, "approve_operator_rotation", &id(&second), None).await;
        let proposal = self.ok("propose_operator_jwt", "", None).await;
        let dir = &self.dev.dir;
        fs::write(dir.join("proposal.json"), proposal.to_string()).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["operator", "sign", "proposal.json", "--identity", "operator-identity.seed", "--out", "new.jwt"]);
        let done = command.current_dir(dir).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let jwt = fs::read_to_string(dir.join("new.jwt")).unwrap();
        self.ok("set_operator_jwt", "", json!({"jwt": jwt.trim()})).await;
    }

    /// Each operation with a seed where an id, a name, a query, a key or a value belongs, and with a token that is none.
    /// What is refused is easily logged.
    pub async fn every_mistake(&mut self) {
        let seed = Seed::<User>::generate(&SystemEntropy::new()).expose_text().to_string();
        let wrong = "nauth_".to_owned() + &data_encoding::BASE64URL_NOPAD.encode(seed.as_bytes())[..43];
        self.secrets.learn(&format!("{seed} {wrong}"));
        let stranger = Http::new(&self.dev.http.url, &wrong);
        let unknown = "0199c1d2-7a4e-7b1f-9c55-1d0f6f6d2a11";
        for (id, (method, path)) in self.operations.clone() {
            let body = (method != Method::GET && method != Method::DELETE)
                .then(|| json!({&seed: 1, "slug": seed, "name": seed, "role": seed, "reason": seed}));
            let fill = |value: &str| {
                let path = path.replace("{org}", "acme").replace("{envType}", "prod");
                path.replace("{id}", value).replace("{name}", value).replace("{accountId}", value)
            };
            for (http, known) in [(&self.dev.http, true), (&stranger, false)] {
                for url in [format!("{}?x={seed}", fill("x")), format!("{}?{seed}=1", fill("x")), fill(&seed)] {
                    if url.contains(&seed) {
                        let (status, answer) = http.send(method.clone(), &url, body.clone()).await;
                        let refused = status == 422 && answer["code"] == "secret-in-request";
                        assert!(refused && !answer.to_string().contains(&seed), "{id}: {status} {answer}");
                        self.requests += 1;
                    }
                }
                let header = [("idempotency-key", seed.as_str()), ("x-request-id", seed.as_str())];
                let sent = http.send_with(&header, method.clone(), &fill(unknown), body.clone()).await;
                assert_eq!(sent.1["code"], "secret-in-request", "{id}: {sent:?}");
                if let Some(body) = &body {
                    let (status, answer) = http.send(method.clone(), &fill(unknown), Some(body.clone())).await;
                    // Some take no body, and read none.
                    let read = answer["code"] == "secret-in-request";
                    assert!(if known { read || status < 500 } else { status == 401 }, "{id}: {status} {answer}");
                    self.requests += 2;
                }
            }
        }
    }
}
