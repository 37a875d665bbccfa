//! Durable pull consumers and further streams of environments. Both are a name and a configuration that
//! never changes, made and removed in JetStream by the provision task: two tables of one shape.

use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use uuid::Uuid;

use super::{
    Store,
    due::{Due, due},
    parse,
};
use crate::{
    error::{Error, Result},
    model::{ConsumerConfig, EnvType, ItemName, ItemState, OrgSlug, StreamConfig},
    nkey::{Account, PublicKey},
};

/// A consumer or a stream.
#[derive(Clone, Debug)]
pub struct Item<C> {
    /// Identifier.
    pub id: Uuid,
    /// Name.
    pub name: ItemName,
    /// What it does.
    pub config: C,
    /// State.
    pub state: ItemState,
    /// Why making or removing it failed last.
    pub error: Option<String>,
    /// It was made. What was not, and is there under its name, may be somebody else's.
    pub made: bool,
}

/// One that is to be made or removed.
#[derive(Clone, Debug)]
pub struct DueItem<C> {
    /// `Pending` or `Deleting`.
    pub row: Item<C>,
    /// Organization.
    pub org: OrgSlug,
    /// Environment type.
    pub env_type: EnvType,
    /// The organization's account.
    pub account: PublicKey<Account>,
    /// Attempts so far, with this one.
    pub attempts: i32,
}

/// The table of one kind of items, whose configuration is a `C`.
pub struct Table<C> {
    insert: &'static str,
    find: &'static str,
    list: &'static str,
    abandon: &'static str,
    abandon_all: &'static str,
    claim: &'static str,
    due: Due,
    of: PhantomData<fn() -> C>,
}

macro_rules! table {
    ($name:literal) => {
        Table {
            insert: concat!(
                "INSERT INTO ",
                $name,
                " (id, environment_id, name, config, state, due_at, created_at)
                 VALUES ($1, $2, $3, $4::text::json, 'pending', $5, $5)"
            ),
            find: concat!(
                "SELECT id, name, config, state, error, made FROM ",
                $name,
                " WHERE environment_id = $1 AND name = $2 AND state <> 'deleted'"
            ),
            list: concat!(
                "SELECT id, name, config, state, error, made FROM ",
                $name,
                " WHERE environment_id = $1 AND state <> 'deleted' ORDER BY name"
            ),
            abandon: concat!("UPDATE ", $name, " SET state = 'deleted', due_at = NULL WHERE environment_id = $1"),
            abandon_all: concat!(
                "UPDATE ",
                $name,
                " i SET state = 'deleted', due_at = NULL
                 FROM environments e WHERE e.id = i.environment_id AND e.organization_id = $1"
            ),
            // A ready environment has its stream, so some server has the account.
            claim: concat!(
                "UPDATE ",
                $name,
                " i SET due_at = $3 + make_interval(secs => $2), attempts = i.attempts + 1
                 FROM (SELECT i.id, o.slug, o.account_key, e.env_type FROM ",
                $name,
                " i JOIN environments e ON e.id = i.environment_id JOIN organizations o ON o.id = e.organization_id
                   WHERE i.due_at <= $3 AND e.state = 'ready' AND o.state = 'active'
                   ORDER BY i.due_at LIMIT $1 FOR UPDATE OF i SKIP LOCKED) AS due
                 WHERE i.id = due.id
                 RETURNING i.id, i.name, i.config, i.state, i.error, i.made, i.attempts, due.slug, due.account_key,
                     due.env_type"
            ),
            due: due!($name, ", made = made OR state = 'pending'"),
            of: PhantomData,
        }
    };
}

/// Durable pull consumers.
pub const CONSUMERS: Table<ConsumerConfig> = table!("consumers");

/// Further streams.
pub const STREAMS: Table<StreamConfig> = table!("streams");

