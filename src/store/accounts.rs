//! Account JWTs: the desired state of the cluster, and what each server has of it.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Store, digest, parse};
use crate::{
    error::{Error, Result},
    jwt::{self, envelope::Signed},
    nkey::{Account, Operator, PublicKey},
};

/// The state of an account under its lock.
#[derive(Clone, Debug)]
pub struct AccountRow {
    /// Generations minted so far.
    pub generation: i64,
    /// Issue time of the last one.
    pub iat: i64,
    /// Hash of what was composed for it.
    pub content_hash: Option<[u8; 32]>,
    /// Fingerprint of the plans and roles that it was composed with.
    pub policies: Option<[u8; 32]>,
    /// The operator's key that signed the last one; none: it is not known, or there is none.
    pub signed_by: Option<PublicKey<Operator>>,
}

/// What one server has of one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountServer {
    /// The account.
    pub account: PublicKey<Account>,
    /// Server name.
    pub server: String,
    /// Server id.
    pub server_id: String,
    /// The newest generation that it acknowledged; 0: none.
    pub stored: i64,
    /// The generation that it runs; none: it has not loaded the account.
    pub effective: Option<i64>,
    /// Its words when it refused.
    pub error: Option<String>,
}

/// A newly minted account JWT.
pub struct Minted<'a> {
    /// The JWT.
    pub signed: &'a Signed<jwt::Account>,
    /// Hash of what was composed.
    pub content_hash: [u8; 32],
    /// Its generation.
    pub generation: i64,
    /// The audit event of the change that caused it.
    pub audit_event: Uuid,
    /// When.
    pub at: DateTime<Utc>,
}

const MINT: &str = "
WITH minted AS (
    INSERT INTO account_generations (account_key, generation, iat, jwt, jwt_sha256, signed_by, audit_event, minted_at)
    VALUES ($1, $2, $3, $4, $5, $7, $8, $9)),
due AS (
    INSERT INTO account_pushes (account_key, due_at) VALUES ($1, $9)
    ON CONFLICT (account_key) DO UPDATE SET due_at = excluded.due_at, attempts = 0)
UPDATE accounts SET generation = $2, iat = $3, jwt = $4, jwt_sha256 = $5, content_hash = $6,
    look_at_clients = $2 > 1,
    signed_since = CASE WHEN signed_by = $7 THEN signed_since ELSE $2 END, signed_by = $7
WHERE account_key = $1";

