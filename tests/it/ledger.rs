//! The domain service on a real Postgres, without servers: what is decided, recorded and refused.

use std::sync::Arc;

use nats_authority::{
    authority::{
        Actor, Authority, Parts, ServerStanding, Settings, Standing, Told, bundle, proof,
        requests::{CanI, ChangeOrganization, NewCredential, NewOrganization, Reason},
    },
    clock::ManualClock,
    entropy::{Entropy, SystemEntropy},
    error::{Kind, Result},
    jwt,
    model::{CallerRole, CredentialState, EnvType, Environment, OrgSlug, OrgState},
    nkey::{KeyPair, User},
    policy::Policies,
    signer::{SealingKey, SealingKeys, Signer},
    store::{Store, audit, listing::Filter, organizations, page::Page, servers::ServerRow},
};
use secrecy::SecretString;

use crate::support;

pub struct Ledger {
    pub authority: Arc<Authority>,
    pub clock: Arc<ManualClock>,
    pub actor: Actor,
    pub admin_token: String,
    pub database: support::TestDatabase,
    pub identity_seed: zeroize::Zeroizing<String>,
    signer: Arc<Signer>,
}

impl Ledger {
    /// Another replica on the same database.
    pub async fn reopen(&self) -> Arc<Authority> {
        self.reopen_with(&self.signer).await.unwrap()
    }

    /// The same with other sealing keys.
    pub async fn reopen_with(&self, signer: &Arc<Signer>) -> Result<Arc<Authority>> {
        let store = connect(self.database.url()).await;
        let authority = open(store, signer, &self.clock).await?;
        authority.set_standing(standing(3, Some(true)));
        Ok(authority)
    }
}

async fn open(store: Store, signer: &Arc<Signer>, clock: &Arc<ManualClock>) -> Result<Arc<Authority>> {
    Authority::open(Parts {
        store,
        signer: Arc::clone(signer),
        policies: Policies::builtin().unwrap(),
        settings: Settings::default(),
        clock: clock.clone(),
        entropy: Arc::new(SystemEntropy::new()),
    })
    .await
}

/// An authority on a database of its own, as if three servers of 10 GiB each were live.
pub async fn ledger() -> Ledger {
    let key = SealingKey::generate(&SystemEntropy::new());
    support::run::saw_sealing_key(&key);
    ledger_sealed_with(SealingKey::parse(&key).unwrap()).await
}

/// The same with this sealing key.
pub async fn ledger_sealed_with(key: SealingKey) -> Ledger {
    let database = support::migrated_database().await;
    let store = connect(database.url()).await;
    let clock = Arc::new(ManualClock::at(1_800_000_000));
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let sealing = SealingKeys::new(vec![key]).unwrap();
    let signer = Arc::new(Signer::new(sealing, Arc::clone(&entropy)));
    let new = bundle::create("test", &signer, clock.as_ref(), entropy.as_ref()).unwrap();
    assert!(new.bundle.adopt(&store, &signer, clock.as_ref(), entropy.as_ref()).await.unwrap());
    assert!(!new.bundle.adopt(&store, &signer, clock.as_ref(), entropy.as_ref()).await.unwrap());
    support::run::saw(&format!("{} {}", *new.identity_seed, *new.admin_token));
    let authority = open(store, &signer, &clock).await.unwrap();
    authority.set_standing(standing(3, Some(true)));
    let actor = Actor { request_id: Some("r1".to_owned()), ..Actor::caller("test", [CallerRole::SovereignAdmin]) };
    let admin_token = new.admin_token.to_string();
    Ledger { authority, clock, actor, admin_token, database, identity_seed: new.identity_seed, signer }
}

async fn connect(url: &str) -> Store {
    Store::connect(&SecretString::from(url.to_owned()), 8, std::time::Duration::from_secs(10)).await.unwrap()
}

fn standing(servers: usize, trusts_us: Option<bool>) -> Standing {
    let server = |n: usize| ServerStanding {
        row: ServerRow {
            name: format!("n{n}"),
            id: format!("N{n}"),
            cluster: None,
            version: "2.12.0".to_owned(),
            max_memory: 1 << 30,
            max_disk: 10 << 30,
            max_payload: 1 << 20,
            live: true,
            seen_at: chrono::DateTime::default(),
        },
        trusts_us,
        told: Told::default(),
    };
    Standing { servers: (1..=servers).map(server).collect(), connected: Ok(()) }
}

