//! Postgres killed under load and started again from outside, by whoever read `stack.json`.

#![expect(clippy::print_stdout, reason = "figures of the run")]

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nats_authority::dev::process::{Process, Signal, send};
use serde_json::json;

use crate::support::{self, deployment::Deployment, http::Http, stack::eventually};

const CLIENTS: usize = 16;
const CREDENTIALS: &str = "/api/v1/orgs/acme/envs/prod/credentials";

/// Issues until told to stop. Returns what was acknowledged, and how often it was told to try again.
async fn issue(http: Arc<Http>, stop: Arc<AtomicBool>) -> (Vec<(String, String)>, usize) {
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let (status, answer) = http.post(CREDENTIALS, json!({"name": "x", "role": "viewer"})).await;
        match status {
            201 => {
                let text = |key: &str| answer["credential"][key].as_str().unwrap().to_owned();
                acknowledged.push((text("id"), text("jwtSha256")));
            }
            503 => refused += 1,
            other => panic!("{other}: {answer}"),
        }
    }
    (acknowledged, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_the_service_comes_back_by_itself() {
    let folder = support::open_dir();
    let mut dev = Deployment::start(&folder.path().join("state"), &["--nodes", "1"]).await;
    dev.http.onboard("acme", &["prod"]).await;
    let token = fs::read_to_string(dev.text("/tokenFile")).unwrap();
    let http = Arc::new(Http::new(dev.text("/apiUrl"), &token));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS).map(|_| tokio::spawn(issue(http.clone(), stop.clone()))).collect();

    let pid = dev.pid("/postgres/pid");
    let proc = format!("/proc/{pid}");
    let line = fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    let arguments: Vec<_> = line.trim_end_matches('\0').split('\0').collect();
    let owner = fs::metadata(&proc).unwrap();
    eventually("credentials are issued", || async {
        let (_, list) = http.get("/api/v1/orgs/acme/credentials?limit=1000").await;
        list["items"].as_array().is_some_and(|items| items.len() > 200)
    })
    .await;
    send(pid, Signal::KILL).unwrap();
    // A dead child that nobody has waited for still has its id, and Postgres then refuses to start.
    eventually("the killed postmaster is gone", || async { !fs::exists(&proc).unwrap() }).await;
    eventually("the service says that it is not ready", || async { http.get("/readyz").await.0 == 503 }).await;

    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).current_dir("/").uid(owner.uid()).gid(owner.gid());
    let mut postgres = Process::spawn("postgres", command, &folder.path().join("again.log"), Signal::QUIT).unwrap();
    let started = Instant::now();
    eventually("the service is ready again", || async { http.get("/readyz").await.0 == 200 }).await;
    println!("ready {:?} after Postgres was started again", started.elapsed());
    assert_eq!(http.post(CREDENTIALS, json!({"name": "after", "role": "viewer"})).await.0, 201);

    stop.store(true, Ordering::Relaxed);
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (mut good, bad) = client.await.unwrap();
        acknowledged.append(&mut good);
        refused += bad;
    }
    println!("{} acknowledged, {refused} told to try again", acknowledged.len());
    assert!(acknowledged.len() > 200 && refused > 0);
    for (id, sha256) in acknowledged {
        let (status, credential) = http.get(&format!("/api/v1/credentials/{id}")).await;
        assert_eq!((status, credential["jwtSha256"].as_str()), (200, Some(sha256.as_str())), "acknowledged and lost");
    }
    assert_eq!(dev.end(Signal::INT).await, Some(0));
    postgres.stop(Signal::INT, Duration::from_secs(20)).await.unwrap();
}
