//! Rotations of account signing keys, as people handle them: propose, approve, cancel, hasten, look.
//! Which step comes next is decided in `key_rotation` and made by `key_steps`; nobody can make one.

use std::collections::HashMap;

use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    approval::require_second_person,
    key_rotation::{Facts, Remaining, Spread, Step, decide},
    organizations::{check_reason, no_organization},
    requests::{Reason, RotateKeys},
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    model::{
        EnvType, KeyRotation, OrgSlug, OrgState, Organization, RotationState,
        key_rotation::KeyRotationView,
        size::{format_duration, parse_grace},
    },
    nkey::{Account, PublicKey},
    store::{
        Connection, audit,
        key_rotations::{self, Filter, NewKeyRotation, Under},
        keys::{self, KeyRow, KeyScope, KeyState, NewAccountKey},
        organizations,
        page::Page,
    },
};

/// Workloads read their credentials from files that are replaced under them, some only once a day.
const DEFAULT_GRACE: i64 = 24 * 3600;

/// The longest grace time, seconds: the life of a key.
const MAX_GRACE: i64 = 365 * 24 * 3600;

/// A signing key and what becomes of it.
#[derive(Clone, Debug)]
pub struct KeyStanding {
    /// The key.
    pub row: KeyRow,
    /// The credentials under it that servers still accept.
    pub under: Under,
    /// The rotation that replaces it or that brought it, if that is not over.
    pub rotation: Option<KeyRotationView>,
}

