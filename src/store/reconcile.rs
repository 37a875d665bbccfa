//! What the comparison with the servers needs of the ledger, and marks in it.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use futures::TryStreamExt;
use sqlx::{Row, postgres::PgRow};

use super::{Store, audit, digest, parse};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

/// The present JWT of an account that is not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    /// Its generation.
    pub generation: i64,
    /// The hash of its text.
    pub sha256: [u8; 32],
    /// It is due.
    pub moving: bool,
}

/// An account that has to be pushed.
#[derive(Clone, Debug)]
pub struct Wrong {
    /// The account.
    pub account: PublicKey<Account>,
    /// Servers have to be told something else before: see `account_pushes.rewrite`.
    pub rewrite: bool,
    /// A server may have let in whom the account refuses.
    pub let_in: bool,
    /// What the audit log has to say of it.
    pub event: Option<audit::Event>,
}

fn keys<'a>(accounts: impl IntoIterator<Item = &'a PublicKey<Account>>) -> Vec<String> {
    accounts.into_iter().map(ToString::to_string).collect()
}

fn present(row: &PgRow) -> Result<Present> {
    Ok(Present {
        generation: row.try_get("generation")?,
        sha256: digest(row.try_get("jwt_sha256")?)?,
        moving: row.try_get("moving")?,
    })
}

impl Store {
    /// The XOR of the hashes of all JWTs that servers have to store. Holds one of them at a time.
    pub async fn desired_hash(&self) -> Result<[u8; 32]> {
        let mut hashes = sqlx::query_scalar::<_, Vec<u8>>(
            "SELECT jwt_sha256 FROM accounts WHERE state <> 'deleted' AND jwt_sha256 IS NOT NULL",
        )
        .fetch(self.pool());
        let mut all = [0; 32];
        while let Some(hash) = hashes.try_next().await? {
            all.iter_mut().zip(digest(&hash)?).for_each(|(all, one)| *all ^= one);
        }
        Ok(all)
    }

