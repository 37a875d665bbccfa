//! Credentials as the ledger knows them: look up, list, revoke, and ask what they may do.

use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    organizations::check_reason,
    requests::{CanI, Reason, Verdict},
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    jwt::{self, Permissions},
    model::{
        Credential, CredentialState, EnvType, Environment, OrgSlug, Organization,
        names::inbox_prefix,
        view::{CredentialView, PermissionView, PermissionsView},
    },
    nkey::{KeyPair, PublicKey, User},
    policy::{Direction, explain},
    store::{audit, credentials, listing::Filter, organizations, page::Page},
};

impl Authority {
    /// One credential, without anything secret.
    pub async fn credential(&self, id: Uuid) -> Result<CredentialView> {
        let row = self.store.credential(id).await?.ok_or_else(no_credential)?;
        Ok(self.credential_view(&row))
    }

    /// Lists the credentials of an organization in the order of their issue.
    pub async fn credentials(
        &self,
        org: &OrgSlug,
        filter: &Filter,
        page: &Page<Uuid>,
    ) -> Result<(Vec<CredentialView>, bool)> {
        let org = self.require_organization(org).await?;
        let (rows, more) = self.store.credentials(org.id, filter, self.now(), page).await?;
        let views = rows.iter().map(|row| self.credential_view(row)).collect();
        Ok((views, more))
    }

    /// Revokes a credential: its account gets an entry that closes the user's connections. Revoking
    /// twice is no change; an expired one needs no entry and is only marked.
    pub async fn revoke(
        &self,
        actor: &Actor,
        id: Uuid,
        reason: Reason,
    ) -> Result<(CredentialView, PublicKey<crate::nkey::Account>)> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let org = self.revoke_in(change.work(), actor, id, &reason).await?;
        change.commit().await?;
        self.wake();
        Ok((self.credential(id).await?, org.account))
    }

    pub(super) async fn revoke_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        id: Uuid,
        reason: &Reason,
    ) -> Result<Organization> {
        check_reason(reason)?;
        let row = credentials::find(work.rows(), id).await?.ok_or_else(no_credential)?;
        let org = organizations::lock(work.rows(), &row.org).await?.ok_or_else(no_credential)?;
        work.require_generation(org.account).await?;
        if credentials::revoke(work.rows(), id, self.now(), reason.reason.as_deref()).await? {
            let detail = json!({"userKey": row.user_key, "name": row.name, "reason": reason.reason});
            let event = self.event(actor, "credential.revoke", Some(&row.org), id, detail);
            audit::record(work.rows(), &event).await?;
            self.mint(work, &org, event.id).await?;
        }
        Ok(org)
    }

    /// Whether a role or a credential may do something, and by which rule.
    pub async fn can_i(&self, request: &CanI) -> Result<Verdict> {
        let org: OrgSlug = request.org.parse()?;
        let env_type: EnvType = request.env_type.parse()?;
        self.settings.names.check_env_type(&env_type)?;
        self.require_organization(&org).await?;
        self.environment(&org, &env_type).await?;
        let environment = Environment::new(org, env_type);
        let (direction, pointer, subject) = match (&request.publish, &request.subscribe) {
            (Some(subject), None) => (Direction::Publish, "/publish", subject),
            (None, Some(subject)) => (Direction::Subscribe, "/subscribe", subject),
            _ => return Err(Error::invalid("invalid-question", "ask for exactly one of publish and subscribe")),
        };
        let fits = if direction == Direction::Publish {
            jwt::subject::is_literal(subject)
        } else {
            jwt::subject::is_valid(subject)
        };
        if !fits {
            return Err(Error::field("invalid-subject", pointer, format!("'{subject}' is no subject")));
        }
        let permissions = match (&request.role, request.credential) {
            (Some(role), None) => {
                // Some user: only its inbox depends on who it is.
                let user = KeyPair::<User>::generate(self.entropy.as_ref()).public();
                self.policies().role(role)?.permissions_for(&environment, user)
            }
            (None, Some(id)) => {
                let row = self.store.credential(id).await?.ok_or_else(no_credential)?;
                // Who may ask about one organization must not learn which credentials others have.
                if row.org != environment.org {
                    return Err(no_credential());
                }
                if row.env_type != environment.env_type {
                    return Err(Error::field(
                        "wrong-environment",
                        "/credential",
                        "the credential is of another environment",
                    ));
                }
                if !matches!(row.state(self.now()), CredentialState::Active | CredentialState::Superseded) {
                    return Ok(Verdict { allowed: false, rule: "the credential is revoked or expired".to_owned() });
                }
                let Some(permissions) = self.permissions_of(&row) else {
                    let rule = format!("the role '{}' is no longer in force: nobody gets in with it", row.role);
                    return Ok(Verdict { allowed: false, rule });
                };
                permissions
            }
            _ => return Err(Error::invalid("invalid-question", "name exactly one of role and credential")),
        };
        let verdict = explain(&permissions, direction, subject);
        Ok(Verdict { allowed: verdict.allowed, rule: verdict.rule })
    }

    /// What a credential may do; none: its role has left the policies, and with it its key the account.
    fn permissions_of(&self, row: &Credential) -> Option<Permissions> {
        let environment = Environment::new(row.org.clone(), row.env_type.clone());
        self.policies()
            .grant(&row.role, row.options.permissions.as_ref())
            .map(|role| role.permissions_for(&environment, row.user_key))
            .ok()
    }

    pub(super) fn credential_view(&self, row: &Credential) -> CredentialView {
        // No permissions at all would read as everything allowed.
        let permissions = self.permissions_of(row).unwrap_or_else(Permissions::nothing);
        let part = |permission: jwt::permissions::Permission| PermissionView {
            allow: permission.allow,
            deny: permission.deny,
        };
        CredentialView {
            id: row.id,
            org: row.org.to_string(),
            env_type: row.env_type.to_string(),
            name: row.name.clone(),
            role: row.role.clone(),
            state: row.state(self.now()),
            user_key: row.user_key.to_string(),
            issuer_key: row.issuer_key.to_string(),
            jwt_sha256: data_encoding::HEXLOWER.encode(&row.jwt_sha256),
            inbox_prefix: inbox_prefix(row.user_key),
            reach: self.policies().grant(&row.role, row.options.permissions.as_ref()).ok().map(|role| role.reach),
            permissions: PermissionsView { publish: part(permissions.publish), subscribe: part(permissions.subscribe) },
            connection_types: row.options.connection_types.clone(),
            allowed_cidrs: row.options.allowed_cidrs.clone(),
            tags: row.options.tags.clone(),
            times: row.options.times.clone(),
            times_location: row.options.times_location.clone(),
            bearer: row.options.bearer,
            own_key: row.options.own_key,
            issued_at: row.issued_at,
            expires_at: row.expires_at,
            issued_by: row.issued_by.clone(),
            replaces: row.replaces,
            ends_at: row.ends_at.filter(|_| row.state(self.now()) == CredentialState::Superseded),
            revoked_at: row.revoked_at,
            revocation_reason: row.revocation_reason.clone(),
        }
    }
}

pub(super) fn no_credential() -> Error {
    Error::not_found("no-credential", "there is no such credential")
}
