//! The API under more than it can take: what it accepts it finishes, what it refuses says when to come
//! again, probes answer all along, and memory stays bounded.

#![expect(clippy::print_stdout, reason = "shows the figures that were measured")]

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures::future::join_all;
use nats_authority::{authority::bundle, dev::process::Signal, entropy::SystemEntropy};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{self, deployment::Deployment};

const ISSUE: &str = "/api/v1/orgs/acme/envs/prod/credentials";

/// The most memory that the process ever had, MiB.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

/// Asks the probes until told to stop, beside all else that this process does: what is under load is the service.
/// How often, and the slowest answer.
fn probing(url: String, stop: Arc<AtomicBool>) -> thread::JoinHandle<(u32, Duration)> {
    let own = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    thread::spawn(move || own.block_on(probe(url, stop)))
}

async fn probe(url: String, stop: Arc<AtomicBool>) -> (u32, Duration) {
    // Each time a connection of its own, as probes have.
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        for path in ["/healthz", "/readyz"] {
            let began = Instant::now();
            let answer = client.get(format!("{url}{path}")).timeout(Duration::from_secs(10)).send().await;
            let answer = answer.expect("a probe is answered");
            let status = answer.status();
            let words = answer.text().await.unwrap();
            assert_eq!(status, 200, "{path} after {:?}: {words}", began.elapsed());
            slowest = slowest.max(began.elapsed());
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (asked, slowest)
}

/// A client that sends the beginning of a request and then almost nothing.
async fn loris(address: &str, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A token of another caller than the one whose requests are counted.
async fn other_token(deployment: &Deployment) -> String {
    let token = bundle::new_token(&SystemEntropy::new());
    let mut database = PgConnection::connect(deployment.text("/databaseUrl")).await.unwrap();
    sqlx::query(
        "INSERT INTO api_tokens (id, name, token_sha256, role, created_at, expires_at)
         VALUES (gen_random_uuid(), 'slow', $1, 'sovereign-admin', now(), now() + interval '1 hour')",
    )
    .bind(bundle::token_hash(&token).to_vec())
    .execute(&mut database)
    .await
    .unwrap();
    token.to_string()
}

async fn credentials(deployment: &Deployment) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let path = format!("/api/v1/orgs/acme/credentials?limit=1000{cursor}");
        let (status, page) = deployment.http.get(&path).await;
        assert_eq!(status, 200, "{page}");
        count += page["items"].as_array().unwrap().len();
        let Some(next) = page["nextCursor"].as_str() else { return count };
        cursor = format!("&cursor={next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_and_ten_times_too_many_leave_the_probes_alone() {
    let dir = support::temp_dir();
    let deployment =
        Deployment::start(dir.path(), &["--nodes", "1", "--log", "debug,tower_http=info,hyper=info"]).await;
    deployment.http.onboard("acme", &["prod"]).await;
    let url = deployment.text("/apiUrl").to_owned();
    let address = url.trim_start_matches("http://").to_owned();
    let token = other_token(&deployment).await;

    // Half of them never end their head, half have a valid token, another caller's, and send a body that
    // never ends: who is slow takes from its own share.
    let head = format!("POST {ISSUE} HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    let body = format!(
        "POST {ISSUE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n{{"
    );
    let slow = join_all((0..1000).map(|n| loris(&address, if n % 2 == 0 { &head } else { &body }))).await;

    let stop = Arc::new(AtomicBool::new(false));
    let probing = probing(url, Arc::clone(&stop));
    // Ten times as many as are worked on, for three seconds.
    let until = Instant::now() + Duration::from_secs(3);
    let http = &deployment.http;
    let clients = (0..2560).map(|n| async move {
        let mut answers: Vec<(u16, Value)> = Vec::new();
        while Instant::now() < until {
            let body = json!({"name": format!("c{n}"), "role": "viewer"});
            match http.try_send(Method::POST, ISSUE, Some(body)).await {
                Ok((status, body)) => answers.push((status, body["code"].clone())),
                Err(error) => answers.push((0, json!(error.to_string()))),
            }
        }
        answers
    });
    let answers: Vec<_> = join_all(clients).await.into_iter().flatten().collect();
    stop.store(true, Ordering::Relaxed);
    let probed = tokio::task::spawn_blocking(|| probing.join()).await.unwrap();
    if probed.is_err() {
        let log = fs::read_to_string(dir.path().join("service.log")).unwrap();
        println!("{}", log.lines().filter(|line| !line.contains("answered")).collect::<Vec<_>>().join("\n"));
    }
    let (asked, slowest) = probed.unwrap();

    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for (status, code) in &answers {
        *counted.entry(format!("{status} {code}")).or_default() += 1;
    }
    let peak = peak(deployment.pid("/service/pid"));
    println!("answers {counted:?}; {asked} probes, the slowest {slowest:?}; peak {peak} MiB");
    for (status, code) in &answers {
        let refused = matches!(
            (*status, code.as_str()),
            (503, Some("overloaded")) | (429, Some("rate-limited" | "too-many-at-once"))
        );
        assert!(*status == 201 || refused, "{status} {code}: {counted:?}");
    }
    let issued = answers.iter().filter(|(status, _)| *status == 201).count();
    assert!(issued > 0 && issued < answers.len(), "{counted:?}");
    assert!(asked > 2, "{asked}");
    assert!(peak < 256, "{peak} MiB");

    // The slow ones are told so, or closed.
    let ends = slow.into_iter().map(|mut stream| async move {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(45), stream.read_to_end(&mut answer));
        read.await.expect("a slow client is not kept").ok();
    });
    join_all(ends).await;
    // And everything that was accepted is in the ledger, nothing else.
    assert_eq!(credentials(&deployment).await, issued);
}

/// SIGTERM under load: whoever was let in gets its answer, and what was answered is so.
#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_end_loses_nothing_that_was_accepted() {
    let dir = support::temp_dir();
    let mut deployment = Deployment::start(dir.path(), &["--nodes", "1"]).await;
    deployment.http.onboard("acme", &["prod"]).await;
    let service = deployment.pid("/service/pid");
    let http = &deployment.http;
    let working = Arc::new(AtomicBool::new(true));
    let clients = (0..16).map(|n| {
        let working = Arc::clone(&working);
        async move {
            let mut ids = Vec::new();
            while working.load(Ordering::Relaxed) {
                let body = json!({"name": format!("c{n}"), "role": "viewer"});
                match http.try_send(Method::POST, ISSUE, Some(body)).await {
                    Ok((201, issued)) => ids.push(issued["credential"]["id"].clone()),
                    Ok((503, _)) => break,
                    Ok(other) => panic!("{other:?}"),
                    // Refused before it was sent: nobody listens any more.
                    Err(error) if error.is_connect() || error.is_request() => break,
                    Err(error) => panic!("an accepted request lost its answer: {error:?}"),
                }
            }
            ids
        }
    });
    let ending = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let pid = rustix::process::Pid::from_raw(i32::try_from(service).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        working.store(false, Ordering::Relaxed);
    };
    let (ids, ()) = tokio::join!(join_all(clients), ending);
    let ids: Vec<_> = ids.into_iter().flatten().collect();
    assert!(!ids.is_empty());
    assert!(support::deployment::has_ended(service), "it ended");
    let mut database = PgConnection::connect(deployment.text("/databaseUrl")).await.unwrap();
    let recorded: Vec<uuid::Uuid> =
        sqlx::query_scalar("SELECT id FROM credentials").fetch_all(&mut database).await.unwrap();
    for id in &ids {
        assert!(recorded.iter().any(|known| json!(known) == *id), "{id}");
    }
    println!("{} issued before the end", ids.len());
    deployment.end(Signal::TERM).await;
}
