//! What a change of an account does to live connections and data: the servers are asked, and what
//! they do then follows by a pure function ([`impact`]). Nothing here changes anything.
//!
//! | change | what servers do (nats-server 2.15.1) |
//! |---|---|
//! | an entry `t` for a user or `*` | close the connections of users issued at `t` or before |
//! | a signing key leaves, or its scope changes in any way | close every connection of its users |
//! | `conn` below what is open | 0 closes all; else each server keeps its oldest ones of that number, and closes newer ones when it hears how many the others have: with all on one server exactly the newest go, with several more may go than had to |
//! | JetStream limits below use | keep the data, refuse what is published (10002) |

use std::collections::BTreeMap;

use crate::{
    authority::Preview,
    jwt::{self, account::UserScope, difference::difference},
    model::preview::{
        ClaimChange, ClosingByCause, ClosingCause, ClosingConnections, ConnectionView, ExceededLimit, JetStreamImpact,
        JwtBytes, PreviewView,
    },
    nkey::{Account, PublicKey},
    resolver::{ClientConnection, Connections, Resolver, StreamUse, Streams},
};

/// How many connections are shown for each cause.
const EXAMPLES: usize = 10;

/// What the servers told of one account.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Connections on each server.
    pub connections: Vec<Connections>,
    /// Streams on each server.
    pub streams: Vec<Streams>,
    /// Why no server at all could be asked.
    pub nobody: bool,
}

/// Asks the servers about a previewed account, and says what the change would do.
pub async fn forecast(resolver: Option<&dyn Resolver>, preview: &Preview) -> PreviewView {
    // An account that no server has needs no question; nor one that does not change.
    let observed = match resolver {
        Some(resolver) if preview.generation > 0 => observe(resolver, preview.account).await,
        Some(_) => Observed::default(),
        None => Observed { nobody: true, ..Observed::default() },
    };
    impact(preview, &observed)
}

async fn observe(resolver: &dyn Resolver, account: PublicKey<Account>) -> Observed {
    let (connections, streams) = tokio::join!(resolver.connections(account), resolver.streams(account));
    let nobody = connections.is_err() || streams.is_err();
    Observed { connections: connections.unwrap_or_default(), streams: streams.unwrap_or_default(), nobody }
}

/// What the change would do, given what the servers told.
pub fn impact(preview: &Preview, observed: &Observed) -> PreviewView {
    let changes = difference(preview.before.as_ref(), &preview.after).into_iter();
    let mut unasked: Vec<String> = observed
        .connections
        .iter()
        .filter(|server| server.total.is_none())
        .map(|server| server.server.name.clone())
        .chain(observed.streams.iter().filter(|s| s.streams.is_none()).map(|s| s.server.name.clone()))
        .collect();
    if observed.nobody {
        unasked.push("(all)".to_owned());
    }
    unasked.sort_unstable();
    unasked.dedup();
    PreviewView {
        org: preview.org.to_string(),
        account_id: preview.account.to_string(),
        generation: preview.generation,
        next_generation: preview.next_generation,
        changes: changes.map(|(pointer, before, after)| ClaimChange { pointer, before, after }).collect(),
        bytes: JwtBytes { now: preview.bytes_before, next: preview.bytes_after, limit: preview.bytes_limit },
        connections: closing(preview.before.as_ref(), &preview.after, &observed.connections),
        jetstream: (!observed.nobody).then(|| usage(&preview.after, &observed.streams)),
        broken_imports: preview.broken_imports.clone(),
        unasked_servers: unasked,
    }
}

fn closing(before: Option<&jwt::Account>, after: &jwt::Account, servers: &[Connections]) -> ClosingConnections {
    let mut by_cause: BTreeMap<ClosingCause, Vec<ConnectionView>> = BTreeMap::new();
    for server in servers {
        for (connection, cause) in server.list.iter().zip(causes(before, after, &server.list)) {
            let Some(cause) = cause else { continue };
            by_cause.entry(cause).or_default().push(ConnectionView {
                server: server.server.name.clone(),
                cid: connection.cid,
                user_key: connection.user.clone(),
                name: connection.name.clone(),
                ip: connection.ip.clone(),
            });
        }
    }
    let by_cause: Vec<_> = by_cause
        .into_iter()
        .map(|(cause, mut connections)| {
            let count = connections.len() as u64;
            connections.truncate(EXAMPLES);
            ClosingByCause { cause, count, examples: connections }
        })
        .collect();
    let open = servers.iter().filter_map(|server| server.total).sum();
    let closing = by_cause.iter().map(|cause| cause.count).sum();
    let lowered = before.is_some_and(|before| before.limits.conn != after.limits.conn);
    let limit = u64::try_from(after.limits.conn).ok().filter(|_| lowered);
    ClosingConnections {
        open,
        examined: servers.iter().map(|server| server.list.len() as u64).sum(),
        closing,
        undetermined: limit.map_or(0, |limit| open.saturating_sub(closing).saturating_sub(limit)),
        by_cause,
    }
}

