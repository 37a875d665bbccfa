//! Plans and roles that change while organizations live on them: what may take their place, and
//! bringing every account to them. When that is done is a task's business.

use serde_json::json;

use super::{
    Actor, Authority,
    work::{Applying, Work},
};
use crate::{
    error::{Error, Result},
    model::{EnvState, OrgSlug, OrgState, Organization},
    policy::{Policies, promise_of},
    store::{
        Connection, accounts, audit, environments,
        keys::{self, KeyScope, NewAccountKey},
        organizations::{self, Bytes},
        policies as made_with,
    },
};

/// How many organizations are looked up at a time.
const BATCH: i64 = 100;

/// What loading plans and roles came to last.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Why the files are not in force that were to be loaded last; none: they are.
    pub refused: Option<String>,
    /// Organizations whose account could not be brought to what is in force, with the reason; at most 100.
    pub held_up: Vec<(OrgSlug, String)>,
}

/// What bringing an organization to plans and roles came to.
pub(super) struct Followed {
    /// A generation was minted; never in a trial.
    minted: bool,
    /// By how much more its plan promises.
    pub(super) promise: Bytes,
}

impl Authority {
    /// Takes new plans and roles, or notes why they cannot be taken: then the old ones stay in force. The
    /// accounts follow by [`Self::apply_policies`].
    pub async fn reload(&self, new: Result<Policies>) -> Result<()> {
        let taken = match new {
            Ok(new) => self.take(new).await,
            Err(error) => Err(error),
        };
        let result = if taken.is_ok() { "taken" } else { "refused" };
        metrics::counter!("nats_authority_policy_reloads_total", "result" => result).increment(1);
        let refused = taken.as_ref().err().map(ToString::to_string);
        self.loaded.rcu(|loaded| Loaded { refused: refused.clone(), ..Loaded::clone(loaded) });
        taken
    }

    async fn take(&self, new: Policies) -> Result<()> {
        self.require_plans(&new).await?;
        self.policies.store(std::sync::Arc::new(new));
        self.put_in_force().await
    }

    /// Refuses policies without a plan that is needed.
    pub(super) async fn require_plans(&self, new: &Policies) -> Result<()> {
        let mut needed = self.store.plans_in_use().await?;
        needed.push(self.settings.default_plan.clone());
        match needed.iter().find(|plan| !new.plans.contains_key(*plan)) {
            None => Ok(()),
            Some(plan) => Err(Error::invalid(
                "plan-in-use",
                format!(
                    "there is no plan '{plan}' in them, and organizations are on it or it is default_plan; keep it, or move them first"
                ),
            )),
        }
    }

    /// Says in the ledger that this replica's plans and roles are those in force.
    pub(super) async fn put_in_force(&self) -> Result<()> {
        let policies = self.policies();
        let fingerprint = data_encoding::HEXLOWER.encode(&policies.fingerprint);
        let detail = json!({
            "plans": policies.plans.keys().collect::<Vec<_>>(), "roles": policies.roles.keys().collect::<Vec<_>>(),
        });
        let event = self.event(&Actor::task("policies"), "policies.load", None, fingerprint, detail);
        if self.store.put_in_force(&policies.fingerprint, &event).await? {
            tracing::info!(fingerprint = event.target, "other plans and roles are in force");
        }
        let (access, builtin) = (policies.access.fingerprint(), policies.access.is_builtin());
        let detail = json!({"builtin": builtin, "policies": policies.access.ids()});
        let target = data_encoding::HEXLOWER.encode(&access);
        let event = self.event(&Actor::task("policies"), "access.load", None, target, detail);
        self.store.put_access_in_force(&access, !builtin, &event).await?;
        self.policies_wanted.notify_one();
        Ok(())
    }

    /// What loading plans and roles came to last.
    pub fn loaded(&self) -> std::sync::Arc<Loaded> {
        self.loaded.load_full()
    }

