//! Logs and metrics. Logs are JSON on standard output for services, text on standard error for
//! people; what is logged where is decided by who calls `tracing`. What each metric tells stands in `docs/METRICS.md`.

use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing::Level;
use tracing_subscriber::{
    EnvFilter,
    filter::{FilterFn, filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::error::{Error, Result};

/// Upper ends of buckets of durations, seconds: from a push over loopback to the longest wait of a request.
const SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// Upper ends of buckets of account JWTs, bytes: up to the largest message that servers take by default.
const BYTES: [f64; 9] = [4096.0, 8192.0, 16_384.0, 32_768.0, 49_152.0, 65_536.0, 131_072.0, 262_144.0, 1_048_576.0];

/// How often histograms are emptied of what was recorded: they grow until then.
const UPKEEP: Duration = Duration::from_secs(5);

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line on standard output.
    Json,
    /// For people, on standard error.
    Text,
}

/// Starts logging; `filter` such as `info` or `nats_authority=debug,info`. Does nothing when logging
/// has been started.
pub fn start_logs(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter).with(no_messages());
    // An error means that logging has been started before.
    let _ = match format {
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_current_span(true)).try_init(),
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init(),
    };
}

/// What no filter turns on: at trace level async-nats 0.51 writes every message that comes, answers with the JWTs of
/// connected users among them.
pub fn no_messages() -> FilterFn {
    filter_fn(|event| *event.level() != Level::TRACE || !event.target().starts_with("async_nats"))
}

/// The metrics of this process.
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Begins to keep them: what is counted before is lost.
    pub fn start() -> Result<Self> {
        let failed = |error| Error::internal("metrics").with_source(error);
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
            .map_err(failed)?;
        Ok(Self(builder.install_recorder().map_err(failed)?))
    }

    /// Their own router: `GET /metrics` in Prometheus' text format.
    pub fn router(&self) -> axum::Router {
        let recorder = self.0.clone();
        let render = move || {
            let text = recorder.render();
            async move { text }
        };
        axum::Router::new().route("/metrics", axum::routing::get(render))
    }

    /// Keeps them small also when nobody asks for them; runs until it is dropped.
    pub async fn keep(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.0.run_upkeep();
        }
    }
}
