//! What is wanted of something in JetStream, and how far that is: `pending` becomes `ready`, `deleting`
//! becomes `deleted`. A row that is due is leased by moving `due_at`; how long, and what due rows are, is for
//! the table's own module. Here is what is the same for all of them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::Store;
use crate::error::Result;

/// The statements for one table.
pub(super) struct Due {
    pub(super) start_deletion: &'static str,
    pub(super) done: &'static str,
    pub(super) failed: &'static str,
}

/// The statements for the table `$name`; `$made` is what else is set when something was made.
macro_rules! due {
    ($name:literal, $made:literal) => {
        $crate::store::due::Due {
            start_deletion: concat!(
                "UPDATE ",
                $name,
                " SET state = 'deleting', due_at = $2, attempts = 0, error = NULL WHERE id = $1"
            ),
            done: concat!(
                "UPDATE ",
                $name,
                " SET state = CASE state WHEN 'pending' THEN 'ready' WHEN 'deleting' THEN 'deleted' ELSE state END,
                 due_at = NULL, attempts = 0, error = NULL",
                $made,
                " WHERE id = $1 AND state = $2"
            ),
            failed: concat!(
                "UPDATE ",
                $name,
                " SET error = $3, due_at = $4 WHERE id = $1 AND state = $2 AND due_at IS NOT NULL"
            ),
        }
    };
}
pub(super) use due;

impl Due {
    /// It is to be removed, due at once.
    pub(super) async fn start_deletion(
        &self,
        connection: &mut PgConnection,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<()> {
        sqlx::query(self.start_deletion).bind(id).bind(now).execute(connection).await?;
        Ok(())
    }

    /// It is as `worked_on` wanted it. False: the state has changed meanwhile, and it is due again for what
    /// it wants now.
    pub(super) async fn done(&self, store: &Store, id: Uuid, worked_on: &str) -> Result<bool> {
        let done = sqlx::query(self.done).bind(id).bind(worked_on).execute(store.pool()).await?;
        Ok(done.rows_affected() == 1)
    }

    /// The attempt failed with these words; look again at `again_at`. Nothing happens when something else is
    /// wanted meanwhile.
    pub(super) async fn failed(
        &self,
        store: &Store,
        id: Uuid,
        worked_on: &str,
        error: &str,
        again_at: DateTime<Utc>,
    ) -> Result<()> {
        sqlx::query(self.failed).bind(id).bind(worked_on).bind(error).bind(again_at).execute(store.pool()).await?;
        Ok(())
    }
}
