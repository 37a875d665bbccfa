//! A Postgres of our own on loopback: TCP on 127.0.0.1 only, no socket, a random password.
//!
//! A directory holds everything: the data, the password, the port and the log. The same directory
//! starts the same database again, also after `kill -9`. This module creates databases and nothing
//! else: what is in them is `store`'s.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

pub use super::process::Stop;
use super::{
    Deadline, io_error,
    place::{self, Place},
    ports::Port,
    process::{self, Process, Signal},
    random_hex, tools, write_private,
};
use crate::error::{Error, Result};

/// How long a start, with recovery after a crash, may take.
const START: Duration = Duration::from_mins(1);
/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);
/// The superuser.
const USER: &str = "authority";

/// Whether what was committed survives the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As in production.
    Durable,
    /// Without fsync, for tests: survives `kill -9`, not a power cut.
    Fast,
}

/// A running Postgres; dropping it ends it at once, without losing what was committed.
#[derive(Debug)]
pub struct Postgres {
    bin: PathBuf,
    place: Place,
    log: PathBuf,
    port: Port,
    password: SecretString,
    durability: Durability,
    process: Option<Process>,
}

impl Postgres {
    /// Starts the Postgres of `dir`, which is made when it holds none yet, and waits until it accepts
    /// connections.
    pub async fn start(dir: &Path, durability: Durability) -> Result<Self> {
        let bin = tools::postgres_bin()?;
        let dir = std::path::absolute(dir).map_err(|error| io_error("find", dir, error))?;
        fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
        let place = place::choose(&dir, &bin)?;

        let port_file = dir.join("port");
        let before = fs::read_to_string(&port_file).ok().and_then(|text| text.trim().parse().ok());
        let port = Port::claim(before)?;
        write_private(&port_file, &port.number().to_string())?;

        let password = password(&dir, &place)?;
        let log = dir.join("postgres.log");
        let mut postgres = Self { bin, place, log, port, password, durability, process: None };
        if !postgres.place.data().exists() {
            postgres.initialize().await?;
        }
        postgres.start_again().await?;
        Ok(postgres)
    }

    /// Where to connect as superuser, to the database `postgres`.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// Where to connect as superuser to `database`.
    pub fn database_url(&self, database: &str) -> String {
        let (password, port) = (self.password.expose_secret(), self.port.number());
        format!("postgres://{USER}:{password}@127.0.0.1:{port}/{database}")
    }

