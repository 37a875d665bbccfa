//! Signing keys, sealed.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{Store, parse};
use crate::{
    error::{Error, Result},
    model::{EnvType, OrgSlug, OrgState},
    nkey::{Account, Operator, PublicKey, Role},
    signer::SealedKey,
};

/// What a signing key of an account may sign.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyScope {
    /// Users that carry their own permissions.
    Account,
    /// Users of one role in one environment.
    Role {
        /// The environment.
        environment: Uuid,
        /// The role.
        role: String,
    },
}

/// A signing key of an account to be kept.
#[derive(Debug)]
pub struct NewAccountKey {
    /// Whose.
    pub account: PublicKey<Account>,
    /// For what.
    pub scope: KeyScope,
    /// The key.
    pub key: SealedKey<Account>,
}

/// A signing key's public part, for lists.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// Public key.
    pub public_key: String,
    /// `account` or `scoped`.
    pub kind: String,
    /// Environment type of a scoped key.
    pub env_type: Option<String>,
    /// Role of a scoped key.
    pub role: Option<String>,
    /// `pending`, `active`, `retiring` or `retired`.
    pub state: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// What issuing one credential needs to know.
#[derive(Clone, Debug)]
pub struct IssuingContext {
    /// The organization's state.
    pub org_state: OrgState,
    /// Its plan.
    pub plan: String,
    /// Its overrides of the plan's limits.
    pub limits: serde_json::Value,
    /// Whether it allows credentials of roles that reach all of it.
    pub allow_organization_reach: bool,
    /// The account.
    pub account: PublicKey<Account>,
    /// The environment.
    pub environment: Uuid,
    /// The scoped key of the role, if the environment has one.
    pub scoped: Option<SealedKey<Account>>,
    /// The account's plain signing key; none while it is replaced at once.
    pub plain: Option<SealedKey<Account>>,
    /// A new key of the role or of the account waits until every server has it.
    pub pending: bool,
    /// Servers refuse what was issued until then, Unix seconds.
    pub cutoff: Option<i64>,
}

/// The life of a signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// In the account, signs nothing yet.
    Pending,
    /// Signs.
    Active,
    /// In the account, signs nothing any more.
    Retiring,
    /// Out of the account.
    Retired,
}

impl KeyState {
    fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
        }
    }
}

/// Keeps signing keys of accounts that sign from now on: those of a new account or environment.
pub async fn insert(connection: &mut PgConnection, keys: &[NewAccountKey], now: DateTime<Utc>) -> Result<()> {
    insert_as(connection, keys, KeyState::Active, now).await
}

/// Keeps a signing key that is to replace another one.
pub async fn insert_pending(connection: &mut PgConnection, key: NewAccountKey, now: DateTime<Utc>) -> Result<()> {
    insert_as(connection, &[key], KeyState::Pending, now).await
}

async fn insert_as(
    connection: &mut PgConnection,
    keys: &[NewAccountKey],
    state: KeyState,
    now: DateTime<Utc>,
) -> Result<()> {
    let (mut public, mut account, mut kind, mut environment, mut role, mut sealed) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for key in keys {
        public.push(key.key.public.to_string());
        account.push(key.account.to_string());
        sealed.push(key.key.sealed.clone());
        match &key.scope {
            KeyScope::Account => {
                kind.push("account");
                environment.push(None);
                role.push(None);
            }
            KeyScope::Role { environment: id, role: name } => {
                kind.push("scoped");
                environment.push(Some(*id));
                role.push(Some(name.clone()));
            }
        }
    }
    sqlx::query(
        "INSERT INTO signing_keys (public_key, account_key, kind, environment_id, role, sealed_seed, state, created_at)
         SELECT *, $8, $7 FROM UNNEST($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::bytea[])",
    )
    .bind(public)
    .bind(account)
    .bind(kind)
    .bind(environment)
    .bind(role)
    .bind(sealed)
    .bind(now)
    .bind(state.name())
    .execute(connection)
    .await?;
    Ok(())
}

/// Keeps a signing key of the operator: the first one, or one that is to replace it.
pub async fn insert_operator(
    connection: &mut PgConnection,
    key: &SealedKey<Operator>,
    state: KeyState,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO signing_keys (public_key, kind, sealed_seed, state, created_at) VALUES ($1, 'operator', $2, $4, $3)",
    )
    .bind(key.public.to_string())
    .bind(&key.sealed)
    .bind(now)
    .bind(state.name())
    .execute(connection)
    .await?;
    Ok(())
}

