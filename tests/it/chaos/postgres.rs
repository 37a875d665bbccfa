//! Postgres killed under load and started again from outside, by whoever read `stack.json`.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    process::Command,
    sync::Arc,
    time::Duration,
};

use nats_authority::dev::process::{Process, Signal, send};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Instant};

use super::{
    audit::Scene,
    load::{Load, base, prepare},
};
use crate::support::{
    self,
    deployment::Deployment,
    http::Http,
    knobs::{seed, sized},
    stack::eventually,
};

/// What `/readyz` said: when it was asked, when it answered, whether the service was ready, and all of it.
type Said = (Instant, Instant, bool, Value);

/// Asks all the time, until told to stop.
async fn watch(http: Arc<Http>, mut stop: oneshot::Receiver<()>) -> Vec<Said> {
    let mut said = Vec::new();
    while stop.try_recv().is_err() {
        let asked = Instant::now();
        let (status, words) = http.get("/readyz").await;
        assert!(matches!(status, 200 | 503), "{status}");
        said.push((asked, Instant::now(), status == 200, words));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_and_the_service_comes_back_by_itself() {
    let (clients, seed) = (sized(32, 64), seed());
    println!("{clients} clients, CHAOS_SEED={seed}");
    let folder = support::open_dir();
    let mut dev = Deployment::start(&folder.path().join("state"), &["--nodes", "1"]).await;
    prepare(&dev.http).await;
    let token = fs::read_to_string(dev.text("/tokenFile")).unwrap();
    let http = Arc::new(Http::new(dev.text("/apiUrl"), &token));
    let (stop, stopped) = oneshot::channel();
    let watch = tokio::spawn(watch(Arc::clone(&http), stopped));
    let load = Load::start(std::slice::from_ref(&http), clients, seed);

    let pid = dev.pid("/postgres/pid");
    let proc = format!("/proc/{pid}");
    let line = fs::read_to_string(format!("{proc}/cmdline")).unwrap();
    let arguments: Vec<_> = line.trim_end_matches('\0').split('\0').collect();
    let owner = fs::metadata(&proc).unwrap();
    let enough = sized(500, 1_500);
    load.works(enough).await;
    load.revokes().await;
    let killed = Instant::now();
    send(pid, Signal::KILL).unwrap();
    // A dead child that nobody has waited for still has its id, and Postgres then refuses to start.
    eventually("the killed postmaster is gone", || async { !fs::exists(&proc).unwrap() }).await;
    eventually("the service says that it is not ready", || async { http.get("/readyz").await.0 == 503 }).await;
    // Long enough that it has to say so more than once.
    tokio::time::sleep(Duration::from_secs(sized(1, 20) as u64)).await;

    let mut command = Command::new(arguments[0]);
    command.args(&arguments[1..]).current_dir("/").uid(owner.uid()).gid(owner.gid());
    let started = Instant::now();
    let mut postgres = Process::spawn("postgres", command, &folder.path().join("again.log"), Signal::QUIT).unwrap();
    eventually("the service is ready again", || async { http.get("/readyz").await.0 == 200 }).await;
    // Ready means that it works: this is not tried again.
    let path = format!("/api/v1/orgs/{}/envs/prod/credentials", base(0));
    assert_eq!(http.post(&path, json!({"name": "after", "role": "viewer"})).await.0, 201);
    load.works(enough).await;

    let told = load.stop().await;
    stop.send(()).unwrap();
    println!("{} answered, {} told to try again, {} unanswered", told.answered, told.try_again, told.unanswered);
    assert!(told.try_again > 0 && told.unanswered == 0);
    told_the_truth(&watch.await.unwrap(), killed, started);
    Scene::of_deployment(&dev).check(&told, sized(60, 600), seed).await;
    assert_eq!(http.try_send(Method::GET, "/readyz", None).await.unwrap().0, 200);
    assert_eq!(dev.end(Signal::INT).await, Some(0));
    postgres.stop(Signal::INT, Duration::from_secs(20)).await.unwrap();
}

/// Ready before; not ready while Postgres was away; ready after. What a backend that outlived its
/// postmaster still answered is true, so that the first "not ready" may come a moment later.
fn told_the_truth(said: &[Said], killed: Instant, started: Instant) {
    let no = said.iter().filter(|(_, _, ready, _)| !ready);
    let first = no.map(|said| said.1).min().unwrap();
    let recovered = said.iter().filter(|said| said.0 > started && said.2).map(|said| said.1).min().unwrap();
    println!(
        "/readyz was asked {} times; it said no {:?} after the kill, and yes {:?} after the start",
        said.len(),
        first.saturating_duration_since(killed),
        recovered - started
    );
    assert!(first > killed, "it said no although Postgres ran");
    assert!(first - killed < Duration::from_secs(4), "it said yes long after the kill");
    let lies =
        said.iter().filter(|(asked, answered, ready, _)| *ready && *asked > first && *answered < started).count();
    assert_eq!(lies, 0, "it said yes while there was no Postgres");
    let relapses: Vec<_> = said.iter().filter(|(asked, _, ready, _)| *asked > recovered && !ready).collect();
    assert!(relapses.is_empty(), "it said no after it had said yes again: {relapses:#?}");
}
