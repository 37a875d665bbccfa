//! How the servers stand: what admission and the signing gate go by.

use chrono::{DateTime, Utc};

use crate::{
    error::{Error, Result},
    model::view::ResolverType,
    nkey::{Account, Operator, PublicKey},
    store::{organizations::Bytes, servers::ServerRow},
};

/// What the last comparison of the servers with the ledger found.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// When every server was last found to store exactly what it should.
    pub agreed_at: Option<DateTime<Utc>>,
    /// Accounts that servers store and the ledger does not know. They are left alone.
    pub unknown: Vec<PublicKey<Account>>,
}

/// What a server has told in this run of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its kind of resolver.
    pub resolver: Option<ResolverType>,
    /// When it started.
    pub started: Option<DateTime<Utc>>,
    /// When it reloaded its configuration, if it has since its start.
    pub reloaded: Option<DateTime<Utc>>,
    /// The operator keys whose signatures on accounts it accepts.
    pub operator_keys: Vec<String>,
}

/// One server as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStanding {
    /// Its row.
    pub row: ServerRow,
    /// It trusts the operator's signing key; none: it has not said so in this run of the service.
    pub trusts_us: Option<bool>,
    /// What it has told in this run of the service.
    pub told: Told,
}

/// All known servers.
#[derive(Clone, Debug)]
pub struct Standing {
    /// By name.
    pub servers: Vec<ServerStanding>,
    /// The connection to the system account is up; else why not.
    pub connected: std::result::Result<(), String>,
}

impl ServerStanding {
    /// It has described itself, in this run of the service or an earlier one. A new server is heard of a
    /// moment before that, and nothing is known of its capacity then.
    pub fn is_described(&self) -> bool {
        !self.row.version.is_empty()
    }

    /// It accepts accounts that this key signed; none: it has not said so in this run of the service.
    pub fn trusts(&self, key: PublicKey<Operator>) -> Option<bool> {
        self.trusts_us?;
        if self.told.operator_keys.is_empty() {
            return self.trusts_us;
        }
        let key = key.to_string();
        Some(self.told.operator_keys.contains(&key))
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self { servers: Vec::new(), connected: Err("not connected yet".to_owned()) }
    }
}

impl Standing {
    /// What the ledger remembers, before any server was asked: nothing is live.
    pub fn from_ledger(rows: &[ServerRow]) -> Self {
        let servers = rows
            .iter()
            .map(|row| ServerStanding {
                row: ServerRow { live: false, ..row.clone() },
                trusts_us: None,
                told: Told::default(),
            })
            .collect();
        Self { servers, ..Self::default() }
    }

    /// JetStream storage of all servers that have told theirs; none while no server ever has.
    pub fn capacity(&self) -> Option<Bytes> {
        let described: Vec<_> = self.servers.iter().filter(|server| server.is_described()).collect();
        if described.is_empty() {
            return None;
        }
        let sum = |f: fn(&ServerRow) -> i64| described.iter().fold(0_i64, |sum, s| sum.saturating_add(f(&s.row)));
        Some(Bytes { memory: sum(|row| row.max_memory), disk: sum(|row| row.max_disk) })
    }

    /// The smallest of the servers' largest messages: an account JWT has to fit.
    pub fn max_payload(&self) -> usize {
        self.servers
            .iter()
            .map(|s| s.row.max_payload)
            .min()
            .and_then(|bytes| usize::try_from(bytes).ok())
            .unwrap_or(1 << 20)
    }

    /// How many servers of the largest cluster have JetStream: the replicas of a stream lie in one cluster.
    pub fn jetstream_servers(&self) -> usize {
        let with = self.servers.iter().filter(|s| s.row.max_disk > 0 || s.row.max_memory > 0);
        let mut by = std::collections::BTreeMap::<_, usize>::new();
        with.for_each(|server| *by.entry(&server.row.cluster).or_default() += 1);
        by.into_values().max().unwrap_or_default()
    }

    /// Servers that answer now.
    pub fn live(&self) -> impl Iterator<Item = &ServerStanding> {
        self.servers.iter().filter(|s| s.row.live)
    }

    /// Refuses to sign accounts while a live server does not trust the operator's signing key: it
    /// would store the JWT and lock everyone out at its next restart. `key` is the one that is to sign.
    pub fn require_trust(&self, key: PublicKey<Operator>) -> Result<()> {
        let strangers: Vec<_> =
            self.live().filter(|s| s.trusts(key) == Some(false)).map(|s| s.row.name.as_str()).collect();
        if strangers.is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(
            "operator-not-trusted",
            format!(
                "nothing is signed while {} does not trust this operator's signing key; give it the operator JWT of `GET /api/v1/operator/server-config` and restart it",
                strangers.join(", ")
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_was_only_heard_of_has_no_capacity_of_zero() {
        let server = |name: &str, version: &str, max_disk| ServerStanding {
            row: ServerRow {
                name: name.to_owned(),
                id: String::new(),
                cluster: None,
                version: version.to_owned(),
                max_memory: 0,
                max_disk,
                max_payload: 1 << 20,
                live: true,
                seen_at: chrono::DateTime::default(),
            },
            trusts_us: None,
            told: Told::default(),
        };
        let mut standing = Standing { servers: vec![server("n1", "", 0)], connected: Ok(()) };
        assert_eq!(standing.capacity(), None);
        standing.servers.push(server("n2", "2.12.0", 5));
        assert_eq!(standing.capacity(), Some(Bytes { memory: 0, disk: 5 }));
        assert_eq!(standing.jetstream_servers(), 1);
        let (mut far, mut beside) = (server("n3", "2.12.0", 5), server("n4", "2.12.0", 5));
        far.row.cluster = Some("far".to_owned());
        beside.row.cluster = None;
        standing.servers.extend([far, beside]);
        assert_eq!(standing.jetstream_servers(), 2, "replicas lie in one cluster");
    }
}
