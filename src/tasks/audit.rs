//! Links audit events into their chain. What that means is the authority's business; here stands only
//! when to do it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::authority::Authority;

/// How often committed events are linked.
const TICK: std::time::Duration = std::time::Duration::from_millis(500);

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        if let Err(error) = authority.link_audit_events().await {
            tracing::warn!(%error, cause = error.internal_report(), "audit chain");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
