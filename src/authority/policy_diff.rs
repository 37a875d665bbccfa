//! What other plans and roles would do to the organizations before they are put in force: each account is
//! brought to them by the code of a reload, in a transaction that is rolled back.

use super::{Actor, Authority, preview::Preview, work::Trial};
use crate::{
    error::{Kind, Result},
    model::OrgSlug,
    policy::Policies,
    store::organizations::Bytes,
};

/// What plans and roles would make of one organization.
#[derive(Clone, Debug)]
pub enum Following {
    /// Nothing: it is composed again and comes out as it is.
    Unchanged,
    /// Another account, or another promise.
    Changed {
        /// The account.
        preview: Box<Preview>,
        /// By how much more its plan promises, bytes of all replicas.
        promise: Bytes,
    },
    /// It could not follow, for this reason, and would stay as it is.
    HeldUp(String),
}

/// Bytes that all plans together promise, and what may be promised.
#[derive(Clone, Copy, Debug)]
pub struct Promised {
    /// Promised now.
    pub now: Bytes,
    /// What the servers have, times `jetstream.overcommit`; none: no server has told it.
    pub allowed: Option<Bytes>,
}

impl Authority {
    /// Why a reload would not take these plans and roles; none: it would.
    pub async fn would_refuse(&self, new: &Policies) -> Result<Option<String>> {
        match self.require_plans(new).await {
            Ok(()) => Ok(None),
            Err(error) if error.kind() == Kind::Invalid => Ok(Some(error.to_string())),
            Err(error) => Err(error),
        }
    }

    /// What a reload of `new` would do to the next organizations behind `after`, by slug; the flag says that there
    /// are more. Those that were composed with the same files are not among them: a reload leaves them alone.
    pub async fn preview_policies(
        &self,
        new: &Policies,
        after: Option<&OrgSlug>,
        limit: i64,
    ) -> Result<(Vec<(OrgSlug, Following)>, bool)> {
        let mut slugs = self.store.composed_otherwise(&new.fingerprint, after, limit.saturating_add(1)).await?;
        let wanted = usize::try_from(limit).unwrap_or_default();
        let more = slugs.len() > wanted;
        slugs.truncate(wanted);
        let mut found = Vec::with_capacity(slugs.len());
        for slug in slugs {
            let following = match self.try_to_follow(&slug, new).await {
                Ok(following) => following,
                // Not the organization's fault: there is nothing to tell of it.
                Err(error) if matches!(error.kind(), Kind::Internal | Kind::Unavailable) => return Err(error),
                Err(error) => Following::HeldUp(error.to_string()),
            };
            found.push((slug, following));
        }
        Ok((found, more))
    }

    async fn try_to_follow(&self, slug: &OrgSlug, new: &Policies) -> Result<Following> {
        let actor = Actor::task("policies");
        let mut trial = Trial::begin(&self.store, &actor).await?;
        // Gone since it was listed: nothing would happen to it.
        let Some(followed) = self.follow_in(trial.work(), &actor, slug, new).await? else {
            return Ok(Following::Unchanged);
        };
        let Some(decided) = trial.end().await?.pop() else { return Ok(Following::Unchanged) };
        let preview = Box::new(self.told(decided).await?);
        Ok(Following::Changed { preview, promise: followed.promise })
    }

    /// What all plans promise, and what may be promised.
    pub async fn promised(&self) -> Result<Promised> {
        let capacity = self.standing().capacity();
        let allowed =
            capacity.map(|has| Bytes { memory: self.overcommitted(has.memory), disk: self.overcommitted(has.disk) });
        Ok(Promised { now: self.store.promised().await?, allowed })
    }
}
