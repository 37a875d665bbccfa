//! Brings the platform account's import to accounts that were minted before there was one: once, after an
//! upgrade, as soon as servers have the platform account.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::TICK;
use crate::{authority::Authority, error::Result};

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        match upgrade(&authority).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "platform"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Whether all is done.
async fn upgrade(authority: &Authority) -> Result<bool> {
    if authority.store().older_than_platform(None, 1).await?.is_empty() {
        return Ok(true);
    }
    if !authority.store().platform_is_settled().await? {
        return Ok(false);
    }
    let count = authority.recompose_older_than_platform().await?;
    tracing::info!(count, "accounts minted again: they import the platform account's services");
    Ok(true)
}
