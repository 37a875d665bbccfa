//! Pure: what the servers' JSON says. No I/O lives here, and no judgement of what is said.
//!
//! Source: `server/events.go`, `server/accounts.go` and `server/monitor.go` of nats-server, and
//! answers recorded from 2.15.1. Everything is read leniently: a field that is missing or of another
//! type costs that field and not the answer, for servers of several versions run side by side.

use std::{borrow::Cow, collections::HashSet};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    jwt,
    nkey::{Account, Operator, PublicKey},
};

/// Which server.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRef {
    /// Its name, which it keeps; the id where it has none.
    pub name: String,
    /// Its id `N…`, new at each start.
    pub id: String,
}

/// What a server said to an update or a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreResult {
    /// Done. It says neither that the server trusts the issuer nor that the account runs with it.
    Stored,
    /// A caching resolver that does not hold the account had nothing to do: a success.
    Skipped,
    /// Not done, in the server's words.
    Refused(String),
    /// Nothing was heard of the server in time, or it is known not to be live.
    NoAnswer,
}

/// One server's answer to an update or a deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAnswer {
    /// The server's name.
    pub name: String,
    /// The server's id.
    pub id: String,
    /// What it said.
    pub result: StoreResult,
}

impl ServerAnswer {
    /// The server has what it was told.
    pub fn is_done(&self) -> bool {
        matches!(self.result, StoreResult::Stored | StoreResult::Skipped)
    }
}

/// An operator that a server trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedOperator {
    /// The operator's identity key.
    pub identity: PublicKey<Operator>,
    /// The keys that sign for it.
    pub signing_keys: Vec<PublicKey<Operator>>,
    /// Only the signing keys may sign accounts.
    pub strict: bool,
    /// The operator JWT of the server's configuration; absent when the server does not show it.
    pub jwt: Option<String>,
}

impl TrustedOperator {
    /// An account that `key` signed is accepted.
    pub fn accepts(&self, key: &PublicKey<Operator>) -> bool {
        self.signing_keys.contains(key) || (!self.strict && self.identity == *key)
    }
}

/// What `JetStream` may use on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JetStreamCapacity {
    /// Bytes of memory.
    pub max_memory: i64,
    /// Bytes on disk.
    pub max_storage: i64,
}

/// A server, as it describes itself (`$SYS.REQ.SERVER.PING.VARZ`). Which kind of resolver it has is
/// not told: see [`super::kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// Its name.
    pub name: String,
    /// Its id, new at each start.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its cluster; none for a server on its own.
    pub cluster: Option<String>,
    /// When it started.
    pub started: Option<DateTime<Utc>>,
    /// When it last read its configuration: after a reload (later than `started`) its resolver no
    /// longer looks accounts up elsewhere until it restarts.
    pub config_loaded: Option<DateTime<Utc>>,
    /// Whom it trusts; empty outside operator mode.
    pub operators: Vec<TrustedOperator>,
    /// Its system account.
    pub system_account: Option<PublicKey<Account>>,
    /// The longest message that it takes, bytes; an account JWT must fit.
    pub max_payload: u64,
    /// The longest protocol line that it takes, bytes; a user JWT must fit into CONNECT.
    pub max_control_line: u64,
    /// What `JetStream` may use; none where it is off.
    pub jetstream: Option<JetStreamCapacity>,
}

/// A server reads its configuration just before it starts; later than this after its start it was a reload.
const RELOADED: chrono::TimeDelta = chrono::TimeDelta::milliseconds(50);

impl ServerInfo {
    /// Which server.
    pub fn server(&self) -> ServerRef {
        ServerRef { name: self.name.clone(), id: self.id.clone() }
    }

    /// It has reloaded its configuration since its start.
    pub fn is_reloaded(&self) -> bool {
        matches!((self.started, self.config_loaded), (Some(start), Some(load)) if load - start > RELOADED)
    }

    /// An account that `key` signed is accepted.
    pub fn trusts(&self, key: &PublicKey<Operator>) -> bool {
        self.operators.iter().any(|operator| operator.accepts(key))
    }
}

/// What a server runs for an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effective {
    /// The account is loaded.
    Running {
        /// Its JWT, which may be older than the stored one.
        jwt: String,
        /// All of it is in effect; not so while an exporter is unknown or `JetStream` lacks room.
        complete: bool,
        /// Its `exp` has passed.
        expired: bool,
    },
    /// No client has made the server load it yet, or it does not exist: the server says the same. Also: it has only heard
    /// of it, from a neighbour's subscription. Then it keeps an expired account without a JWT in its place, until a
    /// client makes it load the account or the JWT is pushed (seen on 2.15.1).
    NotLoaded,
    /// The server could not say, in its words.
    Failed(String),
    /// Nothing was heard of the server in time.
    NoAnswer,
}

