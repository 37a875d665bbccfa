//! The steps of key rotations: each is decided from facts that are read in the transaction that makes
//! it, so a crash between two of them loses nothing and two replicas make none twice. When to look
//! stands in `tasks`.

use serde_json::json;

use super::{
    Actor, Authority,
    key_rotation::{Step, decide},
    work::{Applying, Work},
};
use crate::{
    error::Result,
    model::{KeyRotation, Organization, RotationState},
    store::{
        key_rotations,
        keys::{self, KeyState},
        organizations,
    },
};

impl Authority {
    /// Makes every step of key rotations that can be made now; tells how many. A rotation that fails
    /// holds up no other.
    pub async fn step_key_rotations(&self) -> Result<usize> {
        let (mut made, mut first_error) = (0, None);
        for rotation in self.store.moving_key_rotations().await? {
            match self.step_key_rotation(&rotation).await {
                Ok(true) => made += 1,
                Ok(false) => {}
                Err(error) => _ = first_error.get_or_insert(error),
            }
        }
        if made > 0 {
            self.wake();
        }
        first_error.map_or(Ok(made), Err)
    }

    async fn step_key_rotation(&self, seen: &KeyRotation) -> Result<bool> {
        // A look without locks first: most rotations wait for hours.
        let facts = self.facts(&mut *self.store.connection().await?, seen, false).await?;
        if matches!(decide(&facts), Step::Wait(_) | Step::Over) {
            return Ok(false);
        }
        let mut change = Applying::begin(&self.store, &Actor::task("rotate")).await?;
        let work = change.work();
        // Whoever records a credential holds this lock too: what is counted under it is all that there is.
        let org = organizations::lock_id(work.rows(), seen.organization).await?;
        let Some(rotation) = key_rotations::lock(work.rows(), seen.id).await? else { return Ok(false) };
        let facts = self.facts(work.rows(), &rotation, false).await?;
        let (id, state) = (rotation.id, rotation.state);
        match decide(&facts) {
            Step::Activate => self.activate(work, &org, rotation).await?,
            Step::Remove => self.remove(work, &org, rotation).await?,
            Step::Finish => self.end(work, &org, rotation, RotationState::Done, None).await?,
            Step::Abandon => {
                let why = "the organization or environment was deleted";
                self.end(work, &org, rotation, RotationState::Cancelled, Some(why)).await?;
            }
            Step::Wait(_) | Step::Over => return Ok(false),
        }
        change.commit().await?;
        tracing::info!(rotation = %id, org = %org.slug, from = state.name(), "key rotation went a step");
        Ok(true)
    }

    /// The new key signs from now on. The old one retires, unless it has left already.
    async fn activate(&self, work: &mut Work, org: &Organization, mut rotation: KeyRotation) -> Result<()> {
        let now = self.now();
        rotation.activated_at = Some(now);
        if rotation.immediately {
            rotation.state = RotationState::Removing;
        } else {
            rotation.state = RotationState::Retiring;
            rotation.retire_after =
                chrono::TimeDelta::try_seconds(rotation.grace_seconds).and_then(|grace| now.checked_add_signed(grace));
        }
        key_rotations::update(work.rows(), &rotation).await?;
        if !rotation.immediately {
            keys::move_to(work.rows(), rotation.old_key, KeyState::Active, KeyState::Retiring).await?;
        }
        if let Some(new_key) = rotation.new_key {
            keys::move_to(work.rows(), new_key, KeyState::Pending, KeyState::Active).await?;
        }
        let detail =
            json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "retireAfter": rotation.retire_after});
        // The account stays as it is: both keys are in it, or the old one has left.
        let generation = rotation.generation;
        self.carry(work, &Actor::task("rotate"), org, rotation, ("key-rotation.activate", detail)).await?;
        debug_assert!(generation > 0, "activated without a generation");
        Ok(())
    }

    async fn remove(&self, work: &mut Work, org: &Organization, mut rotation: KeyRotation) -> Result<()> {
        rotation.state = RotationState::Removing;
        rotation.removed_at = Some(self.now());
        key_rotations::update(work.rows(), &rotation).await?;
        let closed = self.take_out(work, &mut rotation, KeyState::Retiring).await?;
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "credentialsClosed": closed});
        self.carry(work, &Actor::task("rotate"), org, rotation, ("key-rotation.remove", detail)).await
    }

    /// Ends a rotation; the account stays as it is.
    async fn end(
        &self,
        work: &mut Work,
        org: &Organization,
        mut rotation: KeyRotation,
        state: RotationState,
        because: Option<&str>,
    ) -> Result<()> {
        rotation.state = state;
        rotation.ended_at = Some(self.now());
        rotation.ended_because = because.map(str::to_owned);
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "because": because});
        let action = if state == RotationState::Done { "key-rotation.finish" } else { "key-rotation.abandon" };
        let event = self.event(&Actor::task("rotate"), action, Some(&org.slug), rotation.id, detail);
        crate::store::audit::record(work.rows(), &event).await?;
        key_rotations::update(work.rows(), &rotation).await
    }
}
