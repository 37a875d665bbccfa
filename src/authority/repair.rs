//! Recording what the comparison with the servers found: which accounts have to be pushed, and who
//! tampered with them.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use super::{
    Actor, Authority,
    reconcile::{Reason, Repair},
};
use crate::{
    error::Result,
    nkey::{Account, PublicKey},
    store::reconcile::Wrong,
};

impl Authority {
    /// Marks accounts to be pushed and wakes the push task. That somebody put a JWT on the servers is an
    /// audit event. Returns the accounts that were not marked before.
    pub async fn repair(&self, repairs: &[Repair]) -> Result<HashSet<PublicKey<Account>>> {
        let tampered: Vec<_> =
            repairs.iter().filter(|repair| is_tampering(&repair.reason)).map(|r| r.account).collect();
        let slugs = if tampered.is_empty() { HashMap::default() } else { self.store.slugs_of(&tampered).await? };
        let wrong: Vec<Wrong> = repairs
            .iter()
            .map(|repair| {
                // One that has no JWT lets nobody in; any other than the present one may have.
                let let_in = !matches!(repair.reason, Reason::Missing | Reason::Incomplete);
                let (action, mut detail) = match &repair.reason {
                    Reason::ForeignSigned { issuer } => ("account.foreign-jwt", json!({"issuer": issuer})),
                    Reason::Differs => ("account.foreign-jwt", json!({"issuer": self.operator_signing_key()})),
                    Reason::ReplayedOld { generation } => ("account.replayed-jwt", json!({"generation": generation})),
                    _ => return Wrong { account: repair.account, rewrite: repair.rewrite, let_in, event: None },
                };
                detail["account"] = json!(repair.account);
                detail["servers"] = json!(format!("{} of the {} that answered", repair.wrong, repair.seen));
                let actor = Actor::task("reconcile");
                let event = self.event(&actor, action, slugs.get(&repair.account), repair.account, detail);
                Wrong { account: repair.account, rewrite: repair.rewrite, let_in, event: Some(event) }
            })
            .collect();
        let marked = self.store.mark_wrong(&wrong, self.now()).await?;
        self.push_wanted.notify_one();
        Ok(marked)
    }
}

fn is_tampering(reason: &Reason) -> bool {
    matches!(reason, Reason::ForeignSigned { .. } | Reason::Differs | Reason::ReplayedOld { .. })
}