    /// All accounts that are not deleted; with `after`, at most `limit` of them that follow it.
    pub async fn present(
        &self,
        after: Option<PublicKey<Account>>,
        limit: Option<i64>,
    ) -> Result<Vec<(PublicKey<Account>, Present)>> {
        let rows = sqlx::query(
            "SELECT account_key, generation, jwt_sha256, p.due_at IS NOT NULL AS moving
             FROM accounts LEFT JOIN account_pushes p USING (account_key)
             WHERE state <> 'deleted' AND jwt_sha256 IS NOT NULL AND ($1::text IS NULL OR account_key > $1)
             ORDER BY account_key LIMIT $2",
        )
        .bind(after.map(|account| account.to_string()))
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok((parse(row.try_get("account_key")?)?, present(row)?))).collect()
    }

    /// Those of `accounts` that the ledger knows; none: it was deleted.
    pub async fn present_among(
        &self,
        accounts: &[PublicKey<Account>],
    ) -> Result<Vec<(PublicKey<Account>, Option<Present>)>> {
        // `OFFSET 0` has each row looked up in the index: as a join, all that are due are read for each few.
        let rows = sqlx::query(
            "SELECT account_key, generation, jwt_sha256, state = 'deleted' AS deleted, EXISTS (
                SELECT FROM account_pushes p WHERE p.account_key = a.account_key OFFSET 0) AS moving
             FROM accounts a WHERE account_key = ANY($1) AND jwt_sha256 IS NOT NULL",
        )
        .bind(keys(accounts))
        .fetch_all(self.pushes())
        .await?;
        rows.iter()
            .map(|row| {
                let deleted: bool = row.try_get("deleted")?;
                Ok((parse(row.try_get("account_key")?)?, if deleted { None } else { Some(present(row)?) }))
            })
            .collect()
    }

    /// The generations that these texts are.
    pub async fn generations_of(
        &self,
        texts: &[(PublicKey<Account>, [u8; 32])],
    ) -> Result<HashMap<(PublicKey<Account>, [u8; 32]), i64>> {
        let rows = sqlx::query(
            "SELECT g.account_key, g.jwt_sha256, g.generation
             FROM UNNEST($1::text[], $2::bytea[]) AS t(account_key, jwt_sha256)
             JOIN account_generations g ON g.account_key = t.account_key AND g.jwt_sha256 = t.jwt_sha256",
        )
        .bind(keys(texts.iter().map(|(account, _)| account)))
        .bind(texts.iter().map(|(_, hash)| hash.to_vec()).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let account = parse(row.try_get("account_key")?)?;
                Ok(((account, digest(row.try_get("jwt_sha256")?)?), row.try_get("generation")?))
            })
            .collect()
    }

    /// The JWTs of those of `accounts` that a server may be told of when it asks. A tombstone is not told: the server
    /// might store it after the deletion went by.
    pub async fn jwts_for_servers(
        &self,
        accounts: &[PublicKey<Account>],
    ) -> Result<HashMap<PublicKey<Account>, String>> {
        let rows = sqlx::query(
            "SELECT account_key, jwt FROM accounts
             WHERE account_key = ANY($1) AND state NOT IN ('tombstone', 'deleted') AND jwt IS NOT NULL",
        )
        .bind(keys(accounts))
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok((parse(row.try_get("account_key")?)?, row.try_get("jwt")?))).collect()
    }

    /// Marks accounts to be pushed, with the audit events of those that were not marked already: several
    /// replicas may find the same. Returns the marked ones. Clients that a server may have let in are looked for once
    /// every server has what it should.
    pub async fn mark_wrong(&self, wrong: &[Wrong], now: DateTime<Utc>) -> Result<HashSet<PublicKey<Account>>> {
        let mut tx = self.begin().await?;
        // First, as whoever mints does: accounts are locked before their pushes.
        let let_in = wrong.iter().filter(|wrong| wrong.let_in).map(|wrong| &wrong.account);
        sqlx::query(
            "WITH l AS (SELECT account_key FROM accounts WHERE account_key = ANY($1) ORDER BY 1 FOR NO KEY UPDATE)
             UPDATE accounts a SET look_at_clients = true FROM l WHERE a.account_key = l.account_key",
        )
        .bind(keys(let_in))
        .execute(&mut *tx)
        .await?;
        let marked: Vec<String> = sqlx::query_scalar(
            "INSERT INTO account_pushes (account_key, due_at, rewrite)
             SELECT a.account_key, $3, w.rewrite FROM UNNEST($1::text[], $2::boolean[]) AS w(account_key, rewrite)
             JOIN accounts a ON a.account_key = w.account_key AND a.state <> 'deleted' ORDER BY 1
             ON CONFLICT DO NOTHING RETURNING account_key",
        )
        .bind(keys(wrong.iter().map(|wrong| &wrong.account)))
        .bind(wrong.iter().map(|wrong| wrong.rewrite).collect::<Vec<_>>())
        .bind(now)
        .fetch_all(&mut *tx)
        .await?;
        let marked = marked.iter().map(|key| parse(key)).collect::<Result<HashSet<_>>>()?;
        for wrong in wrong.iter().filter(|wrong| marked.contains(&wrong.account)) {
            if let Some(event) = &wrong.event {
                audit::record(&mut tx, event).await?;
            }
        }
        tx.commit().await?;
        Ok(marked)
    }

    /// How many of these accounts are due.
    pub async fn still_due(&self, accounts: &[PublicKey<Account>]) -> Result<i64> {
        Ok(sqlx::query_scalar("SELECT count(*) FROM account_pushes WHERE account_key = ANY($1)")
            .bind(keys(accounts))
            .fetch_one(self.pool())
            .await?)
    }

    /// A server was found to store exactly what it should: writes so, for every account that is neither due nor in `except`,
    /// where the ledger knew otherwise or knew it of an earlier start of the server. It has loaded none.
    pub async fn confirm_server(
        &self,
        server: &str,
        server_id: &str,
        except: &[PublicKey<Account>],
        now: DateTime<Utc>,
    ) -> Result<u64> {
        let done = sqlx::query(
            "INSERT INTO account_servers AS s (account_key, server, server_id, stored, at)
             SELECT account_key, $1, $2, generation, $3 FROM accounts
             WHERE state <> 'deleted' AND jwt IS NOT NULL AND account_key <> ALL ($4)
               AND NOT EXISTS (SELECT FROM account_pushes p WHERE p.account_key = accounts.account_key)
             ORDER BY account_key
             ON CONFLICT (account_key, server) DO UPDATE SET server_id = excluded.server_id,
                 stored = excluded.stored, effective = NULL, error = NULL, at = excluded.at
             WHERE s.server_id <> excluded.server_id OR s.stored < excluded.stored",
        )
        .bind(server)
        .bind(server_id)
        .bind(now)
        .bind(keys(except))
        .execute(self.pool())
        .await?;
        Ok(done.rows_affected())
    }

    /// The slugs of the organizations of these accounts.
    pub async fn slugs_of(
        &self,
        accounts: &[PublicKey<Account>],
    ) -> Result<HashMap<PublicKey<Account>, crate::model::OrgSlug>> {
        let rows = sqlx::query("SELECT account_key, slug FROM organizations WHERE account_key = ANY($1)")
            .bind(keys(accounts))
            .fetch_all(self.pool())
            .await?;
        rows.iter().map(|row| Ok((parse(row.try_get("account_key")?)?, parse(row.try_get("slug")?)?))).collect()
    }
}
