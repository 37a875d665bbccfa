//! Rotation of the operator's signing key, as people handle it: propose, approve, cancel, look, and bring the
//! operator JWTs that it needs, which are signed elsewhere. Which step comes next is decided in
//! `operator_rotation` and made by `operator_steps`.

use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    approval::require_second_person,
    operator_jwt,
    operator_rotation::{Facts, Step, decide, servers, wanted},
    organizations::check_reason,
    requests::Reason,
    work::Applying,
};
use crate::{
    error::{Error, Result},
    model::{OperatorJwtProposal, OperatorRotation, RotationState, operator_rotation::OperatorRotationView},
    nkey::{Operator, PublicKey},
    store::{
        Connection, audit,
        keys::{self, KeyRow, KeyState},
        operator, operator_rotations,
        page::Page,
    },
};

impl Authority {
    /// Asks for the replacement of the operator's signing key. Nothing happens before the approval.
    pub async fn propose_operator_rotation(&self, actor: &Actor, reason: &Reason) -> Result<OperatorRotationView> {
        check_reason(reason)?;
        let mut change = Applying::begin(&self.store, actor).await?;
        let rows = change.work().rows();
        operator::lock(rows).await?;
        if operator_rotations::open(rows).await?.is_some() {
            return Err(crate::store::key_rotations::is_open());
        }
        let rotation = OperatorRotation {
            id: self.id(),
            old_key: operator::signing_key(rows).await?.public,
            new_key: None,
            state: RotationState::Proposed,
            reason: reason.reason.clone(),
            requested_by: actor.identity(),
            requested_at: self.now(),
            approved_by: None,
            approved_at: None,
            activated_at: None,
            removed_at: None,
            ended_at: None,
            ended_because: None,
        };
        operator_rotations::insert(rows, &rotation).await?;
        let detail = json!({"oldKey": rotation.old_key, "reason": reason.reason});
        audit::record(rows, &self.event(actor, "operator-key.propose", None, rotation.id, detail)).await?;
        change.commit().await?;
        self.operator_rotation(rotation.id).await
    }

