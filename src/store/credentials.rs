//! The ledger of issued user credentials.

use chrono::{DateTime, Utc};
use sqlx::{
    PgConnection, Postgres, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use super::{Recorded, Store, audit::Origin, digest, parse, violates};
use crate::{
    error::{Error, Result},
    jwt::{User, envelope::Signed},
    model::{Credential, OrgSlug, credential::Options},
    nkey::{Account, PublicKey, User as UserRole},
};

/// A signed credential to be recorded.
pub struct NewCredential {
    /// Its row.
    pub row: Credential,
    /// Its environment.
    pub environment: Uuid,
    /// Its audit event.
    pub event: Uuid,
    /// Where it comes from.
    pub origin: Origin,
    /// The signed JWT.
    pub signed: Signed<User>,
}

/// A credential that is replaced.
#[derive(Clone, Copy, Debug)]
pub struct Superseded {
    /// Its id.
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// When it is to be revoked.
    pub ends_at: DateTime<Utc>,
}

/// A superseded credential that was revoked because its grace time had passed.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// The user's public key.
    pub user_key: String,
}

/// One credential, as it stands in this transaction.
pub async fn find(connection: &mut PgConnection, id: Uuid) -> Result<Option<Credential>> {
    let row = sqlx::query(BY_ID).bind(id).fetch_optional(connection).await?;
    row.as_ref().map(from_row).transpose()
}

/// Binds `$1` to `$12`: a column each of what is recorded of every new credential, however it came to be.
pub(super) fn bind_rows<'q>(
    query: Query<'q, Postgres, PgArguments>,
    new: &[NewCredential],
) -> Query<'q, Postgres, PgArguments> {
    let rows = || new.iter().map(|n| &n.row);
    let text = |f: fn(&Credential) -> String| rows().map(f).collect::<Vec<_>>();
    query
        .bind(rows().map(|r| r.id).collect::<Vec<_>>())
        .bind(new.iter().map(|n| n.environment).collect::<Vec<_>>())
        .bind(text(|r| r.name.clone()))
        .bind(text(|r| r.role.clone()))
        .bind(text(|r| r.user_key.to_string()))
        .bind(text(|r| r.issuer_key.to_string()))
        .bind(rows().map(|r| r.jwt_sha256.to_vec()).collect::<Vec<_>>())
        .bind(rows().map(|r| r.issued_at).collect::<Vec<_>>())
        .bind(rows().map(|r| r.expires_at).collect::<Vec<_>>())
        .bind(text(|r| r.issued_by.clone()))
        .bind(rows().map(|r| serde_json::to_value(&r.options).unwrap_or_default()).collect::<Vec<_>>())
        .bind(new.iter().map(|n| n.event).collect::<Vec<_>>())
}

impl Store {
    /// Records credentials with their audit events: all or none. A credential whose organization,
    /// environment or signing key is no longer active is refused. Refused, they come back unrecorded.
    pub async fn record_credentials(
        &self,
        new: Vec<NewCredential>,
    ) -> Result<Vec<(Credential, Recorded<User>)>, (Error, Vec<NewCredential>)> {
        match self.insert_credentials(&new).await {
            Ok(()) => Ok(new.into_iter().map(|n| (n.row, Recorded::after_commit(n.signed))).collect()),
            Err(error) => Err((error, new)),
        }
    }

    async fn insert_credentials(&self, new: &[NewCredential]) -> Result<()> {
        let origin = |f: fn(&Origin) -> Option<String>| new.iter().map(|n| f(&n.origin)).collect::<Vec<_>>();
        let written = bind_rows(sqlx::query(RECORD), new)
            .bind(origin(|o| o.request_id.clone()))
            .bind(new.iter().map(|n| n.row.org.to_string()).collect::<Vec<_>>())
            .bind(i64::try_from(new.len()).unwrap_or(i64::MAX))
            .bind(origin(|o| o.issuer.clone()))
            .bind(origin(|o| o.address.clone()))
            .bind(new.iter().map(|n| n.origin.operation.map(|o| o.id)).collect::<Vec<_>>())
            .bind(new.iter().map(|n| n.origin.operation.map(|o| o.attempt)).collect::<Vec<_>>())
            .execute(self.pool())
            .await
            .map_err(|error| match error {
                error if violates(&error, "credentials_user_key") => key_in_use(),
                // Division by zero: not all were active.
                sqlx::Error::Database(database) if database.code().as_deref() == Some("22012") => inactive(),
                error => error.into(),
            })?;
        if usize::try_from(written.rows_affected()).ok() == Some(new.len()) { Ok(()) } else { Err(inactive()) }
    }

