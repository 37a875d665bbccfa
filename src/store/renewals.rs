//! Renewed credentials: looked up by user key, recorded as successors under the same key.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::{
    Recorded, Store,
    credentials::{COLUMNS, NewCredential, bind_rows, from_row, inactive},
};
use crate::{
    error::{Error, Result},
    jwt::User,
    model::Credential,
    nkey::{Account, PublicKey, User as UserRole},
};

/// A credential whose user asks for a renewal.
#[derive(Clone, Debug)]
pub struct Renewable {
    /// The newest one of the key.
    pub row: Credential,
    /// When the first JWT of the key was issued.
    pub first_issued_at: DateTime<Utc>,
}

impl Store {
    /// The newest credential of a user in an account.
    pub async fn renewable(&self, account: PublicKey<Account>, user: PublicKey<UserRole>) -> Result<Option<Renewable>> {
        // Two branches, each with an index of its own.
        let sql = format!(
            "SELECT {COLUMNS}, c.first_issued_at FROM (
                 SELECT * FROM credentials WHERE user_key = $2 AND revoked_at IS NULL AND NOT renewed
                 UNION ALL
                 SELECT * FROM credentials WHERE user_key = $2 AND revoked_at IS NOT NULL
             ) c JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
             WHERE o.account_key = $1
             ORDER BY c.revoked_at IS NULL DESC, c.issued_at DESC LIMIT 1"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(account.to_string())
            .bind(user.to_string())
            .fetch_optional(self.pool())
            .await?;
        row.map(|row| {
            let credential = from_row(&row)?;
            let first: Option<DateTime<Utc>> = row.try_get("first_issued_at")?;
            Ok(Renewable { first_issued_at: first.unwrap_or(credential.issued_at), row: credential })
        })
        .transpose()
    }

    /// Records renewed credentials, each in the place of the one that it `replaces`, with their audit events: all
    /// or none. Refused where the old one has ended or was replaced meanwhile, or where organization,
    /// environment or signing key are no longer active. Refused, they come back unrecorded.
    pub async fn record_renewals(
        &self,
        new: Vec<NewCredential>,
    ) -> Result<Vec<(Credential, Recorded<User>)>, (Error, Vec<NewCredential>)> {
        match self.insert_renewals(&new).await {
            Ok(()) => Ok(new.into_iter().map(|n| (n.row, Recorded::after_commit(n.signed))).collect()),
            Err(error) => Err((error, new)),
        }
    }

    async fn insert_renewals(&self, new: &[NewCredential]) -> Result<()> {
        let rows = || new.iter().map(|n| &n.row);
        let text = |f: fn(&Credential) -> String| rows().map(f).collect::<Vec<_>>();
        let mut tx = self.begin().await?;
        // First the organizations, then the credentials, as whoever revokes does it.
        sqlx::query(
            "SELECT 1 FROM organizations WHERE id IN (SELECT organization_id FROM environments WHERE id = ANY($1))
             ORDER BY id FOR KEY SHARE",
        )
        .bind(new.iter().map(|n| n.environment).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        let superseded = sqlx::query(SUPERSEDE)
            .bind(rows().map(|r| r.replaces).collect::<Vec<_>>())
            .bind(text(|r| r.user_key.to_string()))
            .bind(rows().map(|r| r.issued_at).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        if usize::try_from(superseded.rows_affected()).ok() != Some(new.len()) {
            return Err(inactive());
        }
        let written = bind_rows(sqlx::query(RENEW), new)
            .bind(text(|r| r.org.to_string()))
            .bind(rows().map(|r| r.replaces).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        if usize::try_from(written.rows_affected()).ok() != Some(new.len()) {
            return Err(inactive());
        }
        tx.commit().await?;
        Ok(())
    }
}

/// A renewed credential ends by itself: revoking it would revoke its successor, which has the same key. Of
/// two renewals at once the second waits for the first one's lock and then finds the row superseded.
const SUPERSEDE: &str = "
UPDATE credentials c SET superseded_at = n.issued_at, ends_at = c.expires_at, renewed = true
FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS n(id, user_key, issued_at)
WHERE c.id = n.id AND c.user_key = n.user_key AND c.superseded_at IS NULL AND c.revoked_at IS NULL
  AND c.expires_at > n.issued_at";

/// The audit events and the credentials come from the same rows: those whose organization, environment and
/// key are active and that no cutoff covers, as for what is newly issued. When that is not all of them, the transaction is rolled back.
const RENEW: &str = "
WITH active AS (
    SELECT n.*, COALESCE(c.first_issued_at, c.issued_at) AS first_issued_at
    FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[],
        $8::timestamptz[], $9::timestamptz[], $10::text[], $11::jsonb[], $12::uuid[], $13::text[], $14::uuid[])
        AS n(id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at, issued_by,
             options, event, org, replaces)
    JOIN credentials c ON c.id = n.replaces AND c.environment_id = n.environment_id
    JOIN environments e ON e.id = n.environment_id AND e.state IN ('pending', 'ready')
    JOIN organizations o ON o.id = e.organization_id AND o.state = 'active'
        AND (o.revoked_until IS NULL OR n.issued_at > to_timestamp(o.revoked_until))
    JOIN signing_keys k ON k.public_key = n.issuer_key AND k.state IN ('active', 'retiring')
    FOR KEY SHARE OF o, k
), events AS (
    INSERT INTO audit_events (id, at, actor, action, org, target, detail)
    SELECT event, issued_at, issued_by, 'credential.renew', org, id::text,
        json_build_object('name', name, 'role', role, 'userKey', user_key, 'expiresAt', expires_at, 'replaces', replaces)
    FROM active
)
INSERT INTO credentials (id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at,
    issued_by, options, replaces, first_issued_at, audit_event)
SELECT id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at, issued_by, options,
    replaces, first_issued_at, event
FROM active";
