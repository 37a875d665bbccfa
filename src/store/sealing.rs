//! What each row is sealed with, and sealing rows again: compare and swap, never waiting for anybody.

use sqlx::{PgConnection, Row};

use super::Store;
use crate::error::Result;

/// A sealed signing key, of whatever kind.
#[derive(Clone, Debug)]
pub struct SealedRow {
    /// Its public key.
    pub public_key: String,
    /// `operator`, `account` or `scoped`.
    pub kind: String,
    /// The sealed seed.
    pub sealed: Vec<u8>,
}

/// Puts `new` in the place of the sealed seed of each row that is still as it was read, and tells how many that
/// were. Rows that somebody else is changing are left out: whoever waits for nobody stands in nobody's way.
pub async fn replace(connection: &mut PgConnection, old: &[SealedRow], new: &[Vec<u8>]) -> Result<i64> {
    let done = sqlx::query(
        "UPDATE signing_keys k SET sealed_seed = n.new FROM (
             SELECT k.public_key, n.new FROM UNNEST($1::text[], $2::bytea[], $3::bytea[]) AS n(public_key, old, new)
             JOIN signing_keys k ON k.public_key = n.public_key AND k.sealed_seed = n.old
             FOR NO KEY UPDATE OF k SKIP LOCKED) AS n
         WHERE k.public_key = n.public_key",
    )
    .bind(old.iter().map(|row| row.public_key.as_str()).collect::<Vec<_>>())
    .bind(old.iter().map(|row| row.sealed.as_slice()).collect::<Vec<_>>())
    .bind(new)
    .execute(connection)
    .await?;
    Ok(i64::try_from(done.rows_affected()).unwrap_or(i64::MAX))
}

impl Store {
    /// How many rows are sealed with each sealing key, by its public identifier. Retired keys count as well.
    pub async fn sealed_with(&self) -> Result<Vec<(String, i64)>> {
        let rows = sqlx::query(
            "SELECT encode(substring(sealed_seed FROM 1 FOR 8), 'hex') AS id, count(*) AS n FROM signing_keys
             GROUP BY 1 ORDER BY 1",
        )
        .fetch_all(self.pool())
        .await?;
        rows.iter().map(|row| Ok((row.try_get("id")?, row.try_get("n")?))).collect()
    }

    /// The next rows behind `after` that are sealed with another sealing key than the one of this identifier.
    pub async fn sealed_otherwise(&self, id: &str, after: &str, limit: i64) -> Result<Vec<SealedRow>> {
        let rows = sqlx::query(
            "SELECT public_key, kind, sealed_seed FROM signing_keys
             WHERE public_key > $2 AND substring(sealed_seed FROM 1 FOR 8) <> decode($1, 'hex')
             ORDER BY public_key LIMIT $3",
        )
        .bind(id)
        .bind(after)
        .bind(limit)
        .fetch_all(self.pool())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(SealedRow {
                    public_key: row.try_get("public_key")?,
                    kind: row.try_get("kind")?,
                    sealed: row.try_get("sealed_seed")?,
                })
            })
            .collect()
    }
}