    /// Records a credential, that another one is superseded by it, and the audit event: all or nothing.
    /// None: the old one can no longer be superseded, or what was decided on is no longer active.
    pub async fn record_rotation(
        &self,
        new: NewCredential,
        old: &Superseded,
    ) -> Result<Option<(Credential, Recorded<User>)>> {
        let row = &new.row;
        let mut tx = self.begin().await?;
        // The organization before the credential, as whoever revokes: else the two could wait for each
        // other. And whoever counts what a key has signed holds this lock.
        sqlx::query(
            "SELECT FROM environments e JOIN organizations o ON o.id = e.organization_id WHERE e.id = $1
             FOR KEY SHARE OF o",
        )
        .bind(new.environment)
        .execute(&mut *tx)
        .await?;
        // First the organization, then the credential, as whoever revokes does it.
        sqlx::query("SELECT 1 FROM organizations WHERE slug = $1 AND state <> 'deleted' FOR KEY SHARE")
            .bind(row.org.as_str())
            .execute(&mut *tx)
            .await?;
        if let Some(operation) = new.origin.operation {
            super::idempotency::carry_out(&mut tx, operation).await?;
        }
        let written = sqlx::query(ROTATE)
            .bind(old.id)
            .bind(old.at)
            .bind(old.ends_at)
            .bind(row.id)
            .bind(new.environment)
            .bind(&row.name)
            .bind(&row.role)
            .bind(row.user_key.to_string())
            .bind(row.issuer_key.to_string())
            .bind(row.jwt_sha256.as_slice())
            .bind(row.issued_at)
            .bind(row.expires_at)
            .bind(&row.issued_by)
            .bind(serde_json::to_value(&row.options).unwrap_or_default())
            .bind(new.event)
            .bind(&new.origin.request_id)
            .bind(row.org.as_str())
            .bind(&new.origin.issuer)
            .bind(&new.origin.address)
            .bind(new.origin.operation.map(|operation| operation.id))
            .execute(&mut *tx)
            .await
            .map_err(|error| if violates(&error, "credentials_user_key") { key_in_use() } else { error.into() })?;
        // The statement supersedes even where it then has nothing to insert: that is rolled back.
        if written.rows_affected() != 1 {
            tx.rollback().await?;
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some((new.row, Recorded::after_commit(new.signed))))
    }

