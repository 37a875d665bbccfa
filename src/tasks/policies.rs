//! Brings accounts to the plans and roles in force: after a reload at once, after a restart whatever an
//! earlier run has left. With nothing to do it costs one query.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::nudged;
use crate::authority::Authority;

/// How often accounts are looked for without a nudge: another replica may have left some, and some may
/// have been held up.
const TICK: Duration = Duration::from_secs(30);

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        match authority.apply_policies().await {
            Ok(0) => {}
            Ok(minted) => tracing::info!(minted, "accounts follow other plans and roles"),
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "policies"),
        }
        gauge(&authority).await;
        if !nudged(&authority.policies_wanted, TICK, &stop).await {
            return;
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count for a gauge")]
async fn gauge(authority: &Authority) {
    if let Ok(count) = authority.store().count_composed_otherwise(&authority.policies().fingerprint).await {
        metrics::gauge!("nats_authority_accounts_with_other_policies").set(count as f64);
    }
}
