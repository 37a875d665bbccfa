//! Watches the servers: tells the authority how they stand and remembers them in the ledger.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TICK;
use crate::{
    authority::{Authority, ServerStanding, Standing, Told},
    error::Result,
    model::view::ResolverType,
    nkey::{Operator, PublicKey},
    resolver::{Known, Resolver, ResolverKind, ServerInfo, SystemResolver},
    store::servers::ServerRow,
};

/// How long the connection may be gone before no server counts as live: it moves to another one within
/// moments, and while it does nothing has changed.
const LOST: Duration = Duration::from_secs(3);

pub(super) async fn run(authority: Arc<Authority>, resolver: Arc<SystemResolver>, stop: CancellationToken) {
    let mut roll = resolver.registry().roll();
    let mut state = resolver.connection().state();
    let mut connected_at = Instant::now();
    loop {
        if state.borrow_and_update().connected {
            connected_at = Instant::now();
        }
        if let Err(error) = look(&authority, &resolver, connected_at.elapsed() > LOST).await {
            tracing::warn!(%error, cause = error.internal_report(), "the servers' state could not be recorded");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = roll.changed() => {}
            _ = state.changed() => {}
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// One look. `lost`: there is no connection, so that nothing is known of any server.
async fn look(authority: &Authority, resolver: &SystemResolver, lost: bool) -> Result<()> {
    let state = resolver.connection().state().borrow().clone();
    let connected =
        if state.connected { Ok(()) } else { Err(state.last_error.unwrap_or_else(|| "connecting".to_owned())) };
    let before = authority.standing();
    let key = authority.operator_signing_key();
    let mut servers: HashMap<String, ServerStanding> =
        before.servers.iter().map(|server| (server.row.name.clone(), unknown(server))).collect();
    for known in resolver.known() {
        let earlier = before.servers.iter().find(|server| server.row.name == known.name);
        if earlier.is_none() && !known.live {
            // Forgotten; the registry remembers it a while longer.
            continue;
        }
        let mut standing = standing(&known, earlier, key);
        standing.row.live &= !lost;
        servers.insert(known.name, standing);
    }
    let mut servers: Vec<_> = servers.into_values().collect();
    servers.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    for server in servers.iter().filter(|s| s.trusts_us == Some(false) && s.row.live) {
        tracing::error!(
            server = server.row.name,
            "the server does not trust this operator's signing key; nothing is signed"
        );
    }
    let news: Vec<ServerRow> = servers
        .iter()
        .filter(|server| before.servers.iter().all(|b| !same(&b.row, &server.row)))
        .map(|server| server.row.clone())
        .collect();
    authority.set_standing(Standing { servers, connected });
    if !news.is_empty() {
        authority.store().save_servers(&news).await?;
    }
    forgotten_elsewhere(authority).await
}

/// Drops what another replica was told to forget: a server that does not answer and has no row any more.
async fn forgotten_elsewhere(authority: &Authority) -> Result<()> {
    let rows = authority.store().servers().await?;
    let is_gone = |server: &ServerStanding| !server.row.live && rows.iter().all(|row| row.name != server.row.name);
    let mut standing = Standing::clone(&authority.standing());
    if standing.servers.iter().any(is_gone) {
        standing.servers.retain(|server| !is_gone(server));
        authority.set_standing(standing);
        authority.push_wanted.notify_one();
    }
    Ok(())
}

/// A server of which the registry knows nothing now.
fn unknown(server: &ServerStanding) -> ServerStanding {
    ServerStanding {
        row: ServerRow { live: false, ..server.row.clone() },
        trusts_us: server.trusts_us,
        told: server.told.clone(),
    }
}

/// What is known of a server; what it has not told yet stays as it was.
fn standing(known: &Known, before: Option<&ServerStanding>, key: PublicKey<Operator>) -> ServerStanding {
    let mut row = before.map_or_else(
        || ServerRow {
            name: known.name.clone(),
            id: String::new(),
            cluster: None,
            version: String::new(),
            max_memory: 0,
            max_disk: 0,
            max_payload: 1 << 20,
            live: false,
            seen_at: known.last_seen,
        },
        |before| before.row.clone(),
    );
    row.id.clone_from(&known.id);
    row.live = known.live;
    row.seen_at = known.last_seen;
    let mut trusts_us = before.filter(|before| before.row.id == known.id).and_then(|before| before.trusts_us);
    if let Some(info) = &known.info {
        row.cluster.clone_from(&info.cluster);
        row.version.clone_from(&info.version);
        row.max_payload = i64::try_from(info.max_payload).unwrap_or(i64::MAX);
        let jetstream = info.jetstream.as_ref();
        row.max_memory = jetstream.map_or(0, |jetstream| jetstream.max_memory);
        row.max_disk = jetstream.map_or(0, |jetstream| jetstream.max_storage);
        trusts_us = Some(info.trusts(&key));
    }
    ServerStanding { row, trusts_us, told: told(known, before) }
}

fn told(known: &Known, before: Option<&ServerStanding>) -> Told {
    let before = before.filter(|before| before.row.id == known.id).map(|before| before.told.clone());
    let mut told = before.unwrap_or_default();
    if let Some(kind) = known.resolver {
        told.resolver = Some(match kind {
            ResolverKind::Full => ResolverType::Full,
            ResolverKind::Cache => ResolverType::Cache,
            ResolverKind::Url => ResolverType::Url,
        });
    }
    if let Some(info) = &known.info {
        told.started = info.started;
        told.reloaded = info.config_loaded.filter(|_| info.is_reloaded());
        told.operator_keys = operator_keys(info);
    }
    told
}

fn operator_keys(info: &ServerInfo) -> Vec<String> {
    let operators = info.operators.iter();
    let keys = operators.flat_map(|operator| {
        let identity = (!operator.strict).then_some(operator.identity);
        operator.signing_keys.iter().copied().chain(identity)
    });
    keys.map(|key| key.to_string()).collect()
}

/// Nothing worth writing has changed: when it was last seen alone is not.
fn same(a: &ServerRow, b: &ServerRow) -> bool {
    *a == ServerRow { seen_at: a.seen_at, ..b.clone() }
}
