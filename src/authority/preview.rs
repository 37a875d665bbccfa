//! Dry runs: a change is tried by the code that does it, in a transaction that is rolled back, and
//! what it would make of the account is told. Nothing is signed, recorded or pushed. Whom it would
//! disconnect is for whoever can ask the servers.

use uuid::Uuid;

use super::{
    Actor, Authority, Consumers, Streams,
    mint::Decided,
    organizations::{Transform, busy},
    requests::{ChangeOrganization, NewConsumer, NewOrganization, NewStream, Reason, Revoke},
    work::{Trial, Work},
};
use crate::{
    error::{Error, Result},
    jwt,
    model::{EnvType, ItemName, OrgSlug, Organization},
    nkey::{Account, PublicKey},
};

/// A change of one organization that may be tried.
#[derive(Clone, Copy, Debug)]
pub enum Proposal<'a> {
    /// [`Authority::onboard`].
    Onboard(&'a NewOrganization),
    /// [`Authority::change`].
    Change(&'a OrgSlug, &'a ChangeOrganization),
    /// [`Authority::suspend`].
    Suspend(&'a OrgSlug, &'a Reason),
    /// [`Authority::resume`].
    Resume(&'a OrgSlug, &'a Reason),
    /// [`Authority::delete`].
    Delete(&'a OrgSlug),
    /// [`Authority::put_environment`].
    PutEnvironment(&'a OrgSlug, &'a EnvType),
    /// [`Authority::delete_environment`].
    DeleteEnvironment(&'a OrgSlug, &'a EnvType),
    /// [`Authority::put_item`] of [`Consumers`].
    PutConsumer(&'a OrgSlug, &'a EnvType, &'a ItemName, &'a NewConsumer),
    /// [`Authority::delete_item`] of [`Consumers`].
    DeleteConsumer(&'a OrgSlug, &'a EnvType, &'a ItemName),
    /// [`Authority::put_item`] of [`Streams`].
    PutStream(&'a OrgSlug, &'a EnvType, &'a ItemName, &'a NewStream),
    /// [`Authority::delete_item`] of [`Streams`].
    DeleteStream(&'a OrgSlug, &'a EnvType, &'a ItemName),
    /// [`Authority::revoke`].
    Revoke(Uuid, &'a Reason),
    /// [`Authority::revoke_selected`].
    RevokeSelected(&'a OrgSlug, &'a Revoke),
    /// [`Authority::approve_key_rotation`].
    ApproveKeyRotation(Uuid),
    /// [`Authority::hasten_key_rotation`].
    HastenKeyRotation(Uuid, &'a Reason),
}

/// What a change would make of an organization's account.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Whose account.
    pub org: OrgSlug,
    /// The account; a new organization gets another one when it is really onboarded.
    pub account: PublicKey<Account>,
    /// Its generation now, which the real change names in `If-Match`; 0: there is none yet.
    pub generation: i64,
    /// The generation that it would become; the same when nothing would be minted.
    pub next_generation: i64,
    /// What it says now.
    pub before: Option<jwt::Account>,
    /// What it would say.
    pub after: jwt::Account,
    /// Bytes of its token now.
    pub bytes_before: usize,
    /// Bytes of its next token.
    pub bytes_after: usize,
    /// The most bytes that the servers take.
    pub bytes_limit: usize,
    /// Imports whose exporting account is unknown or deleted.
    pub broken_imports: Vec<String>,
}

impl Authority {
    /// Tries a change. It is refused as the change itself would be.
    pub async fn preview(&self, actor: &Actor, proposal: Proposal<'_>) -> Result<Preview> {
        let there = match proposal {
            Proposal::Onboard(request) => self.onboarded(actor, request).await?,
            _ => None,
        };
        let mut trial = Trial::begin(&self.store, actor).await?;
        let work = trial.work();
        let org = match there {
            Some(org) => org,
            None => self.propose(work, actor, proposal).await?,
        };
        if work.trial().is_some_and(|decided| decided.is_empty()) {
            self.look(work, &org).await?;
        }
        let decided = trial.end().await?.pop().ok_or_else(|| Error::internal("a trial without a decision"))?;
        self.told(decided).await
    }

    /// The organization, when it is there as it is asked for. Looked up before the trial begins: nothing
    /// takes a second connection while it holds one.
    async fn onboarded(&self, actor: &Actor, request: &NewOrganization) -> Result<Option<Organization>> {
        let (slug, wanted) = self.wanted(request)?;
        let Some(found) = self.store.organization(&slug).await? else { return Ok(None) };
        self.same_as(actor, &found, &wanted).await?;
        Ok(Some(found))
    }

    async fn propose(&self, work: &mut Work, actor: &Actor, proposal: Proposal<'_>) -> Result<Organization> {
        match proposal {
            Proposal::Onboard(request) => {
                let (slug, wanted) = self.wanted(request)?;
                self.onboard_in(work, actor, &slug, &wanted).await?.ok_or_else(busy)
            }
            Proposal::Change(slug, change) => self.transform_in(work, actor, slug, &Transform::Change(change)).await,
            Proposal::Suspend(slug, reason) => self.transform_in(work, actor, slug, &Transform::Suspend(reason)).await,
            Proposal::Resume(slug, reason) => self.transform_in(work, actor, slug, &Transform::Resume(reason)).await,
            Proposal::Delete(slug) => self.transform_in(work, actor, slug, &Transform::Delete { purge: false }).await,
            Proposal::PutEnvironment(slug, env_type) => {
                Ok(self.put_environment_in(work, actor, slug, env_type).await?.0)
            }
            Proposal::DeleteEnvironment(slug, env_type) => {
                Ok(self.delete_environment_in(work, actor, slug, env_type).await?.0)
            }
            Proposal::PutConsumer(slug, env_type, name, request) => {
                Ok(self.put_item_in::<Consumers>(work, actor, slug, env_type, name, request).await?.0)
            }
            Proposal::DeleteConsumer(slug, env_type, name) => {
                Ok(self.delete_item_in::<Consumers>(work, actor, slug, env_type, name).await?.0)
            }
            Proposal::PutStream(slug, env_type, name, request) => {
                Ok(self.put_item_in::<Streams>(work, actor, slug, env_type, name, request).await?.0)
            }
            Proposal::DeleteStream(slug, env_type, name) => {
                Ok(self.delete_item_in::<Streams>(work, actor, slug, env_type, name).await?.0)
            }
            Proposal::Revoke(id, reason) => self.revoke_in(work, actor, id, reason).await,
            Proposal::RevokeSelected(slug, selector) => {
                Ok(self.revoke_selected_in(work, actor, slug, selector).await?.1)
            }
            Proposal::ApproveKeyRotation(id) => self.approve_key_rotation_in(work, actor, id).await,
            Proposal::HastenKeyRotation(id, reason) => self.hasten_key_rotation_in(work, actor, id, reason).await,
        }
    }

    /// What a trial decided, as a preview. Not within the trial: it takes a connection of its own.
    pub(super) async fn told(&self, decided: Decided) -> Result<Preview> {
        let exporters: Vec<_> = decided.after.imports.iter().filter_map(|import| import.account).collect();
        let there = if exporters.is_empty() { Vec::new() } else { self.store.accounts_among(&exporters).await? };
        let gone = |import: &&jwt::account::Import| import.account.is_none_or(|account| !there.contains(&account));
        let name = |import: &jwt::account::Import| import.name.clone().unwrap_or_else(|| import.subject.clone());
        let broken_imports = decided.after.imports.iter().filter(gone).map(name).collect();
        Ok(Preview {
            broken_imports,
            org: decided.org,
            account: decided.account,
            generation: decided.generation,
            next_generation: decided.generation + i64::from(decided.bytes_after.is_some()),
            before: decided.before,
            after: decided.after,
            bytes_before: decided.bytes_before,
            bytes_after: decided.bytes_after.unwrap_or(decided.bytes_before),
            bytes_limit: self.standing().max_payload(),
        })
    }
}
