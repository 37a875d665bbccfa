//! Makes the steps of key rotations, and takes up what other replicas have done to the operator's key. Which step may be made is the authority's business; here stands
//! only when to look.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{TICK, nudged};
use crate::authority::Authority;

pub(super) async fn run(authority: Arc<Authority>, stop: CancellationToken) {
    loop {
        if let Err(error) = authority.step_key_rotations().await {
            tracing::warn!(%error, cause = error.internal_report(), "rotate");
        }
        match authority.step_operator_rotation().await {
            // Perhaps the next one can be made at once.
            Ok(true) => authority.rotations_wanted.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, cause = error.internal_report(), "rotate the operator's key"),
        }
        if let Err(error) = authority.refresh_operator().await {
            tracing::warn!(%error, cause = error.internal_report(), "the operator could not be read");
        }
        if !nudged(&authority.rotations_wanted, TICK, &stop).await {
            return;
        }
    }
}