/// A client connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ClientConnection {
    /// The number by which its server knows it.
    pub cid: u64,
    /// The public key of its user, when the server shows it.
    #[serde(rename = "authorized_user")]
    pub user: Option<String>,
    /// The name that the client gave itself.
    pub name: Option<String>,
    /// Where it comes from.
    pub ip: Option<String>,
    /// Since when it is connected.
    pub start: Option<DateTime<Utc>>,
    /// The key that issued its user, when the server shows it.
    #[serde(rename = "issuer_key")]
    pub issuer: Option<String>,
    /// When its user's JWT was issued, Unix seconds, when the server shows it.
    #[serde(skip)]
    pub issued_at: Option<i64>,
}

/// What a server stores of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamUse {
    /// The stream.
    pub name: String,
    /// In memory; else on disk.
    pub in_memory: bool,
    /// On how many servers.
    pub replicas: i64,
    /// Bytes of this copy.
    pub bytes: i64,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    description: Cow<'a, str>,
}

#[derive(Deserialize)]
struct StoreAnswer<'a> {
    #[serde(borrow)]
    server: Head<'a>,
    #[serde(borrow, default)]
    data: Option<Outcome<'a>>,
    #[serde(borrow, default)]
    error: Option<Outcome<'a>>,
}

/// Reads the answer to an update or a deletion.
pub fn store_answer(json: &[u8]) -> Option<(ServerRef, StoreResult)> {
    let Ok(answer) = serde_json::from_slice::<StoreAnswer<'_>>(json) else { return lenient_store_answer(json) };
    let result = match (&answer.error, &answer.data) {
        (Some(error), _) => refused(&error.description),
        (None, Some(data)) => accepted(&data.message),
        (None, None) => StoreResult::Refused("an answer without a result".to_owned()),
    };
    Some((server_ref(&answer.server.name, &answer.server.id), result))
}

/// The same for an answer whose fields have types that we do not know.
fn lenient_store_answer(json: &[u8]) -> Option<(ServerRef, StoreResult)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let result = match (error_text(&value), value.get("data")) {
        (Some(error), _) => refused(&error),
        (None, Some(data)) if !data.is_null() => accepted(data["message"].as_str().unwrap_or_default()),
        _ => return None,
    };
    Some((server_of(&value), result))
}

fn accepted(message: &str) -> StoreResult {
    if message.contains("skipped") { StoreResult::Skipped } else { StoreResult::Stored }
}

fn refused(words: &str) -> StoreResult {
    StoreResult::Refused(if words.is_empty() { "refused without a reason".to_owned() } else { words.to_owned() })
}

fn server_ref(name: &str, id: &str) -> ServerRef {
    let name = if name.is_empty() { id } else { name };
    ServerRef { name: name.to_owned(), id: id.to_owned() }
}

/// The server that an answer names, in `server` or, for IDZ and SHUTDOWN, at the top level.
pub(super) fn server_of(value: &Value) -> ServerRef {
    match value.get("server") {
        Some(Value::String(id)) => server_ref("", id),
        Some(server) => server_ref(text(server, "name"), text(server, "id")),
        None => server_ref(text(value, "name"), text(value, "id")),
    }
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The error that an answer carries, as an object or as a text.
fn error_text(value: &Value) -> Option<String> {
    match value.get("error")? {
        Value::Null => None,
        Value::String(words) => Some(words.clone()),
        error => Some(error.get("description").and_then(Value::as_str).unwrap_or("no reason given").to_owned()),
    }
}

/// A sign of life of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// The server.
    pub server: ServerRef,
    /// Its cluster (not in IDZ).
    pub cluster: Option<String>,
    /// How many servers it counts, itself and across gateways included (STATSZ only).
    pub active: Option<usize>,
    /// The names of the servers to which it has routes (STATSZ only, where routes have names).
    pub routes: Option<Vec<String>>,
}

/// Reads what any message of a server (IDZ, STATSZ, SHUTDOWN) says of its life.
pub fn presence(json: &[u8]) -> Option<Presence> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let server = server_of(&value);
    let statsz = value.get("statsz");
    let active = statsz.and_then(|statsz| usize::try_from(statsz["active_servers"].as_u64()?).ok());
    let routes = statsz.and_then(|statsz| {
        let routes = statsz["routes"].as_array().into_iter().flatten();
        routes.map(|route| route["name"].as_str().map(str::to_owned)).collect()
    });
    let cluster = value.pointer("/server/cluster").and_then(Value::as_str).map(str::to_owned);
    (!server.id.is_empty()).then_some(Presence { server, cluster, active, routes })
}

/// Reads an answer to VARZ.
pub fn server_info(json: &[u8]) -> Option<ServerInfo> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let data = value.get("data").filter(|data| data.is_object())?;
    let server = server_of(&value);
    let at = |field| text(data, field).parse::<DateTime<Utc>>().ok();
    let cluster = [value.pointer("/server/cluster"), data.pointer("/cluster/name")];
    Some(ServerInfo {
        version: text(data, "version").to_owned(),
        cluster: cluster.into_iter().flatten().find_map(Value::as_str).map(str::to_owned),
        started: at("start"),
        config_loaded: at("config_load_time"),
        operators: operators(data),
        system_account: text(data, "system_account").parse().ok(),
        max_payload: data["max_payload"].as_u64().unwrap_or(1 << 20),
        max_control_line: data["max_control_line"].as_u64().unwrap_or(4096),
        jetstream: data.pointer("/jetstream/config").and_then(|config| {
            let bytes = |field| config.get(field).and_then(Value::as_i64);
            Some(JetStreamCapacity { max_memory: bytes("max_memory")?, max_storage: bytes("max_storage")? })
        }),
        name: server.name,
        id: server.id,
    })
}

