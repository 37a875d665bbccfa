//! Consumers and further streams of environments: what is the same for both. Each is a name and a configuration
//! that never changes; the provision task makes and removes it. What may be asked for, and how it is shown, is
//! particular and stands in `consumers` and `streams`.

use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority,
    environments::no_environment,
    organizations::no_organization,
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    model::{EnvState, EnvType, Environment, ItemName, ItemState, OrgSlug, Organization},
    store::{
        Connection, audit,
        environments::{self, EnvironmentRow},
        items::{Item, Table},
        organizations,
    },
};

/// What is particular to one kind of items.
pub trait ItemKind: Send + Sync + 'static {
    /// What one does, with every default filled in.
    type Config: Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + Unpin + 'static;
    /// What a caller asks for.
    type Request: Sync;
    /// What a caller sees.
    type View: Send;

    /// Where they are kept.
    const TABLE: &'static Table<Self::Config>;
    /// What one is called.
    const NAME: &'static str;
    /// The same where it has to be told from what the environment has anyway.
    const FULL_NAME: &'static str;
    /// Codes of refusals: it is being deleted, it is there with other content, there is none.
    const CODES: [&'static str; 3];
    /// Audit events: made, removed.
    const EVENTS: [&'static str; 2];

    /// What was asked for, checked.
    fn config(environment: &Environment, name: &ItemName, request: &Self::Request) -> Result<Self::Config>;

    /// The stream in `JetStream` that it is, or is on.
    fn stream(environment: &Environment, name: &ItemName, config: &Self::Config) -> String;

    /// Whether it may be made in the environment with this id, as that is now.
    fn may_begin(
        rows: &mut Connection,
        environment: Uuid,
        config: &Self::Config,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Whether it may be removed from the environment with this id, as that is now.
    fn may_end(rows: &mut Connection, environment: Uuid, name: &ItemName) -> impl Future<Output = Result<()>> + Send;

    /// What a caller sees of it.
    fn view(environment: &Environment, row: &Item<Self::Config>) -> Self::View;

    /// How far it is, of what a caller sees.
    fn progress(view: &mut Self::View) -> (&mut ItemState, &mut Option<String>);
}

impl Authority {
    /// Adds one; finds it when it is there with the same content. The flag says whether it was made now.
    pub async fn put_item<K: ItemKind>(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &K::Request,
    ) -> Result<(K::View, bool)> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, made) = self.put_item_in::<K>(change.work(), actor, slug, env_type, name, request).await?;
        if made {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok((view, made))
    }

    pub(super) async fn put_item_in<K: ItemKind>(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        request: &K::Request,
    ) -> Result<(Organization, K::View, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let config = K::config(&environment, name, request)?;
        let (org, row) = lock_environment(work, slug, env_type).await?;
        if row.state == EnvState::Deleting {
            return Err(Error::conflict("environment-deleting", "the environment is being deleted"));
        }
        if let Some(found) = K::TABLE.find(work.rows(), row.id, name).await? {
            is_the_same::<K>(&found, &config)?;
            return Ok((org, K::view(&environment, &found), false));
        }
        K::may_begin(work.rows(), row.id, &config).await?;
        let id = self.id();
        K::TABLE.insert(work.rows(), row.id, id, name, &config, self.now()).await?;
        let detail = json!({"stream": K::stream(&environment, name, &config), "config": config});
        let event = self.event(actor, K::EVENTS[0], Some(slug), target(&environment, name), detail);
        audit::record(work.rows(), &event).await?;
        let made = Item { id, name: name.clone(), config, state: ItemState::Pending, error: None, made: false };
        Ok((org, K::view(&environment, &made), true))
    }

    /// Removes one: of a consumer it is forgotten how far it has read, with a stream goes what it has copied. The
    /// event stream keeps its messages.
    pub async fn delete_item<K: ItemKind>(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<K::View> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let (_, view, goes) = self.delete_item_in::<K>(change.work(), actor, slug, env_type, name).await?;
        if goes {
            change.commit().await?;
            self.provision_wanted.notify_one();
        }
        Ok(view)
    }

    pub(super) async fn delete_item_in<K: ItemKind>(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
    ) -> Result<(Organization, K::View, bool)> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let (org, row) = lock_environment(work, slug, env_type).await?;
        let found = K::TABLE.find(work.rows(), row.id, name).await?;
        let mut found = found.ok_or_else(|| none::<K>(&environment, name))?;
        let goes = found.state != ItemState::Deleting;
        if goes {
            K::may_end(work.rows(), row.id, name).await?;
            K::TABLE.start_deletion(work.rows(), found.id, self.now()).await?;
            let event = self.event(actor, K::EVENTS[1], Some(slug), target(&environment, name), json!({}));
            audit::record(work.rows(), &event).await?;
            found.state = ItemState::Deleting;
            found.error = None;
        }
        Ok((org, K::view(&environment, &found), goes))
    }

    /// One of an environment.
    pub async fn item<K: ItemKind>(&self, slug: &OrgSlug, env_type: &EnvType, name: &ItemName) -> Result<K::View> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let id = self.environment_id(slug, env_type).await?;
        let row = K::TABLE.one(&self.store, id, name).await?.ok_or_else(|| none::<K>(&environment, name))?;
        Ok(K::view(&environment, &row))
    }

    /// All of an environment.
    pub async fn items<K: ItemKind>(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<Vec<K::View>> {
        let environment = Environment::new(slug.clone(), env_type.clone());
        let rows = K::TABLE.of(&self.store, self.environment_id(slug, env_type).await?).await?;
        Ok(rows.iter().map(|row| K::view(&environment, row)).collect())
    }

    /// Waits until the one of `view` is made, or is gone. Returns what is the case then or after `timeout`.
    pub async fn wait_item<K: ItemKind>(
        &self,
        slug: &OrgSlug,
        env_type: &EnvType,
        name: &ItemName,
        timeout: Duration,
        view: K::View,
    ) -> Result<K::View> {
        let look = || self.item::<K>(slug, env_type, name);
        self.wait_made(slug, timeout, view, look, K::progress).await
    }

    async fn environment_id(&self, slug: &OrgSlug, env_type: &EnvType) -> Result<Uuid> {
        let org = self.require_organization(slug).await?;
        let rows = self.store.environments(&[org.id]).await?.remove(&org.id).unwrap_or_default();
        let row = rows.into_iter().find(|row| row.env_type == *env_type);
        row.map(|row| row.id).ok_or_else(|| no_environment(slug, env_type))
    }
}

