//! The `dev` command of the binary, driven from outside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use async_nats::{Client, ConnectOptions};
use nats_authority::dev::process::{Process, Signal, is_running};
use serde_json::Value;

use super::{http::Http, run, stack::eventually};

/// The binary that cargo built for these tests.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_nats-authority");

/// A running `nats-authority dev`; dropping it kills it, and its guard the rest.
pub struct Deployment {
    pub dir: PathBuf,
    pub stack: Value,
    pub http: Http,
    process: Process,
}

impl Deployment {
    /// Starts `dev --dir DIR` with `more` arguments and waits until it says that it is ready.
    pub async fn start(dir: &Path, more: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("dev").arg("--dir").arg(dir).args(more);
        if let (Some(_), None) = (run::dir(), more.iter().find(|argument| **argument == "--log")) {
            command.args(["--log", "trace"]);
        }
        let log = dir.join("dev.log");
        let _ = fs::remove_file(&log);
        let mut process = Process::spawn("dev", command, &log, Signal::TERM).unwrap();
        // The last line that it prints.
        while !fs::read_to_string(&log).is_ok_and(|text| text.contains("Ctrl-C stops everything")) {
            process.expect_running().unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stack: Value = serde_json::from_slice(&fs::read(dir.join("stack.json")).unwrap()).unwrap();
        let token = fs::read_to_string(stack["tokenFile"].as_str().unwrap()).unwrap();
        let http = Http::new(stack["apiUrl"].as_str().unwrap(), &token);
        Self { dir: dir.to_owned(), stack, http, process }
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.stack.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("stack.json has no {pointer}"))
    }

    pub fn pid(&self, pointer: &str) -> u32 {
        let pid = self.stack.pointer(pointer).and_then(Value::as_u64);
        u32::try_from(pid.unwrap_or_else(|| panic!("stack.json has no {pointer}"))).unwrap()
    }

    /// The processes that stack.json names.
    pub fn pids(&self) -> Vec<u32> {
        let servers = self.stack["servers"].as_array().unwrap().len();
        let servers = (0..servers).map(|index| self.pid(&format!("/servers/{index}/pid")));
        [self.pid("/service/pid"), self.pid("/postgres/pid")].into_iter().chain(servers).collect()
    }

    /// Sends a signal to `dev` itself; the exit code, none when the signal ended it.
    pub async fn end(&mut self, signal: Signal) -> Option<i32> {
        self.process.stop(signal, Duration::from_mins(1)).await.unwrap().code()
    }

    /// Waits until nothing of the deployment runs: no process that stack.json names, none that was
    /// started with a path of its folder, nobody who listens.
    pub async fn gone(&self) {
        let pids = self.pids();
        let dir = self.dir.display().to_string();
        eventually("nothing of the deployment runs", || async {
            let mut urls: Vec<_> = self.stack["natsUrls"].as_array().unwrap().iter().collect();
            urls.push(&self.stack["apiUrl"]);
            urls.push(&self.stack["databaseUrl"]);
            let addresses = urls.iter().map(|url| url::Url::parse(url.as_str().unwrap()).unwrap());
            for address in addresses {
                let port = address.port().unwrap();
                if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                    return false;
                }
            }
            pids.iter().all(|pid| has_ended(*pid)) && !command_lines().contains(&dir)
        })
        .await;
    }

    /// A client with an issued credential, connected to the server `index`.
    pub async fn connect(&self, issued: &Value, index: usize) -> Result<Client, async_nats::ConnectError> {
        connect(self.text(&format!("/servers/{index}/url")), issued).await
    }
}

/// A client with what the API answered to an issue request.
pub async fn connect(url: &str, issued: &Value) -> Result<Client, async_nats::ConnectError> {
    ConnectOptions::with_credentials(issued["creds"].as_str().unwrap())
        .unwrap()
        .custom_inbox_prefix(issued["credential"]["inboxPrefix"].as_str().unwrap())
        .connect(url)
        .await
}

/// Whether the process ended. One whose parent has not waited for it yet, as under a first process
/// that never waits, has ended as well.
pub fn has_ended(pid: u32) -> bool {
    let zombie = fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')));
    zombie || !is_running(pid)
}

/// What every process was started with; empty where there is no /proc.
fn command_lines() -> String {
    let Ok(processes) = fs::read_dir("/proc") else { return String::new() };
    let lines = processes.flatten().filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ") + "\n").collect()
}