/// The signing keys that are in an account, with their scopes: all that are not retired.
pub async fn in_account(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
) -> Result<Vec<(PublicKey<Account>, KeyScope)>> {
    let rows = sqlx::query(
        "SELECT public_key, environment_id, role FROM signing_keys WHERE account_key = $1 AND state <> 'retired'",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(scoped).collect()
}

/// The roles that an account has or had scoped keys for.
pub async fn roles(connection: &mut PgConnection, account: PublicKey<Account>) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT role FROM signing_keys WHERE account_key = $1 AND role IS NOT NULL";
    Ok(sqlx::query_scalar(sql).bind(account.to_string()).fetch_all(connection).await?)
}

/// Retires the scoped keys of an environment: they leave the account, which closes their users.
pub async fn retire_environment(connection: &mut PgConnection, environment: Uuid) -> Result<()> {
    sqlx::query("UPDATE signing_keys SET state = 'retired' WHERE environment_id = $1 AND state <> 'retired'")
        .bind(environment)
        .execute(connection)
        .await?;
    Ok(())
}

/// The signing keys of an account that may be replaced here and now: active ones without a rotation.
pub async fn replaceable(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
) -> Result<Vec<(PublicKey<Account>, KeyScope)>> {
    let rows = sqlx::query(
        "SELECT public_key, environment_id, role FROM signing_keys k WHERE account_key = $1 AND state = 'active'
         AND NOT EXISTS (SELECT FROM key_rotations r
                         WHERE r.old_key = k.public_key AND r.state NOT IN ('done', 'cancelled'))",
    )
    .bind(account.to_string())
    .fetch_all(connection)
    .await?;
    rows.iter().map(scoped).collect()
}

/// A key among [`replaceable`] ones, with its scope; none: it is not among them.
pub async fn scope(
    connection: &mut PgConnection,
    account: PublicKey<Account>,
    key: PublicKey<Account>,
) -> Result<Option<KeyScope>> {
    Ok(replaceable(connection, account).await?.into_iter().find(|(other, _)| *other == key).map(|(_, scope)| scope))
}

