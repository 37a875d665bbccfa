//! Organizations: onboarding (find or create), changes, suspension, deletion.

use serde_json::json;

use super::{
    Actor, Authority, convergence,
    environments::environment_view,
    mint::{limits, parse_overrides},
    requests::{ChangeOrganization, NewOrganization, Reason},
    work::{Applying, Work, check_generation},
};
use crate::{
    error::{Error, Kind, Result},
    model::{EnvType, OrgSlug, OrgState, Organization, view::OrganizationView},
    nkey::{self, KeyPair},
    policy::{Policies, Promise, promise_of},
    store::{
        Connection, accounts, audit, environments,
        items::{CONSUMERS, STREAMS},
        keys::{self, KeyScope, NewAccountKey},
        organizations::{self, Bytes},
        page::Page,
    },
};

/// The longest display name, characters.
const MAX_DISPLAY_NAME: usize = 200;

/// The longest reason, characters.
const MAX_REASON: usize = 500;

impl Authority {
    /// Onboards an organization: the account, its keys and its environments. Finds it when it is
    /// already there with the same content; the flag says whether it was made now.
    pub async fn onboard(&self, actor: &Actor, request: NewOrganization) -> Result<(OrganizationView, bool)> {
        let (slug, wanted) = self.wanted(&request)?;
        if let Some(found) = self.store.organization(&slug).await? {
            return self.same_as(actor, &found, &wanted).await.map(|view| (view, false));
        }
        let mut change = Applying::begin(&self.store, actor).await?;
        let Some(org) = self.onboard_in(change.work(), actor, &slug, &wanted).await? else {
            // Another request onboarded it between our look and our insert.
            drop(change);
            let found = self.store.organization(&slug).await?.ok_or_else(busy)?;
            return self.same_as(actor, &found, &wanted).await.map(|view| (view, false));
        };
        change.commit().await?;
        self.wake();
        self.view(&org).await.map(|view| (view, true))
    }