/// An environment of an active organization, which nobody else changes until the transaction ends.
async fn lock_environment(
    work: &mut Work,
    slug: &OrgSlug,
    env_type: &EnvType,
) -> Result<(Organization, EnvironmentRow)> {
    let org = organizations::lock(work.rows(), slug).await?.ok_or_else(|| no_organization(slug))?;
    work.require_generation(org.account).await?;
    org.state.require_active()?;
    let rows = environments::of(work.rows(), org.id).await?;
    let row = rows.into_iter().find(|row| row.env_type == *env_type);
    Ok((org, row.ok_or_else(|| no_environment(slug, env_type))?))
}

/// The one that is there under a name does what is asked for, and stays.
fn is_the_same<K: ItemKind>(found: &Item<K::Config>, config: &K::Config) -> Result<()> {
    let [deleting, exists, _] = K::CODES;
    let (kind, name) = (K::NAME, &found.name);
    if found.state == ItemState::Deleting {
        let detail = format!("the {kind} is being deleted; wait until it is gone and try again");
        return Err(Error::conflict(deleting, detail));
    }
    if found.config != *config {
        let detail = format!("there is a {kind} '{name}' with other content; delete it first or choose another name");
        return Err(Error::conflict(exists, detail));
    }
    Ok(())
}

fn target(environment: &Environment, name: &ItemName) -> String {
    format!("{}/{name}", environment.name())
}

fn none<K: ItemKind>(environment: &Environment, name: &ItemName) -> Error {
    let detail = format!("environment '{}' has no {} '{name}'", environment.name(), K::FULL_NAME);
    Error::not_found(K::CODES[2], detail)
}
