//! Sealing keys that are replaced: which rows are sealed with which, and sealing all of them with the first one.
//! A row is whole before and after, so whoever dies in between goes on where he was.

use serde_json::json;

use super::{Actor, Authority, requests::Reseal, work::Applying};
use crate::{
    error::{Error, Result},
    model::sealing::{SealingKeyView, SealingView},
    nkey::{Account, Operator, Role},
    signer::{SealedKey, Signer},
    store::{
        Store, audit,
        sealing::{self, SealedRow},
    },
};

/// Rows in one transaction.
const BATCH: usize = 100;

/// Rows that one call looks at, so that it answers within seconds.
const AT_ONCE: usize = 20_000;

/// Problems that are told.
const TOLD: usize = 20;

impl Authority {
    /// How many rows are sealed with which key, as this replica is configured.
    pub async fn sealing_keys(&self) -> Result<SealingView> {
        sealing_view(&self.store, &self.signer).await
    }

    /// Seals rows with the first sealing key of this replica, in batches, as many as fit into a call; the answer
    /// counts what is left. A row that cannot be opened stays as it is and holds up no other.
    pub async fn reseal(&self, actor: &Actor, request: &Reseal) -> Result<SealingView> {
        let first = self.signer.sealing_keys().into_iter().next().unwrap_or_default();
        if request.to.as_ref().is_some_and(|to| *to != first) {
            return Err(Error::conflict(
                "sealing-key-not-first",
                format!(
                    "this replica seals with {first}; put the file of the key that is to seal first in sealing.key_files of every replica, and restart them"
                ),
            ));
        }
        let (mut after, mut seen, mut resealed, mut problems) = (String::new(), 0, 0, Vec::new());
        while seen < AT_ONCE {
            let limit = i64::try_from(BATCH).unwrap_or(i64::MAX);
            let rows = self.store.sealed_otherwise(&first, &after, limit).await?;
            let Some(last) = rows.last() else { break };
            after.clone_from(&last.public_key);
            seen += rows.len();
            resealed += self.reseal_batch(actor, &first, rows, &mut problems).await?;
        }
        problems.truncate(TOLD);
        Ok(SealingView { resealed: Some(resealed), problems, ..self.sealing_keys().await? })
    }

    /// One transaction with its audit event.
    async fn reseal_batch(
        &self,
        actor: &Actor,
        first: &str,
        rows: Vec<SealedRow>,
        problems: &mut Vec<String>,
    ) -> Result<i64> {
        let (mut old, mut new) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for row in rows {
            match reseal_row(&self.signer, &row) {
                Ok(Some(sealed)) => {
                    new.push(sealed);
                    old.push(row);
                }
                Ok(None) => {}
                Err(error) => problems.push(format!("{}: {error}", row.public_key)),
            }
        }
        if old.is_empty() {
            return Ok(0);
        }
        let mut change = Applying::begin(&self.store, actor).await?;
        let done = sealing::replace(change.work().rows(), &old, &new).await?;
        if done == 0 {
            return Ok(0);
        }
        let between = [old.first(), old.last()].map(|row| row.map(|row| row.public_key.clone()));
        let detail = json!({"rows": done, "publicKeysFromTo": between});
        let event = self.event(actor, "sealing-key.reseal", None, first, detail);
        audit::record(change.work().rows(), &event).await?;
        change.commit().await?;
        Ok(done)
    }
}

/// How many rows are sealed with which key, where these are configured.
pub async fn sealing_view(store: &Store, signer: &Signer) -> Result<SealingView> {
    let configured = signer.sealing_keys();
    let counts = store.sealed_with().await?;
    let known = configured.iter().map(|id| {
        let rows = counts.iter().find(|(other, _)| other == id).map_or(0, |(_, rows)| *rows);
        SealingKeyView { id: id.clone(), rows, configured: true, first: configured.first() == Some(id) }
    });
    let unknown = counts.iter().filter(|(id, _)| !configured.contains(id)).map(|(id, rows)| SealingKeyView {
        id: id.clone(),
        rows: *rows,
        configured: false,
        first: false,
    });
    let keys: Vec<_> = known.chain(unknown).collect();
    let left = keys.iter().filter(|key| !key.first).map(|key| key.rows).sum();
    Ok(SealingView { keys, left, resealed: None, problems: Vec::new() })
}

fn reseal_row(signer: &Signer, row: &SealedRow) -> Result<Option<Vec<u8>>> {
    fn of<R: Role>(signer: &Signer, row: &SealedRow) -> Result<Option<Vec<u8>>> {
        let unreadable = |_| Error::internal("the database holds an unreadable public key");
        let public = row.public_key.parse().map_err(unreadable)?;
        let key = SealedKey::<R> { public, sealed: row.sealed.clone() };
        Ok(signer.reseal(&key)?.map(|key| key.sealed))
    }
    if row.kind == "operator" { of::<Operator>(signer, row) } else { of::<Account>(signer, row) }
}
