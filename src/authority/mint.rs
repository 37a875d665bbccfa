//! Minting: composing an organization's account under its lock and recording a new generation when,
//! and only when, the composition differs from the last one. Entries of revoked credentials leave it on the
//! way, and where they have become too many they fold into a cutoff.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;

use serde_with::DeserializeAs;
use uuid::Uuid;

use super::{
    Actor, Authority,
    compose::{Composition, Shape, compose, content_hash},
    effect::{self, FOLD_AGE, SKEW},
    work::Work,
};
use crate::{
    error::{Error, Kind, Result},
    jwt::{self, Claims, Linted, limits::AccountLimits},
    model::{EnvState, Environment, OrgSlug, OrgState, Organization, object::Object},
    nkey::{Account, Operator, PublicKey},
    policy::{LimitsOverride, Policies},
    signer::{SealedKey, lint},
    store::{Connection, accounts, audit, environments, keys, operator, policies as made_with, revocations, valid},
};

/// What minting decided for one account, before anything is signed.
pub(super) struct Decided {
    /// Whose account.
    pub(super) org: OrgSlug,
    /// The account.
    pub(super) account: PublicKey<Account>,
    /// Its generation now; 0: it has none.
    pub(super) generation: i64,
    /// What it says now; none: it is new.
    pub(super) before: Option<jwt::Account>,
    /// What it would say.
    pub(super) after: jwt::Account,
    /// Bytes of the token now.
    pub(super) bytes_before: usize,
    /// Bytes that the next token would have; none: nothing would be minted.
    pub(super) bytes_after: Option<usize>,
}

/// An account's next claims, checked; none to sign when they are those that it has.
struct Decision {
    locked: accounts::AccountRow,
    /// The key that is to sign.
    key: SealedKey<Operator>,
    content_hash: [u8; 32],
    linted: Option<Linted<jwt::Account>>,
    /// What an organization's claims were composed from.
    composed: Option<Composed>,
}

impl Decision {
    /// Bytes of the next token; 0 when there will be none.
    fn token_len(&self) -> usize {
        self.linted.as_ref().map_or(0, Linted::token_len)
    }
}

/// A composition with what is to be known of its entries.
struct Composed {
    composition: Composition,
    /// What the entries were chosen from.
    revoked: Vec<revocations::Revoked>,
    /// When pruning them is worth a push.
    prune_at: Option<DateTime<Utc>>,
}

impl Authority {
    /// Mints the next generation of an organization's account if it differs. Returns the generation
    /// that is current afterwards. A trial gets the same refusals, and nothing is signed or recorded.
    pub(super) async fn mint(&self, work: &mut Work, org: &Organization, event: Uuid) -> Result<i64> {
        self.mint_with(work, org, event, &self.policies()).await
    }

    /// The same with plans and roles that need not be those in force.
    pub(super) async fn mint_with(
        &self,
        work: &mut Work,
        org: &Organization,
        event: Uuid,
        policies: &Policies,
    ) -> Result<i64> {
        let decision = self.decide(work.rows(), org, policies).await?;
        // Between a reload and the account's next generation a preview and its change see different plans.
        work.require_policies(&decision.locked, policies.fingerprint)?;
        if work.trial().is_some() {
            return self.note(work, org, &decision).await;
        }
        if let Some(composed) = &decision.composed {
            let entries = composed.composition.revocations.len();
            revocations::note(work.rows(), org.account, entries, composed.prune_at).await?;
        }
        made_with::composed_with(work.rows(), org.account, &policies.fingerprint).await?;
        self.sign_decided(work.rows(), decision, event).await
    }

    /// The same for the platform account, which follows from its keys alone. The flag says whether it was minted.
    pub(super) async fn mint_platform(
        &self,
        work: &mut Work,
        account: PublicKey<Account>,
        name: &str,
        claims: jwt::Account,
        event: Uuid,
    ) -> Result<bool> {
        let locked = accounts::lock(work.rows(), account).await?;
        let key = operator::signing_key(work.rows()).await?;
        let generation = locked.generation;
        let issued_at = self.next_iat(&locked);
        let decision = self.decide_claims((locked, key), account, name, issued_at, claims)?;
        self.require_room(&decision)?;
        Ok(self.sign_decided(work.rows(), decision, event).await? != generation)
    }

    async fn sign_decided(&self, tx: &mut Connection, decision: Decision, event: Uuid) -> Result<i64> {
        let Some(linted) = decision.linted else { return Ok(decision.locked.generation) };
        let signed = self.signer.sign_as_operator(&decision.key, linted)?;
        let generation = decision.locked.generation + 1;
        let minted = accounts::Minted {
            signed: &signed,
            content_hash: decision.content_hash,
            generation,
            audit_event: event,
            at: self.now(),
        };
        accounts::record(tx, &minted).await?;
        #[expect(clippy::cast_precision_loss, reason = "a figure")]
        metrics::histogram!("nats_authority_account_jwt_bytes").record(signed.token_len() as f64);
        Ok(generation)
    }