    /// One credential.
    pub async fn credential(&self, id: Uuid) -> Result<Option<Credential>> {
        let row = sqlx::query(BY_ID).bind(id).fetch_optional(self.pool()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// When a user key was last revoked in any credential, Unix seconds: a new JWT for it must be younger.
    pub async fn last_revocation(&self, user: PublicKey<UserRole>) -> Result<Option<i64>> {
        let at: Option<DateTime<Utc>> = sqlx::query_scalar(
            "SELECT max(revoked_at) FROM credentials WHERE user_key = $1 AND revoked_at IS NOT NULL",
        )
        .bind(user.to_string())
        .fetch_one(self.pool())
        .await?;
        Ok(at.map(|at| at.timestamp()))
    }
}

/// Marks a credential revoked; false: it already was.
pub async fn revoke(connection: &mut PgConnection, id: Uuid, at: DateTime<Utc>, reason: Option<&str>) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE credentials SET revoked_at = GREATEST($2, issued_at), revocation_reason = $3 WHERE id = $1 AND revoked_at IS NULL",
    )
    .bind(id)
    .bind(at)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Revokes the superseded credentials of an organization whose grace time has passed. One that has
/// expired meanwhile needs no revocation.
pub async fn end_superseded(
    connection: &mut PgConnection,
    org: Uuid,
    now: DateTime<Utc>,
    reason: &str,
) -> Result<Vec<Ended>> {
    let rows = sqlx::query(
        "UPDATE credentials c SET revoked_at = GREATEST($2, c.issued_at), revocation_reason = $3 FROM environments e
         WHERE e.id = c.environment_id AND e.organization_id = $1 AND c.superseded_at IS NOT NULL
           AND c.revoked_at IS NULL AND c.ends_at < c.expires_at AND c.ends_at <= $2 AND c.expires_at > $2
         RETURNING c.id, c.name, c.user_key",
    )
    .bind(org)
    .bind(now)
    .bind(reason)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok(Ended { id: row.try_get("id")?, name: row.try_get("name")?, user_key: row.try_get("user_key")? }))
        .collect()
}

/// What was decided on no longer holds.
pub fn inactive() -> Error {
    Error::conflict(
        "not-active",
        "the organization or environment was suspended or deleted meanwhile; look at its state and try again",
    )
}

fn key_in_use() -> Error {
    Error::conflict("public-key-in-use", "this public key already has a credential; revoke that one or use a new key")
}

/// What [`from_row`] reads, of a credential `c`, its environment `e` and its organization `o`.
pub(super) const COLUMNS: &str =
    "c.id, o.slug, e.env_type, c.name, c.role, c.user_key, c.issuer_key, c.jwt_sha256, c.issued_at, c.expires_at,
    c.issued_by, c.options, c.replaces, c.superseded_at, c.ends_at, c.revoked_at, c.revocation_reason";

pub(super) fn from_row(row: &PgRow) -> Result<Credential> {
    let org: OrgSlug = parse(row.try_get("slug")?)?;
    let user_key: PublicKey<UserRole> = parse(row.try_get("user_key")?)?;
    let issuer_key: PublicKey<Account> = parse(row.try_get("issuer_key")?)?;
    let options: serde_json::Value = row.try_get("options")?;
    Ok(Credential {
        id: row.try_get("id")?,
        org,
        env_type: parse(row.try_get("env_type")?)?,
        name: row.try_get("name")?,
        role: row.try_get("role")?,
        user_key,
        issuer_key,
        jwt_sha256: digest(row.try_get("jwt_sha256")?)?,
        issued_at: row.try_get("issued_at")?,
        expires_at: row.try_get("expires_at")?,
        issued_by: row.try_get("issued_by")?,
        options: serde_json::from_value::<Options>(options)
            .map_err(|error| Error::internal("unreadable credential options").with_source(error))?,
        replaces: row.try_get("replaces")?,
        superseded_at: row.try_get("superseded_at")?,
        ends_at: row.try_get("ends_at")?,
        revoked_at: row.try_get("revoked_at")?,
        revocation_reason: row.try_get("revocation_reason")?,
    })
}

