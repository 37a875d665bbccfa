//! Forgets idempotency keys whose day is over.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;

/// How long what was done under a key is remembered.
const KEPT: TimeDelta = TimeDelta::hours(24);

/// How often the old ones are looked for.
const TICK: Duration = Duration::from_mins(1);

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        if let Err(error) = authority.store().forget_keys(authority.now() - KEPT).await {
            tracing::warn!(%error, cause = error.internal_report(), "forget idempotency keys");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}
