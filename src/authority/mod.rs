//! The domain service: what may be done, what follows from it, what is signed. It reads and writes
//! the ledger, never the cluster: `tasks` bring the cluster to what the ledger says, and tell the
//! authority how the servers stand ([`Standing`]).
//!
//! Every change is one transaction with its audit event; every account is composed from the ledger
//! and the policies (`compose`), never edited.

mod approval;
pub mod audit_log;
pub mod bundle;
pub mod compose;
mod consumers;
pub mod convergence;
mod deletion;
mod denials;
pub mod effect;
mod environments;
mod expiry;
mod issuance;
mod issue;
mod items;
pub mod key_rotation;
mod key_rotations;
mod key_steps;
mod ledger;
mod mint;
mod operator;
pub mod operator_jwt;
mod operator_keys;
mod operator_rotation;
mod operator_steps;
mod options;
mod organizations;
mod own_users;
mod platform;
mod policy_diff;
mod preview;
pub mod proof;
pub mod reconcile;
mod reload;
mod renewal;
mod repair;
pub mod requests;
pub mod restore;
mod revoke;
mod rotation;
pub mod sealing;
pub mod server_config;
mod standing;
mod streams;
mod tokens;
mod wait;
mod whole;
mod work;

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

pub use consumers::Consumers;
pub use issue::{Issued, MAX_BATCH};
pub use items::ItemKind;
pub use key_rotations::KeyStanding;
pub use operator::present_trust;
pub use own_users::{OwnUser, SYSTEM_USER_LIFE};
pub use policy_diff::{Following, Promised};
pub use preview::{Preview, Proposal};
pub use reload::Loaded;
pub use renewal::Renewed;
pub use revoke::Revocation;
pub use standing::{Compared, ServerStanding, Standing, Told};
pub use streams::Streams;
pub use whole::Whole;

use crate::{
    clock::Clock,
    entropy::Entropy,
    error::{Error, Result},
    model::{CallerRole, NameRules, ids::new_id},
    nkey::{Account, PublicKey},
    policy::Policies,
    signer::Signer,
    store::{Store, audit, idempotency::Operation},
};

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    /// The caller's subject, or `task:<name>`.
    pub subject: String,
    /// Who vouches for the subject: the issuer of its token; none for our own tokens and tasks.
    pub issuer: Option<String>,
    /// Where the request came from.
    pub address: Option<String>,
    /// What the caller is; a task is nothing.
    pub roles: Vec<CallerRole>,
    /// What let it ask: the operation and the policies that permit it.
    pub access: Option<Permitted>,
    /// It may not issue what reaches beyond one environment.
    pub confined: bool,
    /// The request that it asks with.
    pub request_id: Option<String>,
    /// The generation of the account at which it wants the change; at another one it is refused.
    pub if_generation: Option<i64>,
    /// The idempotency key that it asks under.
    pub operation: Option<Operation>,
}

/// What let a caller ask, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Permitted {
    /// The operation, as the API's document names it.
    pub operation: String,
    /// The policies that permit it.
    pub policies: Vec<String>,
}

impl Actor {
    /// One of our own tasks.
    pub fn task(name: &str) -> Self {
        Self { subject: format!("task:{name}"), ..Self::default() }
    }

    /// Somebody who has shown who it is.
    pub fn caller(subject: impl Into<String>, roles: impl Into<Vec<CallerRole>>) -> Self {
        Self { subject: subject.into(), roles: roles.into(), ..Self::default() }
    }