/// For each connection of one server, why it would close when `after` takes the place of `before`. That a
/// connection is open says that `before` allowed it.
pub fn causes(
    before: Option<&jwt::Account>,
    after: &jwt::Account,
    connections: &[ClientConnection],
) -> Vec<Option<ClosingCause>> {
    let Some(before) = before.filter(|before| *before != after) else { return vec![None; connections.len()] };
    let kept = oldest(after.limits.conn, connections);
    let shut = match (after.limits.conn, after.revocations.contains_key("*") && !before.revocations.contains_key("*")) {
        (0, true) => Some(ClosingCause::Deleted),
        (0, false) => Some(ClosingCause::Suspended),
        _ => None,
    };
    let one = |(connection, kept): (&ClientConnection, bool)| {
        shut.or_else(|| revoked(after, connection).then_some(ClosingCause::Revoked))
            .or_else(|| key_cause(before, after, connection))
            .or_else(|| (!kept).then_some(ClosingCause::ConnectionLimit))
    };
    connections.iter().zip(kept).map(one).collect()
}

fn revoked(after: &jwt::Account, connection: &ClientConnection) -> bool {
    let entries = [connection.user.as_deref(), Some("*")].into_iter().flatten();
    let until = entries.filter_map(|entry| after.revocations.get(entry)).max();
    // A user's JWT that the server does not show may be as old as any.
    until.is_some_and(|until| connection.issued_at.is_none_or(|issued_at| issued_at <= *until))
}

fn key_cause(before: &jwt::Account, after: &jwt::Account, connection: &ClientConnection) -> Option<ClosingCause> {
    let key = connection.issuer.as_deref()?.parse().ok()?;
    let scope = |account: &jwt::Account| -> Option<Option<UserScope>> { account.signing_keys.0.get(&key).cloned() };
    match (scope(before), scope(after)) {
        (_, None) => Some(ClosingCause::KeyRemoved),
        (Some(old), Some(new)) if old != new => Some(ClosingCause::RoleChanged),
        _ => None,
    }
}

/// Whether each connection is among the oldest `limit` of its server; -1 is unlimited.
fn oldest(limit: i64, connections: &[ClientConnection]) -> Vec<bool> {
    let Ok(limit) = usize::try_from(limit) else { return vec![true; connections.len()] };
    let mut order: Vec<usize> = (0..connections.len()).collect();
    order.sort_by_key(|&index| connections.get(index).map(|c| (c.start, c.cid)));
    let mut kept = vec![false; connections.len()];
    for index in order.into_iter().take(limit) {
        if let Some(kept) = kept.get_mut(index) {
            *kept = true;
        }
    }
    kept
}

fn usage(after: &jwt::Account, servers: &[Streams]) -> JetStreamImpact {
    // One stream stands on as many servers as it has replicas.
    let mut streams: BTreeMap<&str, Vec<&StreamUse>> = BTreeMap::new();
    for stream in servers.iter().flat_map(|server| server.streams.iter().flatten()) {
        streams.entry(&stream.name).or_default().push(stream);
    }
    let mut impact = JetStreamImpact { streams: count(streams.len()), ..JetStreamImpact::default() };
    let mut tiers: BTreeMap<String, (i64, i64, i64)> = BTreeMap::new();
    for copies in streams.values() {
        let sum: i64 = copies.iter().map(|copy| copy.bytes).sum();
        let largest = copies.iter().map(|copy| copy.bytes).max().unwrap_or_default();
        let in_memory = copies.iter().any(|copy| copy.in_memory);
        *(if in_memory { &mut impact.memory } else { &mut impact.disk }) += sum;
        let replicas = copies.iter().map(|copy| copy.replicas).max().unwrap_or(1);
        let tier = tiers.entry(format!("R{replicas}")).or_default();
        *(if in_memory { &mut tier.0 } else { &mut tier.1 }) += largest;
        tier.2 += 1;
    }
    let limits = &after.limits;
    if limits.tiered_limits.is_empty() {
        let used = (impact.memory, impact.disk, impact.streams);
        exceeded("/nats/limits", used, limits.jetstream, &mut impact.exceeded);
    } else {
        for (tier, used) in tiers {
            let allowed = limits.tiered_limits.get(&tier).copied().unwrap_or_default();
            exceeded(&format!("/nats/limits/tiered_limits/{tier}"), used, allowed, &mut impact.exceeded);
        }
    }
    impact
}

fn exceeded(
    pointer: &str,
    (memory, disk, streams): (i64, i64, i64),
    limits: jwt::limits::JetStreamLimits,
    found: &mut Vec<ExceededLimit>,
) {
    const FULL: &str = "publishing to streams fails (10002) until data is deleted";
    let mut check = |name: &str, used: i64, limit: i64, effect: &str| {
        if limit >= 0 && used > limit {
            let pointer = format!("{pointer}/{name}");
            found.push(ExceededLimit { pointer, used, limit, effect: effect.to_owned() });
        }
    };
    check("mem_storage", memory, limits.mem_storage, FULL);
    check("disk_storage", disk, limits.disk_storage, FULL);
    if limits.streams > 0 {
        check("streams", streams, limits.streams, "no further stream can be made");
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
