//! Organizations: onboarding (find or create), changes, suspension, deletion.

use serde_json::json;

use super::{
    Actor, Authority, convergence,
    environments::environment_view,
    mint::{limits, parse_overrides},
    requests::{ChangeOrganization, NewOrganization, Reason},
};
use crate::{
    error::{Error, Kind, Result},
    model::{EnvType, OrgSlug, OrgState, Organization, view::OrganizationView},
    nkey::{self, KeyPair},
    policy::{Promise, promise_of},
    store::{
        Tx, accounts, audit, consumers, environments,
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
        let slug: OrgSlug = request.slug.parse()?;
        self.settings.names.check_slug(&slug)?;
        let env_types = self.parse_env_types(&request.environments)?;
        let wanted = self.wanted(&slug, &request, env_types)?;
        if let Some(found) = self.store.organization(&slug).await? {
            return self.same_as(&found, &wanted).await.map(|view| (view, false));
        }
        let promise = self.promise(&wanted.plan, &json!({}))?;
        let mut tx = self.store.begin().await?;
        let Some(org) = self.create(&mut tx, &slug, &wanted, promise).await? else {
            // Another request onboarded it between our look and our insert.
            drop(tx);
            let found = self.store.organization(&slug).await?.ok_or_else(busy)?;
            return self.same_as(&found, &wanted).await.map(|view| (view, false));
        };
        let event = self.event(actor, "organization.onboard", Some(&slug), &slug, json!({
            "account": org.account, "plan": org.plan, "displayName": org.display_name, "environments": wanted.env_types,
        }));
        audit::record(&mut tx, &event).await?;
        self.add_environments(&mut tx, &org, &wanted.env_types).await?;
        self.mint(&mut tx, &org, event.id).await?;
        tx.commit().await?;
        self.wake();
        self.view(&org).await.map(|view| (view, true))
    }

    /// Makes account, plain signing key and row; none: the slug was taken meanwhile.
    async fn create(
        &self,
        tx: &mut Tx,
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
            state: OrgState::Active,
            account,
            created_at: now,
            updated_at: now,
        };
        if !organizations::insert(tx, &org, promise).await? {
            return Ok(None);
        }
        self.admit(tx, promise).await?;
        let plain = NewAccountKey { account, scope: KeyScope::Account, key: self.signer.generate()? };
        keys::insert(tx, &[plain], now).await?;
        Ok(Some(org))
    }

    /// Changes display name, plan or limits.
    pub async fn change(&self, actor: &Actor, slug: &OrgSlug, change: ChangeOrganization) -> Result<OrganizationView> {
        let overrides = change.limits.clone().unwrap_or_else(|| json!({}));
        parse_overrides(&overrides)?;
        if let Some(name) = &change.display_name {
            check_display_name(name)?;
        }
        self.transform(actor, slug, "organization.change", json!({"change": change}), |authority, org| {
            org.state.require_active()?;
            if let Some(name) = change.display_name {
                org.display_name = name;
            }
            if let Some(plan) = change.plan {
                authority.policies().plan(&plan)?;
                org.plan = plan;
            }
            if change.limits.is_some() {
                org.limits = overrides;
            }
            Ok(false)
        })
        .await
    }

    /// Stops every connection of an organization and keeps its data.
    pub async fn suspend(&self, actor: &Actor, slug: &OrgSlug, reason: Reason) -> Result<OrganizationView> {
        check_reason(&reason)?;
        self.transform(actor, slug, "organization.suspend", json!({"reason": reason.reason}), |_, org| {
            org.state = org.state.suspend()?;
            Ok(false)
        })
        .await
    }

    /// Undoes a suspension.
    pub async fn resume(&self, actor: &Actor, slug: &OrgSlug, reason: Reason) -> Result<OrganizationView> {
        check_reason(&reason)?;
        self.transform(actor, slug, "organization.resume", json!({"reason": reason.reason}), |_, org| {
            org.state = org.state.resume()?;
            Ok(false)
        })
        .await
    }

    /// Starts the deletion: the account becomes a tombstone, the push task deletes it from the servers
    /// and then marks the organization deleted. `purge` also frees its JetStream data.
    pub async fn delete(&self, actor: &Actor, slug: &OrgSlug, purge: bool) -> Result<OrganizationView> {
        self.transform(actor, slug, "organization.delete", json!({"purge": purge}), |_, org| {
            org.state = org.state.delete();
            Ok(purge)
        })
        .await
    }

    /// One change of an organization in one transaction: decide, write, compose, mint. A change that
    /// changes nothing writes nothing.
    async fn transform(
        &self,
        actor: &Actor,
        slug: &OrgSlug,
        action: &'static str,
        detail: serde_json::Value,
        decide: impl FnOnce(&Self, &mut Organization) -> Result<bool> + Send,
    ) -> Result<OrganizationView> {
        let mut tx = self.store.begin().await?;
        let before = organizations::lock(&mut tx, slug).await?.ok_or_else(|| no_organization(slug))?;
        let mut org = before.clone();
        let purge = decide(self, &mut org)?;
        let unchanged = (&org.display_name, &org.plan, &org.limits, org.state)
            == (&before.display_name, &before.plan, &before.limits, before.state);
        if unchanged {
            drop(tx);
            return self.view(&org).await;
        }
        org.updated_at = self.now();
        let promised = organizations::promise(&mut tx, org.id).await?;
        let promise = if org.state == OrgState::Deleting { promised } else { self.promise(&org.plan, &org.limits)? };
        self.admit(&mut tx, Bytes { memory: promise.memory - promised.memory, disk: promise.disk - promised.disk })
            .await?;
        organizations::update(&mut tx, &org, promise, purge).await?;
        if org.state == OrgState::Deleting {
            consumers::abandon_all(&mut tx, org.id).await?;
            environments::abandon(&mut tx, org.id).await?;
            accounts::bury(&mut tx, org.account).await?;
        }
        let event = self.event(actor, action, Some(slug), slug, detail);
        audit::record(&mut tx, &event).await?;
        self.mint(&mut tx, &org, event.id).await?;
        tx.commit().await?;
        self.wake();
        self.view(&org).await
    }

    /// One organization. A deleted one is shown as long as its slug is not used again.
    pub async fn organization(&self, slug: &OrgSlug) -> Result<OrganizationView> {
        let org = self.store.organization_or_deleted(slug).await?.ok_or_else(|| no_organization(slug))?;
        self.view(&org).await
    }

    /// Lists organizations by slug and account; a page continues behind such a pair.
    pub async fn organizations(
        &self,
        state: Option<OrgState>,
        plan: Option<&str>,
        page: &Page<(String, String)>,
    ) -> Result<(Vec<OrganizationView>, bool)> {
        let (orgs, more) = self.store.organizations(state, plan, page).await?;
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
    async fn admit(&self, tx: &mut Tx, change: Bytes) -> Result<()> {
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
    fn overcommitted(&self, bytes: i64) -> i64 {
        (bytes as f64 * self.settings.overcommit) as i64
    }

    fn promise(&self, plan: &str, overrides: &serde_json::Value) -> Result<Bytes> {
        let Promise { memory, disk } = promise_of(&limits(&self.policies(), plan, overrides)?);
        Ok(Bytes { memory, disk })
    }

    fn wanted(&self, slug: &OrgSlug, request: &NewOrganization, env_types: Vec<EnvType>) -> Result<Wanted> {
        let plan = request.plan.clone().unwrap_or_else(|| self.settings.default_plan.clone());
        self.policies().plan(&plan)?;
        let display_name = request.display_name.clone().unwrap_or_else(|| slug.to_string());
        check_display_name(&display_name)?;
        Ok(Wanted { display_name, plan, env_types })
    }

    /// The platform's events arrive late and twice: the same request again finds the organization.
    /// Environments may have been added since; one that is missing makes it another request.
    async fn same_as(&self, found: &Organization, wanted: &Wanted) -> Result<OrganizationView> {
        let view = self.view(found).await?;
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

struct Wanted {
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

fn busy() -> Error {
    Error::unavailable("busy", "the organization is being changed; try again")
}