    fn origin(&self) -> audit::Origin {
        audit::Origin {
            issuer: self.issuer.clone(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
            operation: self.operation,
        }
    }

    /// The subject with who vouches for it: two issuers may know different people by one name.
    pub fn identity(&self) -> String {
        match &self.issuer {
            Some(issuer) => format!("{}@{issuer}", self.subject),
            None => self.subject.clone(),
        }
    }
}

/// What the deployer decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which names are allowed.
    pub names: NameRules,
    /// The plan of organizations that name none.
    pub default_plan: String,
    /// How much may be promised, as a multiple of what the cluster has.
    pub overcommit: f64,
    /// Above so many bytes an account's revocations are folded, where that hits nothing valid.
    pub fold_above: usize,
    /// How long before the end of a credential a warning is recorded, seconds.
    pub warn_before: i64,
}

/// What [`Settings::fold_above`] is unless the deployer decides otherwise: with two environments some 400 entries, with five some 200.
pub const FOLD_ABOVE: usize = 48 << 10;

/// What [`Settings::warn_before`] is unless the deployer decides otherwise: seven days.
pub const WARN_BEFORE: i64 = 7 * 86_400;

impl Default for Settings {
    fn default() -> Self {
        Self {
            names: NameRules::default(),
            default_plan: "s".to_owned(),
            overcommit: 1.0,
            fold_above: FOLD_ABOVE,
            warn_before: WARN_BEFORE,
        }
    }
}

/// See the module's documentation.
pub struct Authority {
    store: Store,
    signer: Arc<Signer>,
    policies: ArcSwap<Policies>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    operator: ArcSwap<operator::OperatorNow>,
    platform: OnceLock<PublicKey<Account>>,
    standing: ArcSwap<Standing>,
    issuance: issuance::Issuance,
    renewals: renewal::Renewals,
    denials: denials::Denials,
    /// Wakes the push task.
    pub push_wanted: Arc<Notify>,
    /// Wakes the expire task.
    pub endings_wanted: Arc<Notify>,
    /// Wakes the rotate task.
    pub rotations_wanted: Arc<Notify>,
    /// Wakes the provision task.
    pub provision_wanted: Arc<Notify>,
    /// Wakes the task that looks for clients that stayed.
    pub clients_wanted: Arc<Notify>,
    /// Wakes the reconcile task.
    pub reconcile_wanted: Arc<Notify>,
    /// Wakes the restore task.
    pub restore_wanted: Arc<Notify>,
    /// Wakes the task that brings accounts to other plans and roles.
    pub policies_wanted: Arc<Notify>,
    loaded: ArcSwap<Loaded>,
    compared: ArcSwap<Compared>,
    whole: tokio::sync::Mutex<Option<Arc<Whole>>>,
    progress: broadcast::Sender<PublicKey<Account>>,
}

/// What the authority is made of.
pub struct Parts {
    /// The ledger.
    pub store: Store,
    /// The keys.
    pub signer: Arc<Signer>,
    /// Plans and roles.
    pub policies: Policies,
    /// What the deployer decides.
    pub settings: Settings,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
}

impl Authority {
    /// Opens the authority on a database that has adopted an operator, and makes the platform account if there
    /// is none yet. Fails when the operator's
    /// signing key cannot be opened with the configured sealing keys.
    pub async fn open(parts: Parts) -> Result<Arc<Self>> {
        let operator = operator::OperatorNow::read(&parts.store).await?.ok_or_else(|| {
            Error::unavailable(
                "no-operator",
                "the database has no operator yet; set `bundle` in the configuration to what `nats-authority init` wrote",
            )
        })?;
        operator.check(&parts.signer)?;
        if !parts.policies.plans.contains_key(&parts.settings.default_plan) {
            return Err(Error::invalid(
                "unknown-default-plan",
                format!("default_plan names '{}', which is no plan here", parts.settings.default_plan),
            ));
        }
        let standing = Standing::from_ledger(&parts.store.servers().await?);
        let authority = Arc::new(Self {
            issuance: issuance::Issuance::start(&parts.store),
            renewals: renewal::Renewals::start(&parts.store),
            denials: denials::Denials::default(),
            store: parts.store,
            signer: parts.signer,
            policies: ArcSwap::from_pointee(parts.policies),
            settings: parts.settings,
            clock: parts.clock,
            entropy: parts.entropy,
            operator: ArcSwap::from_pointee(operator),
            platform: OnceLock::new(),
            standing: ArcSwap::from_pointee(standing),
            push_wanted: Arc::new(Notify::new()),
            endings_wanted: Arc::new(Notify::new()),
            rotations_wanted: Arc::new(Notify::new()),
            provision_wanted: Arc::new(Notify::new()),
            clients_wanted: Arc::new(Notify::new()),
            reconcile_wanted: Arc::new(Notify::new()),
            restore_wanted: Arc::new(Notify::new()),
            policies_wanted: Arc::new(Notify::new()),
            loaded: ArcSwap::default(),
            compared: ArcSwap::default(),
            whole: tokio::sync::Mutex::default(),
            progress: broadcast::channel(4096).0,
        });
        authority.open_platform().await?;
        authority.put_in_force().await?;
        Ok(authority)
    }