impl Authority {
    /// Asks for the replacement of signing keys: of one, or of all active ones that the request selects
    /// and that are not being replaced already. Nothing happens to them before the approval.
    pub async fn propose_key_rotations(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        request: &RotateKeys,
    ) -> Result<Vec<KeyRotationView>> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let ids = self.propose_in(change.work(), actor, slug, request).await?;
        change.commit().await?;
        let mut views = Vec::with_capacity(ids.len());
        for id in ids {
            views.push(self.key_rotation(id).await?);
        }
        Ok(views)
    }

    async fn propose_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        request: &RotateKeys,
    ) -> Result<Vec<Uuid>> {
        let grace = grace(request)?;
        check_reason(&Reason { reason: request.reason.clone() })?;
        let org = self.lock_organization(work, slug).await?;
        if !matches!(org.state, OrgState::Active | OrgState::Suspended) {
            org.state.require_active()?;
        }
        let keys = keys::of_organization(work.rows(), org.id).await?;
        let requested_by = actor.identity();
        let mut ids = Vec::new();
        for key in select(&keys, request)? {
            let new = NewKeyRotation {
                id: self.id(),
                organization: org.id,
                old_key: &key.public_key,
                immediately: request.immediately,
                force: request.force,
                grace_seconds: grace,
                reason: request.reason.as_deref(),
                requested_by: &requested_by,
                at: self.now(),
            };
            // A wide selection leaves alone what is being rotated already.
            if request.public_key.is_none() && key_rotations::has_open(work.rows(), &key.public_key).await? {
                continue;
            }
            key_rotations::insert(work.rows(), &new).await?;
            let detail = json!({
                "oldKey": key.public_key, "envType": key.env_type, "role": key.role, "immediately": request.immediately,
                "force": request.force, "graceSeconds": grace, "reason": request.reason,
            });
            audit::record(work.rows(), &self.event(actor, "key-rotation.propose", Some(slug), new.id, detail)).await?;
            ids.push(new.id);
        }
        if ids.is_empty() { Err(key_rotations::is_open()) } else { Ok(ids) }
    }

    /// Approves a rotation as a second person. The new key is made and comes into the account; with
    /// `immediately` the old one leaves it in the same generation, and whoever uses it.
    pub async fn approve_key_rotation(&self, actor: &Actor, id: Uuid) -> Result<KeyRotationView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        self.approve_key_rotation_in(change.work(), actor, id).await?;
        change.commit().await?;
        self.step_soon();
        self.key_rotation(id).await
    }

    pub(super) async fn approve_key_rotation_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        id: Uuid,
    ) -> Result<Organization> {
        let (org, mut rotation) = self.lock_rotation(work, id).await?;
        require_second_person(work.rows(), &rotation.requested_by, actor).await?;
        require_state(&rotation, &[RotationState::Proposed], "approved")?;
        require_sense(&rotation)?;
        let scope = match (rotation.environment, rotation.role.clone()) {
            (Some(environment), Some(role)) => KeyScope::Role { environment, role },
            _ => KeyScope::Account,
        };
        let key = self.signer.generate::<crate::nkey::Account>()?;
        let new_key = key.public;
        keys::insert_pending(work.rows(), NewAccountKey { account: rotation.account, scope, key }, self.now()).await?;
        rotation.state = RotationState::Pending;
        rotation.new_key = Some(new_key);
        rotation.approved_by = Some(actor.identity());
        rotation.approved_at = Some(self.now());
        key_rotations::update(work.rows(), &rotation).await?;
        let mut closed = 0;
        if rotation.immediately {
            closed = self.take_out(work, &mut rotation, KeyState::Active).await?;
        }
        let detail = json!({"oldKey": rotation.old_key, "newKey": new_key, "requestedBy": rotation.requested_by,
            "immediately": rotation.immediately, "credentialsClosed": closed});
        self.carry(work, actor, &org, rotation, ("key-rotation.approve", detail)).await?;
        Ok(org)
    }

    /// Gives a rotation up, as long as the new key signs nothing.
    pub async fn cancel_key_rotation(&self, actor: &Actor, id: Uuid, reason: &Reason) -> Result<KeyRotationView> {
        check_reason(reason)?;
        let mut change = Applying::begin(&self.store, actor).await?;
        let work = change.work();
        let (org, mut rotation) = self.lock_rotation(work, id).await?;
        require_state(&rotation, &[RotationState::Proposed, RotationState::Pending], "cancelled")?;
        if rotation.immediately && rotation.state == RotationState::Pending {
            return Err(wrong_state(&rotation, "cancelled: the old key has left the account already"));
        }
        if let (RotationState::Pending, Some(key)) = (rotation.state, rotation.new_key) {
            keys::move_to(work.rows(), key, KeyState::Pending, KeyState::Retired).await?;
        }
        rotation.state = RotationState::Cancelled;
        rotation.ended_at = Some(self.now());
        rotation.ended_because = Some(match &reason.reason {
            Some(reason) => format!("{}: {reason}", actor.identity()),
            None => actor.identity(),
        });
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "reason": reason.reason});
        self.carry(work, actor, &org, rotation, ("key-rotation.cancel", detail)).await?;
        change.commit().await?;
        self.wake();
        self.key_rotation(id).await
    }

    /// Takes the old key out at once, whoever still uses it: the grace time, or what was not rotated, is
    /// waited for no longer. Asked by a second person, as an approval.
    pub async fn hasten_key_rotation(&self, actor: &Actor, id: Uuid, reason: &Reason) -> Result<KeyRotationView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        self.hasten_key_rotation_in(change.work(), actor, id, reason).await?;
        change.commit().await?;
        self.step_soon();
        self.key_rotation(id).await
    }

    pub(super) async fn hasten_key_rotation_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        id: Uuid,
        reason: &Reason,
    ) -> Result<Organization> {
        check_reason(reason)?;
        let (org, mut rotation) = self.lock_rotation(work, id).await?;
        require_second_person(work.rows(), &rotation.requested_by, actor).await?;
        require_state(&rotation, &[RotationState::Pending, RotationState::Retiring], "hastened")?;
        require_sense(&rotation)?;
        let closed = if rotation.state == RotationState::Retiring {
            rotation.state = RotationState::Removing;
            rotation.removed_at = Some(self.now());
            key_rotations::update(work.rows(), &rotation).await?;
            self.take_out(work, &mut rotation, KeyState::Retiring).await?
        } else if rotation.immediately {
            return Err(wrong_state(&rotation, "hastened: the old key has left the account already"));
        } else {
            rotation.immediately = true;
            key_rotations::update(work.rows(), &rotation).await?;
            self.take_out(work, &mut rotation, KeyState::Active).await?
        };
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "reason": reason.reason,
            "credentialsClosed": closed});
        self.carry(work, actor, &org, rotation, ("key-rotation.hasten", detail)).await?;
        Ok(org)
    }

    /// Takes the old key out of the account, with whoever was signed with it. Returns how many
    /// credentials that ends.
    pub(super) async fn take_out(&self, work: &mut Work, rotation: &mut KeyRotation, from: KeyState) -> Result<u64> {
        keys::move_to(work.rows(), rotation.old_key, from, KeyState::Retired).await?;
        rotation.removed_at = Some(self.now());
        let reason = format!("signing key removed by rotation {}", rotation.id);
        key_rotations::revoke_under(work.rows(), rotation.old_key, self.now(), &reason).await
    }

    /// Mints the account after a step and writes the rotation with the generation that carries the step.
    pub(super) async fn carry(
        &self,
        work: &mut Work,
        actor: &Actor,
        org: &Organization,
        mut rotation: KeyRotation,
        (action, detail): (&'static str, serde_json::Value),
    ) -> Result<()> {
        let event = self.event(actor, action, Some(&org.slug), rotation.id, detail);
        audit::record(work.rows(), &event).await?;
        // Of an organization that is gone nothing is minted any more.
        if matches!(org.state, OrgState::Active | OrgState::Suspended) {
            rotation.generation = self.mint(work, org, event.id).await?;
        }
        key_rotations::update(work.rows(), &rotation).await
    }

    /// Locks a rotation, after its organization: that is the order of every change.
    async fn lock_rotation(&self, work: &mut Work, id: Uuid) -> Result<(Organization, KeyRotation)> {
        let organization = key_rotations::organization_of(work.rows(), id).await?.ok_or_else(no_rotation)?;
        let org = organizations::lock_id(work.rows(), organization).await?;
        work.require_generation(org.account).await?;
        let rotation = key_rotations::lock(work.rows(), id).await?.ok_or_else(no_rotation)?;
        Ok((org, rotation))
    }

    /// One rotation, with what it waits for.
    pub async fn key_rotation(&self, id: Uuid) -> Result<KeyRotationView> {
        let rotation = self.store.key_rotation(id).await?.ok_or_else(no_rotation)?;
        self.rotation_view(&mut *self.store.connection().await?, &rotation).await
    }

    /// Lists rotations, the newest first; `org` and `state` narrow it.
    pub async fn key_rotations(
        &self,
        org: Option<&OrgSlug>,
        state: Option<RotationState>,
        open: bool,
        page: &Page<Uuid>,
    ) -> Result<(Vec<KeyRotationView>, bool)> {
        let organization = match org {
            Some(slug) => {
                Some(self.store.organization_or_deleted(slug).await?.ok_or_else(|| no_organization(slug))?.id)
            }
            None => None,
        };
        let (rows, more) = self.store.key_rotations(&Filter { organization, state, open }, page).await?;
        let mut connection = self.store.connection().await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in &rows {
            views.push(self.rotation_view(&mut connection, row).await?);
        }
        Ok((views, more))
    }

    /// The signing keys of an organization, the oldest first, with what becomes of them.
    pub async fn organization_keys(&self, slug: &OrgSlug) -> Result<Vec<KeyStanding>> {
        let org = self.store.organization_or_deleted(slug).await?.ok_or_else(|| no_organization(slug))?;
        let mut by_key = HashMap::new();
        let filter = Filter { organization: Some(org.id), state: None, open: true };
        let (open, _) = self.store.key_rotations(&filter, &Page { limit: 10_000, after: None }).await?;
        let mut connection = self.store.connection().await?;
        for rotation in &open {
            let view = self.rotation_view(&mut connection, rotation).await?;
            if let Some(key) = &view.new_key {
                by_key.insert(key.clone(), view.clone());
            }
            by_key.insert(view.old_key.clone(), view);
        }
        let rows = keys::of_organization(&mut connection, org.id).await?;
        let names: Vec<_> = rows.iter().map(|row| row.public_key.clone()).collect();
        let mut under = key_rotations::under(&mut connection, &names, self.now()).await?;
        let standing = rows.into_iter().map(|row| KeyStanding {
            under: under.remove(&row.public_key).unwrap_or_default(),
            rotation: by_key.remove(&row.public_key),
            row,
        });
        Ok(standing.collect())
    }

    /// What the decision about a rotation goes by. Unless they are `counted`, credentials under the old key are 0 or 1.
    pub(super) async fn facts(
        &self,
        connection: &mut Connection,
        rotation: &KeyRotation,
        counted: bool,
    ) -> Result<Facts> {
        let has = key_rotations::servers_of(connection, rotation.account).await?;
        let old_key = rotation.old_key.to_string();
        let under = if counted {
            let under = key_rotations::under(connection, std::slice::from_ref(&old_key), self.now()).await?;
            under.get(&old_key).copied().unwrap_or_default()
        } else {
            key_rotations::any_under(connection, &old_key, self.now()).await?
        };
        Ok(Facts {
            state: rotation.state,
            immediately: rotation.immediately,
            force: rotation.force,
            pointless: rotation.pointless,
            retire_after: rotation.retire_after,
            now: self.now(),
            spread: Spread::of(rotation.generation, &self.standing(), &has),
            under_old: Remaining { count: under.count, last_end: under.last_end },
        })
    }

    async fn rotation_view(&self, connection: &mut Connection, rotation: &KeyRotation) -> Result<KeyRotationView> {
        let facts = self.facts(connection, rotation, true).await?;
        let (waits_for, servers) = match decide(&facts) {
            Step::Over => (None, Vec::new()),
            Step::Wait(wait) => (Some(wait.to_string()), wait.servers().to_vec()),
            _ => (Some("nothing: the next step is made within a second".to_owned()), Vec::new()),
        };
        let text = |key: PublicKey<Account>| key.to_string();
        Ok(KeyRotationView {
            id: rotation.id,
            org: rotation.org.to_string(),
            env_type: rotation.env_type.as_ref().map(EnvType::to_string),
            role: rotation.role.clone(),
            old_key: text(rotation.old_key),
            new_key: rotation.new_key.map(text),
            state: rotation.state,
            waits_for,
            servers,
            credentials: facts.under_old.count,
            credentials_end: facts.under_old.last_end,
            immediately: rotation.immediately,
            force: rotation.force,
            grace: format_duration(rotation.grace_seconds),
            reason: rotation.reason.clone(),
            requested_by: rotation.requested_by.clone(),
            requested_at: rotation.requested_at,
            approved_by: rotation.approved_by.clone(),
            approved_at: rotation.approved_at,
            activated_at: rotation.activated_at,
            retire_after: rotation.retire_after,
            removed_at: rotation.removed_at,
            ended_at: rotation.ended_at,
            ended_because: rotation.ended_because.clone(),
        })
    }

    fn step_soon(&self) {
        self.wake();
        self.rotations_wanted.notify_one();
    }
}

