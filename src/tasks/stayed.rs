//! Closes clients that stayed although their account refuses them.
//!
//! A server that gets a changed account closes those that it refuses. One that is connecting at that very
//! moment, checked against what was before and not yet among those that are closed, stays for as long as
//! its JWT lives: seen on nats-server 2.15.1 with a cluster, where clients that one server has closed come
//! to another one that has not got the change yet. So after each change, and after each repair of a server
//! that had something else (an older JWT that somebody sent, say), once every server runs it, the servers
//! are asked who is connected, and who should not be is closed. A client that may be there is never touched.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::nudged;
use crate::{
    authority::Authority,
    error::Result,
    resolver::{Connections, Effective, Resolver, ServerRef, SystemResolver},
    store::clients::ChangedAccount,
};

/// How often changed accounts are looked for without a nudge.
const TICK: Duration = Duration::from_secs(1);

/// How many are looked at before it is asked for more.
const AT_ONCE: i64 = 64;

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    loop {
        if let Err(error) = everyone(&authority, resolver.as_ref()).await {
            tracing::warn!(%error, cause = error.internal_report(), "clients that stayed");
        }
        if !nudged(&authority.clients_wanted, TICK, &stop).await {
            return;
        }
    }
}

async fn everyone(authority: &Authority, resolver: &dyn Resolver) -> Result<()> {
    if authority.standing().live().next().is_none() {
        return Ok(());
    }
    for changed in authority.store().changed_accounts(AT_ONCE).await? {
        // Who was closed may still be listed, and who was not may still be coming in: only a look that finds
        // nobody is the last one.
        if look(authority, resolver, &changed).await? == 0 {
            authority.store().clients_were_looked_at(&changed).await?;
        }
    }
    Ok(())
}

/// Closes whoever should not be there; tells how many.
async fn look(authority: &Authority, resolver: &dyn Resolver, changed: &ChangedAccount) -> Result<usize> {
    // Servers that have not loaded the account have no clients of it, and need not load it for the question.
    let effective = resolver.effective(changed.account).await?;
    if effective.iter().all(|answer| answer.effective == Effective::NotLoaded) {
        return Ok(0);
    }
    let connections = resolver.connections(changed.account).await?;
    let users: HashSet<_> = connections.iter().flat_map(|server| &server.list).filter_map(|c| c.user.clone()).collect();
    let refused = if changed.open {
        authority.refused_users(&changed.org, &users.into_iter().collect::<Vec<_>>()).await?
    } else {
        users
    };
    let stayed = stayed(&connections, &refused);
    for (server, cid) in &stayed {
        tracing::warn!(org = %changed.org, server = server.name, cid, "closes a client that its server let stay");
        metrics::counter!("nats_authority_clients_closed_total").increment(1);
        resolver.kick(server.clone(), *cid).await?;
    }
    Ok(stayed.len())
}

/// The connections of refused users.
fn stayed(connections: &[Connections], refused: &HashSet<String>) -> Vec<(ServerRef, u64)> {
    let of = |server: &Connections| {
        let list =
            server.list.iter().filter(|connection| connection.user.as_ref().is_some_and(|u| refused.contains(u)));
        list.map(|connection| (server.server.clone(), connection.cid)).collect::<Vec<_>>()
    };
    connections.iter().flat_map(of).collect()
}
