//! The steps of the rotation of the operator's signing key: each is decided from facts that are read in the
//! transaction that makes it. When to look stands in `tasks`.

use serde_json::json;

use super::{
    Actor, Authority,
    operator_rotation::{Step, decide},
    work::Applying,
};
use crate::{
    error::{Error, Result},
    jwt::{self, Claims, Linted},
    model::RotationState,
    nkey::{Account, Operator, PublicKey},
    signer::{SealedKey, lint},
    store::{
        Connection, accounts, audit,
        keys::{self, KeyState},
        operator,
        operator_rotations::{self, Unsigned},
    },
};

/// How many accounts are signed in one transaction: it takes a few hundredths of a second.
const BATCH: i64 = 100;

impl Authority {
    /// Makes the step that can be made now, or signs the accounts that are to be signed. Whether there was anything
    /// to do.
    pub async fn step_operator_rotation(&self) -> Result<bool> {
        let step = {
            let mut connection = self.store.connection().await?;
            let Some(seen) = operator_rotations::look(&mut connection).await? else { return Ok(false) };
            decide(&self.operator_facts(&mut connection, &seen).await?)
        };
        match step {
            Step::Wait(_) | Step::Over => Ok(false),
            Step::Resign(_) => Ok(self.resign().await? > 0),
            Step::Activate | Step::Finish => self.make_operator_step().await,
        }
    }

    async fn make_operator_step(&self) -> Result<bool> {
        let actor = Actor::task("rotate");
        let mut change = Applying::begin(&self.store, &actor).await?;
        let rows = change.work().rows();
        operator::lock(rows).await?;
        let Some(mut rotation) = operator_rotations::open(rows).await? else { return Ok(false) };
        let facts = self.operator_facts(rows, &rotation).await?;
        let (from, now) = (rotation.state, self.now());
        let action = match decide(&facts) {
            Step::Activate => {
                let Some(new_key) = rotation.new_key else { return Ok(false) };
                rotation.state = RotationState::Retiring;
                rotation.activated_at = Some(now);
                operator_rotations::update(rows, &rotation).await?;
                // Waits for whoever signs just now, and lets nobody sign with the old key from here on.
                keys::move_to(rows, rotation.old_key, KeyState::Active, KeyState::Retiring).await?;
                keys::move_to(rows, new_key, KeyState::Pending, KeyState::Active).await?;
                "operator-key.activate"
            }
            Step::Finish => {
                rotation.state = RotationState::Done;
                rotation.ended_at = Some(now);
                operator_rotations::update(rows, &rotation).await?;
                keys::move_to(rows, rotation.old_key, KeyState::Retiring, KeyState::Retired).await?;
                "operator-key.finish"
            }
            _ => return Ok(false),
        };
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key});
        audit::record(rows, &self.event(&actor, action, None, rotation.id, detail)).await?;
        change.commit().await?;
        tracing::info!(rotation = %rotation.id, from = from.name(), to = rotation.state.name(), "the rotation of the operator's key went a step");
        self.refresh_operator().await?;
        Ok(true)
    }

    /// Signs every account again that another key than the present one has signed, with what it says now; a batch
    /// is a transaction, so a crash loses nothing and other replicas may do the same. Returns how many were signed.
    /// An account that cannot be signed holds up no other, and is told in the log.
    async fn resign(&self) -> Result<usize> {
        let (mut count, mut after) = (0, None);
        loop {
            let (signed, last) = self.resign_batch(after).await?;
            count += signed;
            self.push_wanted.notify_one();
            if last.is_none() {
                return Ok(count);
            }
            after = last;
        }
    }

    /// How many were signed, and the last account that was looked at; none: there was none.
    async fn resign_batch(&self, after: Option<PublicKey<Account>>) -> Result<(usize, Option<PublicKey<Account>>)> {
        let actor = Actor::task("rotate");
        let mut change = Applying::begin(&self.store, &actor).await?;
        let rows = change.work().rows();
        let key = operator::signing_key(rows).await?;
        self.standing().require_trust(key.public)?;
        let due = operator_rotations::take_unsigned(rows, key.public, after, BATCH).await?;
        let last = due.last().map(|due| due.account);
        if last.is_none() {
            return Ok((0, None));
        }
        let mut again = Vec::with_capacity(due.len());
        for due in &due {
            match self.claims_again(due, &key) {
                Ok(linted) => again.push((due, linted)),
                Err(error) => {
                    tracing::error!(account = %due.account, %error, cause = error.internal_report(), "an account cannot be signed with the operator's new key");
                }
            }
        }
        if again.is_empty() {
            // Nothing is recorded of what is tried once more each second.
            return Ok((0, last));
        }
        let accounts: Vec<_> = again.iter().map(|(due, _)| due.account).collect();
        let detail = json!({"newKey": key.public, "accounts": accounts});
        let event = self.event(&actor, "operator-key.resign", None, key.public, detail);
        audit::record(rows, &event).await?;
        for (due, linted) in again {
            self.sign_again(rows, due, &key, linted, event.id).await?;
        }
        change.commit().await?;
        Ok((accounts.len(), last))
    }

    fn claims_again(&self, due: &Unsigned, key: &SealedKey<Operator>) -> Result<Linted<jwt::Account>> {
        let wrong = |error| Error::internal("the ledger holds an unreadable account JWT").with_source(error);
        let present = jwt::decode::<jwt::Account>(&due.jwt).map_err(wrong)?.claims;
        let issued_at = Some(self.next_iat(&due.row));
        lint(Claims { id: None, issued_at, issuer: key.public.into(), ..present })
    }

    async fn sign_again(
        &self,
        rows: &mut Connection,
        due: &Unsigned,
        key: &SealedKey<Operator>,
        linted: Linted<jwt::Account>,
        audit_event: uuid::Uuid,
    ) -> Result<()> {
        let signed = self.signer.sign_as_operator(key, linted)?;
        let minted = accounts::Minted {
            signed: &signed,
            content_hash: due.row.content_hash.ok_or_else(|| Error::internal("an account without content"))?,
            generation: due.row.generation + 1,
            audit_event,
            at: self.now(),
        };
        accounts::record(rows, &minted).await
    }
}
