//! The audit log as a whole: its events are linked into a chain right after they are committed, and
//! the chain can be checked. What a link is stands in `model::audit`; events are written by the changes
//! themselves.

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Authority;
use crate::{
    error::Result,
    model::audit::{Broken, ChainCheck, ChainHash},
    store::audit_chain,
};

/// How many events are linked in one transaction, and read at once when the chain is checked.
const BATCH: i64 = 2000;

/// What a check of the audit log found.
#[derive(Clone, Debug, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditVerdict {
    /// Nothing was changed, removed or reordered.
    pub intact: bool,
    /// How many events were found right, from the first on.
    pub verified: i64,
    /// The hash of the last of them. Kept elsewhere with `verified`, it shows later whether everything
    /// up to here is still what it was.
    #[schema(example = "b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c")]
    pub hash: String,
    /// The first place that is not right.
    pub broken: Option<BrokenView>,
}

/// The first place of the audit log that is not right.
#[derive(Clone, Debug, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokenView {
    /// Position in the chain; absent for an event that the chain does not know.
    pub position: Option<i64>,
    /// The event.
    pub event: Option<Uuid>,
    /// What is wrong.
    pub reason: String,
}

impl From<Broken> for BrokenView {
    fn from(broken: Broken) -> Self {
        Self { position: Some(broken.position), event: broken.event, reason: broken.reason.to_owned() }
    }
}

impl Authority {
    /// Links the events that were committed since; tells how many. Does nothing while another replica does.
    pub async fn link_audit_events(&self) -> Result<usize> {
        let mut linked = 0;
        loop {
            let mut tx = self.store.begin().await?;
            let Some(head) = audit_chain::claim(&mut tx).await? else { return Ok(linked) };
            let settled = audit_chain::settled(&mut tx, BATCH).await?;
            audit_chain::link(&mut tx, head, &settled, self.now()).await?;
            tx.commit().await?;
            linked += settled.events.len();
            if !settled.more {
                return Ok(linked);
            }
        }
    }

    /// Checks the whole chain from its start. With an anchor the chain has to have had that hash at that
    /// position: whoever can write the database can write the chain anew, and only what was kept
    /// elsewhere shows it.
    pub async fn verify_audit(&self, anchor: Option<(i64, ChainHash)>) -> Result<AuditVerdict> {
        // What is committed belongs into the chain before it is asked.
        self.link_audit_events().await?;
        let known = self.store.audit_published().await?;
        let mut check = ChainCheck::new(anchor);
        let broken = self.walk(&mut check, known).await?;
        let (verified, hash) = check.head();
        Ok(AuditVerdict { intact: broken.is_none(), verified, hash: hash.to_string(), broken })
    }

    async fn walk(&self, check: &mut ChainCheck, known: i64) -> Result<Option<BrokenView>> {
        loop {
            let links = self.store.audit_links(check.head().0, BATCH).await?;
            if links.is_empty() {
                break;
            }
            for link in &links {
                if let Err(broken) = check.step(link) {
                    return Ok(Some(broken.into()));
                }
            }
        }
        if let Err(broken) = check.finish(known) {
            return Ok(Some(broken.into()));
        }
        Ok(self.store.audit_unlinked().await?.map(|event| BrokenView {
            position: None,
            event: Some(event),
            reason: "the event was put into the log behind the chain's back".to_owned(),
        }))
    }
}
