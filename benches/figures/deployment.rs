//! The deployment that is measured: a durable Postgres, three servers and the service, which runs in
//! this process.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use nats_authority::{
    authority::bundle,
    clock::SystemClock,
    config::Raw,
    dev::{
        nats::{Cluster, ClusterSpec},
        postgres::{Durability, Postgres},
        process::{Process, Signal},
    },
    entropy::SystemEntropy,
    service::Service,
    signer::{SealingKey, SealingKeys, Signer},
};

use crate::http::Http;

/// Connections to Postgres, ours and the limit's.
pub const CONNECTIONS: usize = 32;

pub struct Deployment {
    pub service: Service,
    pub cluster: Cluster,
    pub postgres: Postgres,
    pub database_url: String,
    token: String,
    dir: tempfile::TempDir,
}

impl Deployment {
    pub async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("nats-authority-bench-").tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let entropy = Arc::new(SystemEntropy::new());
        let sealing = SealingKey::generate(entropy.as_ref());
        let signer = Signer::new(SealingKeys::new(vec![SealingKey::parse(&sealing)?])?, entropy.clone());
        let new = bundle::create("bench", &signer, &SystemClock, entropy.as_ref())?;
        fs::write(dir.path().join("sealing.key"), &*sealing)?;
        fs::write(dir.path().join("bundle.json"), new.bundle.to_text()?)?;
        let postgres = Postgres::start(&dir.path().join("postgres"), Durability::Durable).await?;
        let database_url = postgres.create_database("bench", None).await?;
        fs::write(dir.path().join("database.url"), &database_url)?;
        let mut spec = ClusterSpec::new(dir.path().join("nats"), "bench", new.bundle.trust()?);
        spec.jetstream_max_file = 1 << 44;
        let cluster = Cluster::start(spec).await?;
        let mut raw = Raw { bundle: Some("bundle.json".into()), ..Raw::default() };
        raw.http.listen = Some("127.0.0.1:0".to_owned());
        raw.database.url_file = Some("database.url".into());
        raw.database.max_connections = Some(u32::try_from(CONNECTIONS)?);
        raw.nats.urls = cluster.urls();
        raw.sealing.key_files = vec!["sealing.key".into()];
        // What is measured is what the service can do, not what it lets one caller do.
        raw.limits.caller_rate = Some(0);
        raw.limits.organization_rate = Some(0);
        raw.jetstream.overcommit = Some(1000.0);
        let service = Service::start(&raw.check(dir.path())?).await?;
        let deployment = Self { service, cluster, postgres, database_url, token: new.admin_token.to_string(), dir };
        deployment.ready().await?;
        Ok(deployment)
    }

    async fn ready(&self) -> Result<()> {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.service.authority.standing().live().filter(|server| server.trusts_us == Some(true)).count() < 3 {
            ensure!(tokio::time::Instant::now() < end, "the servers did not become live");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub async fn http(&self) -> Result<Http> {
        Http::connect(&self.service.url, &self.token).await
    }

    pub async fn stop(self) -> Result<()> {
        self.service.stop().await;
        self.cluster.stop().await?;
        self.postgres.stop().await?;
        Ok(())
    }
}

/// The binary itself, over the same database and servers: a process whose memory is its own.
pub struct Replica {
    process: Process,
    url: String,
    token: String,
}

impl Replica {
    pub async fn start(deployment: &Deployment) -> Result<Self> {
        let dir = deployment.dir.path();
        let servers: Vec<_> = deployment.cluster.urls().iter().map(|url| format!("'{url}'")).collect();
        let config = format!(
            "bundle = 'bundle.json'\nnats.urls = [{}]\nsealing.key_files = ['sealing.key']\n\
             database.url_file = 'database.url'\njetstream.overcommit = 1000.0\n[http]\nlisten = '127.0.0.1:0'\n\
             url_file = 'replica.url'\n",
            servers.join(", ")
        );
        fs::write(dir.join("replica.toml"), config)?;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_nats-authority"));
        command.arg("serve").arg("--config").arg(dir.join("replica.toml"));
        let mut process = Process::spawn("replica", command, &dir.join("replica.log"), Signal::KILL)?;
        let url = loop {
            process.expect_running()?;
            match fs::read_to_string(dir.join("replica.url")) {
                Ok(url) => break url,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        Ok(Self { process, url, token: deployment.token.clone() })
    }

    pub async fn http(&self) -> Result<Http> {
        Http::connect(&self.url, &self.token).await
    }

    /// Its resident memory, MiB.
    pub fn resident(&self) -> Result<u64> {
        let pid = self.process.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
    }

    pub async fn stop(mut self) -> Result<()> {
        self.process.stop(Signal::TERM, Duration::from_secs(30)).await?;
        Ok(())
    }
}