    /// The ledger, for what only reads or reports.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The present time.
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The plans and roles in force.
    pub fn policies(&self) -> Arc<Policies> {
        self.policies.load_full()
    }

    /// How the servers stand, as last seen.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// Tells the authority how the servers stand.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }

    /// What the last comparison with the servers found.
    pub fn compared(&self) -> Arc<Compared> {
        self.compared.load_full()
    }

    /// Tells the authority what a comparison with the servers found.
    pub fn set_compared(&self, compared: Compared) {
        self.compared.store(Arc::new(compared));
    }

    /// Forgets a server that is gone for good: it no longer makes accounts partial, holds back
    /// deletions or counts as capacity. One that answers is refused; one that returns is known again.
    pub async fn forget_server(&self, actor: &Actor, name: &str) -> Result<()> {
        let standing = self.standing();
        let server = standing.servers.iter().find(|server| server.row.name == name).ok_or_else(|| {
            Error::not_found("no-server", format!("no server '{name}' is known; see GET /api/v1/resolver"))
        })?;
        if server.row.live {
            return Err(Error::conflict("server-live", format!("the server '{name}' answers; stop it first")));
        }
        let event = self.event(actor, "server.forget", None, name, serde_json::json!({"id": server.row.id}));
        self.store.forget_server(name, &event).await?;
        self.standing.rcu(|standing| {
            let mut standing = Standing::clone(standing);
            standing.servers.retain(|server| server.row.name != name);
            standing
        });
        self.push_wanted.notify_one();
        Ok(())
    }

    /// What the deployer decided.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Tells whoever waits that something about this account has changed.
    pub fn announce(&self, account: PublicKey<Account>) {
        // Nobody may be listening.
        let _ = self.progress.send(account);
    }

    /// The accounts about which something changes from now on.
    pub fn progress(&self) -> broadcast::Receiver<PublicKey<Account>> {
        self.progress.subscribe()
    }

    /// How many tokens were signed since the start.
    pub fn tokens_signed(&self) -> u64 {
        self.signer.tokens_signed()
    }

    /// A new identifier.
    pub fn id(&self) -> Uuid {
        new_id(self.clock.as_ref(), self.entropy.as_ref())
    }

    #[expect(clippy::needless_pass_by_value, reason = "most targets are made for the call")]
    fn event(
        &self,
        actor: &Actor,
        action: &'static str,
        org: Option<&crate::model::OrgSlug>,
        target: impl ToString,
        mut detail: serde_json::Value,
    ) -> audit::Event {
        if let (Some(access), Some(fields)) = (&actor.access, detail.as_object_mut()) {
            fields.insert("access".to_owned(), serde_json::json!(access));
        }
        audit::Event {
            id: self.id(),
            at: self.now(),
            actor: actor.subject.clone(),
            action,
            org: org.map(ToString::to_string),
            target: target.to_string(),
            origin: actor.origin(),
            detail,
        }
    }
}
