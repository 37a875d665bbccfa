//! Makes the steps of key rotations. Which step may be made is the authority's business; here stands
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
        if !nudged(&authority.rotations_wanted, TICK, &stop).await {
            return;
        }
    }
}
