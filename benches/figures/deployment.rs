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
    _dir: tempfile::TempDir,
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
        raw.jetstream.overcommit = Some(1000.0);
        let service = Service::start(&raw.check(dir.path())?).await?;
        let deployment =
            Self { service, cluster, postgres, database_url, token: new.admin_token.to_string(), _dir: dir };
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