    /// Whether an account would be minted.
    pub(super) async fn differs(&self, tx: &mut Connection, org: &Organization, policies: &Policies) -> Result<bool> {
        Ok(self.decide(tx, org, policies).await?.linted.is_some())
    }

    /// In a trial of a change that minted nothing: notes how the account stands.
    pub(super) async fn look(&self, work: &mut Work, org: &Organization) -> Result<()> {
        let decision = self.decide(work.rows(), org, &self.policies()).await?;
        self.note(work, org, &decision).await.map(drop)
    }

    async fn note(&self, work: &mut Work, org: &Organization, decision: &Decision) -> Result<i64> {
        let generation = decision.locked.generation;
        let token = accounts::current(work.rows(), org.account).await?;
        let before = match &token {
            None => None,
            Some(token) => {
                let wrong = |error| Error::internal("the ledger holds an unreadable account JWT").with_source(error);
                Some(jwt::envelope::decode::<jwt::Account>(token).map_err(wrong)?.claims.nats)
            }
        };
        let after = decision.linted.as_ref().map(|linted| linted.claims().nats.clone());
        let decided = Decided {
            org: org.slug.clone(),
            account: org.account,
            generation,
            after: after.or_else(|| before.clone()).ok_or_else(|| Error::internal("an account without claims"))?,
            before,
            bytes_before: token.map_or(0, |token| token.len()),
            bytes_after: decision.linted.as_ref().map(Linted::token_len),
        };
        if let Some(tried) = work.trial() {
            tried.push(decided);
        }
        Ok(generation)
    }

    async fn decide(&self, tx: &mut Connection, org: &Organization, policies: &Policies) -> Result<Decision> {
        let locked = (accounts::lock(tx, org.account).await?, operator::signing_key(tx).await?);
        let issued_at = self.next_iat(&locked.0);
        let mut composed = self.composition(tx, org, issued_at, policies).await?;
        let mut decision = self.decide_composed(locked.clone(), org, issued_at, &composed.composition)?;
        if !composed.composition.revocations.is_empty() && self.is_large(tx, org, &decision).await? {
            match self.fold(tx, org, &composed).await? {
                None => {
                    composed = self.composition(tx, org, issued_at, policies).await?;
                    decision = self.decide_composed(locked, org, issued_at, &composed.composition)?;
                }
                Some(again_at) => composed.prune_at = composed.prune_at.map(|at| at.min(again_at)),
            }
        }
        self.require_room(&decision)?;
        Ok(Decision { composed: Some(composed), ..decision })
    }

    fn decide_composed(
        &self,
        locked: (accounts::AccountRow, SealedKey<Operator>),
        org: &Organization,
        issued_at: i64,
        composition: &Composition,
    ) -> Result<Decision> {
        self.decide_claims(locked, org.account, &composition.name, issued_at, compose(composition))
    }

    /// Resolvers keep the newer of two JWTs by their issue time in whole seconds, so it has to increase even
    /// when two changes fall into one second.
    pub(super) fn next_iat(&self, locked: &accounts::AccountRow) -> i64 {
        self.clock.unix().max(locked.iat + 1)
    }

    fn decide_claims(
        &self,
        (locked, key): (accounts::AccountRow, SealedKey<Operator>),
        subject: PublicKey<Account>,
        name: &str,
        issued_at: i64,
        account: jwt::Account,
    ) -> Result<Decision> {
        let content_hash = content_hash(name, &account)
            .map_err(|error| Error::internal("account claims cannot be written").with_source(error))?;
        // The same under another key is another account to the servers.
        let same_key = locked.signed_by.is_none_or(|signed_by| signed_by == key.public);
        if locked.content_hash == Some(content_hash) && same_key {
            return Ok(Decision { locked, key, content_hash, linted: None, composed: None });
        }
        self.standing().require_trust(key.public)?;
        let linted = lint(Claims {
            audience: None,
            expires: None,
            id: None,
            issued_at: Some(issued_at),
            issuer: key.public.into(),
            name: Some(name.to_owned()),
            not_before: None,
            subject: subject.into(),
            nats: account,
        })?;
        Ok(Decision { locked, key, content_hash, linted: Some(linted), composed: None })
    }

    /// Refuses what the servers would not take.
    fn require_room(&self, decision: &Decision) -> Result<()> {
        require_room(decision.token_len(), self.standing().max_payload())
    }

    async fn is_large(&self, tx: &mut Connection, org: &Organization, decision: &Decision) -> Result<bool> {
        let bytes = match decision.token_len() {
            0 => usize::try_from(revocations::size(tx, org.account).await?.bytes).unwrap_or_default(),
            bytes => bytes,
        };
        Ok(bytes > self.settings.fold_above)
    }