    /// Approves a rotation as a second person: the new key is made, and signs nothing yet.
    pub async fn approve_operator_rotation(&self, actor: &Actor, id: Uuid) -> Result<OperatorRotationView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let rows = change.work().rows();
        let mut rotation = self.lock_operator_rotation(rows, id, &[RotationState::Proposed], "approved").await?;
        require_second_person(rows, &rotation.requested_by, actor).await?;
        let key = self.signer.generate::<Operator>()?;
        keys::insert_operator(rows, &key, KeyState::Pending, self.now()).await?;
        rotation.state = RotationState::Pending;
        rotation.new_key = Some(key.public);
        rotation.approved_by = Some(actor.identity());
        rotation.approved_at = Some(self.now());
        operator_rotations::update(rows, &rotation).await?;
        let detail = json!({"oldKey": rotation.old_key, "newKey": key.public, "requestedBy": rotation.requested_by});
        audit::record(rows, &self.event(actor, "operator-key.approve", None, id, detail)).await?;
        change.commit().await?;
        self.refresh_operator().await?;
        self.operator_rotation(id).await
    }

    /// Gives a rotation up, as long as the new key signs nothing.
    pub async fn cancel_operator_rotation(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: &Reason,
    ) -> Result<OperatorRotationView> {
        check_reason(reason)?;
        let mut change = Applying::begin(&self.store, actor).await?;
        let rows = change.work().rows();
        let states = [RotationState::Proposed, RotationState::Pending];
        let mut rotation = self.lock_operator_rotation(rows, id, &states, "cancelled").await?;
        rotation.state = RotationState::Cancelled;
        rotation.ended_at = Some(self.now());
        rotation.ended_because = Some(match &reason.reason {
            Some(reason) => format!("{}: {reason}", actor.identity()),
            None => actor.identity(),
        });
        operator_rotations::update(rows, &rotation).await?;
        if let Some(key) = rotation.new_key {
            keys::move_to(rows, key, KeyState::Pending, KeyState::Retired).await?;
        }
        let detail = json!({"oldKey": rotation.old_key, "newKey": rotation.new_key, "reason": reason.reason});
        audit::record(rows, &self.event(actor, "operator-key.cancel", None, id, detail)).await?;
        change.commit().await?;
        self.refresh_operator().await?;
        self.operator_rotation(id).await
    }

    /// What the next operator JWT is to list. Empty: the present one is right.
    pub async fn operator_jwt_proposal(&self) -> Result<OperatorJwtProposal> {
        let mut connection = self.store.connection().await?;
        let (wanted, rotation) = self.wanted_keys(&mut connection).await?;
        let operator = operator::look(&mut connection).await?;
        let proposal = operator_jwt::propose(&operator.jwt, &wanted)?;
        Ok(OperatorJwtProposal { rotation: rotation.map(|rotation| rotation.id), ..proposal })
    }

    /// Takes an operator JWT that was signed with the identity and lists exactly the signing keys that are due. From
    /// then on servers are to be restarted with it. The present one again is no change.
    pub async fn set_operator_jwt(&self, actor: &Actor, token: &str) -> Result<()> {
        let token = token.trim();
        let mut change = Applying::begin(&self.store, actor).await?;
        let rows = change.work().rows();
        let present = operator::lock(rows).await?;
        if present.jwt == token {
            return Ok(());
        }
        let (wanted, rotation) = self.wanted_keys(rows).await?;
        operator_jwt::check(&present.jwt, &wanted, token)?;
        operator::set_jwt(rows, token).await?;
        if let Some(mut rotation) = rotation.filter(|rotation| rotation.state == RotationState::Retiring)
            && !wanted.contains(&rotation.old_key)
        {
            rotation.state = RotationState::Removing;
            rotation.removed_at = Some(self.now());
            operator_rotations::update(rows, &rotation).await?;
        }
        let detail = json!({"signingKeys": wanted, "jwt": token});
        audit::record(rows, &self.event(actor, "operator.set-jwt", None, present.public_key, detail)).await?;
        change.commit().await?;
        self.refresh_operator().await?;
        self.rotations_wanted.notify_one();
        Ok(())
    }

    /// The keys that the operator JWT is to list now, and the rotation that is under way.
    async fn wanted_keys(
        &self,
        connection: &mut Connection,
    ) -> Result<(Vec<PublicKey<Operator>>, Option<OperatorRotation>)> {
        Ok(match operator_rotations::look(connection).await? {
            None => (vec![operator::signing_key(connection).await?.public], None),
            Some(rotation) => (wanted(&self.operator_facts(connection, &rotation).await?), Some(rotation)),
        })
    }

    async fn lock_operator_rotation(
        &self,
        rows: &mut Connection,
        id: Uuid,
        states: &[RotationState],
        what: &str,
    ) -> Result<OperatorRotation> {
        operator::lock(rows).await?;
        if let Some(rotation) = operator_rotations::open(rows).await?.filter(|rotation| rotation.id == id) {
            if states.contains(&rotation.state) {
                return Ok(rotation);
            }
            return Err(wrong_state(rotation.state, what));
        }
        let over = self.store.operator_rotation(id).await?.ok_or_else(no_rotation)?;
        Err(wrong_state(over.state, what))
    }

    /// What the decision about a rotation goes by.
    pub(super) async fn operator_facts(
        &self,
        connection: &mut Connection,
        rotation: &OperatorRotation,
    ) -> Result<Facts> {
        let standing = self.standing();
        let (mut unsigned, mut lagging) = (0, Vec::new());
        if let (RotationState::Retiring, Some(new_key)) = (rotation.state, rotation.new_key) {
            unsigned = operator_rotations::unsigned(connection, new_key).await?;
            if unsigned == 0 {
                let known = standing.servers.iter().map(|server| (server.row.name.clone(), server.row.id.clone()));
                lagging = operator_rotations::lagging(connection, &known.collect::<Vec<_>>()).await?;
            }
        }
        let operator = operator::look(connection).await?;
        Ok(Facts {
            state: rotation.state,
            old_key: rotation.old_key,
            new_key: rotation.new_key,
            listed: operator_jwt::read(&operator.jwt)?.nats.signing_keys,
            servers: servers(&standing, rotation.old_key, rotation.new_key),
            unsigned,
            lagging,
        })
    }

    /// One rotation, with what it waits for.
    pub async fn operator_rotation(&self, id: Uuid) -> Result<OperatorRotationView> {
        let rotation = self.store.operator_rotation(id).await?.ok_or_else(no_rotation)?;
        self.operator_rotation_view(&mut *self.store.connection().await?, rotation).await
    }

    /// Lists rotations, the newest first.
    pub async fn operator_rotations(&self, page: &Page<Uuid>) -> Result<(Vec<OperatorRotationView>, bool)> {
        let (rows, more) = self.store.operator_rotations(page).await?;
        let mut connection = self.store.connection().await?;
        let mut views = Vec::with_capacity(rows.len());
        for row in rows {
            views.push(self.operator_rotation_view(&mut connection, row).await?);
        }
        Ok((views, more))
    }

    /// The operator's signing keys, the oldest first, with the rotation that replaces or brought each.
    pub async fn operator_keys(&self) -> Result<Vec<(KeyRow, Option<OperatorRotationView>)>> {
        let keys = self.store.operator_keys().await?;
        let mut connection = self.store.connection().await?;
        let open = match operator_rotations::look(&mut connection).await? {
            Some(rotation) => Some(self.operator_rotation_view(&mut connection, rotation).await?),
            None => None,
        };
        let of = |key: &str| {
            open.clone().filter(|open| open.old_key == key || open.new_key.as_deref().is_some_and(|new| new == key))
        };
        Ok(keys.into_iter().map(|key| (key.clone(), of(&key.public_key))).collect())
    }

    async fn operator_rotation_view(
        &self,
        connection: &mut Connection,
        rotation: OperatorRotation,
    ) -> Result<OperatorRotationView> {
        let facts = self.operator_facts(connection, &rotation).await?;
        let (mut servers, mut needs_operator_jwt) = (Vec::new(), false);
        let waits_for = match decide(&facts) {
            Step::Over => None,
            Step::Wait(wait) => {
                servers = wait.servers().to_vec();
                needs_operator_jwt = wait.is_for_jwt();
                Some(wait.to_string())
            }
            Step::Resign(1) => Some("1 account to be signed with the new key".to_owned()),
            Step::Resign(count) => Some(format!("{count} accounts to be signed with the new key")),
            Step::Activate | Step::Finish => Some("nothing: the next step is made within a second".to_owned()),
        };
        let signs = rotation.state == RotationState::Retiring;
        Ok(OperatorRotationView {
            id: rotation.id,
            old_key: rotation.old_key.to_string(),
            new_key: rotation.new_key.map(|key| key.to_string()),
            state: rotation.state,
            waits_for,
            servers,
            needs_operator_jwt,
            accounts_to_sign: signs.then_some(facts.unsigned),
            reason: rotation.reason,
            requested_by: rotation.requested_by,
            requested_at: rotation.requested_at,
            approved_by: rotation.approved_by,
            approved_at: rotation.approved_at,
            activated_at: rotation.activated_at,
            removed_at: rotation.removed_at,
            ended_at: rotation.ended_at,
            ended_because: rotation.ended_because,
        })
    }
}

fn no_rotation() -> Error {
    Error::not_found("no-key-rotation", "there is no such rotation of the operator's key")
}

fn wrong_state(state: RotationState, what: &str) -> Error {
    let detail = format!("the rotation is {}; it cannot be {what}", state.name());
    Error::conflict("key-rotation-state", detail)
}