/// Retires one signing key: it leaves the account, which closes its users.
pub async fn retire(connection: &mut PgConnection, key: PublicKey<Account>) -> Result<()> {
    sqlx::query("UPDATE signing_keys SET state = 'retired' WHERE public_key = $1 AND state = 'active'")
        .bind(key.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Moves a key from one state to the next. Fails when it is not in `from`; a trigger refuses what its
/// rotation does not allow.
pub async fn move_to<R: Role>(
    connection: &mut PgConnection,
    key: PublicKey<R>,
    from: KeyState,
    to: KeyState,
) -> Result<()> {
    let done = sqlx::query("UPDATE signing_keys SET state = $3 WHERE public_key = $1 AND state = $2")
        .bind(key.to_string())
        .bind(from.name())
        .bind(to.name())
        .execute(connection)
        .await?;
    if done.rows_affected() == 1 {
        return Ok(());
    }
    Err(Error::internal(format!("the signing key {key} is not {}", from.name())))
}

/// The signing keys of an organization, oldest first.
pub async fn of_organization(connection: &mut PgConnection, organization: Uuid) -> Result<Vec<KeyRow>> {
    let rows = sqlx::query(
        "SELECT k.public_key, k.kind, e.env_type, k.role, k.state, k.created_at FROM signing_keys k
         JOIN organizations o ON o.account_key = k.account_key LEFT JOIN environments e ON e.id = k.environment_id
         WHERE o.id = $1 ORDER BY k.created_at, k.public_key",
    )
    .bind(organization)
    .fetch_all(connection)
    .await?;
    rows.iter().map(key_row).collect()
}

impl Store {
    /// The operator's active signing key.
    pub async fn operator_signing_key(&self) -> Result<SealedKey<Operator>> {
        let row = sqlx::query(
            "SELECT public_key, sealed_seed FROM signing_keys WHERE kind = 'operator' AND state = 'active'
             ORDER BY created_at DESC LIMIT 1",
        )
        .fetch_optional(self.pool())
        .await?
        .ok_or_else(|| Error::internal("the operator has no signing key"))?;
        Ok(SealedKey { public: parse(row.try_get("public_key")?)?, sealed: row.try_get("sealed_seed")? })
    }

    /// The plain signing key of an account.
    pub async fn account_signing_key(&self, account: PublicKey<Account>) -> Result<SealedKey<Account>> {
        let row = sqlx::query(
            "SELECT public_key, sealed_seed FROM signing_keys WHERE account_key = $1 AND kind = 'account' AND state = 'active'",
        )
        .bind(account.to_string())
        .fetch_optional(self.pool())
        .await?
        .ok_or_else(replaced_now)?;
        sealed(&row)
    }

    /// What issuing needs to know of an environment and a role; none: there is no such organization
    /// or environment.
    pub async fn issuing_context(
        &self,
        org: &OrgSlug,
        env_type: &EnvType,
        role: &str,
    ) -> Result<Option<IssuingContext>> {
        let row = sqlx::query(
            "SELECT o.state, o.plan, o.limits, o.allow_organization_reach, o.account_key, o.revoked_until, e.id,
                    s.public_key AS scoped_key, s.sealed_seed AS scoped_seed,
                    p.public_key, p.sealed_seed, EXISTS (
                        SELECT FROM signing_keys n WHERE n.state = 'pending' AND n.account_key = o.account_key
                            AND (n.kind = 'account' OR (n.environment_id = e.id AND n.role = $3))) AS replaced
             FROM organizations o
             JOIN environments e ON e.organization_id = o.id AND e.env_type = $2 AND e.state IN ('pending', 'ready')
             LEFT JOIN signing_keys p ON p.account_key = o.account_key AND p.kind = 'account' AND p.state = 'active'
             LEFT JOIN signing_keys s ON s.environment_id = e.id AND s.role = $3 AND s.kind = 'scoped' AND s.state = 'active'
             WHERE o.slug = $1 AND o.state <> 'deleted'",
        )
        .bind(org.as_str())
        .bind(env_type.as_str())
        .bind(role)
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let scoped_key: Option<String> = row.try_get("scoped_key")?;
        let scoped = match scoped_key {
            Some(public) => Some(SealedKey { public: parse(&public)?, sealed: row.try_get("scoped_seed")? }),
            None => None,
        };
        let state: String = row.try_get("state")?;
        Ok(Some(IssuingContext {
            org_state: OrgState::parse(&state).ok_or_else(|| Error::internal("unknown organization state"))?,
            plan: row.try_get("plan")?,
            limits: row.try_get("limits")?,
            allow_organization_reach: row.try_get("allow_organization_reach")?,
            account: parse(row.try_get("account_key")?)?,
            environment: row.try_get("id")?,
            scoped,
            plain: match row.try_get::<Option<String>, _>("public_key")? {
                Some(public) => Some(SealedKey { public: parse(&public)?, sealed: row.try_get("sealed_seed")? }),
                None => None,
            },
            pending: row.try_get("replaced")?,
            cutoff: row.try_get("revoked_until")?,
        }))
    }

    /// The operator's signing keys, oldest first.
    pub async fn operator_keys(&self) -> Result<Vec<KeyRow>> {
        let rows = sqlx::query(
            "SELECT public_key, kind, NULL::text AS env_type, role, state, created_at FROM signing_keys
             WHERE kind = 'operator' ORDER BY created_at, public_key",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(key_row).collect()
    }
}

/// Between the old key, which left at once, and the new one, which not every server has yet.
pub fn replaced_now() -> Error {
    Error::unavailable(
        "signing-key-pending",
        "the key that would sign this is being replaced and not every server has the new one yet; try again in a few seconds, or look with `nats-authority key list`",
    )
}

fn scoped(row: &PgRow) -> Result<(PublicKey<Account>, KeyScope)> {
    let scope = match (row.try_get("environment_id")?, row.try_get("role")?) {
        (Some(environment), Some(role)) => KeyScope::Role { environment, role },
        _ => KeyScope::Account,
    };
    Ok((parse(row.try_get("public_key")?)?, scope))
}

fn sealed(row: &PgRow) -> Result<SealedKey<Account>> {
    Ok(SealedKey { public: parse(row.try_get("public_key")?)?, sealed: row.try_get("sealed_seed")? })
}

fn key_row(row: &PgRow) -> Result<KeyRow> {
    Ok(KeyRow {
        public_key: row.try_get("public_key")?,
        kind: row.try_get("kind")?,
        env_type: row.try_get("env_type")?,
        role: row.try_get("role")?,
        state: row.try_get("state")?,
        created_at: row.try_get("created_at")?,
    })
}
