//! The work of a change: its rows in one transaction, and whether it is done or only tried. The code
//! that decides a change gets a [`Work`] and can neither commit nor roll back; whoever began it holds
//! an [`Applying`], which commits, or a [`Trial`], which cannot. So a dry run is the same code.

use super::{Actor, mint::Decided};
use crate::{
    error::{Error, Kind, Result},
    nkey::{Account, PublicKey},
    store::{Connection, Store, Tx, accounts},
};

/// What the code that decides a change works on. In a trial, [`super::Authority::mint`] notes what it
/// decided and neither signs nor records.
pub(super) struct Work {
    tx: Tx,
    if_generation: Option<i64>,
    tried: Option<Vec<Decided>>,
}

impl Work {
    async fn begin(store: &Store, actor: &Actor, tried: Option<Vec<Decided>>) -> Result<Self> {
        Ok(Self { tx: store.begin().await?, if_generation: actor.if_generation, tried })
    }

    /// The rows. What is written becomes true when the change is committed, and never in a trial.
    pub(super) fn rows(&mut self) -> &mut Connection {
        &mut self.tx
    }

    /// Where a trial notes what it decided; none: this is no trial.
    pub(super) fn trial(&mut self) -> Option<&mut Vec<Decided>> {
        self.tried.as_mut()
    }

    /// Locks the account and refuses unless its generation is the one that the caller asked for, if it
    /// did. Every change calls it before it writes.
    pub(super) async fn require_generation(&mut self, account: PublicKey<Account>) -> Result<()> {
        if self.if_generation.is_none() {
            return Ok(());
        }
        let generation = accounts::lock(self.rows(), account).await?.generation;
        check_generation(self.if_generation, generation)
    }

    /// Refuses a change under a condition while the account is still to follow other plans and roles.
    pub(super) fn require_policies(&self, account: &accounts::AccountRow, fingerprint: [u8; 32]) -> Result<()> {
        let follows = account.policies.is_none_or(|composed_with| composed_with == fingerprint);
        if self.if_generation.is_none() || follows {
            return Ok(());
        }
        let detail = "plans or roles have changed and the account is about to follow; nothing was changed: preview the change again";
        Err(Error::new(Kind::Changed, "generation-changed", detail))
    }

    /// The same for an account that is made by this change.
    pub(super) fn require_new(&self) -> Result<()> {
        check_generation(self.if_generation, 0)
    }
}

/// Refuses unless `generation` is the one that the caller asked for, if it did.
pub(super) fn check_generation(wanted: Option<i64>, generation: i64) -> Result<()> {
    if wanted.is_none_or(|wanted| wanted == generation) {
        return Ok(());
    }
    let detail = format!(
        "the account is at generation {generation}, If-Match names another one; nothing was changed: preview the change again"
    );
    Err(Error::new(Kind::Changed, "generation-changed", detail))
}

/// A change that is done. Dropped without [`Self::commit`], it never was.
pub(super) struct Applying(Work);

impl Applying {
    /// Begins a change, under the condition that the caller may have set.
    pub(super) async fn begin(store: &Store, actor: &Actor) -> Result<Self> {
        Work::begin(store, actor, None).await.map(Self)
    }

    pub(super) fn work(&mut self) -> &mut Work {
        &mut self.0
    }

    pub(super) async fn commit(self) -> Result<()> {
        Ok(self.0.tx.commit().await?)
    }
}

/// A change that is only tried: it ends with the transaction rolled back.
pub(super) struct Trial(Work);

impl Trial {
    /// Begins a trial, under the condition that the caller may have set.
    pub(super) async fn begin(store: &Store, actor: &Actor) -> Result<Self> {
        Work::begin(store, actor, Some(Vec::new())).await.map(Self)
    }

    pub(super) fn work(&mut self) -> &mut Work {
        &mut self.0
    }

    /// What was decided, one entry for each account that would have been minted or was looked at.
    pub(super) async fn end(self) -> Result<Vec<Decided>> {
        self.0.tx.rollback().await?;
        Ok(self.0.tried.unwrap_or_default())
    }
}
