//! Environments: each gets one scoped signing key a role, an event stream and a KV bucket. The
//! stream and the bucket are made by the provision task.

use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    model::{EnvState, EnvType, Environment, OrgSlug, Organization, view::EnvironmentView},
    store::{
        Connection, audit,
        environments::{self, EnvironmentRow},
        items::CONSUMERS,
        keys::{self, KeyScope, NewAccountKey},
    },
};

impl Authority {
    /// Adds an environment; finds it when it is there. The flag says whether it was made now.
    pub async fn put_environment(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
    ) -> Result<(EnvironmentView, bool)> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, created) = self.put_environment_in(change.work(), actor, slug, env_type).await?;
        change.commit().await?;
        if created {
            self.wake();
        }
        Ok((self.environment(slug, env_type).await?, created))
    }

    pub(super) async fn put_environment_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
    ) -> Result<(Organization, bool)> {
        self.settings.names.check_env_type(env_type)?;
        let org = self.lock_organization(work, slug).await?;
        org.state.require_active()?;
        let there = environments::of(work.rows(), org.id).await?;
        if let Some(found) = there.into_iter().find(|row| row.env_type == *env_type) {
            if found.state == EnvState::Deleting {
                return Err(Error::conflict(
                    "environment-deleting",
                    "the environment is being deleted; wait until it is gone and try again",
                ));
            }
            return Ok((org, false));
        }
        let environment = Environment::new(slug.clone(), env_type.clone());
        let event =
            self.event(actor, "environment.create", Some(slug), environment.name(), json!({"envType": env_type}));
        audit::record(work.rows(), &event).await?;
        self.add_environments(work.rows(), &org, std::slice::from_ref(env_type)).await?;
        self.mint(work, &org, event.id).await?;
        Ok((org, true))
    }

    /// Removes an environment: its credentials are revoked and its users closed at once, stream and bucket go
    /// with their data, and with the stream its consumers.
    pub async fn delete_environment(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
    ) -> Result<EnvironmentView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, row) = self.delete_environment_in(change.work(), actor, slug, env_type).await?;
        change.commit().await?;
        self.wake();
        Ok(environment_view(slug, &row))
    }

    pub(super) async fn delete_environment_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
    ) -> Result<(Organization, EnvironmentRow)> {
        let org = self.lock_organization(work, slug).await?;
        org.state.require_active()?;
        let mut row = environments::of(work.rows(), org.id)
            .await?
            .into_iter()
            .find(|row| row.env_type == *env_type)
            .ok_or_else(|| no_environment(slug, env_type))?;
        if row.state != EnvState::Deleting {
            environments::start_deletion(work.rows(), row.id, self.now()).await?;
            CONSUMERS.abandon(work.rows(), row.id).await?;
            keys::retire_environment(work.rows(), row.id).await?;
            let environment = Environment::new(slug.clone(), env_type.clone());
            let detail = self.revoke_environment(work, actor, &org, row.id).await?;
            let event = self.event(actor, "environment.delete", Some(slug), environment.name(), detail);
            audit::record(work.rows(), &event).await?;
            self.mint(work, &org, event.id).await?;
            row.state = EnvState::Deleting;
        }
        Ok((org, row))
    }

    /// One environment.
    pub async fn environment(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<EnvironmentView> {
        self.environments(slug)
            .await?
            .into_iter()
            .find(|view| view.env_type == env_type.as_str())
            .ok_or_else(|| no_environment(slug, env_type))
    }

    /// The environments of an organization.
    pub async fn environments(&self, slug: &OrgSlug) -> Result<Vec<EnvironmentView>> {
        let org = self.require_organization(slug).await?;
        let rows = self.store.environments(&[org.id]).await?.remove(&org.id).unwrap_or_default();
        Ok(rows.iter().map(|row| environment_view(slug, row)).collect())
    }

    /// Writes environments and their scoped keys.
    pub(super) async fn add_environments(
        &self,
        tx: &mut Connection,
        org: &Organization,
        env_types: &[EnvType],
    ) -> Result<()> {
        let now = self.now();
        let mut new_keys = Vec::new();
        for env_type in env_types {
            let id: Uuid = self.id();
            environments::insert(tx, org.id, id, env_type, now).await?;
            for role in self.policies().roles.values().filter(|role| role.check_env_type(env_type).is_ok()) {
                new_keys.push(NewAccountKey {
                    account: org.account,
                    scope: KeyScope::Role { environment: id, role: role.name.clone() },
                    key: self.signer.generate()?,
                });
            }
        }
        keys::insert(tx, &new_keys, now).await
    }
}

pub(super) fn environment_view(org: &OrgSlug, row: &EnvironmentRow) -> EnvironmentView {
    let environment = Environment::new(org.clone(), row.env_type.clone());
    EnvironmentView {
        env_type: row.env_type.to_string(),
        name: environment.name(),
        subjects: environment.subjects(),
        stream: environment.stream(),
        kv_bucket: environment.bucket(),
        state: row.state,
        error: row.error.clone(),
    }
}

pub(super) fn no_environment(org: &OrgSlug, env_type: &EnvType) -> Error {
    Error::not_found("no-environment", format!("organization '{org}' has no environment '{env_type}'"))
}
