//! Asking the servers what they store and what they run.

use std::collections::HashSet;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    answers::{self, ClientConnection, Effective, ServerInfo, ServerRef, Stored, StreamUse},
    gather::Asker,
};
use crate::{
    error::{Error, Result},
    nkey::{Account, PublicKey},
};

/// What one server stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The server.
    pub server: ServerRef,
    /// The accounts, or in words why they are not known.
    pub accounts: Stored,
}

/// What one server runs for an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveAnswer {
    /// The server.
    pub server: ServerRef,
    /// What it runs.
    pub effective: Effective,
}

/// The accounts that one server has loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The server.
    pub server: ServerRef,
    /// Its accounts; none when nothing was heard of it in time.
    pub accounts: Option<HashSet<PublicKey<Account>>>,
}

/// The client connections of an account on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// The server.
    pub server: ServerRef,
    /// How many there are; none when the server did not answer.
    pub total: Option<u64>,
    /// Those of them that it listed; all, unless there are more than 16,384.
    pub list: Vec<ClientConnection>,
}

/// The streams of an account on one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Streams {
    /// The server.
    pub server: ServerRef,
    /// Its copies; none when the server did not answer.
    pub streams: Option<Vec<StreamUse>>,
}

/// What came of comparing hashes with one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pack {
    /// It stores exactly the JWTs that were hashed.
    Agrees,
    /// It does not; these are all that it stores.
    Differs(Vec<(PublicKey<Account>, String)>),
}

/// The hash of a set of JWTs: the XOR of the SHA-256 of each. The order does not matter. Servers hash
/// every JWT that they store, that of the system account included.
pub fn xor_hash(hashes: impl IntoIterator<Item = [u8; 32]>) -> [u8; 32] {
    hashes.into_iter().fold([0; 32], |mut all, one| {
        all.iter_mut().zip(one).for_each(|(all, one)| *all ^= one);
        all
    })
}

/// Every server that answers. Stops as soon as there are as many as the servers count themselves;
/// otherwise (one may have died just now) some time after the last answer.
pub(super) async fn discover(asker: &Asker<'_>) -> Result<Vec<ServerInfo>> {
    let mut listener = asker.link.mux().listen();
    for what in ["STATSZ", "VARZ"] {
        listener.publish(asker.link.client(), &format!("$SYS.REQ.SERVER.PING.{what}"), "".into()).await?;
    }
    let hard = Instant::now() + asker.timing.answer;
    let mut until = hard;
    let mut servers: Vec<ServerInfo> = Vec::new();
    let mut active = usize::MAX;
    while let Ok(Some(message)) = timeout_at(until, listener.next()).await {
        if let Some(count) = answers::presence(&message.payload).and_then(|presence| presence.active) {
            active = if active == usize::MAX { count } else { active.max(count) };
        } else if let Some(info) = answers::server_info(&message.payload) {
            asker.registry.learned(info.clone());
            servers.retain(|other| other.name != info.name);
            servers.push(info);
        }
        if servers.len() >= active {
            break;
        }
        until = hard.min(Instant::now() + asker.timing.idle);
    }
    if servers.is_empty() {
        return Err(Error::unavailable("nats-no-answer", "no NATS server answers"));
    }
    servers.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(servers)
}

/// What is stored under an account. The answers name no server, so as many are awaited as there are
/// live servers with a full resolver: no others answer. (Nor do we: see [`super::lookup`].)
pub(super) async fn lookup(asker: &Asker<'_>, account: PublicKey<Account>) -> Result<Vec<Option<String>>> {
    let no_resolver = || Error::unavailable("nats-no-resolver", "no NATS server has a full resolver");
    let known = asker.registry.known();
    let live = known.iter().filter(|server| server.live);
    let expected = live.clone().filter(|server| server.may_be_full()).count();
    if expected == 0 && live.count() > 0 {
        return Err(no_resolver());
    }
    let mut listener = asker.link.mux().listen();
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CLAIMS.LOOKUP");
    listener.publish(asker.link.client(), &subject, "".into()).await?;
    let hard = Instant::now() + asker.timing.answer;
    let mut until = hard;
    let mut stored = Vec::new();
    while let Ok(Some(message)) = timeout_at(until, listener.next()).await {
        if message.status.is_some() {
            return Err(no_resolver());
        }
        let jwt = std::str::from_utf8(&message.payload).unwrap_or_default();
        stored.push((!jwt.is_empty()).then(|| jwt.to_owned()));
        if expected > 0 && stored.len() >= expected {
            break;
        }
        until = hard.min(Instant::now() + asker.timing.idle);
    }
    if stored.is_empty() {
        return Err(Error::unavailable("nats-no-answer", "no NATS server answers"));
    }
    Ok(stored)
}

/// Costs a server about 0.1 ms for each account, during which it reads nothing else from some of its
/// routes: for repair, not for looking whether all is well ([`pack`] costs nothing).
pub(super) async fn list(asker: &Asker<'_>) -> Result<Vec<Listing>> {
    let gathered = asker.storing().patient().all("$SYS.REQ.CLAIMS.LIST", Bytes::new(), answers::listing).await?;
    Ok(gathered.into_all(
        |server, accounts| Listing { server, accounts },
        |server| Listing { server, accounts: Err("no answer".to_owned()) },
    ))
}

