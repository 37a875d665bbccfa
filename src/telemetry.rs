//! Logs and metrics. Logs are JSON on standard output for services, text on standard error for
//! people; what is logged where is decided by who calls `tracing`.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

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
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that logging has been started before.
    let _ = match format {
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_current_span(true)).try_init(),
        LogFormat::Text => registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init(),
    };
}

/// The metrics' own router: `GET /metrics` in Prometheus' text format.
pub fn metrics_router() -> crate::error::Result<axum::Router> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new()
        .install_recorder()
        .map_err(|error| crate::error::Error::internal("metrics").with_source(error))?;
    let render = move || {
        let text = recorder.render();
        async move { text }
    };
    Ok(axum::Router::new().route("/metrics", axum::routing::get(render)))
}
