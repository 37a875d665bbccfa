//! The operator's signing key is rotated on three servers under load, the service killed after every step:
//! nobody who may log in is refused.

#![expect(clippy::print_stdout, reason = "shows the seed and the figures")]

use std::{
    fs,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::ConnectOptions;
use nats_authority::{authority::Actor, dev::nats::Stop, jwt, model::CallerRole};
use rand::{SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    deployment::PROGRAM,
    http::Http,
    knobs::seed,
    site::{IDENTITY_SEED, Site},
    stack::eventually,
};

const ORGS: [&str; 4] = ["acme", "globex", "initech", "umbrella"];

/// Who logs in, and what came of it.
#[derive(Default)]
pub struct Logins {
    pub urls: Vec<String>,
    /// By server: odd while it is down, another number after it.
    pub restarts: [AtomicUsize; 3],
    pub creds: Mutex<Vec<String>>,
    pub count: AtomicUsize,
    pub issued: AtomicUsize,
    pub onboarded: AtomicUsize,
    pub refused: Mutex<Vec<String>>,
    pub stop: AtomicBool,
}

impl Logins {
    /// Logs in at one server. Only while that server is being restarted it may fail.
    pub async fn login(&self, creds: &str, server: usize, what: &str) {
        let before = self.restarts[server].load(Ordering::SeqCst);
        if before % 2 == 1 {
            return;
        }
        let options = ConnectOptions::with_credentials(creds).unwrap().connection_timeout(Duration::from_secs(20));
        match options.connect(&self.urls[server]).await {
            Ok(_) => _ = self.count.fetch_add(1, Ordering::Relaxed),
            Err(error) if self.restarts[server].load(Ordering::SeqCst) == before => {
                self.refused.lock().unwrap().push(format!("{what} at server {server}: {error}"));
            }
            Err(_) => {}
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Those who have been there all the time.
    pub async fn come_and_go(self: Arc<Self>, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let creds = self.creds.lock().unwrap().choose(&mut rng).cloned().unwrap();
            let server = *[0, 1, 2].choose(&mut rng).unwrap();
            self.login(&creds, server, "a credential").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the service answers; none while it is killed, or says to try again.
    async fn ask(&self, http: &Http, method: Method, path: &str, body: Option<Value>) -> Option<Value> {
        while !self.is_over() {
            match http.try_send(method.clone(), path, body.clone()).await {
                Ok((200 | 201, answer)) => return Some(answer),
                Ok((503, _)) | Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                Ok((status, answer)) => panic!("{path}: {status}: {answer}"),
            }
        }
        None
    }

    pub async fn issue(&self, http: &Http, org: &str, name: &str) -> Option<String> {
        let path = format!("/api/v1/orgs/{org}/envs/prod/credentials");
        let issued = self.ask(http, Method::POST, &path, Some(json!({"name": name, "role": "viewer"}))).await?;
        Some(issued["creds"].as_str().unwrap().to_owned())
    }

    /// New credentials, used at once on every server.
    async fn issue_all_the_time(self: Arc<Self>, http: Arc<Http>) {
        for number in 0.. {
            let Some(creds) = self.issue(&http, ORGS[number % 4], &format!("c{number}")).await else { return };
            for server in 0..3 {
                self.login(&creds, server, "a new credential").await;
            }
            self.issued.fetch_add(1, Ordering::Relaxed);
            let mut pool = self.creds.lock().unwrap();
            let at = number % 200;
            if at < pool.len() { pool[at] = creds } else { pool.push(creds) }
        }
    }

    /// New organizations, whose users log in as soon as the servers have them.
    async fn onboard_all_the_time(self: Arc<Self>, http: Arc<Http>) {
        for number in 0.. {
            let slug = format!("org-{number}");
            let body = json!({"slug": slug, "environments": ["prod"]});
            if self.ask(&http, Method::POST, "/api/v1/orgs", Some(body)).await.is_none() {
                return;
            }
            let path = format!("/api/v1/orgs/{slug}");
            loop {
                let Some(org) = self.ask(&http, Method::GET, &path, None).await else { return };
                if org["resolver"]["state"] == "converged" {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let Some(creds) = self.issue(&http, &slug, "first").await else { return };
            for server in 0..3 {
                self.login(&creds, server, "a user of a new organization").await;
            }
            self.onboarded.fetch_add(1, Ordering::Relaxed);
            self.creds.lock().unwrap().push(creds);
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// A site whose operator's key is rotated.
pub struct Scene {
    pub site: Site,
    pub logins: Arc<Logins>,
    /// The rotation.
    pub id: String,
}

impl Scene {
    /// Asks for the rotation.
    pub async fn propose(site: Site, logins: &Arc<Logins>) -> Self {
        let (status, view) = site.http().post("/api/v1/operator/keys/rotate", json!({"reason": "once a year"})).await;
        assert_eq!(status, 202, "{view}");
        let id = view["id"].as_str().unwrap().to_owned();
        Self { site, logins: Arc::clone(logins), id }
    }

    pub async fn approve(&self) {
        let officer = Actor::caller("olga", [CallerRole::SecurityOfficer]);
        let id = self.id.parse().unwrap();
        self.site.authority().await.approve_operator_rotation(&officer, id).await.unwrap();
    }

    pub async fn view(&self) -> Value {
        let (status, view) = self.site.http().get(&format!("/api/v1/operator/rotations/{}", self.id)).await;
        assert_eq!(status, 200, "{view}");
        view
    }

    pub async fn waits(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || async { holds(&self.view().await) }).await;
        self.view().await
    }

    /// kill -9, and all that it had in memory is gone.
    pub async fn kill(&mut self) {
        self.site.replicas[0].kill().await;
        self.site.replicas[0].spawn();
        self.site.replicas[0].ready(3).await;
    }

    fn run(&self, args: &[&str]) -> String {
        let (url, token) = (&self.site.http().url, self.site.dir.path().join("admin.token"));
        fs::write(&token, &self.site.token).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(args).args(["--url", url, "--token-file"]).arg(token).current_dir(self.site.dir.path());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        print!("{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What a person does: fetch the proposal, sign it with the identity, hand it in.
    pub fn hand_in_operator_jwt(&self, name: &str) {
        let (proposal, signed) = (format!("{name}.json"), format!("{name}.jwt"));
        fs::write(self.site.dir.path().join(&proposal), self.run(&["operator", "jwt", "proposal"])).unwrap();
        self.run(&["operator", "sign", &proposal, "--identity", IDENTITY_SEED, "--out", &signed]);
        self.run(&["operator", "jwt", "set", &signed]);
    }

    /// Restarts a server with what the service says that servers are to trust.
    pub async fn restart(&mut self, index: usize) {
        let config = self.run(&["operator", "server-config"]);
        fs::write(self.site.cluster.servers()[index].config().with_file_name("operator.conf"), config).unwrap();
        self.logins.restarts[index].fetch_add(1, Ordering::SeqCst);
        self.site.cluster.stop_server(index, Stop::Graceful).await.unwrap();
        self.site.cluster.start_server(index).await.unwrap();
        self.logins.restarts[index].fetch_add(1, Ordering::SeqCst);
    }

    /// Restarts one server after the other; in between the service waits for the rest, and names it.
    async fn restart_all(&mut self, state: &str) {
        let names = ["n1", "n2", "n3"];
        for index in 0..3 {
            let view = self.waits("the servers are named", |view| view["servers"] == json!(names[index..])).await;
            assert_eq!(view["state"], state);
            if index == 2 {
                // One is left: whoever looks again and again, after a start as well, waits for it.
                self.kill().await;
                tokio::time::sleep(Duration::from_secs(2)).await;
                let view = self.view().await;
                assert_eq!((&view["state"], &view["servers"]), (&json!(state), &json!(["n3"])), "{view}");
                assert!(view["waitsFor"].as_str().unwrap().ends_with(": n3"), "{view}");
            }
            self.restart(index).await;
        }
    }

    /// Who signed the accounts that each server stores.
    pub fn stored_signers(&self) -> Vec<String> {
        let mut signers = Vec::new();
        for server in self.site.cluster.servers() {
            for file in fs::read_dir(server.resolver_dir()).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "jwt") {
                    let token = fs::read_to_string(path).unwrap();
                    signers.push(jwt::decode::<jwt::Account>(token.trim()).unwrap().claims.issuer.to_string());
                }
            }
        }
        signers.sort();
        signers.dedup();
        signers
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_through_a_rotation_and_a_kill_after_every_step() {
    let seed = seed();
    println!("CHAOS_SEED={seed}");
    let site = Site::start(3, 1).await;
    let logins = Arc::new(Logins { urls: site.cluster.urls(), ..Logins::default() });
    for org in ORGS {
        let path = format!("/api/v1/orgs/{org}");
        let body = json!({"slug": org, "environments": ["prod"]});
        logins.ask(site.http(), Method::POST, "/api/v1/orgs", Some(body)).await.unwrap();
        eventually("converged", || async { site.http().get(&path).await.1["resolver"]["state"] == "converged" }).await;
        let creds = logins.issue(site.http(), org, "first").await.unwrap();
        logins.creds.lock().unwrap().push(creds);
    }
    let http = Arc::clone(&site.replicas[0].http);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(Arc::clone(&logins).come_and_go(seed));
    tasks.spawn(Arc::clone(&logins).come_and_go(seed + 1));
    tasks.spawn(Arc::clone(&logins).issue_all_the_time(Arc::clone(&http)));
    tasks.spawn(Arc::clone(&logins).onboard_all_the_time(http));

    let mut scene = Scene::propose(site, &logins).await;
    let old_key = scene.view().await["oldKey"].clone();
    scene.kill().await;
    scene.approve().await;
    scene.kill().await;
    let pending = scene.view().await;
    assert_eq!((&pending["state"], &pending["needsOperatorJwt"]), (&json!("pending"), &json!(true)));
    let new_key = pending["newKey"].clone();
    scene.hand_in_operator_jwt("both");
    scene.kill().await;
    scene.restart_all("pending").await;
    scene.waits("the new key signs", |view| view["state"] == "retiring").await;
    // In the middle of signing all accounts again, or right behind it.
    scene.kill().await;
    scene.waits("everything is under the new key", |view| view["needsOperatorJwt"] == true).await;
    let (_, answer) = scene.site.http().get("/api/v1/operator").await;
    assert_eq!(answer["signingKey"], new_key);
    assert_eq!(scene.stored_signers(), [new_key.as_str().unwrap()]);
    scene.kill().await;
    scene.hand_in_operator_jwt("without");
    scene.kill().await;
    scene.restart_all("removing").await;
    scene.waits("it is over", |view| view["state"] == "done").await;
    scene.kill().await;
    let (_, resolver) = scene.site.http().get("/api/v1/resolver").await;
    for server in resolver["servers"].as_array().unwrap() {
        assert_eq!(server["operatorKeys"], json!([new_key]), "{server}");
    }
    let keys = scene.run(&["operator", "keys"]);
    assert!(keys.lines().any(|line| line.contains(old_key.as_str().unwrap()) && line.contains("retired")), "{keys}");

    let goal = logins.count.load(Ordering::Relaxed) + 100;
    eventually("they log in as before", || async { logins.count.load(Ordering::Relaxed) >= goal }).await;
    logins.stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    println!("{} logins, {} issued, {} onboarded", load(&logins.count), load(&logins.issued), load(&logins.onboarded));
    assert_eq!(*logins.refused.lock().unwrap(), Vec::<String>::new());
    assert!(load(&logins.count) > 300 && load(&logins.issued) > 20 && load(&logins.onboarded) > 2);
}
