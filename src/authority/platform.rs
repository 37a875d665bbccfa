//! The platform account: an account of the authority's own, beside the system account. It exports what every
//! organization's account imports, and holds the authority's own streams. It is made at the first start,
//! by one of the replicas, and composed and pushed like any other.

use serde_json::json;

use super::{
    Actor, Authority,
    compose::{PLATFORM_DISK, compose_platform},
    work::Applying,
};
use crate::{
    error::{Error, Result},
    model::OrgSlug,
    nkey::{Account, KeyPair, PublicKey},
    store::{
        accounts, audit,
        keys::{self, KeyScope, NewAccountKey},
        organizations, platform,
    },
};

/// The name of the platform account.
const NAME: &str = "PLATFORM";

impl Authority {
    /// The platform account.
    pub fn platform(&self) -> Result<PublicKey<Account>> {
        self.platform.get().copied().ok_or_else(|| Error::internal("the platform account is not there yet"))
    }

    /// Finds or makes the platform account, and mints it again where this version composes it differently.
    pub(super) async fn open_platform(&self) -> Result<()> {
        let actor = Actor::task("platform");
        let now = self.now();
        let mut change = Applying::begin(&self.store, &actor).await?;
        let work = change.work();
        let found = platform::lock(work.rows()).await?;
        let (account, action) = match found {
            Some(account) => (account, "platform.recompose"),
            // Its identity names it and signs nothing: the seed is forgotten at once.
            None => (KeyPair::<Account>::generate(self.entropy.as_ref()).public(), "platform.create"),
        };
        if found.is_none() {
            accounts::create(work.rows(), account, "platform", now).await?;
            let key = NewAccountKey { account, scope: KeyScope::Account, key: self.signer.generate()? };
            keys::insert(work.rows(), &[key], now).await?;
            // No plan, but room that nobody else may be promised. Never refused: without it nothing works.
            let promise = organizations::Bytes { memory: 0, disk: PLATFORM_DISK };
            organizations::add_promise(work.rows(), promise).await?;
        }
        let event = self.event(&actor, action, None, account, json!({"name": NAME}));
        audit::record(work.rows(), &event).await?;
        let signing_keys: Vec<_> =
            keys::in_account(work.rows(), account).await?.into_iter().map(|(key, _)| key).collect();
        // What changed nothing is no event.
        if self.mint_platform(work, account, NAME, compose_platform(&signing_keys), event.id).await? {
            change.commit().await?;
            self.push_wanted.notify_one();
        }
        // It is set once: an authority is opened once.
        let _ = self.platform.set(account);
        Ok(())
    }

    /// Mints the accounts that are older than the platform account, which they do not import yet; the
    /// servers must have the platform account first, or those accounts would be incomplete there. Returns
    /// how many were minted; an account that cannot be minted holds up no other.
    pub async fn recompose_older_than_platform(&self) -> Result<usize> {
        let (mut count, mut after, mut first_error): (usize, Option<OrgSlug>, Option<Error>) = (0, None, None);
        loop {
            let slugs = self.store.older_than_platform(after.as_ref(), 100).await?;
            let Some(last) = slugs.last() else { break };
            after = Some(last.clone());
            for slug in &slugs {
                match self.recompose(slug).await {
                    Ok(()) => count += 1,
                    Err(error) => _ = first_error.get_or_insert(error),
                }
            }
            self.push_wanted.notify_one();
        }
        first_error.map_or(Ok(count), Err)
    }

    async fn recompose(&self, slug: &OrgSlug) -> Result<()> {
        let actor = Actor::task("platform");
        let mut change = Applying::begin(&self.store, &actor).await?;
        let work = change.work();
        let Some(org) = organizations::lock(work.rows(), slug).await? else { return Ok(()) };
        let detail = json!({"reason": "the account imports the platform account's services"});
        let event = self.event(&actor, "organization.recompose", Some(slug), slug, detail);
        audit::record(work.rows(), &event).await?;
        self.mint(work, &org, event.id).await?;
        change.commit().await?;
        Ok(())
    }
}
