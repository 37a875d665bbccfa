//! The private deployment of the demo, driven as a user would: `nats-authority dev` and the CLI.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nats_authority::dev::{
    process::{Process, Signal},
    tools,
};
use serde_json::Value;

use crate::client::Client;

/// How long the deployment may take to start.
const START: Duration = Duration::from_secs(60);

pub struct Deployment {
    dir: tempfile::TempDir,
    program: PathBuf,
    stack: Value,
    dev: Process,
    restarted: Option<Process>,
}

/// An issued credential: its id and its creds file.
pub struct Issued {
    pub id: String,
    creds: PathBuf,
    inbox: String,
}

impl Deployment {
    pub async fn start() -> Result<Self> {
        let program = std::env::current_exe()?
            .ancestors()
            .map(|dir| dir.join("nats-authority"))
            .find(|file| file.is_file())
            .context("the nats-authority binary is not built; run `cargo build`")?;
        let dir = tempfile::Builder::new().prefix("nats-authority-demo-").tempdir()?;
        // Postgres may have to run as another user below it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let state = dir.path().join("state");
        let mut command = Command::new(&program);
        command.args(["dev", "--log", "nats_authority=trace,info", "--dir"]).arg(&state);
        let mut dev = Process::spawn("dev", command, &dir.path().join("dev.log"), Signal::TERM)?;
        let end = Instant::now() + START;
        let stack = loop {
            dev.expect_running()?;
            if let Ok(text) = fs::read_to_string(state.join("stack.json")) {
                break serde_json::from_str(&text)?;
            }
            ensure!(Instant::now() < end, "the deployment did not start within {} s", START.as_secs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        Ok(Self { dir, program, stack, dev, restarted: None })
    }

    /// Runs a command of the CLI and returns its JSON.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(&self.program)
            .args(arguments)
            .env("NATS_AUTHORITY_URL", self.text("/apiUrl")?)
            .env("NATS_AUTHORITY_TOKEN_FILE", self.text("/tokenFile")?)
            .env("XDG_CONFIG_HOME", self.dir.path())
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("`nats-authority {}`: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    pub async fn onboard(&self, org: &str) -> Result<()> {
        self.cli(&["org", "create", org, "--env", "prod", "--env", "dev", "--wait", "30", "--output", "json"])?;
        Ok(())
    }

    pub async fn issue(&self, org: &str, env: &str, role: &str) -> Result<Issued> {
        let creds = self.dir.path().join(format!("{org}-{env}.creds"));
        let file = creds.to_string_lossy();
        let answer =
            self.cli(&["cred", "issue", org, env, "demo", "--role", role, "--out", &file, "--output", "json"])?;
        let mode = fs::metadata(&creds)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the creds file has mode {mode:o}");
        let credential = &answer["credential"];
        let text =
            |key: &str| credential[key].as_str().map(str::to_owned).with_context(|| format!("no {key} in {answer}"));
        Ok(Issued { id: text("id")?, inbox: text("inboxPrefix")?, creds })
    }

    pub async fn connect(&self, issued: &Issued, server: usize) -> Result<Client> {
        let url = self.text(&format!("/servers/{server}/url"))?;
        Client::connect(url, &fs::read_to_string(&issued.creds)?, &issued.inbox).await
    }

    /// Connects to a server that may still be starting.
    pub async fn connect_patiently(&self, issued: &Issued, server: usize) -> Result<Client> {
        let end = Instant::now() + START;
        loop {
            match self.connect(issued, server).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Every server refuses the credential.
    pub async fn refused(&self, issued: &Issued) -> Result<()> {
        for server in 0..3 {
            self.refused_by(issued, server).await?;
        }
        Ok(())
    }

    pub async fn refused_by(&self, issued: &Issued, server: usize) -> Result<()> {
        match self.connect(issued, server).await {
            Ok(_) => bail!("server {} lets it in", server + 1),
            Err(error) => {
                let words = format!("{error:#}").to_lowercase();
                // A revoked user; an account that takes no connections.
                let refused = ["authorization violation", "maximum account active connections exceeded"];
                ensure!(
                    refused.iter().any(|reason| words.contains(reason)),
                    "refused, but for another reason: {words}"
                );
                Ok(())
            }
        }
    }

    pub async fn restart_server(&mut self, server: usize) -> Result<()> {
        let pid = self.stack.pointer(&format!("/servers/{server}/pid")).and_then(Value::as_u64).context("no pid")?;
        nats_authority::dev::process::send(u32::try_from(pid)?, Signal::KILL)?;
        let end = Instant::now() + START;
        let address = self.text(&format!("/servers/{server}/url"))?.trim_start_matches("nats://").to_owned();
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            ensure!(Instant::now() < end, "the server did not go");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut command = Command::new(tools::nats_server()?);
        command.arg("--config").arg(self.text(&format!("/servers/{server}/config"))?);
        let log = self.dir.path().join("restarted.log");
        self.restarted = Some(Process::spawn("nats-server", command, &log, Signal::KILL)?);
        Ok(())
    }

    /// Looks for seeds in every file of the deployment and in a dump of the database.
    pub async fn search_for_seeds(&self) -> Result<()> {
        let state = self.dir.path().join("state");
        let mut found = Vec::new();
        search(self.dir.path(), &mut found)?;
        let meant = |file: &Path| {
            file.extension().is_some_and(|extension| extension == "creds")
                || file == state.join("operator-identity.seed")
        };
        let strays: Vec<_> = found.iter().filter(|file| !meant(file)).collect();
        ensure!(strays.is_empty(), "seeds in {strays:?}");
        ensure!(found.len() == 4, "the search should find the identity seed and three creds files, it found {found:?}");
        Ok(())
    }

    pub async fn stop(mut self) -> Result<()> {
        if let Some(mut server) = self.restarted.take() {
            server.stop(Signal::TERM, Duration::from_secs(10)).await?;
        }
        let status = self.dev.stop(Signal::TERM, Duration::from_secs(60)).await?;
        ensure!(status.success(), "dev ended with {status}");
        Ok(())
    }

    fn text(&self, pointer: &str) -> Result<&str> {
        self.stack.pointer(pointer).and_then(Value::as_str).with_context(|| format!("stack.json has no {pointer}"))
    }
}

/// Files that hold something that looks like a seed. The database's own files are among them.
fn search(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            search(&path, found)?;
        } else if holds_seed(&fs::read(&path).unwrap_or_default()) {
            found.push(path);
        }
    }
    Ok(())
}

/// `S[OAUN][A-Z2-7]{56}`
fn holds_seed(bytes: &[u8]) -> bool {
    let base32 = |byte: &u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(byte);
    bytes.windows(58).any(|window| window[0] == b'S' && b"OAUN".contains(&window[1]) && window[2..].iter().all(base32))
}
