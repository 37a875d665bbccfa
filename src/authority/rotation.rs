//! Rotating credentials: a new one takes the place of an old one, which works on for its grace time
//! and is then revoked. How a credential is made and signed stands in `issue`; when a task looks
//! for what has ended stands in `tasks`.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    Actor, Authority, Issued,
    ledger::no_credential,
    requests::{NewCredential, Rotate},
    work::Applying,
};
use crate::{
    error::{Error, Result},
    model::{
        Credential, CredentialState, Environment,
        size::{format_duration, parse_grace},
    },
    store::{
        audit,
        credentials::{self, Superseded},
        organizations,
    },
};

/// Workloads read their credentials from files that are replaced under them, some only once a day.
const DEFAULT_GRACE: i64 = 24 * 3600;

/// What the ledger says of a credential that was revoked because its grace time had passed.
const REASON: &str = "rotated";

impl Authority {
    /// Issues a credential like `id` with another key. The old one becomes superseded in the same
    /// transaction and ends after the grace time, or at its own end if that comes first.
    pub async fn rotate(&self, actor: &Actor, id: Uuid, request: Rotate) -> Result<Issued> {
        let grace = request.grace.as_deref().map(|text| parse_grace("/grace", text)).transpose()?;
        let old = self.store.credential(id).await?.ok_or_else(no_credential)?;
        let now = self.now();
        require_active(&old, now)?;
        // Revoking the old one closes whoever uses its key, so the same key would rotate nothing.
        if request.public_key.as_deref() == Some(&*old.user_key.to_string()) {
            return Err(Error::field(
                "public-key-unchanged",
                "/publicKey",
                "this is the key of the credential that is rotated; send another one",
            ));
        }
        let environment = Environment::new(old.org.clone(), old.env_type.clone());
        let policies = self.policies();
        // Policies may have become stricter since; a rotation asks for no more than they give now.
        let life = (old.expires_at - old.issued_at)
            .num_seconds()
            .min(policies.grant(&old.role, old.options.permissions.as_ref())?.max_ttl);
        let like_old = NewCredential {
            name: old.name.clone(),
            role: old.role.clone(),
            ttl: Some(format_duration(life)),
            public_key: request.public_key,
            proof: request.proof,
            connection_types: old.options.connection_types.clone(),
            allowed_cidrs: old.options.allowed_cidrs.clone(),
            tags: old.options.tags.clone(),
            times: old.options.times.clone(),
            times_location: old.options.times_location.clone(),
            bearer: old.options.bearer,
            permissions: old.options.permissions.clone().map(Into::into),
        };
        let parsed = self.parse(&policies, &environment, like_old)?;
        let context = self.issuing_context(&old.org, &old.env_type, &old.role).await?;
        let (mut new, seed) = self.sign_one(actor, &environment, &context, parsed).await?;
        new.row.replaces = Some(id);
        let superseded = Superseded { id, at: now, ends_at: end(now, grace.unwrap_or(DEFAULT_GRACE), old.expires_at) };
        let Some((row, token)) = self.store.record_rotation(new, &superseded).await? else {
            // Somebody was faster: with the old one, or with its organization.
            require_active(&self.store.credential(id).await?.ok_or_else(no_credential)?, now)?;
            return Err(credentials::inactive());
        };
        self.endings_wanted.notify_one();
        Ok(self.release(&row, &token, seed))
    }

    /// Revokes the superseded credentials whose grace time has passed at `now`; tells how many. All of
    /// one organization are one transaction and one generation of its account. An organization that
    /// cannot be minted holds up no other.
    pub async fn end_superseded(&self, now: DateTime<Utc>) -> Result<usize> {
        let (mut ended, mut failed, mut first_error) = (0, Vec::new(), None);
        loop {
            let mut change = Applying::begin(&self.store, &Actor::task("expire")).await?;
            let Some(org) = organizations::claim_with_ended(change.work().rows(), now, &failed).await? else { break };
            match self.end_in(change, &org, now).await {
                Ok(count) => ended += count,
                Err(error) => {
                    failed.push(org.id);
                    first_error.get_or_insert(error);
                }
            }
        }
        if ended > 0 {
            self.wake();
        }
        first_error.map_or(Ok(ended), Err)
    }

    async fn end_in(
        &self,
        mut change: Applying,
        org: &crate::model::Organization,
        now: DateTime<Utc>,
    ) -> Result<usize> {
        let actor = Actor::task("expire");
        let work = change.work();
        let ended = credentials::end_superseded(work.rows(), org.id, now, REASON).await?;
        let mut last = None;
        for credential in &ended {
            let detail = json!({"userKey": credential.user_key, "name": credential.name, "reason": REASON});
            let event = self.event(&actor, "credential.revoke", Some(&org.slug), credential.id, detail);
            audit::record(work.rows(), &event).await?;
            last = Some(event.id);
        }
        // None: another replica ended them between our look and our lock.
        if let Some(event) = last {
            self.mint(work, org, event).await?;
            change.commit().await?;
        }
        Ok(ended.len())
    }
}

/// Only what is active can be rotated: the others have ended or have their successor.
fn require_active(credential: &Credential, now: DateTime<Utc>) -> Result<()> {
    let (code, why) = match credential.state(now) {
        CredentialState::Active => return Ok(()),
        CredentialState::Superseded => {
            ("credential-superseded", "was rotated already; rotate the one that replaces it, or issue a new one")
        }
        CredentialState::Revoked => ("credential-revoked", "is revoked; issue a new one"),
        CredentialState::Expired => ("credential-expired", "has expired; issue a new one"),
    };
    Err(Error::conflict(code, format!("the credential {why}")))
}

/// When a credential that is superseded `now` ends.
fn end(now: DateTime<Utc>, grace: i64, expires_at: DateTime<Utc>) -> DateTime<Utc> {
    TimeDelta::try_seconds(grace)
        .and_then(|grace| now.checked_add_signed(grace))
        .map_or(expires_at, |end| end.min(expires_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_ends_with_the_credential_at_the_latest() {
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        assert_eq!(end(at(100), 50, at(1000)), at(150));
        assert_eq!(end(at(100), 0, at(1000)), at(100));
        assert_eq!(end(at(100), 5000, at(1000)), at(1000));
        assert_eq!(end(at(100), i64::MAX, at(1000)), at(1000));
    }
}