/// One statement, so one round trip and one commit. The audit events and the credentials come from
/// the same rows: those whose organization, environment are active, whose key is in the account
/// (one that began to retire since it signed still lets them in) and that no cutoff covers. The
/// division fails the statement, and with it both inserts, when that is not all of them, or when somebody else
/// has taken over an idempotency key. Whoever moves a cutoff, replaces a key or deletes an environment holds the
/// organization's lock; the locks here wait for that and then look again, at each row that changed meanwhile. Each
/// is locked once, however many credentials it is for: key and environment as `SHARE`, since `KEY SHARE` takes a
/// row for unchanged whose key columns are.
const RECORD: &str = "
WITH new AS (
    SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[],
        $8::timestamptz[], $9::timestamptz[], $10::text[], $11::jsonb[], $12::uuid[], $13::text[], $14::text[],
        $16::text[], $17::text[], $18::uuid[], $19::integer[])
        AS n(id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at, issued_by,
             options, event, request_id, org, issuer, address, operation, attempt)
), carried_out AS (
    UPDATE idempotency_keys k SET carried_out = true
    FROM (SELECT DISTINCT operation, attempt FROM new WHERE operation IS NOT NULL) o
    WHERE k.id = o.operation AND k.attempt = o.attempt RETURNING k.id
), scopes AS MATERIALIZED (
    SELECT e.id AS environment_id, k.public_key AS issuer_key, o.revoked_until
    FROM (SELECT DISTINCT environment_id, issuer_key FROM new) n
    JOIN environments e ON e.id = n.environment_id AND e.state IN ('pending', 'ready')
    JOIN organizations o ON o.id = e.organization_id AND o.state = 'active'
    JOIN signing_keys k ON k.public_key = n.issuer_key AND k.state IN ('active', 'retiring')
    FOR KEY SHARE OF o FOR SHARE OF k, e
), active AS MATERIALIZED (
    SELECT n.* FROM new n JOIN scopes s USING (environment_id, issuer_key)
    WHERE s.revoked_until IS NULL OR n.issued_at > to_timestamp(s.revoked_until)
), counted AS (
    SELECT $15 / (CASE WHEN count(*) = $15
        AND (SELECT count(*) FROM carried_out) = (SELECT count(DISTINCT operation) FROM new) THEN 1 ELSE 0 END)
        AS all_active FROM active
), events AS (
    INSERT INTO audit_events (id, at, actor, action, org, target, request_id, detail, issuer, address, operation)
    SELECT event, issued_at, issued_by, 'credential.issue', org, id::text, request_id,
        json_build_object('name', name, 'role', role, 'userKey', user_key, 'expiresAt', expires_at),
        issuer, address, operation
    FROM active, counted WHERE all_active > 0
)
INSERT INTO credentials (id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at,
    issued_by, options, audit_event)
SELECT id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at, issued_by, options, event
FROM active, counted WHERE all_active > 0";

/// The old one is superseded unless it has ended or was superseded meanwhile, and only then is there a
/// row to insert. Two at once: the second waits for the first one's lock and then finds it superseded.
const ROTATE: &str = "
WITH old AS (
    UPDATE credentials SET superseded_at = $2, ends_at = $3
    WHERE id = $1 AND superseded_at IS NULL AND revoked_at IS NULL AND expires_at > $2
    RETURNING id
), active AS (
    SELECT old.id AS old_id FROM old
    JOIN environments e ON e.id = $5 AND e.state IN ('pending', 'ready')
    JOIN organizations o ON o.id = e.organization_id AND o.state = 'active'
        AND (o.revoked_until IS NULL OR $11 > to_timestamp(o.revoked_until))
    JOIN signing_keys k ON k.public_key = $9 AND k.state IN ('active', 'retiring')
), events AS (
    INSERT INTO audit_events (id, at, actor, action, org, target, request_id, detail, issuer, address, operation)
    SELECT $15, $2, $13, 'credential.rotate', $17, old_id::text, $16,
        json_build_object('replacedBy', $4::uuid, 'name', $6::text, 'role', $7::text, 'userKey', $8::text,
            'expiresAt', $12::timestamptz, 'endsAt', $3::timestamptz), $18, $19, $20
    FROM active
)
INSERT INTO credentials (id, environment_id, name, role, user_key, issuer_key, jwt_sha256, issued_at, expires_at,
    issued_by, options, replaces, audit_event)
SELECT $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, old_id, $15 FROM active";

const BY_ID: &str = "
SELECT c.id, o.slug, e.env_type, c.name, c.role, c.user_key, c.issuer_key, c.jwt_sha256, c.issued_at, c.expires_at,
    c.issued_by, c.options, c.replaces, c.superseded_at, c.ends_at, c.revoked_at, c.revocation_reason
FROM credentials c JOIN environments e ON e.id = c.environment_id JOIN organizations o ON o.id = e.organization_id
WHERE c.id = $1";