    /// Its process id, unless it was stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Its log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Creates the database `name`, as a copy of `template` if given, and returns its URL. Nobody may
    /// be connected to the template.
    pub async fn create_database(&self, name: &str, template: Option<&str>) -> Result<String> {
        for name in std::iter::once(name).chain(template) {
            if name.is_empty() || !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_')) {
                return Err(Error::internal(format!("{name:?} is no name for a database of ours")));
            }
        }
        let from = template.map(|template| format!(" TEMPLATE \"{template}\"")).unwrap_or_default();
        let create = format!("CREATE DATABASE \"{name}\"{from}");
        let failed = |error| {
            Error::unavailable("dev-database", format!("cannot create the database {name}: {error}")).with_source(error)
        };
        let mut connection = PgConnection::connect(&self.url()).await.map_err(failed)?;
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        Ok(self.database_url(name))
    }

    /// Whether it runs; it may have been killed by somebody else.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(process) => process.exited()?.is_none(),
            None => false,
        })
    }

    /// Sends a signal, such as STOP and CONT, to the postmaster.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), |process| process.signal(signal))
    }

    /// Stops it for a while; [`Self::start_again`] continues.
    pub async fn halt(&mut self, how: Stop) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let signal = match how {
                // Fast shutdown: ends sessions, loses nothing. TERM would wait for the clients.
                Stop::Graceful => Signal::INT,
                Stop::Kill => Signal::KILL,
            };
            process.stop(signal, STOP).await?;
        }
        Ok(())
    }

    /// Starts it on its old port, if it does not run, and waits until it accepts connections.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.is_running()? {
            return Ok(());
        }
        let deadline = Deadline::new(START);
        let mut process = self.spawn()?;
        while !self.is_ready(&process) {
            if process.exited()?.is_some() && killed_leaves_sessions(&self.log) {
                process = self.spawn()?;
            }
            process.expect_running()?;
            deadline.pause("Postgres accepts connections").await?;
        }
        self.process = Some(process);
        Ok(())
    }

    /// Stops it and waits for its end.
    pub async fn stop(mut self) -> Result<()> {
        self.halt(Stop::Graceful).await
    }

    fn spawn(&self) -> Result<Process> {
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.place.data());
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port.number()),
            "unix_socket_directories=".to_owned(),
            "max_connections=300".to_owned(),
            "timezone=UTC".to_owned(),
            "log_timezone=UTC".to_owned(),
        ];
        if self.durability == Durability::Fast {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
        }
        for setting in settings {
            command.arg("-c").arg(setting);
        }
        // QUIT ends the sessions too; KILL would leave them to notice it.
        Process::spawn("Postgres", command, &self.log, Signal::QUIT)
    }

    /// What `pg_ctl` looks at: the eighth line of the file in which the postmaster keeps its state.
    fn is_ready(&self, process: &Process) -> bool {
        fs::read_to_string(self.place.data().join("postmaster.pid")).is_ok_and(|text| {
            let mut lines = text.lines();
            lines.next() == Some(&process.pid().to_string())
                && lines.nth(6).is_some_and(|state| state.trim() == "ready")
        })
    }

    /// Makes the data directory: in a new place that is renamed in the end, so that there is none or a
    /// whole one.
    async fn initialize(&self) -> Result<()> {
        let data = self.place.data();
        let fresh = self.place.make_private_dir("data.new")?;
        // Only `initdb` reads it, as the user that it runs as.
        let password = fresh.with_extension("password");
        write_private(&password, self.password.expose_secret())?;
        self.place.give(&password)?;
        let mut command = self.command("initdb");
        command.arg("-D").arg(&fresh).arg("--pwfile").arg(&password);
        command.args([
            "--username",
            USER,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]);
        if self.durability == Durability::Fast {
            command.arg("--no-sync");
        }
        let mut process = Process::spawn("initdb", command, &self.log, Signal::TERM)?;
        let deadline = Deadline::new(START);
        let status = loop {
            if let Some(status) = process.exited()? {
                break status;
            }
            deadline.pause("initdb makes the database").await?;
        };
        let _ = fs::remove_file(&password);
        if !status.success() {
            let message = format!("initdb failed ({status}); the end of its log:\n{}", process::tail(&self.log));
            return Err(Error::unavailable("dev-initdb", message));
        }
        fs::rename(&fresh, &data).map_err(|error| io_error("rename", &fresh, error))
    }

    /// One of Postgres' binaries, as the user that runs it, without settings from our environment.
    fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.bin.join(binary));
        command.current_dir("/").env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        if let Some(user) = self.place.user() {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }
}

/// The superuser's password: made once, kept in the directory for us alone.
fn password(dir: &Path, place: &Place) -> Result<SecretString> {
    let file = dir.join("password");
    match fs::read_to_string(&file) {
        Ok(password) => Ok(password.into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !place.data().exists() => {
            let password = random_hex::<20>();
            write_private(&file, &password)?;
            Ok(password.into())
        }
        Err(error) => Err(io_error("read the database's password from", &file, error)),
    }
}

/// Whether the start failed only because sessions of a killed postmaster have not ended yet; they do
/// so within moments.
fn killed_leaves_sessions(log: &Path) -> bool {
    let tail = process::tail(log);
    let last = tail.lines().rev().take(3);
    last.into_iter()
        .any(|line| line.contains("pre-existing shared memory block") || line.contains("lock file \"postmaster.pid\""))
}