    /// None: the slug is taken.
    pub(super) async fn onboard_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        wanted: &Wanted,
    ) -> Result<Option<Organization>> {
        work.require_new()?;
        let promise = self.promise(&wanted.plan, &json!({}))?;
        let Some(org) = self.create(work.rows(), slug, wanted, promise).await? else { return Ok(None) };
        let event = self.event(actor, "organization.onboard", Some(slug), slug, json!({
            "account": org.account, "plan": org.plan, "displayName": org.display_name, "environments": wanted.env_types,
        }));
        audit::record(work.rows(), &event).await?;
        self.add_environments(work.rows(), &org, &wanted.env_types).await?;
        self.mint(work, &org, event.id).await?;
        // Last: all that are admitted wait for each other here.
        self.admit(work.rows(), promise).await?;
        Ok(Some(org))
    }

    /// Makes account, plain signing key and row; none: the slug was taken meanwhile.
    async fn create(
        &self,
        tx: &mut Connection,
        slug: &OrgSlug,
        wanted: &Wanted,
        promise: Bytes,
    ) -> Result<Option<Organization>> {
        let now = self.now();
        // The identity key names the account and signs nothing: its seed is forgotten at once.
        let account = KeyPair::<nkey::Account>::generate(self.entropy.as_ref()).public();
        accounts::create(tx, account, "organization", now).await?;
        let org = Organization {
            id: self.id(),
            slug: slug.clone(),
            display_name: wanted.display_name.clone(),
            plan: wanted.plan.clone(),
            limits: json!({}),
            allow_organization_reach: true,
            state: OrgState::Active,
            account,
            created_at: now,
            updated_at: now,
        };
        if !organizations::insert(tx, &org, promise).await? {
            return Ok(None);
        }
        let plain = NewAccountKey { account, scope: KeyScope::Account, key: self.signer.generate()? };
        keys::insert(tx, &[plain], now).await?;
        Ok(Some(org))
    }

    /// Changes display name, plan or limits.
    pub async fn change(&self, actor: &Actor, slug: &OrgSlug, change: ChangeOrganization) -> Result<OrganizationView> {
        self.transform(actor, slug, &Transform::Change(&change)).await
    }

    /// Stops every connection of an organization and keeps its data.
    pub async fn suspend(&self, actor: &Actor, slug: &OrgSlug, reason: Reason) -> Result<OrganizationView> {
        self.transform(actor, slug, &Transform::Suspend(&reason)).await
    }

    /// Undoes a suspension.
    pub async fn resume(&self, actor: &Actor, slug: &OrgSlug, reason: Reason) -> Result<OrganizationView> {
        self.transform(actor, slug, &Transform::Resume(&reason)).await
    }

    /// Starts the deletion: the account becomes a tombstone, the push task deletes it from the servers
    /// and then marks the organization deleted. `purge` also frees its JetStream data.
    pub async fn delete(&self, actor: &Actor, slug: &OrgSlug, purge: bool) -> Result<OrganizationView> {
        self.transform(actor, slug, &Transform::Delete { purge }).await
    }

    async fn transform(&self, actor: &Actor, slug: &OrgSlug, what: &Transform<'_>) -> Result<OrganizationView> {
        let mut change = Applying::begin(&self.store, actor).await?;
        let org = self.transform_in(change.work(), actor, slug, what).await?;
        change.commit().await?;
        self.wake();
        self.view(&org).await
    }

    /// One change of an organization: decide, write, compose, mint. A change that changes nothing
    /// writes nothing.
    pub(super) async fn transform_in(
        &self,
        work: &mut Work,
        actor: &Actor,
        slug: &OrgSlug,
        what: &Transform<'_>,
    ) -> Result<Organization> {
        what.check()?;
        let before = self.lock_organization(work, slug).await?;
        let mut org = before.clone();
        what.decide(&self.policies(), &mut org)?;
        if org == before {
            return Ok(org);
        }
        org.updated_at = self.now();
        let promised = organizations::promise(work.rows(), org.id).await?;
        let promise = if org.state == OrgState::Deleting { promised } else { self.promise(&org.plan, &org.limits)? };
        let change = Bytes { memory: promise.memory - promised.memory, disk: promise.disk - promised.disk };
        let purge = matches!(what, Transform::Delete { purge: true });
        organizations::update(work.rows(), &org, promise, purge).await?;
        if org.state == OrgState::Deleting {
            CONSUMERS.abandon_all(work.rows(), org.id).await?;
            STREAMS.abandon_all(work.rows(), org.id).await?;
            environments::abandon(work.rows(), org.id).await?;
            accounts::bury(work.rows(), org.account).await?;
        }
        let (action, detail) = what.event();
        let event = self.event(actor, action, Some(slug), slug, detail);
        audit::record(work.rows(), &event).await?;
        self.mint(work, &org, event.id).await?;
        self.admit(work.rows(), change).await?;
        Ok(org)
    }

    /// Locks an organization for a change, under the condition that the caller may have set.
    pub(super) async fn lock_organization(&self, work: &mut Work, slug: &OrgSlug) -> Result<Organization> {
        let org = organizations::lock(work.rows(), slug).await?.ok_or_else(|| no_organization(slug))?;
        work.require_generation(org.account).await?;
        Ok(org)
    }

    /// One organization. A deleted one is shown as long as its slug is not used again.
    pub async fn organization(&self, slug: &OrgSlug) -> Result<OrganizationView> {
        let org = self.store.organization_or_deleted(slug).await?.ok_or_else(|| no_organization(slug))?;
        self.view(&org).await
    }

    /// Lists organizations by slug and account, all or those that are named in `only`; a page continues behind such a pair.
    pub async fn organizations(
        &self,
        state: Option<OrgState>,
        plan: Option<&str>,
        only: Option<&[String]>,
        page: &Page<(String, String)>,
    ) -> Result<(Vec<OrganizationView>, bool)> {
        let (orgs, more) = self.store.organizations(state, plan, only, page).await?;
        Ok((self.views(&orgs).await?, more))
    }

    /// The organization of this slug, for what is done inside it.
    pub(super) async fn require_organization(&self, slug: &OrgSlug) -> Result<Organization> {
        self.store.organization(slug).await?.ok_or_else(|| no_organization(slug))
    }

    pub(super) async fn view(&self, org: &Organization) -> Result<OrganizationView> {
        self.views(std::slice::from_ref(org))
            .await?
            .pop()
            .ok_or_else(|| Error::internal("a view without its organization"))
    }

    async fn views(&self, orgs: &[Organization]) -> Result<Vec<OrganizationView>> {
        let ids: Vec<_> = orgs.iter().map(|org| org.id).collect();
        let accounts: Vec<_> = orgs.iter().map(|org| org.account).collect();
        let (environments, servers) =
            tokio::try_join!(self.store.environments(&ids), self.store.account_servers(&accounts))?;
        let standing = self.standing();
        Ok(orgs
            .iter()
            .map(|org| {
                let of_account = servers.iter().filter(|(account, ..)| *account == org.account);
                let generation = of_account.clone().map(|(_, generation, _)| *generation).max().unwrap_or_default();
                let has: Vec<_> = of_account.filter_map(|(_, _, has)| has.clone()).collect();
                OrganizationView {
                    slug: org.slug.to_string(),
                    display_name: org.display_name.clone(),
                    plan: org.plan.clone(),
                    limits: org.limits.clone(),
                    allow_organization_reach: org.allow_organization_reach,
                    state: org.state,
                    account_id: org.account.to_string(),
                    environments: environments
                        .get(&org.id)
                        .map(|rows| rows.iter().map(|row| environment_view(&org.slug, row)).collect())
                        .unwrap_or_default(),
                    resolver: convergence::view(generation, &standing, &has),
                    created_at: org.created_at,
                    updated_at: org.updated_at,
                }
            })
            .collect())
    }

    /// Adds `change` to what is promised, unless the cluster does not have it. Shrinking is always
    /// allowed.
    async fn admit(&self, tx: &mut Connection, change: Bytes) -> Result<()> {
        if change == Bytes::default() {
            return Ok(());
        }
        let sum = organizations::add_promise(tx, change).await?;
        if change.memory <= 0 && change.disk <= 0 {
            return Ok(());
        }
        let capacity = self.standing().capacity().ok_or_else(|| {
            Error::unavailable(
                "capacity-unknown",
                "no server has told its JetStream capacity yet, so nothing can be promised; see GET /readyz",
            )
        })?;
        let allowed = Promise { memory: self.overcommitted(capacity.memory), disk: self.overcommitted(capacity.disk) };
        let short = |what: &str, sum: i64, allowed: i64| {
            Error::new(
                Kind::Conflict,
                "capacity-exceeded",
                format!(
                    "the plan's {what} cannot be promised: all plans together would take {} of {} (capacity times overcommit {}); choose a smaller plan, add servers or raise jetstream.overcommit",
                    crate::model::size::format_size(sum),
                    crate::model::size::format_size(allowed),
                    self.settings.overcommit
                ),
            )
        };
        if change.disk > 0 && sum.disk > allowed.disk {
            return Err(short("disk", sum.disk, allowed.disk));
        }
        if change.memory > 0 && sum.memory > allowed.memory {
            return Err(short("memory", sum.memory, allowed.memory));
        }
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "bytes below 2^53")]
    pub(super) fn overcommitted(&self, bytes: i64) -> i64 {
        (bytes as f64 * self.settings.overcommit) as i64
    }

    fn promise(&self, plan: &str, overrides: &serde_json::Value) -> Result<Bytes> {
        let Promise { memory, disk } = promise_of(&limits(&self.policies(), plan, overrides)?);
        Ok(Bytes { memory, disk })
    }

    pub(super) fn wanted(&self, request: &NewOrganization) -> Result<(OrgSlug, Wanted)> {
        let slug: OrgSlug = request.slug.parse()?;
        self.settings.names.check_slug(&slug)?;
        let env_types = self.parse_env_types(&request.environments)?;
        let plan = request.plan.clone().unwrap_or_else(|| self.settings.default_plan.clone());
        self.policies().plan(&plan)?;
        let display_name = request.display_name.clone().unwrap_or_else(|| slug.to_string());
        check_display_name(&display_name)?;
        Ok((slug, Wanted { display_name, plan, env_types }))
    }

    /// The platform's events arrive late and twice: the same request again finds the organization.
    /// Environments may have been added since; one that is missing makes it another request.
    pub(super) async fn same_as(
        &self,
        actor: &Actor,
        found: &Organization,
        wanted: &Wanted,
    ) -> Result<OrganizationView> {
        let view = self.view(found).await?;
        check_generation(actor.if_generation, view.resolver.generation)?;
        let differs = if found.state == OrgState::Deleting {
            Some("it is being deleted")
        } else if view.display_name != wanted.display_name {
            Some("its displayName differs")
        } else if view.plan != wanted.plan {
            Some("its plan differs")
        } else if wanted
            .env_types
            .iter()
            .any(|wanted| view.environments.iter().all(|env| env.env_type != wanted.as_str()))
        {
            Some("it lacks one of the environments; add it with PUT …/envs/{envType}")
        } else {
            None
        };
        match differs {
            None => Ok(view),
            Some(why) => Err(Error::conflict(
                "organization-exists",
                format!(
                    "there is already an organization '{}' and {why}; change it with PATCH or choose another slug",
                    found.slug
                ),
            )),
        }
    }

    fn parse_env_types(&self, texts: &[String]) -> Result<Vec<EnvType>> {
        let mut env_types: Vec<EnvType> = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let pointer =
                |error: Error| Error::field(error.code(), format!("/environments/{index}"), error.to_string());
            let env_type: EnvType = text.parse().map_err(pointer)?;
            self.settings.names.check_env_type(&env_type).map_err(pointer)?;
            if !env_types.contains(&env_type) {
                env_types.push(env_type);
            }
        }
        Ok(env_types)
    }

    pub(super) fn wake(&self) {
        self.push_wanted.notify_one();
        self.provision_wanted.notify_one();
    }
}