    /// Folds the entries that it can into the cutoff: no valid credential may be hit. The answer is when to
    /// try again if it can fold none.
    async fn fold(
        &self,
        tx: &mut Connection,
        org: &Organization,
        composed: &Composed,
    ) -> Result<Option<DateTime<Utc>>> {
        let now = self.now();
        let Composition { cutoff, revocations: entries, .. } = &composed.composition;
        let oldest = valid::oldest(tx, org.id, now).await?;
        let earliest = oldest.map(|(issued_at, _)| issued_at);
        let Some(folded) = effect::fold(&composed.revoked, *cutoff, earliest, now.timestamp()) else {
            tracing::warn!(org = %org.slug, entries = entries.len(),
                "the account is large, and a cutoff would hit valid credentials: rotate the oldest ones");
            // Earlier, when one of them is revoked: that mints.
            let (soon, end) = (now + TimeDelta::seconds(FOLD_AGE), oldest.map(|(_, expires_at)| expires_at));
            return Ok(Some(end.unwrap_or(soon).max(soon)));
        };
        let detail = json!({"cutoff": folded, "entries": entries.len()});
        let event = self.event(&Actor::task("fold"), "account.fold", Some(&org.slug), org.account, detail);
        audit::record(tx, &event).await?;
        revocations::set_cutoff(tx, org.id, folded).await?;
        Ok(None)
    }

    async fn composition(
        &self,
        tx: &mut Connection,
        org: &Organization,
        issued_at: i64,
        policies: &Policies,
    ) -> Result<Composed> {
        let environments: BTreeMap<Uuid, Environment> = environments::of(tx, org.id)
            .await?
            .into_iter()
            .filter(|row| matches!(row.state, EnvState::Pending | EnvState::Ready))
            .map(|row| (row.id, Environment::new(org.slug.clone(), row.env_type)))
            .collect();
        let (mut plain_keys, mut scoped_keys) = (Vec::new(), Vec::new());
        for (key, scope) in keys::in_account(tx, org.account).await? {
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
        let cutoff = revocations::cutoff(tx, org.id).await?;
        let mut revoked = revocations::revoked(tx, org.id, self.now() - SKEW, cutoff).await?;
        revoked.extend(self.of_roles_that_left(tx, org, policies).await?);
        let signers: BTreeSet<_> = plain_keys.iter().chain(scoped_keys.iter().map(|(key, _)| key)).copied().collect();
        let prune_at = effect::prune_at(&revoked, cutoff, &signers);
        let composition = Composition {
            name: org.slug.to_string(),
            account: org.account,
            platform: self.platform()?,
            shape: match org.state {
                OrgState::Active => Shape::Open,
                OrgState::Suspended => Shape::Closed,
                OrgState::Deleting | OrgState::Deleted => Shape::Tombstone(issued_at),
            },
            limits: limits(policies, &org.plan, &org.limits)?,
            plain_keys,
            scoped_keys,
            revocations: effect::entries(&revoked, cutoff, &signers).into_iter().collect(),
            cutoff,
        };
        Ok(Composed { composition, revoked, prune_at })
    }
}

impl Authority {
    /// The scoped keys of a role that has left the policies are out of the account. What the plain key signed for
    /// that role has to be refused as well, until the role is back: it is not revoked in the ledger.
    async fn of_roles_that_left(
        &self,
        tx: &mut Connection,
        org: &Organization,
        policies: &Policies,
    ) -> Result<Vec<revocations::Revoked>> {
        let known = keys::roles(tx, org.account).await?;
        let left: Vec<_> =
            known.iter().map(String::as_str).filter(|role| !policies.roles.contains_key(*role)).collect();
        if left.is_empty() {
            return Ok(Vec::new());
        }
        revocations::of_roles(tx, org.id, &left, self.now() - SKEW).await
    }
}

fn require_room(bytes: usize, max_payload: usize) -> Result<()> {
    if bytes <= max_payload {
        return Ok(());
    }
    Err(Error::new(
        Kind::TooLarge,
        "account-too-large",
        format!(
            "the account's JWT would have {bytes} bytes and the servers take {max_payload}; revoke fewer single credentials or raise max_payload"
        ),
    ))
}

/// The limits of a plan with an organization's overrides.
pub(super) fn limits(policies: &Policies, plan: &str, overrides: &serde_json::Value) -> Result<AccountLimits> {
    parse_overrides(overrides)?.apply(policies.plan(plan)?)
}

pub(super) fn parse_overrides(overrides: &serde_json::Value) -> Result<LimitsOverride> {
    Object::deserialize_as(overrides.clone())
        .map_err(|error| Error::field("invalid-limits", "/limits", error.to_string()))
}