/// Makes the row of a new account, without a JWT yet.
pub async fn create(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
    kind: &str,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query("INSERT INTO accounts (account_key, kind, created_at) VALUES ($1, $2, $3)")
        .bind(account.to_string())
        .bind(kind)
        .bind(now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Locks an account: whoever holds the lock may mint. Rows that refer to it can be written meanwhile: a report of a push
/// locks what a mint waits for, and must not wait for the mint.
pub async fn lock(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<AccountRow> {
    let row = sqlx::query(
        "SELECT generation, iat, content_hash, policies, signed_by FROM accounts WHERE account_key = $1 FOR NO KEY UPDATE",
    )
    .bind(account.to_string())
    .fetch_optional(connection)
    .await?
    .ok_or_else(|| Error::internal(format!("account {account} has no row")))?;
    let signed_by: Option<String> = row.try_get("signed_by")?;
    let hash: Option<Vec<u8>> = row.try_get("content_hash")?;
    let policies: Option<Vec<u8>> = row.try_get("policies")?;
    Ok(AccountRow {
        generation: row.try_get("generation")?,
        iat: row.try_get("iat")?,
        content_hash: hash.as_deref().map(digest).transpose()?,
        policies: policies.as_deref().map(digest).transpose()?,
        signed_by: signed_by.as_deref().map(parse).transpose()?,
    })
}

/// The current JWT of an account; none: it has none yet.
pub async fn current(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<Option<String>> {
    Ok(sqlx::query_scalar("SELECT jwt FROM accounts WHERE account_key = $1")
        .bind(account.to_string())
        .fetch_one(connection)
        .await?)
}

/// Records a minted JWT and makes the account due. A trigger refuses what does not go forward.
pub async fn record(connection: &mut PgConnection, minted: &Minted<'_>) -> Result<()> {
    let claims = minted.signed.claims();
    sqlx::query(MINT)
        .bind(claims.subject.to_string())
        .bind(minted.generation)
        .bind(claims.issued_at.unwrap_or_default())
        .bind(minted.signed.token())
        .bind(&minted.signed.sha256()[..])
        .bind(&minted.content_hash[..])
        .bind(claims.issuer.to_string())
        .bind(minted.audit_event)
        .bind(minted.at)
        .execute(connection)
        .await?;
    Ok(())
}

/// Records a JWT that was minted before there was a database: the system account's, of the bundle.
pub async fn record_adopted(
    connection: &mut PgConnection,
    claims: &jwt::Claims<jwt::Account>,
    token: &str,
    content_hash: [u8; 32],
    audit_event: Uuid,
    at: DateTime<Utc>,
) -> Result<()> {
    use sha2::{Digest, Sha256};
    let sha256 = Sha256::digest(token.as_bytes());
    sqlx::query(MINT)
        .bind(claims.subject.to_string())
        .bind(1_i64)
        .bind(claims.issued_at.unwrap_or_default())
        .bind(token)
        .bind(&sha256[..])
        .bind(&content_hash[..])
        .bind(claims.issuer.to_string())
        .bind(audit_event)
        .bind(at)
        .execute(connection)
        .await?;
    Ok(())
}

/// Turns an account into a tombstone.
pub async fn bury(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<()> {
    sqlx::query("UPDATE accounts SET state = 'tombstone' WHERE account_key = $1")
        .bind(account.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

impl Store {
    /// The servers confirmed the deletion of an account: account and organization are gone.
    pub async fn finish_deletion(&self, account: PublicKey<Account>, event: &super::audit::Event) -> Result<()> {
        let mut tx = self.begin().await?;
        // As every request: the organization first, its account then. The other way round each would wait for the other.
        sqlx::query("SELECT FROM organizations WHERE account_key = $1 FOR UPDATE")
            .bind(account.to_string())
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "WITH due AS (DELETE FROM account_pushes WHERE account_key = $1)
             UPDATE accounts SET state = 'deleted' WHERE account_key = $1",
        )
        .bind(account.to_string())
        .execute(&mut *tx)
        .await?;
        // What it was promised is free from now on, not before: its data was still there.
        sqlx::query(
            "WITH gone AS (
                 UPDATE organizations SET state = 'deleted', updated_at = $2 WHERE account_key = $1 AND state <> 'deleted'
                 RETURNING promised_memory, promised_disk)
             UPDATE promises SET memory = memory - gone.promised_memory, disk = disk - gone.promised_disk FROM gone",
        )
        .bind(account.to_string())
        .bind(event.at)
        .execute(&mut *tx)
        .await?;
        super::audit::record(&mut tx, event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The current JWT of an account that is not deleted.
    pub async fn account_jwt(&self, account: PublicKey<Account>) -> Result<Option<String>> {
        Ok(sqlx::query_scalar(
            "SELECT jwt FROM accounts WHERE account_key = $1 AND state <> 'deleted' AND jwt IS NOT NULL",
        )
        .bind(account.to_string())
        .fetch_optional(self.pool())
        .await?)
    }

    /// What the servers have of these accounts, with each account's generation.
    pub async fn account_servers(
        &self,
        accounts: &[PublicKey<Account>],
    ) -> Result<Vec<(PublicKey<Account>, i64, Option<AccountServer>)>> {
        let rows = sqlx::query(
            "SELECT a.account_key, a.generation, s.server, s.server_id, s.stored, s.effective, s.error
             FROM accounts a LEFT JOIN account_servers s ON s.account_key = a.account_key
             WHERE a.account_key = ANY($1) ORDER BY a.account_key, s.server",
        )
        .bind(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                let account = parse(row.try_get("account_key")?)?;
                let server: Option<String> = row.try_get("server")?;
                let has = match server {
                    None => None,
                    Some(server) => Some(AccountServer {
                        account,
                        server,
                        server_id: row.try_get("server_id")?,
                        stored: row.try_get("stored")?,
                        effective: row.try_get("effective")?,
                        error: row.try_get("error")?,
                    }),
                };
                Ok((account, row.try_get("generation")?, has))
            })
            .collect()
    }

    /// Those of these accounts that are here and not deleted.
    pub async fn accounts_among(&self, accounts: &[PublicKey<Account>]) -> Result<Vec<PublicKey<Account>>> {
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT account_key FROM accounts WHERE account_key = ANY($1) AND state = 'live'")
                .bind(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
                .fetch_all(self.pool())
                .await?;
        keys.iter().map(|key| parse(key)).collect()
    }

    /// Those of these accounts that were deleted here.
    pub async fn deleted_among(&self, accounts: &[PublicKey<Account>]) -> Result<Vec<PublicKey<Account>>> {
        let keys: Vec<String> =
            sqlx::query_scalar("SELECT account_key FROM accounts WHERE account_key = ANY($1) AND state = 'deleted'")
                .bind(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
                .fetch_all(self.pool())
                .await?;
        keys.iter().map(|key| parse(key)).collect()
    }

    /// How many accounts are not deleted, and how many of them are due.
    pub async fn account_counts(&self) -> Result<(i64, i64)> {
        let row = sqlx::query(
            "SELECT count(*) AS all, count(p.due_at) AS due
             FROM accounts a LEFT JOIN account_pushes p USING (account_key) WHERE a.state <> 'deleted' AND a.jwt IS NOT NULL",
        )
        .fetch_one(self.pool())
        .await?;
        Ok((row.try_get("all")?, row.try_get("due")?))
    }
}
