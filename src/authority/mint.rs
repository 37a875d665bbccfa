//! Minting: composing an organization's account under its lock and recording a new generation when,
//! and only when, the composition differs from the last one.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Authority,
    compose::{Composition, Shape, compose, content_hash},
};
use crate::{
    error::{Error, Kind, Result},
    jwt::{Claims, limits::AccountLimits},
    model::{EnvState, Environment, OrgState, Organization},
    policy::{LimitsOverride, Policies},
    signer::lint,
    store::{Tx, accounts, credentials, environments, keys},
};

/// How long after its end a revoked credential keeps its entry: clocks of servers differ.
const SKEW: chrono::TimeDelta = chrono::TimeDelta::hours(1);

impl Authority {
    /// Mints the next generation of an organization's account if it differs. Returns the generation
    /// that is current afterwards.
    pub(super) async fn mint(&self, tx: &mut Tx, org: &Organization, event: Uuid) -> Result<i64> {
        let locked = accounts::lock(tx, org.account).await?;
        // Resolvers keep the newer of two JWTs by their issue time in whole seconds, so it has to
        // increase even when two changes fall into one second.
        let issued_at = self.clock.unix().max(locked.iat + 1);
        let composition = self.composition(tx, org, issued_at).await?;
        let account = compose(&composition);
        let hash = content_hash(&composition.name, &account)
            .map_err(|error| Error::internal("account claims cannot be written").with_source(error))?;
        if locked.content_hash == Some(hash) {
            return Ok(locked.generation);
        }
        self.standing().require_trust()?;
        let linted = lint(Claims {
            audience: None,
            expires: None,
            id: None,
            issued_at: Some(issued_at),
            issuer: self.operator_key.public.into(),
            name: Some(composition.name),
            not_before: None,
            subject: org.account.into(),
            nats: account,
        })?;
        let signed = self.signer.sign_as_operator(&self.operator_key, linted)?;
        let max_payload = self.standing().max_payload();
        if signed.token_len() > max_payload {
            return Err(Error::new(
                Kind::TooLarge,
                "account-too-large",
                format!(
                    "the account's JWT would have {} bytes and the servers take {max_payload}; revoke fewer single credentials or raise max_payload",
                    signed.token_len()
                ),
            ));
        }
        let generation = locked.generation + 1;
        let minted =
            accounts::Minted { signed: &signed, content_hash: hash, generation, audit_event: event, at: self.now() };
        accounts::record(tx, &minted).await?;
        Ok(generation)
    }

    async fn composition(&self, tx: &mut Tx, org: &Organization, issued_at: i64) -> Result<Composition> {
        let policies = self.policies();
        let environments: BTreeMap<Uuid, Environment> = environments::of(tx, org.id)
            .await?
            .into_iter()
            .filter(|row| matches!(row.state, EnvState::Pending | EnvState::Ready))
            .map(|row| (row.id, Environment::new(org.slug.clone(), row.env_type)))
            .collect();
        let (mut plain_keys, mut scoped_keys) = (Vec::new(), Vec::new());
        for (key, scope) in keys::active(tx, org.account).await? {
            match scope {
                keys::KeyScope::Account => plain_keys.push(key),
                keys::KeyScope::Role { environment, role } => {
                    // A role that has left the policies leaves the account, and with it its users.
                    if let (Some(environment), Some(role)) = (environments.get(&environment), policies.roles.get(&role))
                    {
                        scoped_keys.push((key, role.scope(environment)));
                    }
                }
            }
        }
        Ok(Composition {
            name: org.slug.to_string(),
            shape: match org.state {
                OrgState::Active => Shape::Open,
                OrgState::Suspended => Shape::Closed,
                OrgState::Deleting | OrgState::Deleted => Shape::Tombstone(issued_at),
            },
            limits: limits(&policies, &org.plan, &org.limits)?,
            plain_keys,
            scoped_keys,
            revocations: credentials::revocations(tx, org.id, self.now() - SKEW).await?,
        })
    }
}

/// The limits of a plan with an organization's overrides.
pub(super) fn limits(policies: &Policies, plan: &str, overrides: &serde_json::Value) -> Result<AccountLimits> {
    parse_overrides(overrides)?.apply(policies.plan(plan)?)
}

pub(super) fn parse_overrides(overrides: &serde_json::Value) -> Result<LimitsOverride> {
    serde_json::from_value(overrides.clone())
        .map_err(|error| Error::field("invalid-limits", "/limits", error.to_string()))
}
