//! Keeping what was claimed. Claiming itself stands with what is claimed.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Store, parse};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
};

impl Store {
    /// Those of `accounts` whose claim under `lease` still stands: nobody minted or claimed them since.
    /// They are claimed anew, for `seconds`; returns until when.
    pub async fn renew_claims(
        &self,
        accounts: &[PublicKey<Account>],
        lease: DateTime<Utc>,
        seconds: i64,
        now: DateTime<Utc>,
    ) -> Result<(DateTime<Utc>, HashSet<PublicKey<Account>>)> {
        let until = now + TimeDelta::seconds(seconds);
        let held: Vec<(String, DateTime<Utc>)> = sqlx::query_as(
            "UPDATE accounts SET due_at = $3 WHERE account_key = ANY($1) AND due_at = $2 RETURNING account_key, due_at",
        )
        .bind(accounts.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(lease)
        .bind(until)
        .fetch_all(self.pool())
        .await?;
        // As the database rounds it, so that it can be compared.
        let until = held.first().map_or(until, |(_, until)| *until);
        Ok((until, held.iter().map(|(key, _)| parse(key)).collect::<Result<_>>()?))
    }
}
