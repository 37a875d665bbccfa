//! A deployment whose service is the real binary: some servers, and as many replicas of `serve` as a
//! test wants, on one database. Each replica can be stopped, killed and started by itself.

use std::{fs, path::PathBuf, process::Command, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions};
use nats_authority::{
    authority::{Authority, Parts, Settings, bundle},
    clock::SystemClock,
    dev::{
        nats::{Cluster, ClusterSpec},
        ports::Port,
        process::{Process, Signal},
    },
    entropy::{Entropy, SystemEntropy},
    policy::Policies,
    signer::{SealingKey, SealingKeys, Signer},
    store::Store,
};
use secrecy::SecretString;
use serde_json::json;
use tempfile::TempDir;

use super::{TestDatabase, deployment::PROGRAM, http::Http, run, stack::eventually};

/// The file of the operator's identity seed, which the service never reads.
pub const IDENTITY_SEED: &str = "operator-identity.seed";

/// One replica of the service, running or not.
pub struct Replica {
    pub http: Arc<Http>,
    /// Where its metrics are.
    pub metrics: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
    _ports: [Port; 2],
}

/// See the module's documentation. Dropping it ends everything.
pub struct Site {
    pub replicas: Vec<Replica>,
    pub cluster: Cluster,
    pub database: TestDatabase,
    pub dir: TempDir,
    /// The administrator's token.
    pub token: String,
    signer: Arc<Signer>,
}

impl Site {
    /// Starts `nodes` servers and `replicas` of the service, and waits until all are ready.
    pub async fn start(nodes: usize, replicas: usize) -> Self {
        Self::start_knowing(nodes, replicas, nodes).await
    }

    /// The same, where the configuration of the service names only the first `known` servers: it is
    /// connected to one of these then.
    pub async fn start_knowing(nodes: usize, replicas: usize, known: usize) -> Self {
        let database = super::migrated_database().await;
        let dir = super::temp_dir();
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let key = SealingKey::generate(entropy.as_ref());
        run::saw_sealing_key(&key);
        let sealing = SealingKeys::new(vec![SealingKey::parse(&key).unwrap()]).unwrap();
        let signer = Arc::new(Signer::new(sealing, Arc::clone(&entropy)));
        let new = bundle::create("test", &signer, &SystemClock, entropy.as_ref()).unwrap();
        let file = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        file("sealing.key", &key);
        file("bundle.json", &new.bundle.to_text().unwrap());
        file("database.url", database.url());
        super::copy_policies(&dir.path().join("policies"));
        file(IDENTITY_SEED, &new.identity_seed);
        let mut spec = ClusterSpec::new(dir.path().join("nats"), "test", new.bundle.trust().unwrap());
        spec.nodes = nodes;
        // Nothing is set aside for it: enough that thousands of organizations are admitted.
        spec.jetstream_max_file = 1 << 40;
        let cluster = Cluster::start(spec).await.unwrap();
        let urls: Vec<_> = cluster.urls().iter().take(known).map(|url| format!("{url:?}")).collect();
        let prepare = |number: usize| {
            let port = Port::claim(None).unwrap();
            let config = dir.path().join(format!("authority-{number}.toml"));
            let metrics_port = Port::claim(None).unwrap();
            let address = format!("127.0.0.1:{}", port.number());
            let metrics = format!("127.0.0.1:{}", metrics_port.number());
            let text = format!(
                "bundle = \"bundle.json\"\npolicies = \"policies\"\n\
                 [http]\nlisten = \"{address}\"\nmetrics_listen = \"{metrics}\"\n\
                 [database]\nurl_file = \"database.url\"\nmax_connections = 8\n\
                 [nats]\nurls = [{}]\n[sealing]\nkey_files = [\"sealing.key\"]\n",
                urls.join(", ")
            );
            fs::write(&config, text).unwrap();
            let http = Arc::new(Http::new(&format!("http://{address}"), &new.admin_token));
            let log = dir.path().join(format!("service-{number}.log"));
            let metrics = format!("http://{metrics}/metrics");
            Replica { http, metrics, config, log, process: None, _ports: [port, metrics_port] }
        };
        let replicas: Vec<_> = (1..=replicas).map(prepare).collect();
        let token = new.admin_token.to_string();
        let mut site = Self { replicas, cluster, database, dir, token, signer };
        for replica in &mut site.replicas {
            replica.spawn();
            replica.ready(nodes).await;
        }
        site
    }

    /// The folder of plans and roles, the same for all replicas.
    pub fn policies(&self) -> PathBuf {
        self.dir.path().join("policies")
    }

    /// The API of the first replica.
    pub fn http(&self) -> &Http {
        &self.replicas[0].http
    }

    /// An authority in this process, on the site's database: for what only a security officer may do.
    pub async fn authority(&self) -> Arc<Authority> {
        let url = SecretString::from(self.database.url().to_owned());
        let parts = Parts {
            store: Store::connect(&url, 2, Duration::from_secs(10)).await.unwrap(),
            signer: Arc::clone(&self.signer),
            policies: Policies::builtin().unwrap(),
            settings: Settings::default(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy::new()),
        };
        Authority::open(parts).await.unwrap()
    }

    /// The API of every replica.
    pub fn https(&self) -> Vec<Arc<Http>> {
        self.replicas.iter().map(|replica| Arc::clone(&replica.http)).collect()
    }

    /// Somebody with a user of the system account, connected to the first server: tests stop the others.
    pub async fn system_client(&self) -> Client {
        let body = json!({"name": "watcher", "ttl": "1h"});
        let (status, answer) = self.http().post("/api/v1/operator/system-credentials", body).await;
        assert_eq!(status, 201, "{answer}");
        let options = ConnectOptions::with_credentials(answer["creds"].as_str().unwrap()).unwrap();
        options.retain_servers_order().connect(self.cluster.urls()).await.unwrap()
    }
}

impl Replica {
    /// Starts it; it is not ready yet.
    pub fn spawn(&mut self) {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(&self.config);
        self.process = Some(Process::spawn("serve", command, &self.log, Signal::TERM).unwrap());
    }

    /// Waits until it says that it is ready and sees so many servers that trust it.
    pub async fn ready(&self, nodes: usize) {
        eventually("the service is ready", || async {
            let Ok((200, _)) = self.http.try_send(reqwest::Method::GET, "/readyz", None).await else { return false };
            let Ok((_, status)) = self.http.try_send(reqwest::Method::GET, "/api/v1/resolver", None).await else {
                return false;
            };
            let servers = status["servers"].as_array().unwrap();
            servers.iter().filter(|s| s["live"] == true && s["trustsOperator"] == true).count() == nodes
        })
        .await;
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// kill -9.
    pub async fn kill(&mut self) {
        self.process.take().unwrap().stop(Signal::KILL, Duration::from_secs(10)).await.unwrap();
    }

    /// Sends a signal, such as STOP and CONT.
    pub fn signal(&mut self, signal: Signal) {
        self.process.as_mut().unwrap().signal(signal).unwrap();
    }
}