/// A change of an organization that is there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transform<'a> {
    Change(&'a ChangeOrganization),
    Suspend(&'a Reason),
    Resume(&'a Reason),
    Delete { purge: bool },
}

impl Transform<'_> {
    fn check(&self) -> Result<()> {
        match self {
            Self::Change(change) => {
                change.limits.as_ref().map(parse_overrides).transpose()?;
                change.display_name.as_deref().map(check_display_name).transpose()?;
                Ok(())
            }
            Self::Suspend(reason) | Self::Resume(reason) => check_reason(reason),
            Self::Delete { .. } => Ok(()),
        }
    }

    fn decide(&self, policies: &Policies, org: &mut Organization) -> Result<()> {
        match self {
            Self::Change(change) => {
                org.state.require_active()?;
                if let Some(name) = &change.display_name {
                    org.display_name.clone_from(name);
                }
                if let Some(plan) = &change.plan {
                    policies.plan(plan)?;
                    org.plan.clone_from(plan);
                }
                if let Some(limits) = &change.limits {
                    org.limits.clone_from(limits);
                }
                org.allow_organization_reach = change.allow_organization_reach.unwrap_or(org.allow_organization_reach);
            }
            Self::Suspend(_) => org.state = org.state.suspend()?,
            Self::Resume(_) => org.state = org.state.resume()?,
            Self::Delete { .. } => org.state = org.state.delete(),
        }
        Ok(())
    }

    fn event(&self) -> (&'static str, serde_json::Value) {
        match self {
            Self::Change(change) => ("organization.change", json!({"change": change})),
            Self::Suspend(reason) => ("organization.suspend", json!({"reason": reason.reason})),
            Self::Resume(reason) => ("organization.resume", json!({"reason": reason.reason})),
            Self::Delete { purge } => ("organization.delete", json!({"purge": purge})),
        }
    }
}

pub(super) struct Wanted {
    display_name: String,
    plan: String,
    env_types: Vec<EnvType>,
}

fn check_display_name(name: &str) -> Result<()> {
    let length = name.chars().count();
    if (1..=MAX_DISPLAY_NAME).contains(&length) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::field(
        "invalid-display-name",
        "/displayName",
        format!("a display name has 1 to {MAX_DISPLAY_NAME} characters and no control characters"),
    ))
}

pub(super) fn check_reason(reason: &Reason) -> Result<()> {
    match &reason.reason {
        Some(text) if text.chars().count() > MAX_REASON || text.contains('\0') => Err(Error::field(
            "invalid-reason",
            "/reason",
            format!("a reason has at most {MAX_REASON} characters and no NUL"),
        )),
        _ => Ok(()),
    }
}

pub(super) fn no_organization(slug: &OrgSlug) -> Error {
    Error::not_found("no-organization", format!("there is no organization '{slug}'"))
}

pub(super) fn busy() -> Error {
    Error::unavailable("busy", "the organization is being changed; try again")
}
