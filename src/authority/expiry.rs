//! The end of credentials: who is told of it before, and the list of what ends next.

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use super::{Actor, Authority, organizations::no_organization, work::Applying};
use crate::{
    error::Result,
    model::{Credential, OrgSlug, view::CredentialView},
    store::{
        audit, expiry,
        listing::{End, Filter},
        page::Page,
    },
};

/// Credentials that are warned of in one transaction.
const AT_ONCE: i64 = 500;

impl Authority {
    /// Lists the credentials of all organizations, or of one, in the order of their end.
    pub async fn endings(
        &self,
        org: Option<&OrgSlug>,
        filter: &Filter,
        page: &Page<End>,
    ) -> Result<(Vec<CredentialView>, bool)> {
        if let Some(slug) = org
            && !self.store.slug_known(slug).await?
        {
            return Err(no_organization(slug));
        }
        let (rows, more) = self.store.endings(org, filter, self.now(), page).await?;
        Ok((rows.iter().map(|row| self.credential_view(row)).collect(), more))
    }

    /// Records one event for each credential that comes within the warning time of its end, once; tells how
    /// many. Not warned of is what was rotated or revoked, and what was issued for no longer than that time.
    pub async fn warn_of_endings(&self) -> Result<usize> {
        let now = self.now();
        let before = TimeDelta::try_seconds(self.settings.warn_before).filter(|before| *before > TimeDelta::zero());
        let Some(horizon) = before.and_then(|before| now.checked_add_signed(before)) else { return Ok(0) };
        let mut warned = 0;
        while self.store.warnings_due(now, horizon).await? {
            let mut change = Applying::begin(&self.store, &Actor::task("expire")).await?;
            let rows = change.work().rows();
            let Some(ending) = expiry::claim_warnings(rows, now, horizon, AT_ONCE).await? else { break };
            for credential in &ending {
                audit::record(rows, &self.warning(credential)).await?;
            }
            let full = i64::try_from(ending.len()).is_ok_and(|len| len == AT_ONCE);
            match ending.last().filter(|_| full) {
                Some(last) => expiry::warned_until(rows, last.expires_at, last.id).await?,
                None => expiry::warned_until(rows, horizon, Uuid::max()).await?,
            }
            change.commit().await?;
            warned += ending.len();
        }
        Ok(warned)
    }

    fn warning(&self, credential: &Credential) -> audit::Event {
        let detail = json!({
            "name": credential.name, "envType": credential.env_type, "role": credential.role,
            "userKey": credential.user_key, "expiresAt": credential.expires_at,
        });
        self.event(&Actor::task("expire"), "credential.expiring", Some(&credential.org), credential.id, detail)
    }
}