pub fn acme(environments: &[&str]) -> NewOrganization {
    NewOrganization {
        slug: "acme".to_owned(),
        environments: environments.iter().map(|text| (*text).to_owned()).collect(),
        ..NewOrganization::default()
    }
}

fn viewer(name: &str) -> NewCredential {
    NewCredential { name: name.to_owned(), role: "viewer".to_owned(), ..NewCredential::default() }
}

fn slug(text: &str) -> OrgSlug {
    text.parse().unwrap()
}

fn env(text: &str) -> EnvType {
    text.parse().unwrap()
}

async fn account_claims(ledger: &Ledger, org: &str) -> jwt::Claims<jwt::Account> {
    let view = ledger.authority.organization(&slug(org)).await.unwrap();
    let account = view.account_id.parse().unwrap();
    let token = ledger.authority.store().account_jwt(account).await.unwrap().unwrap();
    jwt::decode::<jwt::Account>(&token).unwrap().claims
}

#[tokio::test]
async fn onboarding_finds_or_creates() {
    let l = ledger().await;
    let (made, created) = l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    assert!(created);
    assert_eq!((made.slug.as_str(), made.plan.as_str(), made.state), ("acme", "s", OrgState::Active));
    assert_eq!(made.environments.len(), 2);
    assert_eq!(made.resolver.generation, 1);
    let (again, created) = l.authority.onboard(&l.actor, acme(&["dev"])).await.unwrap();
    assert!(!created);
    assert_eq!(again.account_id, made.account_id);
    assert_eq!(again.resolver.generation, 1, "nothing was minted again");
    let other = NewOrganization { plan: Some("m".to_owned()), ..acme(&["prod"]) };
    assert_eq!(l.authority.onboard(&l.actor, other).await.unwrap_err().code(), "organization-exists");
    assert_eq!(l.authority.onboard(&l.actor, acme(&["stg"])).await.unwrap_err().code(), "organization-exists");
    let claims = account_claims(&l, "acme").await;
    let roles = Policies::builtin().unwrap().roles.len();
    assert_eq!(claims.nats.signing_keys.0.len(), 1 + 2 * roles, "one plain key, one scoped key a role and environment");
    assert_eq!(claims.issuer, l.authority.operator_signing_key().any());
}

#[tokio::test]
async fn sixty_four_at_once_make_one_organization() {
    let l = ledger().await;
    let calls = (0..64).map(|_| l.authority.onboard(&l.actor, acme(&["prod"])));
    let results = futures::future::join_all(calls).await;
    assert_eq!(results.iter().filter(|result| result.as_ref().unwrap().1).count(), 1);
    let accounts: std::collections::HashSet<_> =
        results.iter().map(|result| result.as_ref().unwrap().0.account_id.clone()).collect();
    assert_eq!(accounts.len(), 1);
}

#[tokio::test]
async fn refused_requests_name_the_field_and_change_nothing() {
    let l = ledger().await;
    for (slug, environments, plan, pointer) in [
        ("Acme", vec![], None, "/slug"),
        ("kube-acme", vec![], None, "/slug"),
        ("prod", vec![], None, "/slug"),
        ("acme", vec!["pr-od"], None, "/environments/0"),
        ("acme", vec!["prod", "qa"], None, "/environments/1"),
        ("acme", vec![], Some("huge"), "/plan"),
    ] {
        let request = NewOrganization {
            slug: slug.to_owned(),
            environments: environments.into_iter().map(str::to_owned).collect(),
            plan: plan.map(str::to_owned),
            display_name: None,
        };
        let error = l.authority.onboard(&l.actor, request).await.unwrap_err();
        assert_eq!((error.kind(), error.fields()[0].pointer.as_str()), (Kind::Invalid, pointer), "{error}");
    }
    let (orgs, _) = l.authority.organizations(None, None, None, &Page { limit: 10, after: None }).await.unwrap();
    assert!(orgs.is_empty());
}

#[tokio::test]
async fn a_plan_that_the_cluster_cannot_hold_is_refused() {
    let l = ledger().await;
    l.authority.set_standing(Standing::default());
    assert_eq!(l.authority.onboard(&l.actor, acme(&[])).await.unwrap_err().code(), "capacity-unknown");
    let mut small = standing(3, Some(true));
    // 300 MiB for the platform account and as much for one organization.
    small.servers.iter_mut().for_each(|server| server.row.max_disk = 250 << 20);
    l.authority.set_standing(small);
    l.authority.onboard(&l.actor, acme(&[])).await.unwrap();
    let second = NewOrganization { slug: "second".to_owned(), ..NewOrganization::default() };
    let error = l.authority.onboard(&l.actor, second.clone()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Conflict, "capacity-exceeded"), "{error}");
    // What is deleted makes room, once it is gone.
    let deleting = l.authority.delete(&l.actor, &slug("acme"), false).await.unwrap();
    assert_eq!(l.authority.onboard(&l.actor, second.clone()).await.unwrap_err().code(), "capacity-exceeded");
    l.authority.finish_deletion(&slug("acme"), deleting.account_id.parse().unwrap()).await.unwrap();
    l.authority.onboard(&l.actor, second).await.unwrap();
}

