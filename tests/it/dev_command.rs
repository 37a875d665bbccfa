//! The `dev` command: one folder, one deployment, and nothing of it left when it ends.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use nats_authority::dev::{
    process::{Process, Signal, send},
    tools,
};
use serde_json::{Value, json};

use crate::support::{
    self,
    deployment::{Deployment, PROGRAM, has_ended},
    stack::eventually,
};

/// What the interface promises of stack.json.
fn check_stack(dev: &Deployment, nodes: usize) {
    let mode = fs::metadata(dev.dir.join("stack.json")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it holds the password of the database");
    assert!(dev.text("/apiUrl").starts_with("http://127.0.0.1:"));
    assert!(dev.text("/databaseUrl").starts_with("postgres://"));
    let urls: Vec<_> = dev.stack["natsUrls"].as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    let servers = dev.stack["servers"].as_array().unwrap();
    assert_eq!((urls.len(), servers.len()), (nodes, nodes));
    for (index, server) in servers.iter().enumerate() {
        assert_eq!(server["name"], format!("n{}", index + 1));
        assert_eq!(server["url"], urls[index]);
        assert!(fs::exists(server["config"].as_str().unwrap()).unwrap());
    }
    let pids = dev.pids();
    assert_eq!(pids.len(), nodes + 2);
    assert!(pids.iter().all(|pid| !has_ended(*pid)), "{pids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_folder_is_one_deployment() {
    let folder = support::open_dir();
    let dir = folder.path().join("state");
    let mut dev = Deployment::start(&dir, &[]).await;
    check_stack(&dev, 3);
    let acme = dev.http.onboard("acme", &["prod"]).await;
    let issued = dev.http.issue("acme", "prod", json!({"name": "p", "role": "publisher"})).await;
    dev.connect(&issued, 2).await.unwrap();

    // A second start would run the same data twice.
    let second = Command::new(PROGRAM).arg("dev").arg("--dir").arg(&dir).output().unwrap();
    let words = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(1), "{words}");
    assert!(words.contains("dev-in-use") && words.trim().lines().count() == 1, "{words}");
    check_stack(&dev, 3);

    // A server that somebody kills and starts again from its configuration catches up.
    send(dev.pid("/servers/2/pid"), Signal::KILL).unwrap();
    eventually("the loss is seen", || async {
        let (_, resolver) = dev.http.get("/api/v1/resolver").await;
        resolver["servers"].as_array().unwrap().iter().any(|server| server["live"] == false)
    })
    .await;
    assert_eq!(dev.http.post("/api/v1/orgs/acme/suspend", Value::Null).await.0, 200);
    let resumed = dev.http.post("/api/v1/orgs/acme/resume", Value::Null).await.1;
    let mut command = Command::new(tools::nats_server().unwrap());
    command.arg("--config").arg(dev.text("/servers/2/config"));
    let mut server = Process::spawn("n3", command, &folder.path().join("n3.log"), Signal::KILL).unwrap();
    let generation = &resumed["resolver"]["generation"];
    eventually("all three store the newest account", || async {
        let view = dev.http.converged("acme").await;
        let servers = view["resolver"]["servers"].as_array().unwrap();
        servers.len() == 3 && servers.iter().all(|server| server["live"] == true && server["stored"] == *generation)
    })
    .await;
    dev.connect(&issued, 2).await.unwrap();
    server.stop(Signal::TERM, Duration::from_secs(15)).await.unwrap();

    assert_eq!(dev.end(Signal::INT).await, Some(0));
    dev.gone().await;

    let mut again = Deployment::start(&dir, &[]).await;
    check_stack(&again, 3);
    let kept = again.http.converged("acme").await;
    assert_eq!((&kept["accountId"], &kept["createdAt"]), (&acme["accountId"], &acme["createdAt"]));
    again.connect(&issued, 0).await.unwrap();
    assert_eq!(again.end(Signal::TERM).await, Some(0));
    again.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_do_not_meet_and_a_killed_one_leaves_nothing() {
    let folder = support::open_dir();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let alone = ["--nodes", "1"];
    let (mut a, mut b) = tokio::join!(Deployment::start(&one, &alone), Deployment::start(&two, &alone));
    check_stack(&a, 1);
    check_stack(&b, 1);
    let (in_a, in_b) = tokio::join!(a.http.onboard("acme", &["prod"]), b.http.onboard("acme", &["prod"]));
    assert_ne!(in_a["accountId"], in_b["accountId"]);
    let issued = a.http.issue("acme", "prod", json!({"name": "p", "role": "publisher"})).await;
    a.connect(&issued, 0).await.unwrap();
    assert!(b.connect(&issued, 0).await.is_err(), "the other deployment has another operator");

    let started = std::time::Instant::now();
    assert_eq!(a.end(Signal::KILL).await, None);
    a.gone().await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());

    check_stack(&b, 1);
    assert_eq!(b.http.get("/readyz").await.0, 200);
    assert_eq!(b.http.converged("acme").await["accountId"], in_b["accountId"]);
    assert_eq!(b.end(Signal::INT).await, Some(0));
    b.gone().await;

    // What was committed before the kill is there.
    let mut a = Deployment::start(&one, &alone).await;
    assert_eq!(a.http.converged("acme").await["accountId"], in_a["accountId"]);
    a.connect(&issued, 0).await.unwrap();
    assert_eq!(a.end(Signal::INT).await, Some(0));
    a.gone().await;
}