impl<C: Serialize + DeserializeOwned + Send + Unpin + 'static> Table<C> {
    /// Keeps a new one, due at once.
    pub async fn insert(
        &self,
        connection: &mut PgConnection,
        environment: Uuid,
        id: Uuid,
        name: &ItemName,
        config: &C,
        now: DateTime<Utc>,
    ) -> Result<()> {
        let config = serde_json::to_string(config)
            .map_err(|error| Error::internal("unwritable configuration").with_source(error))?;
        let query = sqlx::query(self.insert).bind(id).bind(environment).bind(name.as_str()).bind(config).bind(now);
        query.execute(connection).await?;
        Ok(())
    }

    /// The one of this name that is not deleted.
    pub async fn find(
        &self,
        connection: &mut PgConnection,
        environment: Uuid,
        name: &ItemName,
    ) -> Result<Option<Item<C>>> {
        let query = sqlx::query(self.find).bind(environment).bind(name.as_str());
        query.fetch_optional(connection).await?.as_ref().map(from_row).transpose()
    }

    /// Those of an environment that are not deleted, by name.
    pub async fn list(&self, connection: &mut PgConnection, environment: Uuid) -> Result<Vec<Item<C>>> {
        let rows = sqlx::query(self.list).bind(environment).fetch_all(connection).await?;
        rows.iter().map(from_row).collect()
    }

    /// As [`Self::list`], alone.
    pub async fn of(&self, store: &Store, environment: Uuid) -> Result<Vec<Item<C>>> {
        let mut connection = store.pool().acquire().await?;
        self.list(&mut connection, environment).await
    }

    /// As [`Self::find`], alone.
    pub async fn one(&self, store: &Store, environment: Uuid, name: &ItemName) -> Result<Option<Item<C>>> {
        let mut connection = store.pool().acquire().await?;
        self.find(&mut connection, environment, name).await
    }

    /// Starts the removal of one.
    pub async fn start_deletion(&self, connection: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<()> {
        self.due.start_deletion(connection, id, now).await
    }

    /// Nothing more is to be done for those of an environment: they went with it.
    pub async fn abandon(&self, connection: &mut PgConnection, environment: Uuid) -> Result<()> {
        sqlx::query(self.abandon).bind(environment).execute(connection).await?;
        Ok(())
    }

    /// As [`Self::abandon`], alone.
    pub async fn abandon_alone(&self, store: &Store, environment: Uuid) -> Result<()> {
        let mut connection = store.pool().acquire().await?;
        self.abandon(&mut connection, environment).await
    }

    /// As [`Self::abandon`], for all environments of an organization whose account goes.
    pub async fn abandon_all(&self, connection: &mut PgConnection, org: Uuid) -> Result<()> {
        sqlx::query(self.abandon_all).bind(org).execute(connection).await?;
        Ok(())
    }

    /// Takes up to `limit` due ones of ready environments of active organizations, for `lease` seconds.
    pub async fn claim_due(
        &self,
        store: &Store,
        limit: i64,
        lease: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<DueItem<C>>> {
        let lease = f64::from(i32::try_from(lease).unwrap_or(i32::MAX));
        let rows = sqlx::query(self.claim).bind(limit).bind(lease).bind(now).fetch_all(store.pool()).await?;
        rows.iter()
            .map(|row| {
                Ok(DueItem {
                    row: from_row(row)?,
                    org: parse(row.try_get("slug")?)?,
                    env_type: parse(row.try_get("env_type")?)?,
                    account: parse(row.try_get("account_key")?)?,
                    attempts: row.try_get("attempts")?,
                })
            })
            .collect()
    }

    /// It is as `worked_on` wanted it. False: something else is wanted meanwhile.
    pub async fn done(&self, store: &Store, id: Uuid, worked_on: ItemState) -> Result<bool> {
        self.due.done(store, id, worked_on.as_str()).await
    }

    /// The attempt failed with these words; look again at `again_at`. Nothing happens when something else is
    /// wanted meanwhile.
    pub async fn failed(
        &self,
        store: &Store,
        id: Uuid,
        worked_on: ItemState,
        error: &str,
        again_at: DateTime<Utc>,
    ) -> Result<()> {
        self.due.failed(store, id, worked_on.as_str(), error, again_at).await
    }
}

fn from_row<C: DeserializeOwned + Unpin + Send + 'static>(row: &PgRow) -> Result<Item<C>> {
    let Json(config) = row.try_get("config")?;
    Ok(Item {
        id: row.try_get("id")?,
        name: parse(row.try_get("name")?)?,
        config,
        state: ItemState::parse(row.try_get("state")?).ok_or_else(|| Error::internal("unknown state of an item"))?,
        error: row.try_get("error")?,
        made: row.try_get("made")?,
    })
}
