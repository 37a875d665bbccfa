//! Ends superseded credentials whose grace time has passed, and has accounts pruned of entries that no
//! server needs any more, and those warned of whose credentials end soon. What that means is the authority's business; here stands only when to look.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{TICK, nudged};
use crate::authority::Authority;

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        if let Err(error) = authority.end_superseded(authority.now()).await {
            tracing::warn!(%error, cause = error.internal_report(), "expire");
        }
        if let Err(error) = authority.prune().await {
            tracing::warn!(%error, cause = error.internal_report(), "prune");
        }
        if let Err(error) = authority.warn_of_endings().await {
            tracing::warn!(%error, cause = error.internal_report(), "warn of endings");
        }
        if !nudged(&authority.endings_wanted, TICK, &stop).await {
            return;
        }
    }
}
