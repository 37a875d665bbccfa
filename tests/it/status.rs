//! How the whole stands, as the API and `resolver status` say it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "shows the times that were measured")]

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use nats_authority::{authority::requests::Reason, dev::nats::Stop, model::view::Convergence};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::support::{
    deployment::PROGRAM,
    http::Http,
    stack::{Stack, eventually},
};

fn command(stack: &Stack, http: &Http, dir: &Path, more: &[&str]) -> Command {
    let token = dir.join("token");
    fs::write(&token, &stack.admin_token).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["resolver", "status", "--url", &http.url, "--token-file"]).arg(&token).args(more);
    command
}

async fn status(stack: &Stack, http: &Http, more: &[&str]) -> Output {
    let dir = crate::support::temp_dir();
    command(stack, http, dir.path(), more).output().await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_is_named_with_its_words() {
    let stack = Stack::start(2).await;
    let http = stack.serve().await;
    stack.onboard("acme", &["prod"]).await;
    stack.converged("acme").await;
    let issued = stack.issue("acme", "prod", "viewer").await;
    let done = status(&stack, &http, &["--wait", "20"]).await;
    assert_eq!((done.status.code(), text(&done.stderr)), (Some(0), String::new()));
    assert!(text(&done.stdout).contains("converged since"), "{}", text(&done.stdout));

    // Its folder is no folder any more.
    let dir = stack.cluster.servers()[1].resolver_dir();
    fs::rename(&dir, dir.with_extension("away")).unwrap();
    fs::write(&dir, "").unwrap();
    stack.authority.revoke(&stack.actor, issued.credential.id, Reason::default()).await.unwrap();
    let slug = "acme".parse().unwrap();
    let words = || async {
        let view = stack.authority.organization(&slug).await.unwrap().resolver;
        view.servers.into_iter().find(|server| server.name == "n2").unwrap().error
    };
    eventually("refused", || async { words().await.is_some() }).await;
    let said = words().await.unwrap();
    println!("n2 says: {said}");
    assert!(said.contains("not a directory"), "{said}");
    let view = stack.authority.organization(&slug).await.unwrap().resolver;
    assert_eq!((view.state, view.missing), (Convergence::Partial, vec!["n2".to_owned()]));
    let late = status(&stack, &http, &["--wait", "1"]).await;
    let (out, err) = (text(&late.stdout), text(&late.stderr));
    assert_eq!(late.status.code(), Some(3), "{out}{err}");
    assert!(err.starts_with("error[not-converged]: after 1 s: n2 lacks ") && err.lines().count() == 1, "{err}");
    assert!(out.contains("PARTIAL, lacking: n2, last converged ") && out.contains("not a directory"), "{out}");
    println!("{out}{err}");
    let (_, whole) = http.get("/api/v1/resolver").await;
    assert_eq!((&whole["state"], &whole["missing"]), (&"partial".into(), &serde_json::json!(["n2"])));
    assert!(whole["convergedSince"].is_null() && whole["convergedAt"].is_string(), "{whole}");
    let refusal = &whole["servers"][1]["refusal"];
    assert_eq!((&refusal["org"], &refusal["accountId"]), (&"acme".into(), &view_account(&stack).await.into()));
    assert!(refusal["error"].as_str().unwrap().contains("not a directory"), "{whole}");
    assert_eq!((&whole["servers"][0]["lacking"], &whole["servers"][0]["refusal"]), (&0.into(), &Value::Null));

    // In a pipe only what changes is written, and it ends when all is well.
    let folder = crate::support::temp_dir();
    let mut watch = command(&stack, &http, folder.path(), &["--watch", "--wait", "50", "-o", "json"]);
    let mut watch = watch.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    // It has seen how it stands: now the folder is one again.
    fs::remove_file(&dir).unwrap();
    fs::rename(dir.with_extension("away"), &dir).unwrap();
    let mut seen: Vec<Value> = vec![serde_json::from_str(&first).unwrap()];
    while let Some(line) = lines.next_line().await.unwrap() {
        seen.push(serde_json::from_str(&line).unwrap());
    }
    let watched = watch.wait_with_output().await.unwrap();
    assert_eq!((watched.status.code(), text(&watched.stderr)), (Some(0), String::new()), "{seen:?}");
    assert_eq!(seen[0]["state"], "partial");
    assert_eq!(seen.last().unwrap()["state"], "converged");
    for two in seen.windows(2) {
        let essence = |status: &Value| (status["state"].clone(), status["accounts"].clone(), status["servers"].clone());
        assert_ne!(essence(&two[0]), essence(&two[1]), "nothing had changed");
    }
    assert!(words().await.is_none());
}

async fn view_account(stack: &Stack) -> String {
    stack.authority.organization(&"acme".parse().unwrap()).await.unwrap().account_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_forgotten_on_one_replica_is_dropped_by_another() {
    let mut stack = Stack::start(2).await;
    let (other, _stop) = stack.replica().await;
    stack.onboard("acme", &[]).await;
    stack.converged("acme").await;
    let names = |authority: &nats_authority::authority::Authority| -> Vec<_> {
        authority.standing().servers.iter().map(|server| (server.row.name.clone(), server.row.live)).collect()
    };
    let both = |live: bool| vec![("n1".to_owned(), true), ("n2".to_owned(), live)];
    eventually("the other knows both", || async { names(&other) == both(true) }).await;
    stack.cluster.stop_server(1, Stop::Graceful).await.unwrap();
    eventually("gone", || async { names(&other) == both(false) && names(&stack.authority) == both(false) }).await;
    stack.authority.suspend(&stack.actor, &"acme".parse().unwrap(), Reason::default()).await.unwrap();
    eventually("partial", || async {
        let whole = other.whole(other.now()).await.unwrap();
        whole.state == Convergence::Partial && whole.missing == ["n2"]
    })
    .await;
    stack.authority.forget_server(&stack.actor, "n2").await.unwrap();
    eventually("dropped by the other", || async { names(&other) == [("n1".to_owned(), true)] }).await;
    eventually("converged", || async {
        let whole = other.whole(other.now()).await.unwrap();
        whole.state == Convergence::Converged && !whole.count.servers.contains_key("n2")
    })
    .await;
    // It comes back, is known to both, and gets what it missed.
    stack.cluster.start_server(1).await.unwrap();
    eventually("back", || async { names(&other) == both(true) && names(&stack.authority) == both(true) }).await;
    stack.converged("acme").await;
    eventually("converged with it", || async {
        let whole = other.whole(other.now()).await.unwrap();
        whole.state == Convergence::Converged && whole.count.servers.contains_key("n2")
    })
    .await;
}