#[tokio::test]
async fn nothing_is_signed_while_a_server_trusts_another_operator() {
    let l = ledger().await;
    l.authority.set_standing(standing(3, Some(false)));
    let error = l.authority.onboard(&l.actor, acme(&[])).await.unwrap_err();
    assert_eq!(error.code(), "operator-not-trusted");
    assert!(error.to_string().contains("n1, n2, n3"));
}

#[tokio::test]
async fn generations_and_issue_times_strictly_increase() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let first = account_claims(&l, "acme").await;
    // The clock stands still, even goes back.
    l.clock.advance(-100);
    l.authority.suspend(&l.actor, &slug("acme"), Reason::default()).await.unwrap();
    let suspended = account_claims(&l, "acme").await;
    assert!(suspended.issued_at > first.issued_at);
    assert_eq!((suspended.nats.limits.conn, suspended.nats.limits.leaf), (0, 0));
    let again = l.authority.suspend(&l.actor, &slug("acme"), Reason::default()).await.unwrap();
    assert_eq!(again.resolver.generation, 2, "suspending twice mints nothing");
    let resumed = l.authority.resume(&l.actor, &slug("acme"), Reason::default()).await.unwrap();
    assert_eq!((resumed.state, resumed.resolver.generation), (OrgState::Active, 3));
    let claims = account_claims(&l, "acme").await;
    assert!(claims.issued_at > suspended.issued_at);
    assert_eq!(claims.nats, first.nats);
}

#[tokio::test]
async fn limits_override_single_plan_limits() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&[])).await.unwrap();
    let change = |limits| ChangeOrganization { limits: Some(limits), ..ChangeOrganization::default() };
    let before = account_claims(&l, "acme").await;
    l.authority.change(&l.actor, &slug("acme"), change(serde_json::json!({"conn": 7}))).await.unwrap();
    let after = account_claims(&l, "acme").await;
    assert_eq!(after.nats.limits.conn, 7);
    assert_eq!(after.nats.limits.jetstream, before.nats.limits.jetstream);
    for bad in [serde_json::json!({"con": 7}), serde_json::json!(7), serde_json::json!({"conn": "many"})] {
        let error = l.authority.change(&l.actor, &slug("acme"), change(bad)).await.unwrap_err();
        assert!(error.fields()[0].pointer.starts_with("/limits"), "{error}");
    }
}

#[tokio::test]
async fn issuing_records_and_keeps_no_secret() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let issued = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), viewer("v1")).await.unwrap();
    let claims = jwt::decode::<jwt::User>(&issued.jwt).unwrap().claims;
    assert!(claims.nats.is_bare(), "a user under a scoped key carries nothing");
    assert_eq!(claims.subject.to_string(), issued.credential.user_key);
    assert_eq!(claims.expires.unwrap() - claims.issued_at.unwrap(), 90 * 86_400);
    let (token, seed) = jwt::creds::parse(&issued.creds.unwrap()).unwrap();
    assert_eq!(
        (token.as_str(), seed.key_pair().public().to_string()),
        (issued.jwt.as_str(), issued.credential.user_key.clone())
    );
    let account = account_claims(&l, "acme").await;
    assert!(account.nats.signing_keys.0.contains_key(&issued.credential.issuer_key.parse().unwrap()));
    let found = l.authority.credential(issued.credential.id).await.unwrap();
    assert_eq!(found.jwt_sha256, issued.credential.jwt_sha256);
    assert_eq!(found.state, CredentialState::Active);
    let (events, _) =
        l.authority.store().audit_events(&audit::Filter::default(), &Page { limit: 1, after: None }).await.unwrap();
    assert_eq!((events[0].action.as_str(), events[0].target.clone()), ("credential.issue", found.id.to_string()));
    l.clock.advance(91 * 86_400);
    assert_eq!(l.authority.credential(found.id).await.unwrap().state, CredentialState::Expired);
}