fn operators(data: &Value) -> Vec<TrustedOperator> {
    let list = |field: &str| data.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let jwts = list("trusted_operators_jwt");
    let read = |(index, claims): (usize, &Value)| {
        let nats = &claims["nats"];
        Some(TrustedOperator {
            identity: text(claims, "sub").parse().ok()?,
            signing_keys: nats["signing_keys"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|key| key.as_str()?.parse().ok())
                .collect(),
            strict: nats["strict_signing_key_usage"].as_bool().unwrap_or(false),
            jwt: jwts.get(index).and_then(Value::as_str).map(str::to_owned),
        })
    };
    list("trusted_operators_claim").iter().enumerate().filter_map(read).collect()
}

/// Reads an answer to ACCOUNTZ without an account: the accounts that are loaded.
pub fn loaded(json: &[u8]) -> Option<(ServerRef, HashSet<PublicKey<Account>>)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    // The servers' own accounts, such as the global one, have names that are no keys.
    let accounts = value.pointer("/data/accounts")?.as_array()?.iter().filter_map(|name| name.as_str()?.parse().ok());
    Some((server_of(&value), accounts.collect()))
}

/// Reads an answer to ACCOUNTZ with an account.
pub fn effective(json: &[u8]) -> Option<(ServerRef, Effective)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let effective = match (error_text(&value), value.pointer("/data/account_detail")) {
        (Some(words), _) if words.contains("does not exist") => Effective::NotLoaded,
        (Some(words), _) => Effective::Failed(words),
        (None, Some(detail)) if text(detail, "jwt").is_empty() => Effective::NotLoaded,
        (None, Some(detail)) => Effective::Running {
            jwt: text(detail, "jwt").to_owned(),
            complete: detail["complete"].as_bool().unwrap_or(false),
            expired: detail["expired"].as_bool().unwrap_or(false),
        },
        (None, None) => Effective::NotLoaded,
    };
    Some((server_of(&value), effective))
}

/// The accounts that a server stores, or in words why it does not say.
pub type Stored = Result<Vec<PublicKey<Account>>, String>;

/// Reads an answer to LIST. Texts that are no account keys are left out: a resolver's directory may
/// hold files that nobody pushed.
pub fn listing(json: &[u8]) -> Option<(ServerRef, Stored)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let accounts = match error_text(&value) {
        Some(words) => Err(words),
        None => {
            Ok(value.get("data")?.as_array()?.iter().filter_map(|account| account.as_str()?.parse().ok()).collect())
        }
    };
    Some((server_of(&value), accounts))
}

/// Reads an answer to CONNZ: how many connections there are, and the first of them.
pub fn connections(json: &[u8]) -> Option<(ServerRef, u64, Vec<ClientConnection>)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let data = value.get("data")?;
    let list = data["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    let read = |value: &Value| {
        let mut connection = ClientConnection::deserialize(value).ok()?;
        let claims = jwt::envelope::read_unverified(text(value, "jwt")).ok();
        connection.issued_at = claims.and_then(|token| token.claims["iat"].as_i64());
        Some(connection)
    };
    let list: Vec<_> = list.iter().filter_map(read).collect();
    let total = data["total"].as_u64().unwrap_or(list.len() as u64);
    Some((server_of(&value), total, list))
}

/// Reads an answer to JSZ for one account.
pub fn streams(json: &[u8]) -> Option<(ServerRef, Vec<StreamUse>)> {
    let value: Value = serde_json::from_slice(json).ok()?;
    let accounts = value.pointer("/data/account_details").and_then(Value::as_array).into_iter().flatten();
    let streams = accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
    let read = |stream: &Value| StreamUse {
        name: text(stream, "name").to_owned(),
        in_memory: stream.pointer("/config/storage").and_then(Value::as_str) == Some("memory"),
        replicas: stream.pointer("/config/num_replicas").and_then(Value::as_i64).unwrap_or(1),
        bytes: stream.pointer("/state/bytes").and_then(Value::as_i64).unwrap_or_default(),
    };
    Some((server_of(&value), streams.map(read).collect()))
}

/// Reads one message of a PACK answer: `account|jwt`.
pub fn packed(message: &[u8]) -> Option<(PublicKey<Account>, String)> {
    let (account, jwt) = std::str::from_utf8(message).ok()?.split_once('|')?;
    Some((account.parse().ok()?, jwt.to_owned()))
}

/// Reads the answer to a purge: begun, or why not.
pub fn purged(json: &[u8]) -> Result<(), String> {
    let value: Value = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    match (error_text(&value), value["initiated"].as_bool()) {
        (None, Some(true)) => Ok(()),
        (Some(words), _) => Err(words),
        (None, _) => Err(value.to_string()),
    }
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
