//! The commands that talk to the service, over a real connection.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use clap::CommandFactory;
use nats_authority::{
    api::{self, ApiState},
    authority::Standing,
    cli::Cli,
    entropy::SystemEntropy,
    jwt::{self, creds},
    nkey::{Seed, User},
    store::{listing::Filter, page::Page},
};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    ledger::{Ledger, ledger},
    support,
};

/// A service that listens, and a folder for what the commands write.
pub struct Service {
    url: String,
    pub dir: TempDir,
    pub ledger: Ledger,
}

impl Service {
    pub async fn start() -> Self {
        let ledger = ledger().await;
        let dir = support::temp_dir();
        fs::write(dir.path().join("token"), format!("{}\n", ledger.admin_token)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = api::router(ApiState::new(Arc::clone(&ledger.authority)));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, dir, ledger }
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a command against the service.
    pub async fn run(&self, line: &str) -> Ran {
        let (token, config) = (self.path("token"), self.path("config"));
        let connection = ["--url", &self.url, "--token-file", &token];
        self.run_with(line, &connection, &config).await
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub fn done(&self, line: &str) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        async move {
            let ran = self.run(line).await;
            assert_eq!(ran.code, 0, "{place}: {line}: {}", ran.err);
            ran.out
        }
    }

    /// A command against the service, to be killed.
    pub fn command(&self, line: &str) -> Command {
        let (token, config) = (self.path("token"), self.path("config"));
        self.command_with(line, &["--url", &self.url, "--token-file", &token], &config)
    }

    fn command_with(&self, line: &str, more: &[&str], config: &str) -> Command {
        let line = line.replace("DIR", &self.dir.path().display().to_string());
        let mut command = Command::new(env!("CARGO_BIN_EXE_nats-authority"));
        command
            .args(line.split(' ').chain(more.iter().copied()))
            .env_remove("NATS_AUTHORITY_URL")
            .env_remove("NATS_AUTHORITY_TOKEN_FILE")
            .env("XDG_CONFIG_HOME", config)
            .current_dir(self.dir.path());
        command
    }

    async fn run_with(&self, line: &str, more: &[&str], config: &str) -> Ran {
        let output = self.command_with(line, more, config).output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// How a command ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// The exit code and the code of the error, which is one line.
    pub fn failed(&self) -> (i32, &str) {
        let line = self.err.trim_end();
        assert!(!line.contains('\n'), "{line}");
        (self.code, line.strip_prefix("error[").and_then(|rest| rest.split(']').next()).unwrap_or(line))
    }
}

pub fn creds_file(path: impl AsRef<Path>) -> (jwt::Claims<jwt::User>, Seed<User>) {
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (token, seed) = creds::parse(&fs::read_to_string(path).unwrap()).unwrap();
    let claims = jwt::decode::<jwt::User>(&token).unwrap().claims;
    assert_eq!(claims.subject, seed.key_pair().public().any());
    (claims, seed)
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[tokio::test]
async fn every_command_does_something() {
    let s = Service::start().await;
    s.done("org create acme --display-name A --plan s --env prod,dev").await;
    for line in [
        "org list --state active --limit 1",
        "org show acme",
        "org update acme --set-limit conn=50",
        "org update acme --clear-limits",
        "org suspend acme --reason unpaid",
        "org resume acme",
        "env list acme",
        "env add acme stg",
        "env show acme stg",
        "consumer add acme prod orders --filter ws.acme-prod.a --filter ws.acme-prod.b --ack-wait 1m --max-deliver 5",
        "consumer add acme prod all --max-ack-pending 10 --deliver new",
        "consumer list acme prod",
        "consumer show acme prod orders",
        "consumer remove acme prod orders",
        "env remove acme stg",
        "key list acme",
        "operator show",
        "operator keys",
        "operator sealing-keys",
        "operator reseal",
        "operator server-config",
        "operator rotate --reason yearly",
        "operator rotations",
        "operator jwt show",
        "operator jwt proposal",
        "resolver status",
        "resolver reconcile",
        "plan list",
        "plan show s",
        "plan show flexi",
        "role list",
        "role show viewer",
        "audit list --org acme --since 1h --limit 2",
        "can-i acme prod --role viewer --subscribe ws.acme-prod.x",
        "org delete acme --purge",
    ] {
        assert!(!s.done(line).await.is_empty(), "{line}");
    }
    assert_eq!(s.done("operator system-credential tools").await, "");
    creds_file(s.path("system-tools.creds"));
}

#[tokio::test]
async fn a_consumer_that_is_not_made_in_time_is_not_converged() {
    let s = Service::start().await;
    s.done("org create acme --env prod").await;
    assert_eq!(s.run("consumer add acme prod a --wait 1").await.failed(), (3, "not-converged"));
    assert_eq!(s.run("consumer remove acme prod a --wait 0").await.failed(), (3, "not-converged"));
    let refused = s.run("consumer add acme prod b --filter ws.acme-dev.a").await;
    assert_eq!(refused.failed(), (1, "invalid-filter"));
    assert!(refused.err.contains("[/filterSubjects/0]"), "{}", refused.err);
}

#[tokio::test]
async fn json_is_what_the_api_answers() {
    let s = Service::start().await;
    s.done("org create acme --env prod").await;
    for (line, path) in [
        ("org show acme", "orgs/acme"),
        ("org list --limit 1", "orgs?limit=1"),
        ("consumer list acme prod", "orgs/acme/envs/prod/consumers"),
        ("role list", "roles"),
        ("audit list --action organization.onboard", "audit?action=organization.onboard"),
    ] {
        let request = reqwest::Client::new().get(format!("{}api/v1/{path}", s.url));
        let answer = request.bearer_auth(&s.ledger.admin_token).send().await.unwrap().text().await.unwrap();
        assert_eq!(s.done(&format!("{line} --output json")).await.trim_end(), answer, "{line}");
    }
}

#[tokio::test]
async fn refusals_and_unfinished_changes_have_codes_of_their_own() {
    let s = Service::start().await;
    let refused = s.run("org create system").await;
    assert_eq!((refused.failed(), refused.out.as_str()), ((1, "reserved-slug"), ""));
    assert!(refused.err.contains("[/slug]") && refused.err.contains("request "), "{}", refused.err);
    s.done("org create acme --env prod").await;
    assert_eq!(s.run("org create acme --display-name Other").await.failed(), (1, "organization-exists"));
    let asked = s.run("can-i acme prod --role viewer --publish ws.acme-dev.x").await;
    assert!(asked.code == 1 && asked.out.starts_with("no: "), "{}", asked.out);
    // Nobody pushes here.
    let late = s.run("org suspend acme --wait 1").await;
    assert_eq!(late.failed(), (3, "not-converged"));
    assert!(late.out.contains("suspended"), "{}", late.out);
    s.ledger.authority.set_standing(Standing { servers: Vec::new(), connected: Err("no".to_owned()) });
    assert_eq!(s.run("org resume acme --wait 0").await.failed(), (3, "not-converged"));
    assert_eq!(s.run("plan show huge").await.failed(), (1, "no-policy"));
    for usage in ["org", "org show", "org list --wait 61", "cred issue acme prod a", "can-i acme prod --role x"] {
        assert_eq!(s.run(usage).await.code, 2, "{usage}");
    }
    fs::write(s.path("token"), "nauth_x").unwrap();
    assert_eq!(s.run("org list").await.failed(), (1, "unauthenticated"));
    fs::remove_file(s.path("token")).unwrap();
    assert_eq!(s.run("org list").await.failed(), (1, "token-file"));
    let nowhere = ["--url", "http://127.0.0.1:1", "--token-file", "/dev/null"];
    assert_eq!(s.run_with("org list", &nowhere, "/nowhere").await.code, 1);
}

#[tokio::test]
async fn creds_files_are_private_and_nothing_is_overwritten() {
    let s = Service::start().await;
    s.done("org create acme --env prod").await;
    let issue = "cred issue acme prod a --role viewer --ttl 1h";
    let shown = s.done(issue).await;
    assert!(shown.contains("acme-prod") && !shown.contains("SEED"), "{shown}");
    let (first, seed) = creds_file(s.path("acme-prod-a.creds"));
    assert_eq!(s.run(issue).await.failed(), (1, "file-exists"));
    let json = s.done(&format!("{issue} --force -o json")).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(json["jwt"].is_string() && json.get("creds").is_none());
    let (second, _) = creds_file(s.path("acme-prod-a.creds"));
    assert_ne!(first.subject, second.subject);
    // A refused request leaves no file.
    assert_eq!(s.run("cred issue acme prod b --role nobody").await.failed(), (1, "unknown-role"));
    assert!(!fs::exists(s.path("acme-prod-b.creds")).unwrap());
    // Standard output gets a secret only when it is named.
    let secret = s.done("cred issue acme prod c --role viewer --out -").await;
    assert!(creds::parse(&secret).is_ok());

    // The seed stays here and is in the file.
    let own = Seed::<User>::generate(&SystemEntropy::new());
    fs::write(s.path("own.nk"), own.expose_text().as_str()).unwrap();
    // For natscli a context beside the creds file; for Kubernetes a manifest with it inside.
    s.done("cred issue acme prod n --role viewer --format natscli --nats-url nats://n1:4222 --out DIR/n.creds").await;
    let context: serde_json::Value = serde_json::from_slice(&fs::read(s.path("n.json")).unwrap()).unwrap();
    assert_eq!((&context["creds"], &context["url"]), (&s.path("n.creds").into(), &"nats://n1:4222".into()));
    assert!(context["inbox_prefix"].as_str().unwrap().starts_with("_INBOX.U"), "{context}");
    s.done("cred issue acme prod K_8s --role viewer --format k8s-secret --namespace shop --out DIR/k.yaml").await;
    let manifest = fs::read_to_string(s.path("k.yaml")).unwrap();
    assert!(manifest.contains("\n  name: acme-prod-k-8s\n  namespace: shop\n"), "{manifest}");
    let inside = manifest.trim().rsplit_once("nats.creds: ").unwrap().1;
    let inside = data_encoding::BASE64.decode(inside.as_bytes()).unwrap();
    creds::parse(&String::from_utf8(inside).unwrap()).unwrap();
    for file in ["n.creds", "n.json", "k.yaml"] {
        assert_eq!(fs::metadata(s.path(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    let wrong = "cred issue acme prod w --role viewer --format natscli --out -";
    assert_eq!(s.run(wrong).await.failed(), (1, "invalid-format"));

    s.done("cred issue acme prod own --role viewer --seed-file DIR/own.nk --out DIR/own.creds").await;
    let (_, read) = creds_file(s.path("own.creds"));
    assert_eq!(read.expose_bytes(), own.expose_bytes());
    assert_ne!(read.expose_bytes(), seed.expose_bytes());

    let batch = r#"{"items": [{"name": "x", "role": "viewer"}, {"name": "y", "role": "projector"}]}"#;
    fs::write(s.path("items.json"), batch).unwrap();
    s.done("cred issue-batch acme prod --file items.json --out-dir DIR").await;
    creds_file(s.path("acme-prod-x.creds"));
    creds_file(s.path("acme-prod-y.creds"));

    let org = "acme".parse().unwrap();
    let page = Page { limit: 10, after: None };
    let (listed, _) = s.ledger.authority.credentials(&org, &Filter::default(), &page).await.unwrap();
    assert_eq!(listed.len(), 8, "what could not be kept was not issued");
    let id = listed[0].id;
    assert!(s.done(&format!("cred show {id}")).await.contains("active"));
    let rotated = s.path("rotated.creds");
    assert!(s.done(&format!("cred rotate {id} --grace 1h --out {rotated}")).await.contains(&id.to_string()));
    assert!(fs::read_to_string(&rotated).unwrap().contains("NKEY SEED"));
    assert!(s.done(&format!("cred show {id}")).await.contains("superseded"));
    let again = s.run(&format!("cred rotate {id} --out {}", s.path("again.creds"))).await;
    assert_eq!(again.failed(), (1, "credential-superseded"));
    assert!(!std::path::Path::new(&s.path("again.creds")).exists(), "nothing to keep, no file");
    assert!(s.done(&format!("cred revoke {id} --no-wait --reason test")).await.contains("revoked"));
    assert!(s.done("cred list acme --state revoked").await.contains(&id.to_string()));
}

#[tokio::test]
async fn contexts_name_services() {
    let s = Service::start().await;
    let config = s.path("config");
    let alone = async |line: &str| s.run_with(line, &[], &config).await;
    assert_eq!(alone("org list").await.failed(), (1, "no-service"));
    s.done("context add test").await;
    assert_eq!(alone("org list --context test").await.code, 0);
    assert_eq!(alone("org list").await.failed(), (1, "no-service"));
    for line in ["context select test", "org list", "context list", "context show", "context show test -o json"] {
        assert_eq!(alone(line).await.code, 0, "{line}");
    }
    for line in ["context show other", "context select other", "org list --context other"] {
        assert_eq!(alone(line).await.failed(), (1, "no-context"), "{line}");
    }
    assert_eq!(alone("org list --context ../../x").await.failed(), (1, "invalid-name"));
    let stored = fs::read_to_string(s.dir.path().join("config/nats-authority/context/test.json")).unwrap();
    assert!(!stored.contains(&s.ledger.admin_token), "a context names the token's file, not the token");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_over_a_real_connection() {
    let s = Service::start().await;
    let body = format!(r#"{{"slug": "acme", "displayName": "{}"}}"#, "x".repeat(8 << 20));
    let request = reqwest::Client::new()
        .post(format!("{}api/v1/orgs", s.url))
        .bearer_auth(&s.ledger.admin_token)
        .header("content-type", "application/json")
        .body(body);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert!(answer.text().await.unwrap().contains("body-too-large"));
}

#[tokio::test]
async fn the_audit_log_proves_itself_with_and_without_the_service() {
    let service = Service::start().await;
    service.done("org create acme --env prod").await;
    support::stack::eventually("the log is linked", async || {
        service.ledger.authority.verify_audit(None).await.unwrap().verified == 3
    })
    .await;
    let words = service.done("audit verify").await;
    let anchor = words.lines().find_map(|line| line.strip_prefix("anchor  ")).unwrap().to_owned();
    assert!(words.starts_with("intact  yes"), "{words}");
    service.done(&format!("audit verify --anchor {anchor}")).await;
    let changed = service.run(&format!("audit verify --anchor {}", anchor.replace("3:", "2:"))).await;
    assert!(changed.code == 1 && changed.out.contains("broken at"), "{}", changed.out);
    service.done("audit export --out DIR/log.jsonl").await;
    let log = fs::read_to_string(service.path("log.jsonl")).unwrap();
    assert_eq!(log.lines().count(), 3);
    assert_eq!(service.done("audit verify --file DIR/log.jsonl").await, words);
    fs::write(service.path("forged.jsonl"), log.replace("organization.onboard", "organization.delete!")).unwrap();
    let forged = service.run("audit verify --file DIR/forged.jsonl --output json").await;
    assert!(forged.code == 1 && forged.out.contains("\"position\":3"), "{}", forged.out);
    let rest = service.done("audit export --after 1").await;
    assert_eq!(rest.lines().collect::<Vec<_>>(), log.lines().skip(1).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_key_is_asked_for_shown_and_given_up() {
    let service = Service::start().await;
    service.done("org create acme --env prod").await;
    let ran = service.run("key rotate acme --env prod --role viewer --reason yearly").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("proposed") && ran.out.contains("security-officer"), "{}", ran.out);
    let id = ran.err.trim().rsplit_once("key approve ").unwrap().1.trim_end_matches('`').to_owned();
    let list = service.done("key list acme").await;
    assert_eq!(list.lines().filter(|line| line.contains("the approval of a second person")).count(), 1, "{list}");
    let refused = service.run(&format!("key approve {id}")).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("approval-needs-security-officer"), "{}", refused.err);
    assert!(service.done("key rotations --org acme --state proposed").await.contains(&id));
    let shown = service.done(&format!("key show {id}")).await;
    assert!(shown.contains("yearly") && shown.contains("grace time"), "{shown}");
    let cancelled = service.done(&format!("key cancel {id} --reason later")).await;
    assert!(cancelled.contains("admin: later"), "{cancelled}");
    assert_eq!(service.run("key rotate acme --immediately --force").await.code, 2);
}