pub(super) async fn pack(asker: &Asker<'_>, hash: [u8; 32]) -> Result<Pack> {
    let mut listener = asker.link.mux().listen();
    let payload = Bytes::copy_from_slice(&hash);
    listener.publish(asker.link.client(), "$SYS.REQ.CLAIMS.PACK", payload).await?;
    let mut stored = Vec::new();
    // The server sends one message for each account, and an empty one at the end.
    while let Ok(Some(message)) = timeout(asker.timing.answer, listener.next()).await {
        if message.status.is_some() {
            return Err(Error::unavailable("nats-no-resolver", "no NATS server has a full resolver"));
        }
        if message.payload.is_empty() {
            return Ok(if stored.is_empty() { Pack::Agrees } else { Pack::Differs(stored) });
        }
        stored.extend(answers::packed(&message.payload));
    }
    Err(Error::unavailable("nats-no-answer", "no NATS server answers"))
}

pub(super) async fn effective(asker: &Asker<'_>, account: PublicKey<Account>) -> Result<Vec<EffectiveAnswer>> {
    let question = serde_json::json!({ "account": account }).to_string();
    let gathered = asker.all("$SYS.REQ.SERVER.PING.ACCOUNTZ", question.into(), answers::effective).await?;
    Ok(gathered.into_all(
        |server, effective| EffectiveAnswer { server, effective },
        |server| EffectiveAnswer { server, effective: Effective::NoAnswer },
    ))
}

/// Which accounts each server has loaded, whatever it stores: one question for all of them.
pub(super) async fn loaded(asker: &Asker<'_>) -> Result<Vec<Loaded>> {
    let gathered = asker.patient().all("$SYS.REQ.SERVER.PING.ACCOUNTZ", Bytes::new(), answers::loaded).await?;
    Ok(gathered.into_all(
        |server, accounts| Loaded { server, accounts: Some(accounts) },
        |server| Loaded { server, accounts: None },
    ))
}

/// See [`super::Resolver::held`]. A caching server that restarts trusts its files until they are as old as its `ttl`,
/// and skips updates of accounts that it has not loaded. CONNZ of one account makes it load that one (2.15.1).
pub(super) async fn held(asker: &Asker<'_>, server: ServerRef) -> Result<Vec<PublicKey<Account>>> {
    let no_answer = || Error::unavailable("nats-no-answer", format!("{} does not answer", server.name));
    let everyone = loaded(asker).await?.into_iter().find(|answer| answer.server == server);
    let mut held = everyone.and_then(|answer| answer.accounts).ok_or_else(no_answer)?;
    let known = asker.registry.known();
    if known.iter().any(|known| known.name == server.name && known.may_store()) {
        let listing = list(asker).await?.into_iter().find(|listing| listing.server == server);
        let listed = listing.and_then(|listing| listing.accounts.ok()).ok_or_else(no_answer)?;
        let subject = format!("$SYS.REQ.SERVER.{}.CONNZ", server.id);
        for account in listed {
            if held.insert(account) {
                let mut listener = asker.link.mux().listen();
                let question = serde_json::json!({ "acc": account, "limit": 1 }).to_string();
                listener.publish(asker.link.client(), &subject, question.into()).await?;
                timeout(asker.timing.answer, listener.next()).await.map_err(|_| no_answer())?;
            }
        }
    }
    Ok(held.into_iter().collect())
}

/// Asking makes servers load the account that had not.
pub(super) async fn connections(asker: &Asker<'_>, account: PublicKey<Account>) -> Result<Vec<Connections>> {
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CONNZ");
    // The server's own default is 1,024.
    let question = Bytes::from_static(br#"{"auth":true,"limit":16384}"#);
    let parse = |json: &[u8]| answers::connections(json).map(|(server, total, list)| (server, (total, list)));
    let gathered = asker.all(&subject, question, parse).await?;
    Ok(gathered.into_all(
        |server, (total, list)| Connections { server, total: Some(total), list },
        |server| Connections { server, total: None, list: Vec::new() },
    ))
}

/// `$SYS.REQ.SERVER.<id>.KICK` (2.10 and later). The server answers when it has begun to close the connection.
pub(super) async fn kick(asker: &Asker<'_>, server: ServerRef, cid: u64) -> Result<()> {
    let mut listener = asker.link.mux().listen();
    let question = serde_json::json!({ "cid": cid }).to_string();
    listener.publish(asker.link.client(), &format!("$SYS.REQ.SERVER.{}.KICK", server.id), question.into()).await?;
    match timeout(asker.timing.answer, listener.next()).await {
        Ok(Some(message)) if message.status.is_none() => Ok(()),
        _ => Err(Error::unavailable("nats-no-answer", format!("{} does not answer", server.name))),
    }
}

/// A server that has no `JetStream`, or none for this account, has no streams of it.
pub(super) async fn streams(asker: &Asker<'_>, account: PublicKey<Account>) -> Result<Vec<Streams>> {
    let question = serde_json::json!({"account": account, "accounts": true, "streams": true, "config": true});
    let gathered = asker.all("$SYS.REQ.SERVER.PING.JSZ", question.to_string().into(), answers::streams).await?;
    Ok(gathered.into_all(
        |server, streams| Streams { server, streams: Some(streams) },
        |server| Streams { server, streams: None },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_set_has_no_order_and_that_of_none_is_zero() {
        let (a, b) = ([3; 32], [5; 32]);
        assert_eq!(xor_hash([a, b]), xor_hash([b, a]));
        assert_eq!(xor_hash([a, b]), [6; 32]);
        assert_eq!(xor_hash([]), [0; 32]);
    }
}