#[tokio::test]
async fn a_restricted_user_carries_its_own_permissions() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let request = NewCredential { allowed_cidrs: vec!["10.0.0.0/8".to_owned()], ..viewer("v1") };
    let issued = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), request).await.unwrap();
    let claims = jwt::decode::<jwt::User>(&issued.jwt).unwrap().claims;
    assert_eq!(claims.nats.limits.src, ["10.0.0.0/8"]);
    let inbox = format!("_INBOX.{}.>", issued.credential.user_key);
    assert!(claims.nats.permissions.subscribe.allow.contains(&inbox));
    let account = account_claims(&l, "acme").await;
    let key = claims.issuer.typed().unwrap();
    assert_eq!(account.nats.signing_keys.0.get(&key), Some(&None), "issued by the plain key");
}

#[tokio::test]
async fn a_token_that_no_server_would_read_is_refused() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let request = NewCredential { allowed_cidrs: (0..200).map(|n| format!("10.0.{n}.0/24")).collect(), ..viewer("v1") };
    let error = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), request).await.err().unwrap();
    assert_eq!(error.fields()[0].pointer, "/allowedCidrs");
    assert!(error.to_string().contains("3700"), "{error}");
}

#[tokio::test]
async fn a_callers_key_needs_its_proof() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod", "dev"])).await.unwrap();
    let key = KeyPair::<User>::generate(&SystemEntropy::new());
    let environment = Environment::new(slug("acme"), env("prod"));
    let good = NewCredential {
        public_key: Some(key.public().to_string()),
        proof: Some(proof::prove(&environment, "viewer", &key)),
        ..viewer("v1")
    };
    let elsewhere = l.authority.issue(&l.actor, &slug("acme"), &env("dev"), good.clone()).await.err().unwrap();
    assert_eq!(elsewhere.fields()[0].pointer, "/proof");
    let bare = NewCredential { proof: None, ..good.clone() };
    assert_eq!(
        l.authority.issue(&l.actor, &slug("acme"), &env("prod"), bare).await.err().unwrap().code(),
        "proof-missing"
    );
    let account = NewCredential {
        public_key: Some(l.authority.organization(&slug("acme")).await.unwrap().account_id),
        ..good.clone()
    };
    assert_eq!(
        l.authority.issue(&l.actor, &slug("acme"), &env("prod"), account).await.err().unwrap().fields()[0].pointer,
        "/publicKey"
    );
    let issued = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), good.clone()).await.unwrap();
    assert!(issued.creds.is_none());
    assert_eq!(issued.credential.user_key, key.public().to_string());
    let twice = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), good.clone()).await.err().unwrap();
    assert_eq!((twice.kind(), twice.code()), (Kind::Conflict, "public-key-in-use"));
    // Revoked and issued again in the same second: the new JWT is younger than the revocation.
    l.authority.revoke(&l.actor, issued.credential.id, Reason::default()).await.unwrap();
    let again = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), good).await.unwrap();
    let iat = jwt::decode::<jwt::User>(&again.jwt).unwrap().claims.issued_at.unwrap();
    let revocations = account_claims(&l, "acme").await.nats.revocations;
    assert!(iat > revocations[&issued.credential.user_key]);
}

#[tokio::test]
async fn a_revocation_is_an_entry_until_the_credential_would_have_ended() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let request = NewCredential { ttl: Some("2h".to_owned()), ..viewer("v1") };
    let issued = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), request).await.unwrap();
    let (revoked, _) =
        l.authority.revoke(&l.actor, issued.credential.id, Reason { reason: Some("lost".to_owned()) }).await.unwrap();
    assert_eq!((revoked.state, revoked.revocation_reason.as_deref()), (CredentialState::Revoked, Some("lost")));
    let claims = account_claims(&l, "acme").await;
    assert_eq!(claims.nats.revocations.len(), 1);
    let generation = l.authority.organization(&slug("acme")).await.unwrap().resolver.generation;
    l.authority.revoke(&l.actor, issued.credential.id, Reason::default()).await.unwrap();
    assert_eq!(l.authority.organization(&slug("acme")).await.unwrap().resolver.generation, generation);
    l.clock.advance(4 * 3600);
    l.authority.put_environment(&l.actor, &slug("acme"), &env("dev")).await.unwrap();
    assert!(account_claims(&l, "acme").await.nats.revocations.is_empty(), "pruned at the next change");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let mut items: Vec<_> = (0..50).map(|n| viewer(&format!("v{n}"))).collect();
    items[7].ttl = Some("0s".to_owned());
    let error = l.authority.issue_batch(&l.actor, &slug("acme"), &env("prod"), items.clone()).await.err().unwrap();
    assert_eq!(error.fields()[0].pointer, "/items/7/ttl");
    items[7].ttl = None;
    assert_eq!(l.authority.issue_batch(&l.actor, &slug("acme"), &env("prod"), items).await.unwrap().len(), 50);
    let page = Page { limit: 1000, after: None };
    let (all, more) = l.authority.credentials(&slug("acme"), &Filter::default(), &page).await.unwrap();
    assert_eq!((all.len(), more), (50, false));
}