fn grace(request: &RotateKeys) -> Result<i64> {
    let grace = request.grace.as_deref().map(|text| parse_grace("/grace", text)).transpose()?;
    if request.immediately && (grace.is_some() || request.force) {
        let detail = "immediately leaves no grace time: send it without grace and force";
        return Err(Error::field("invalid-selector", "/immediately", detail));
    }
    match grace.unwrap_or(DEFAULT_GRACE) {
        seconds if seconds <= MAX_GRACE => Ok(seconds),
        _ => Err(Error::field("invalid-duration", "/grace", "the grace time is at most 365d, the life of a key")),
    }
}

/// The active keys that a request selects.
fn select<'k>(keys: &'k [KeyRow], request: &RotateKeys) -> Result<Vec<&'k KeyRow>> {
    if let Some(wanted) = &request.public_key {
        if request.env_type.is_some() || request.role.is_some() {
            let detail = "name a key, or an environment type and a role; not both";
            return Err(Error::field("invalid-selector", "/publicKey", detail));
        }
        let key = keys.iter().find(|key| key.public_key == *wanted).ok_or_else(|| {
            Error::field("no-key", "/publicKey", "the organization has no such signing key; see its list of keys")
        })?;
        if key.state == "active" {
            return Ok(vec![key]);
        }
        let detail = match key.state.as_str() {
            "retiring" => "this key is being replaced already; hasten that rotation to take it out at once",
            "pending" => "this key does not sign yet; cancel the rotation that brought it",
            _ => "this key is retired",
        };
        return Err(Error::conflict("key-not-active", detail));
    }
    let matches = |wanted: &Option<String>, is: &Option<String>| wanted.is_none() || wanted == is;
    let selected: Vec<_> = keys
        .iter()
        .filter(|key| {
            key.state == "active" && matches(&request.env_type, &key.env_type) && matches(&request.role, &key.role)
        })
        .collect();
    if selected.is_empty() {
        let pointer = if request.role.is_some() { "/role" } else { "/envType" };
        return Err(Error::field("no-key", pointer, "no active signing key fits; see the organization's list of keys"));
    }
    Ok(selected)
}

fn no_rotation() -> Error {
    Error::not_found("no-key-rotation", "there is no such key rotation")
}

fn require_state(rotation: &KeyRotation, states: &[RotationState], what: &str) -> Result<()> {
    if states.contains(&rotation.state) { Ok(()) } else { Err(wrong_state(rotation, what)) }
}

fn wrong_state(rotation: &KeyRotation, what: &str) -> Error {
    let detail = format!("the rotation is {}; it cannot be {what}", rotation.state.name());
    Error::conflict("key-rotation-state", detail)
}

fn require_sense(rotation: &KeyRotation) -> Result<()> {
    if rotation.pointless {
        return Err(wrong_state(rotation, "continued: its organization or environment is deleted"));
    }
    Ok(())
}
