//! Servers by name, as they were last seen.

use chrono::{DateTime, Utc};
use sqlx::Row;

use super::Store;
use crate::error::Result;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// Name, stable over restarts.
    pub name: String,
    /// Id, new with every restart.
    pub id: String,
    /// Cluster.
    pub cluster: Option<String>,
    /// Version.
    pub version: String,
    /// JetStream memory, bytes.
    pub max_memory: i64,
    /// JetStream disk, bytes.
    pub max_disk: i64,
    /// Largest message, bytes.
    pub max_payload: i64,
    /// It answers now.
    pub live: bool,
    /// When it last answered.
    pub seen_at: DateTime<Utc>,
}

impl Store {
    /// Writes what was seen. One that is not live is not written anew: it may have been forgotten just now.
    pub async fn save_servers(&self, servers: &[ServerRow]) -> Result<()> {
        for server in servers {
            sqlx::query(
                "INSERT INTO servers (name, server_id, cluster, version, max_memory, max_disk, max_payload, live, seen_at)
                 SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9
                 WHERE $8 OR EXISTS (SELECT FROM servers WHERE name = $1)
                 ON CONFLICT (name) DO UPDATE SET server_id = $2, cluster = $3, version = $4, max_memory = $5,
                     max_disk = $6, max_payload = $7, live = $8, seen_at = $9",
            )
            .bind(&server.name)
            .bind(&server.id)
            .bind(&server.cluster)
            .bind(&server.version)
            .bind(server.max_memory)
            .bind(server.max_disk)
            .bind(server.max_payload)
            .bind(server.live)
            .bind(server.seen_at)
            .execute(self.pool())
            .await?;
        }
        Ok(())
    }

    /// Forgets a server that is gone for good, and what it had.
    pub async fn forget_server(&self, name: &str, event: &super::audit::Event) -> Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("DELETE FROM account_servers WHERE server = $1").bind(name).execute(&mut *tx).await?;
        sqlx::query("DELETE FROM servers WHERE name = $1").bind(name).execute(&mut *tx).await?;
        // Deletions may have waited for it.
        sqlx::query(
            "INSERT INTO account_pushes (account_key, due_at) SELECT account_key, $1 FROM accounts
             WHERE state = 'tombstone' ORDER BY account_key
             ON CONFLICT (account_key) DO UPDATE SET due_at = excluded.due_at",
        )
        .bind(event.at)
        .execute(&mut *tx)
        .await?;
        super::audit::record(&mut tx, event).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Every server that was ever seen.
    pub async fn servers(&self) -> Result<Vec<ServerRow>> {
        let rows = sqlx::query(
            "SELECT name, server_id, cluster, version, max_memory, max_disk, max_payload, live, seen_at
             FROM servers ORDER BY name",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(ServerRow {
                    name: row.try_get("name")?,
                    id: row.try_get("server_id")?,
                    cluster: row.try_get("cluster")?,
                    version: row.try_get("version")?,
                    max_memory: row.try_get("max_memory")?,
                    max_disk: row.try_get("max_disk")?,
                    max_payload: row.try_get("max_payload")?,
                    live: row.try_get("live")?,
                    seen_at: row.try_get("seen_at")?,
                })
            })
            .collect()
    }
}
