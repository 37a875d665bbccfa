//! The running service: its parts put together from a checked configuration, started in order and
//! stopped in order. Decides nothing.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    api,
    authority::{Authority, Parts, bundle::Bundle},
    clock::{Clock, SystemClock},
    config::{Config, read_secret},
    entropy::{Entropy, SystemEntropy},
    error::{Error, Result},
    identity::Issuers,
    policy::Policies,
    resolver::SystemResolver,
    signer::{SealingKey, SealingKeys, Signer},
    store::Store,
    tasks,
    telemetry::Metrics,
};

/// How long open requests may take to finish when the service stops.
const GRACE: Duration = Duration::from_secs(20);

/// How long the database may take to answer at start and later.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A running service.
pub struct Service {
    /// Where the API is.
    pub url: String,
    /// The domain service inside.
    pub authority: Arc<Authority>,
    /// The way to the servers.
    pub resolver: Arc<SystemResolver>,
    policies: Option<std::path::PathBuf>,
    stop: CancellationToken,
    tasks: TaskTracker,
    server: axum_server::Handle<SocketAddr>,
}

impl Service {
    /// Starts everything. Fails in words for people when the configuration, the database, the keys or
    /// the bundle are not right; servers that are not there yet only keep it from being ready.
    pub async fn start(config: &Config) -> Result<Self> {
        let metrics = config.metrics_listen.map(|address| Ok::<_, Error>((address, Metrics::start()?))).transpose()?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let signer = Arc::new(Signer::new(sealing_keys(config)?, Arc::clone(&entropy)));
        let policies = match &config.policies {
            Some(dir) => Policies::load(dir)?,
            None => Policies::builtin()?,
        };
        let store = Store::connect(&config.database_url, config.max_connections, DATABASE_TIMEOUT).await?;
        store.migrate().await?;
        store.open_all();
        if let Some(file) = &config.bundle {
            let bundle = read_bundle(file)?;
            if bundle.adopt(&store, &signer, clock.as_ref(), entropy.as_ref()).await? {
                tracing::info!("adopted the operator of the bundle");
            }
        }
        let settings = config.settings.clone();
        let issuers = Arc::new(Issuers::new(config.issuers.clone(), Arc::clone(&clock)));
        let authority = Authority::open(Parts { store, signer, policies, settings, clock, entropy }).await?;
        let stop = CancellationToken::new();
        let tracker = TaskTracker::new();
        tracker.spawn(Arc::clone(&issuers).run(stop.clone()));
        let resolver = tasks::start(&authority, &tasks::Setup::from(config), &tracker, &stop)?;
        let listener = listen(config.listen).await?;
        let address = listener.local_addr().map_err(|error| Error::internal("address").with_source(error))?;
        let url = format!("{}://{address}", if config.tls.is_some() { "https" } else { "http" });
        let server = axum_server::Handle::new();
        let state = api::ApiState::new(Arc::clone(&authority)).asking(Arc::clone(&resolver) as _);
        let state = state.limited(config.limits).break_glass(config.break_glass).believing(issuers);
        let state = state.knowing(config.certificates.clone());
        let listener = listener.into_std().map_err(|error| Error::internal("listener").with_source(error))?;
        let setup = api::server::Setup {
            tls: config.tls.clone(),
            connections: config.connections,
            handle: server.clone(),
            stop: stop.clone(),
        };
        api::server::serve(&tracker, listener, api::router(state.clone()), setup)?;
        if let Some((address, metrics)) = metrics {
            let listener = listen(address).await?;
            let router = metrics.router().merge(api::probes(state));
            let stopped = stop.clone();
            tracker.spawn(async move {
                // It ends with the service; nobody depends on its last answer.
                let _ = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await;
            });
            let stopped = stop.clone();
            tracker.spawn(async move { stopped.run_until_cancelled_owned(metrics.keep()).await.unwrap_or_default() });
        }
        if let Some(file) = &config.url_file {
            write_url(file, &url)?;
        }
        tracing::info!(%url, "listening");
        Ok(Self { url, authority, resolver, policies: config.policies.clone(), stop, tasks: tracker, server })
    }

    /// Reads plans, roles and the access policy again. When they cannot be taken the old ones stay in force, and it is said
    /// why in the log, a metric and `GET /api/v1/policies`.
    pub async fn reload(&self) {
        let Some(dir) = &self.policies else {
            tracing::info!("no folder is configured under `policies`: the built-in plans and roles stay");
            return;
        };
        match self.authority.reload(Policies::load(dir)).await {
            Ok(()) => tracing::info!(dir = %dir.display(), "plans and roles were read"),
            Err(error) => tracing::error!(%error, cause = error.internal_report(), "plans and roles stay as they were"),
        }
    }

    /// Stops: no new requests, open ones finish, then the tasks end and the database is closed.
    pub async fn stop(self) {
        self.server.graceful_shutdown(Some(GRACE));
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE + Duration::from_secs(5), self.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        self.authority.store().close().await;
    }
}

/// Reads the sealing keys of a configuration.
pub fn sealing_keys(config: &Config) -> Result<SealingKeys> {
    let keys = config.sealing_key_files.iter().map(|file| SealingKey::parse(&read_secret(file)?));
    SealingKeys::new(keys.collect::<Result<_>>()?)
}

/// Reads a bundle.
pub fn read_bundle(file: &Path) -> Result<Bundle> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid("bundle-unreadable", format!("{} cannot be read: {error}", file.display())))?;
    Bundle::parse(&text)
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        Error::unavailable("address-in-use", format!("cannot listen on {address}: {error}; choose another http.listen"))
    })
}

/// Written whole or not at all: whoever waits for the file must not read half of it.
fn write_url(file: &Path, url: &str) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, url)
        .and_then(|()| std::fs::rename(&new, file))
        .map_err(|error| Error::invalid("file", format!("cannot write {}: {error}", file.display())))
}