#[tokio::test]
async fn many_at_once_share_commits_and_one_refusal_stays_alone() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let key = KeyPair::<User>::generate(&SystemEntropy::new());
    let environment = Environment::new(slug("acme"), env("prod"));
    let theirs = NewCredential {
        public_key: Some(key.public().to_string()),
        proof: Some(proof::prove(&environment, "viewer", &key)),
        ..viewer("same")
    };
    let (acme, prod) = (slug("acme"), env("prod"));
    let calls = (0..100).map(|n| {
        let request = if n % 10 == 0 { theirs.clone() } else { viewer(&format!("v{n}")) };
        l.authority.issue(&l.actor, &acme, &prod, request)
    });
    let results = futures::future::join_all(calls).await;
    let (good, bad): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (91, 9), "one of the ten with the same key");
    assert!(bad.into_iter().all(|result| result.err().unwrap().code() == "public-key-in-use"));
}

#[tokio::test]
async fn suspended_and_deleted_organizations_issue_nothing_and_a_slug_comes_back_with_another_account() {
    let l = ledger().await;
    let (first, _) = l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    l.authority.suspend(&l.actor, &slug("acme"), Reason::default()).await.unwrap();
    let error = l.authority.issue(&l.actor, &slug("acme"), &env("prod"), viewer("v")).await.err().unwrap();
    assert_eq!(error.code(), "organization-suspended");
    let deleting = l.authority.delete(&l.actor, &slug("acme"), false).await.unwrap();
    assert_eq!(deleting.state, OrgState::Deleting);
    let tombstone = account_claims(&l, "acme").await;
    assert!(tombstone.nats.revocations.contains_key("*") && tombstone.nats.limits.conn == 0);
    assert_eq!(l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap_err().code(), "organization-exists");
    assert_eq!(
        l.authority.resume(&l.actor, &slug("acme"), Reason::default()).await.unwrap_err().code(),
        "organization-deleting"
    );
    l.authority.finish_deletion(&slug("acme"), first.account_id.parse().unwrap()).await.unwrap();
    assert_eq!(l.authority.organization(&slug("acme")).await.unwrap().state, OrgState::Deleted);
    let (second, created) = l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    assert!(created && second.account_id != first.account_id);
}

#[tokio::test]
async fn can_i_names_the_rule() {
    let l = ledger().await;
    l.authority.onboard(&l.actor, acme(&["prod"])).await.unwrap();
    let ask = |publish: Option<&str>, subscribe: Option<&str>| CanI {
        org: "acme".to_owned(),
        env_type: "prod".to_owned(),
        role: Some("publisher".to_owned()),
        publish: publish.map(str::to_owned),
        subscribe: subscribe.map(str::to_owned),
        credential: None,
    };
    assert!(l.authority.can_i(&ask(Some("ws.acme-prod.a"), None)).await.unwrap().allowed);
    assert!(!l.authority.can_i(&ask(Some("ws.acme-prod-dev.a"), None)).await.unwrap().allowed);
    assert!(!l.authority.can_i(&ask(None, Some("ws.acme-dev.>"))).await.unwrap().allowed);
    assert!(l.authority.can_i(&ask(Some("ws.acme-prod.*"), None)).await.is_err(), "nobody publishes to a wildcard");
    assert!(l.authority.can_i(&ask(None, None)).await.is_err());
}

/// A replica that hangs in the middle of a change holds the locks of what it changes.
#[tokio::test]
async fn a_change_that_nobody_goes_on_with_holds_up_the_others_only_for_seconds() {
    let ledger = ledger().await;
    ledger.authority.onboard(&ledger.actor, acme(&[])).await.unwrap();
    let mut hung = ledger.authority.store().begin().await.unwrap();
    assert!(organizations::lock(&mut hung, &slug("acme")).await.unwrap().is_some());
    let start = std::time::Instant::now();
    ledger.authority.suspend(&ledger.actor, &slug("acme"), Reason::default()).await.unwrap();
    assert!(start.elapsed().as_secs() >= 2, "it waited");
    assert!(hung.commit().await.is_err());
}