    /// Composes every account that was composed with other plans and roles, one transaction each, and
    /// mints those that come out differently; tells how many those were. Does nothing while another
    /// replica has loaded others later. An account that cannot be minted holds up no other.
    pub async fn apply_policies(&self) -> Result<usize> {
        let fingerprint = self.policies().fingerprint;
        let (mut minted, mut looked_at, mut after) = (0, 0_u64, None);
        let mut held_up = Vec::new();
        loop {
            let slugs = self.store.composed_otherwise(&fingerprint, after.as_ref(), BATCH).await?;
            // None of them, most of the time: then there is nothing more to ask.
            if slugs.is_empty() || !self.store.are_in_force(&fingerprint).await? {
                break;
            }
            for slug in &slugs {
                match self.apply_to(slug).await {
                    Ok(changed) => minted += usize::from(changed),
                    Err(error) => {
                        tracing::warn!(%slug, %error, cause = error.internal_report(), "plans and roles do not reach it");
                        held_up.push((slug.clone(), error.to_string()));
                    }
                }
                looked_at += 1;
            }
            after = slugs.last().cloned();
            self.wake();
            tracing::info!(looked_at, minted, held_up = held_up.len(), "bringing accounts to other plans and roles");
        }
        held_up.truncate(100);
        self.loaded.rcu(|loaded| Loaded { held_up: held_up.clone(), ..Loaded::clone(loaded) });
        Ok(minted)
    }

    /// Whether a generation was minted.
    async fn apply_to(&self, slug: &OrgSlug) -> Result<bool> {
        let actor = Actor::task("policies");
        let mut change = Applying::begin(&self.store, &actor).await?;
        let followed = self.follow_in(change.work(), &actor, slug, &self.policies()).await?;
        change.commit().await?;
        Ok(followed.is_some_and(|followed| followed.minted))
    }

    /// Brings an organization to plans and roles; none: it is gone.
    pub(super) async fn follow_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        policies: &Policies,
    ) -> Result<Option<Followed>> {
        let Some(org) = organizations::lock(work.rows(), slug).await? else { return Ok(None) };
        if !matches!(org.state, OrgState::Active | OrgState::Suspended) {
            return Ok(None);
        }
        // What the deployer has decided is not refused for lack of capacity; the promise is kept true.
        let promised = organizations::promise(work.rows(), org.id).await?;
        let promise = promise_of(&super::mint::limits(policies, &org.plan, &org.limits)?);
        let change_of = Bytes { memory: promise.memory - promised.memory, disk: promise.disk - promised.disk };
        if change_of != Bytes::default() {
            organizations::add_promise(work.rows(), change_of).await?;
            let promise = Bytes { memory: promise.memory, disk: promise.disk };
            organizations::update(work.rows(), &org, promise, false).await?;
        }
        let new_roles = self.add_missing_keys(work.rows(), &org, policies).await?;
        let before = accounts::lock(work.rows(), org.account).await?.generation;
        let fingerprint = data_encoding::HEXLOWER.encode(&policies.fingerprint);
        let detail = json!({"reason": "plans or roles changed", "policies": fingerprint, "newKeys": new_roles});
        let event = self.event(actor, "organization.recompose", Some(slug), slug, detail);
        // An event only for what changes: most accounts come out as they were.
        let differs =
            new_roles > 0 || change_of != Bytes::default() || self.differs(work.rows(), &org, policies).await?;
        if differs {
            audit::record(work.rows(), &event).await?;
            self.mint_with(work, &org, event.id, policies).await?;
        } else {
            made_with::composed_with(work.rows(), org.account, &policies.fingerprint).await?;
        }
        let after = accounts::lock(work.rows(), org.account).await?.generation;
        Ok(Some(Followed { minted: after != before, promise: change_of }))
    }

    /// Gives environments keys for roles that came later. Returns how many.
    async fn add_missing_keys(&self, tx: &mut Connection, org: &Organization, policies: &Policies) -> Result<usize> {
        let there = keys::in_account(tx, org.account).await?;
        let mut missing = Vec::new();
        for env in environments::of(tx, org.id).await? {
            if !matches!(env.state, EnvState::Pending | EnvState::Ready) {
                continue;
            }
            for role in policies.roles.values().filter(|role| role.check_env_type(&env.env_type).is_ok()) {
                let scope = KeyScope::Role { environment: env.id, role: role.name.clone() };
                if there.iter().all(|(_, other)| *other != scope) {
                    missing.push(NewAccountKey { account: org.account, scope, key: self.signer.generate()? });
                }
            }
        }
        if !missing.is_empty() {
            keys::insert(tx, &missing, self.now()).await?;
        }
        Ok(missing.len())
    }
}
