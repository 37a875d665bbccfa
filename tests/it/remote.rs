//! The commands that talk to the service, over a real connection.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use clap::{CommandFactory, Parser};
use nats_authority::{
    api::{self, ApiState},
    authority::Standing,
    cli::{Cli, Command, remote},
    entropy::SystemEntropy,
    jwt::{self, creds},
    nkey::{Seed, User},
    store::{credentials::Filter, page::Page},
};
use tempfile::TempDir;

use crate::{
    ledger::{Ledger, ledger},
    support,
};

/// A service that listens, and a folder for what the commands write.
struct Service {
    url: String,
    dir: TempDir,
    ledger: Ledger,
}

impl Service {
    async fn start() -> Self {
        let ledger = ledger().await;
        let dir = support::temp_dir();
        fs::write(dir.path().join("token"), format!("{}\n", ledger.admin_token)).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let router = api::router(ApiState::new(Arc::clone(&ledger.authority)));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, dir, ledger }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a command; the exit code, or the code of the error.
    async fn run(&self, line: &str) -> Result<u8, &'static str> {
        let (token, config) = (self.path("token"), self.path("config"));
        let connection = ["--url", &self.url, "--token-file", &token, "--config-home", &config];
        self.run_with(line, &connection).await
    }

    async fn run_with(&self, line: &str, more: &[&str]) -> Result<u8, &'static str> {
        let line = line.replace("DIR", &self.dir.path().display().to_string());
        let words = ["nats-authority"].into_iter().chain(line.split(' ')).chain(more.iter().copied());
        let cli = Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}"));
        let Command::Remote(command) = cli.command else { panic!("{line} is no remote command") };
        remote::run(command, &cli.global).await.map_err(|error| error.code())
    }
}

fn creds_file(path: impl AsRef<Path>) -> (jwt::Claims<jwt::User>, Seed<User>) {
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
    assert_eq!(s.run("org create acme --display-name A --plan s --env prod,dev").await, Ok(0));
    for line in [
        "org list --state active --limit 1",
        "org show acme",
        "org show acme -o json",
        "org update acme --set-limit conn=50",
        "org update acme --clear-limits",
        "org suspend acme --reason unpaid",
        "org resume acme",
        "env list acme",
        "env add acme stg",
        "env show acme stg",
        "env remove acme stg",
        "cred list acme --expires-before 14d",
        "key list acme",
        "operator show",
        "operator keys",
        "operator server-config",
        "operator system-credential tools --out DIR/tools.creds",
        "resolver status",
        "resolver reconcile",
        "plan list",
        "plan show s",
        "role list",
        "role show viewer",
        "role show viewer -o json",
        "audit list --org acme --since 1h --limit 2",
        "can-i acme prod --role viewer --subscribe ws.acme-prod.x",
        "org delete acme --purge",
    ] {
        assert_eq!(s.run(line).await, Ok(0), "{line}");
    }
    creds_file(s.path("tools.creds"));
}

#[tokio::test]
async fn refusals_and_unfinished_changes_have_codes_of_their_own() {
    let s = Service::start().await;
    assert_eq!(s.run("org create system").await, Ok(1));
    assert_eq!(s.run("org create acme --env prod").await, Ok(0));
    assert_eq!(s.run("org create acme --display-name Other").await, Ok(1));
    assert_eq!(s.run("can-i acme prod --role viewer --publish ws.acme-dev.x").await, Ok(1));
    // Nobody pushes here.
    assert_eq!(s.run("org suspend acme --wait 1").await, Ok(3));
    s.ledger.authority.set_standing(Standing { servers: Vec::new(), connected: Err("no".to_owned()) });
    assert_eq!(s.run("org resume acme --wait 0").await, Ok(3));
    assert_eq!(s.run("plan show huge").await, Err("no-policy"));
    fs::write(s.path("token"), "nauth_x").unwrap();
    assert_eq!(s.run("org list").await, Ok(1));
    fs::remove_file(s.path("token")).unwrap();
    assert_eq!(s.run("org list").await, Err("token-file"));
    let nowhere = ["--url", "http://127.0.0.1:1", "--token-file", "/dev/null"];
    assert_eq!(s.run_with("org list", &nowhere).await, Err("service-unreachable"));
}

#[tokio::test]
async fn creds_files_are_private_and_nothing_is_overwritten() {
    let s = Service::start().await;
    assert_eq!(s.run("org create acme --env prod").await, Ok(0));
    let issue = "cred issue acme prod a --role viewer --ttl 1h --out DIR/a.creds";
    assert_eq!(s.run(issue).await, Ok(0));
    let (first, seed) = creds_file(s.path("a.creds"));
    assert_eq!(s.run(issue).await, Err("file-exists"));
    assert_eq!(s.run(&format!("{issue} --force")).await, Ok(0));
    let (second, _) = creds_file(s.path("a.creds"));
    assert_ne!(first.subject, second.subject);
    // A refused request leaves no file.
    assert_eq!(s.run("cred issue acme prod b --role nobody --out DIR/b.creds").await, Ok(1));
    assert!(!fs::exists(s.path("b.creds")).unwrap());

    // The seed stays here and is in the file.
    let own = Seed::<User>::generate(&SystemEntropy::new());
    fs::write(s.path("own.nk"), own.expose_text().as_str()).unwrap();
    assert_eq!(s.run("cred issue acme prod own --role viewer --seed-file DIR/own.nk --out DIR/own.creds").await, Ok(0));
    let (_, read) = creds_file(s.path("own.creds"));
    assert_eq!(read.expose_bytes(), own.expose_bytes());
    assert_ne!(read.expose_bytes(), seed.expose_bytes());

    let batch = r#"{"items": [{"name": "x", "role": "viewer"}, {"name": "y", "role": "projector"}]}"#;
    fs::write(s.path("items.json"), batch).unwrap();
    assert_eq!(s.run("cred issue-batch acme prod --file DIR/items.json --out-dir DIR").await, Ok(0));
    creds_file(s.path("acme-prod-x.creds"));
    creds_file(s.path("acme-prod-y.creds"));

    let org = "acme".parse().unwrap();
    let page = Page { limit: 10, after: None };
    let (listed, _) = s.ledger.authority.credentials(&org, &Filter::default(), &page).await.unwrap();
    assert_eq!(listed.len(), 5, "what could not be kept was not issued");
    let id = listed[0].id;
    assert_eq!(s.run(&format!("cred show {id}")).await, Ok(0));
    assert_eq!(s.run(&format!("cred revoke {id} --reason test -o json")).await, Ok(0));
    assert_eq!(s.run("cred list acme --state revoked").await, Ok(0));
}

#[tokio::test]
async fn contexts_name_services() {
    let s = Service::start().await;
    let config = s.path("config");
    let here = ["--config-home", config.as_str()];
    assert_eq!(s.run_with("org list", &here).await, Err("no-service"));
    assert_eq!(s.run("context add test").await, Ok(0));
    assert_eq!(s.run_with("org list --context test", &here).await, Ok(0));
    assert_eq!(s.run_with("org list", &here).await, Err("no-service"));
    assert_eq!(s.run_with("context select test", &here).await, Ok(0));
    assert_eq!(s.run_with("org list", &here).await, Ok(0));
    for line in ["context list", "context show", "context show test -o json"] {
        assert_eq!(s.run_with(line, &here).await, Ok(0));
    }
    for line in ["context show other", "context select other", "org list --context other"] {
        assert_eq!(s.run_with(line, &here).await, Err("no-context"), "{line}");
    }
    assert_eq!(s.run_with("org list --context ../../x", &here).await, Err("invalid-name"));
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
