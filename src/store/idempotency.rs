//! Idempotency keys: who may carry a request out, that it was carried out, and what was answered. What
//! an answer is and when it is given again stands in `api::idempotency`.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::{Store, digest};
use crate::error::{Error, Result};

/// The right to carry out what an idempotency key stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The key's row.
    pub id: Uuid,
    /// Which attempt this is: who is overtaken by a later one cannot commit.
    pub attempt: i32,
}

/// A request under an idempotency key.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// Who asks, with who vouches for it.
    pub caller: String,
    /// The key.
    pub key: String,
    /// SHA-256 of everything that is asked.
    pub fingerprint: [u8; 32],
}

/// What is the case with a key.
#[derive(Debug)]
pub enum Claim {
    /// It is the caller's to carry out.
    Begin(Operation),
    /// Somebody is at it.
    Running,
    /// It was carried out and answered.
    Answered(serde_json::Value),
    /// It was carried out; the answer was lost or held a secret.
    CarriedOut(Operation),
    /// The key stands for another request.
    Other,
}

/// What was done under a key.
#[derive(Clone, Debug)]
pub struct Done {
    /// The audit event's action.
    pub action: String,
    /// On what.
    pub target: String,
    /// Public parts of the change.
    pub detail: serde_json::Value,
}

/// Notes, in the transaction of a change, that it was carried out. Refused when a later attempt has
/// taken over: two attempts wait for each other at the row.
pub async fn carry_out(connection: &mut PgConnection, operation: Operation) -> Result<()> {
    let done = sqlx::query("UPDATE idempotency_keys SET carried_out = true WHERE id = $1 AND attempt = $2")
        .bind(operation.id)
        .bind(operation.attempt)
        .execute(connection)
        .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    Err(Error::conflict("idempotency-key-taken-over", "a later request with this idempotency key has taken over"))
}

impl Store {
    /// Takes the key for the caller, or says what is the case. A claim that was not ended when its time
    /// is over is taken over, unless it was carried out.
    pub async fn claim_key(&self, keyed: &Keyed, id: Uuid, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Claim> {
        let new: Option<Uuid> = sqlx::query_scalar(
            "INSERT INTO idempotency_keys (id, caller, key, fingerprint, leased_until, created_at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (caller, key) DO NOTHING RETURNING id",
        )
        .bind(id)
        .bind(&keyed.caller)
        .bind(&keyed.key)
        .bind(&keyed.fingerprint[..])
        .bind(until)
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        if let Some(id) = new {
            return Ok(Claim::Begin(Operation { id, attempt: 1 }));
        }
        let row = sqlx::query(
            "SELECT id, fingerprint, attempt, carried_out, answer, leased_until > $3 AS running FROM idempotency_keys
             WHERE caller = $1 AND key = $2",
        )
        .bind(&keyed.caller)
        .bind(&keyed.key)
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        // Given back since: whoever asks again finds it free.
        let Some(row) = row else { return Ok(Claim::Running) };
        if digest(row.try_get("fingerprint")?)? != keyed.fingerprint {
            return Ok(Claim::Other);
        }
        if let Some(answer) = row.try_get("answer")? {
            return Ok(Claim::Answered(answer));
        }
        if row.try_get("running")? {
            return Ok(Claim::Running);
        }
        let operation = Operation { id: row.try_get("id")?, attempt: row.try_get("attempt")? };
        if row.try_get("carried_out")? {
            return Ok(Claim::CarriedOut(operation));
        }
        self.take_over(operation, now, until).await
    }

    async fn take_over(&self, operation: Operation, now: DateTime<Utc>, until: DateTime<Utc>) -> Result<Claim> {
        let taken: Option<i32> = sqlx::query_scalar(
            "UPDATE idempotency_keys SET attempt = attempt + 1, leased_until = $3
             WHERE id = $1 AND attempt = $2 AND leased_until <= $4 AND NOT carried_out RETURNING attempt",
        )
        .bind(operation.id)
        .bind(operation.attempt)
        .bind(until)
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        Ok(taken.map_or(Claim::Running, |attempt| Claim::Begin(Operation { id: operation.id, attempt })))
    }

    /// Keeps an answer and ends the claim; none: what was carried out is told from the audit log.
    pub async fn answer_key(
        &self,
        operation: Operation,
        answer: Option<&serde_json::Value>,
        now: DateTime<Utc>,
    ) -> Result<()> {
        sqlx::query("UPDATE idempotency_keys SET answer = $3, leased_until = $4 WHERE id = $1 AND attempt = $2")
            .bind(operation.id)
            .bind(operation.attempt)
            .bind(answer)
            .bind(now)
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Gives a key back under which nothing was carried out; the claim on any other is ended.
    pub async fn release_key(&self, operation: Operation, now: DateTime<Utc>) -> Result<()> {
        let gone = sqlx::query("DELETE FROM idempotency_keys WHERE id = $1 AND attempt = $2 AND NOT carried_out")
            .bind(operation.id)
            .bind(operation.attempt)
            .execute(self.pool())
            .await?;
        if gone.rows_affected() == 0 {
            self.answer_key(operation, None, now).await?;
        }
        Ok(())
    }

    /// What was done under a key, in its order.
    pub async fn done_under(&self, operation: Operation) -> Result<Vec<Done>> {
        let rows = sqlx::query("SELECT action, target, detail FROM audit_events WHERE operation = $1 ORDER BY seq")
            .bind(operation.id)
            .fetch_all(self.pool())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Done {
                    action: row.try_get("action")?,
                    target: row.try_get("target")?,
                    detail: row.try_get("detail")?,
                })
            })
            .collect()
    }

    /// Forgets keys that are older than `before`; tells how many.
    pub async fn forget_keys(&self, before: DateTime<Utc>) -> Result<u64> {
        let gone = sqlx::query("DELETE FROM idempotency_keys WHERE created_at < $1 AND leased_until < $1")
            .bind(before)
            .execute(self.pool())
            .await?;
        Ok(gone.rows_affected())
    }
}
