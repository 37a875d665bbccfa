//! `serve` and `migrate`.

use std::path::Path;

use super::{ConfigArgs, ServeArgs};
use crate::{
    config::{Config, Raw},
    error::{Error, Result},
    service::Service,
    store::Store,
    telemetry::{LogFormat, start_logs},
};

pub(super) async fn run(args: ServeArgs) -> Result<u8> {
    let mut raw = Raw::load(args.config.config.as_deref())?;
    if let Some(listen) = args.listen {
        raw.http.listen = Some(listen);
    }
    let format = match (args.log_format, raw.log.format.as_deref()) {
        (Some(format), _) => format,
        (None, None | Some("json")) => LogFormat::Json,
        (None, Some("text")) => LogFormat::Text,
        (None, Some(other)) => {
            return Err(Error::invalid(
                "invalid-configuration",
                format!("log.format: '{other}' is neither json nor text"),
            ));
        }
    };
    start_logs(format, args.log.as_deref().or(raw.log.filter.as_deref()).unwrap_or("info"));
    let service = Service::start(&check(raw, &args.config)?).await?;
    tokio::select! {
        ended = interrupted() => ended?,
        never = reload_on_hangup(&service) => never?,
    }
    tracing::info!("stopping");
    service.stop().await;
    Ok(0)
}

pub(super) async fn migrate(args: &ConfigArgs) -> Result<u8> {
    let config = load(args)?;
    let store = Store::connect(&config.database_url, 2, std::time::Duration::from_secs(10)).await?;
    store.migrate().await?;
    Ok(0)
}

/// The checked configuration that `args` name.
pub(super) fn load(args: &ConfigArgs) -> Result<Config> {
    check(Raw::load(args.config.as_deref())?, args)
}

fn check(raw: Raw, args: &ConfigArgs) -> Result<Config> {
    let base = args.config.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
    raw.check(base)
}

/// Reads plans and roles again at each SIGHUP; ends only when signals cannot be had.
async fn reload_on_hangup(service: &Service) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::internal("signals").with_source(error))?;
    while hangup.recv().await.is_some() {
        service.reload().await;
    }
    Ok(())
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Error::internal("signals").with_source(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
