//! The real binary on a database of its own, without any nats-server: enough for who may ask what.

use std::{fs, process::Command, time::Duration};

use nats_authority::dev::{
    ports::Port,
    process::{Process, Signal},
};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;
use tempfile::TempDir;

use super::{TestDatabase, deployment::PROGRAM, http::read};

/// See the module's documentation. Dropping it ends it.
pub struct Lone {
    pub url: String,
    /// The token of the bundle.
    pub admin: String,
    pub client: Client,
    pub dir: TempDir,
    metrics: String,
    _process: Process,
    _port: Port,
    _database: TestDatabase,
}

impl Lone {
    /// Starts it in `dir` with `config` behind what it needs; the last table before it is `[http]`.
    pub async fn start(dir: TempDir, config: &str) -> Self {
        let database = super::migrated_database().await;
        let home = dir.path().join("operator");
        let made = Command::new(PROGRAM).args(["init", "--offline", "--dir"]).arg(&home).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(home.join("database.url"), database.url()).unwrap();
        let port = Port::claim(None).unwrap();
        let metrics = format!("127.0.0.1:{}", port.number());
        let text = format!(
            "bundle = 'bundle.json'\nnats.urls = ['nats://127.0.0.1:1']\nsealing.key_files = ['sealing.key']\n\
             database.url_file = 'database.url'\n[http]\nlisten = '127.0.0.1:0'\nurl_file = 'api.url'\n\
             metrics_listen = '{metrics}'\n{config}"
        );
        let file = home.join("authority.toml");
        fs::write(&file, text).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(&file);
        let mut process = Process::spawn("serve", command, &dir.path().join("log"), Signal::KILL).unwrap();
        let url = loop {
            process.expect_running().unwrap();
            match fs::read_to_string(home.join("api.url")) {
                Ok(url) => break url,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let admin = fs::read_to_string(home.join("admin.token")).unwrap().trim().to_owned();
        let metrics = format!("http://{metrics}/metrics");
        Self { url, admin, client: Client::new(), dir, metrics, _process: process, _port: port, _database: database }
    }

    /// A request with this token.
    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token)
    }

    /// The status and the body of an answer to a GET.
    pub async fn get(&self, path: &str, token: &str) -> (u16, Value) {
        answer(self.request(Method::GET, path, token)).await
    }

    /// The value of a metric with these labels, as they stand in the exposition.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = reqwest::get(&self.metrics).await.unwrap().text().await.unwrap();
        text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

/// The status and the body; null when it is no JSON.
pub async fn answer(request: RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.map(|body| read(&body)).unwrap_or_default())
}
