//! What is counted over many rows: how far all servers are with all accounts, and what metrics tell of accounts and
//! credentials. Nothing here is asked once a request; see the callers for how often.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{Store, parse};
use crate::{
    error::Result,
    model::{OrgSlug, credential::CredentialState, view::Convergence},
    nkey::{Account, PublicKey},
};

/// How far one server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCount {
    /// Accounts that it lacks in their present generation, or runs in another one.
    pub lacking: i64,
    /// Those of them with an error.
    pub refused: i64,
    /// The newest of these errors.
    pub refusal: Option<Refusal>,
}

/// An account that a server did not take, with its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The account.
    pub account: PublicKey<Account>,
    /// Its organization; none: it belongs to the authority.
    pub org: Option<OrgSlug>,
    /// The words.
    pub error: String,
}

/// How far all servers are with all accounts that are not deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountsCount {
    /// The servers that were asked for, by name.
    pub servers: BTreeMap<String, ServerCount>,
    /// Accounts by how far they are: converged, pending, partial, unreachable.
    pub states: [i64; 4],
    /// Those that the push task has to look at.
    pub due: i64,
}

impl AccountsCount {
    /// Accounts that are not deleted.
    pub fn total(&self) -> i64 {
        self.states.iter().sum()
    }

    /// How many are in this state.
    pub fn in_state(&self, state: Convergence) -> i64 {
        self.states[state as usize]
    }
}

/// How large accounts are, as servers have to take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountSizes {
    /// The largest JWT, bytes.
    pub largest: i64,
    /// The largest that there would be if every valid credential were revoked one by one, bytes.
    pub forecast: i64,
    /// Revoked users that all JWTs name.
    pub entries: i64,
}

/// What one more revoked user adds to a JWT, bytes: `"U…":1700000000,`, in base64.
const ENTRY: f64 = 94.0;

const ACCOUNTS: &str = "
WITH v AS (SELECT * FROM UNNEST($1::text[], $2::text[], $3::boolean[]) AS v(name, id, live)),
has AS MATERIALIZED (
    SELECT a.account_key, a.due_at, v.name, v.live, s.error, s.at,
        COALESCE(s.stored >= a.generation AND (s.effective IS NULL OR s.effective >= a.generation)
            AND s.error IS NULL, false) AS ok
    FROM (SELECT account_key, generation, p.due_at FROM accounts LEFT JOIN account_pushes p USING (account_key)
        WHERE state <> 'deleted' AND jwt IS NOT NULL) a
    LEFT JOIN v ON true
    LEFT JOIN account_servers s ON s.account_key = a.account_key AND s.server = v.name AND s.server_id = v.id)
SELECT 'server' AS what, name AS key, count(*) FILTER (WHERE NOT ok) AS n, count(error) AS refused,
    (array_agg(account_key ORDER BY at DESC) FILTER (WHERE error IS NOT NULL))[1] AS account,
    (array_agg(error ORDER BY at DESC) FILTER (WHERE error IS NOT NULL))[1] AS error
FROM has WHERE name IS NOT NULL GROUP BY name
UNION ALL
SELECT 'state', state::text, count(*), count(due_at), NULL, NULL FROM (
    SELECT max(due_at) AS due_at, CASE WHEN NOT COALESCE(bool_or(live), false) THEN 3 WHEN bool_and(ok) THEN 0
        WHEN NOT bool_or(ok AND live) THEN 1 ELSE 2 END AS state
    FROM has GROUP BY account_key) AS one GROUP BY state";

impl Store {
    /// How far the servers, given by name, id and whether they answer, are with all accounts. Reads every account and
    /// what every server has of it.
    pub async fn count_accounts(&self, servers: &[(String, String, bool)]) -> Result<AccountsCount> {
        let rows = sqlx::query(ACCOUNTS)
            .bind(servers.iter().map(|server| server.0.clone()).collect::<Vec<_>>())
            .bind(servers.iter().map(|server| server.1.clone()).collect::<Vec<_>>())
            .bind(servers.iter().map(|server| server.2).collect::<Vec<_>>())
            .fetch_all(self.pool())
            .await?;
        let mut count = AccountsCount::default();
        for row in &rows {
            let (key, n): (String, i64) = (row.try_get("key")?, row.try_get("n")?);
            if row.try_get::<&str, _>("what")? == "state" {
                count.due += row.try_get::<i64, _>("refused")?;
                if let Some(state) = key.parse().ok().and_then(|state: usize| count.states.get_mut(state)) {
                    *state = n;
                }
                continue;
            }
            let account: Option<&str> = row.try_get("account")?;
            let refusal = match account {
                Some(account) => Some(Refusal { account: parse(account)?, org: None, error: row.try_get("error")? }),
                None => None,
            };
            count.servers.insert(key, ServerCount { lacking: n, refused: row.try_get("refused")?, refusal });
        }
        self.name_refused(&mut count).await?;
        Ok(count)
    }

    async fn name_refused(&self, count: &mut AccountsCount) -> Result<()> {
        let refused: Vec<_> =
            count.servers.values().filter_map(|server| Some(server.refusal.as_ref()?.account)).collect();
        if refused.is_empty() {
            return Ok(());
        }
        let slugs = self.slugs_of(&refused).await?;
        for refusal in count.servers.values_mut().filter_map(|server| server.refusal.as_mut()) {
            refusal.org = slugs.get(&refusal.account).cloned();
        }
        Ok(())
    }

    /// How large accounts are. Reads every account, and of valid credentials an index.
    pub async fn account_sizes(&self, now: DateTime<Utc>) -> Result<AccountSizes> {
        let row = sqlx::query(
            "WITH valid AS (
                 SELECT o.account_key, sum(c.n) AS n FROM (
                     SELECT environment_id, count(*) AS n FROM credentials
                     WHERE revoked_at IS NULL AND expires_at > $1 GROUP BY environment_id) c
                 JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
                 GROUP BY o.account_key)
             SELECT COALESCE(max(octet_length(a.jwt)), 0)::bigint AS largest, COALESCE(sum(a.entries), 0)::bigint AS entries,
                 COALESCE(max(octet_length(a.jwt) + $2 * COALESCE(v.n, 0)), 0)::bigint AS forecast
             FROM accounts a LEFT JOIN valid v USING (account_key) WHERE a.state <> 'deleted' AND a.jwt IS NOT NULL",
        )
        .bind(now)
        .bind(ENTRY)
        .fetch_one(self.pool())
        .await?;
        Ok(AccountSizes {
            largest: row.try_get("largest")?,
            forecast: row.try_get("forecast")?,
            entries: row.try_get("entries")?,
        })
    }

    /// How many credentials there are of each role in each state. Reads all of them.
    pub async fn count_credentials(&self, now: DateTime<Utc>) -> Result<Vec<(String, CredentialState, i64)>> {
        let rows = sqlx::query(
            "SELECT role, CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= $1 THEN 'expired'
                 WHEN superseded_at IS NOT NULL THEN 'superseded' ELSE 'active' END AS state, count(*) AS n
             FROM credentials GROUP BY 1, 2",
        )
        .bind(now)
        .fetch_all(self.pool())
        .await?;
        let state = |name: &str| match name {
            "revoked" => CredentialState::Revoked,
            "expired" => CredentialState::Expired,
            "superseded" => CredentialState::Superseded,
            _ => CredentialState::Active,
        };
        rows.iter().map(|row| Ok((row.try_get("role")?, state(row.try_get("state")?), row.try_get("n")?))).collect()
    }
}
