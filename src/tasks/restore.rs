//! Looks whether JetStream still has what was made there: at the start, when servers appear or come
//! back, when asked to, and now and then. What is missing is decided in `authority::restore`, and made
//! again by the provision task.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    authority::{
        Authority,
        restore::{Lost, lost},
    },
    error::Result,
    resolver::SystemResolver,
};

/// How often to look when nothing happens: each look costs as much as there are streams.
const TICK: Duration = Duration::from_mins(5);

/// How soon to look again when something seems to be missing, or not every server could be asked.
const SOON: Duration = Duration::from_secs(2);

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let mut roll = resolver.registry().roll();
    // What seemed to be missing at the last look. A server that has just started may not know yet.
    let mut suspected = HashMap::new();
    loop {
        roll.mark_unchanged();
        let wait = match look(&authority, &resolver, &mut suspected).await {
            Ok(true) => TICK,
            Ok(false) => SOON,
            Err(error) => {
                tracing::debug!(%error, cause = error.internal_report(), "the streams cannot be looked at now");
                SOON
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = authority.restore_wanted.notified() => {}
            _ = roll.changed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// One look; true: everything is there. Nothing is concluded while a server is away, for it may have
/// what the others do not.
async fn look(authority: &Authority, resolver: &SystemResolver, suspected: &mut HashMap<Uuid, Lost>) -> Result<bool> {
    let standing = authority.standing();
    let away = standing.servers.iter().any(|server| !server.row.live);
    if standing.connected.is_err() || standing.servers.is_empty() || away {
        suspected.clear();
        return Ok(false);
    }
    // First what should be there: what is made between the two looks is seen by the second.
    let made = authority.store().made().await?;
    if made.is_empty() {
        return Ok(true);
    }
    let assets = resolver.assets().await?;
    let mut missing = HashMap::new();
    for made in &made {
        let Some(lost) = lost(made, assets.get(&made.account)) else { continue };
        if suspected.get(&made.environment) == Some(&lost) {
            if authority.restore(made, &lost).await? {
                tracing::warn!(org = %made.org, env_type = %made.env_type, ?lost, "lost in JetStream, made again");
                metrics::counter!("nats_authority_restored_environments_total").increment(1);
            }
        } else {
            missing.insert(made.environment, lost);
        }
    }
    *suspected = missing;
    Ok(suspected.is_empty())
}
