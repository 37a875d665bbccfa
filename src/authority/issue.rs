//! Issuing credentials: decide, lint, sign, record, release.

use std::{borrow::Cow, collections::HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use zeroize::Zeroizing;

use super::{Actor, Authority, environments::no_environment, options, proof, requests::NewCredential as Request};
use crate::{
    error::{Error, Result},
    jwt::{self, Claims, creds},
    model::{
        Credential, EnvType, Environment, ItemName, OrgSlug, credential::Options, size::parse_duration,
        view::CredentialView,
    },
    nkey::{PublicKey, Seed, User},
    policy::{Policies, Role, custom},
    signer::lint,
    store::{
        Recorded, credentials,
        keys::{IssuingContext, replaced_now},
    },
};

/// The most credentials in one batch.
pub const MAX_BATCH: usize = 1000;

/// An issued credential, shown once.
pub struct Issued {
    /// Its row, without anything secret.
    pub credential: CredentialView,
    /// The JWT.
    pub jwt: String,
    /// The creds file, when the authority made the key. Kept nowhere.
    pub creds: Option<Zeroizing<String>>,
}

/// A request that was parsed: everything that needs no ledger has been checked.
pub(super) struct Parsed<'p> {
    name: ItemName,
    role: Cow<'p, Role>,
    ttl: i64,
    key: UserKey,
    options: Options,
}

enum UserKey {
    /// The authority makes it, and shows it once.
    Ours(Seed<User>),
    /// The caller holds the private half.
    Theirs(PublicKey<User>),
    /// The key of an older credential; the new JWT is younger than that one's issue time, Unix seconds.
    Renewed(PublicKey<User>, i64),
    /// The key and the issue time of a credential that is recorded already.
    Again(PublicKey<User>, i64),
}

impl<'p> Parsed<'p> {
    /// A credential like `old` for the same key, that lives `ttl` seconds. Policies may have changed since.
    pub(super) fn renewal(
        policies: &'p Policies,
        environment: &Environment,
        old: &Credential,
        ttl: i64,
    ) -> Result<Self> {
        if let Some(own) = &old.options.permissions {
            custom::check(own, environment)?;
        }
        let key = UserKey::Renewed(old.user_key, old.issued_at.timestamp());
        let parsed = Self::like(policies, old, ttl, key)?;
        parsed.role.check_env_type(&environment.env_type)?;
        options::check(&parsed.options, &parsed.role)?;
        Ok(parsed)
    }

    /// What `row` is the record of, once more.
    pub(super) fn again(policies: &'p Policies, row: &Credential) -> Result<Self> {
        let ttl = (row.expires_at - row.issued_at).num_seconds();
        Self::like(policies, row, ttl, UserKey::Again(row.user_key, row.issued_at.timestamp()))
    }

    fn like(policies: &'p Policies, row: &Credential, ttl: i64, key: UserKey) -> Result<Self> {
        let role = policies.grant(&row.role, row.options.permissions.as_ref())?;
        Ok(Self { name: row.name.parse()?, role, ttl, key, options: row.options.clone() })
    }
}

impl Authority {
    /// Issues one credential.
    pub async fn issue(&self, actor: &Actor, org: &OrgSlug, env_type: &EnvType, request: Request) -> Result<Issued> {
        let issued = self.issue_all(actor, org, env_type, vec![request]).await?;
        issued.into_iter().next().ok_or_else(|| Error::internal("issued nothing"))
    }

    /// Issues 1 to [`MAX_BATCH`] credentials, all or none; an error's pointers name the item.
    pub async fn issue_batch(
        &self,
        actor: &Actor,
        org: &OrgSlug,
        env_type: &EnvType,
        items: Vec<Request>,
    ) -> Result<Vec<Issued>> {
        if !(1..=MAX_BATCH).contains(&items.len()) {
            return Err(Error::field("invalid-batch", "/items", format!("a batch has 1 to {MAX_BATCH} items")));
        }
        self.issue_all(actor, org, env_type, items).await
    }

    async fn issue_all(
        &self,
        actor: &Actor,
        org: &OrgSlug,
        env_type: &EnvType,
        requests: Vec<Request>,
    ) -> Result<Vec<Issued>> {
        self.settings.names.check_env_type(env_type)?;
        let environment = Environment::new(org.clone(), env_type.clone());
        let single = requests.len() == 1;
        let policies = self.policies();
        let mut parsed = Vec::with_capacity(requests.len());
        let mut keys = HashSet::new();
        for (index, request) in requests.into_iter().enumerate() {
            let under = |error: Error| if single { error } else { error.under(&format!("/items/{index}")) };
            let request = self.parse(&policies, &environment, request).map_err(under)?;
            if let UserKey::Theirs(key) = &request.key
                && !keys.insert(*key)
            {
                return Err(under(Error::field(
                    "public-key-in-use",
                    "/publicKey",
                    "this public key stands twice in the batch",
                )));
            }
            parsed.push(request);
        }
        let mut new = Vec::with_capacity(parsed.len());
        let mut seeds = Vec::with_capacity(parsed.len());
        let mut context: Option<(String, IssuingContext)> = None;
        for request in parsed {
            let found = match context.take() {
                Some((role, found)) if role == request.role.name => found,
                _ => self.issuing_context(org, env_type, &request.role.name).await?,
            };
            let (row, seed) = self.sign_one(actor, &environment, &found, request).await?;
            context = Some((row.row.role.clone(), found));
            new.push(row);
            seeds.push(seed);
        }
        let recorded = self.issuance.record(new).await?;
        Ok(recorded.into_iter().zip(seeds).map(|((row, token), seed)| self.release(&row, &token, seed)).collect())
    }

    /// Everything that can be refused without the ledger.
    pub(super) fn parse<'p>(
        &self,
        policies: &'p Policies,
        environment: &Environment,
        request: Request,
    ) -> Result<Parsed<'p>> {
        let name: ItemName = request.name.parse()?;
        let permissions = request.permissions.map(Into::into);
        let role = policies.grant(&request.role, permissions.as_ref())?;
        if let Some(own) = &permissions {
            custom::check(own, environment)?;
        }
        role.check_env_type(&environment.env_type)?;
        let ttl = role.ttl(request.ttl.as_deref().map(|text| parse_duration("/ttl", text)).transpose()?)?;
        let key = match (&request.public_key, &request.proof) {
            (None, None) => UserKey::Ours(Seed::generate(self.entropy.as_ref())),
            (None, Some(_)) => {
                return Err(Error::field("proof-without-key", "/proof", "a proof goes with a publicKey"));
            }
            (Some(key), proof) => {
                let key: PublicKey<User> = key
                    .parse()
                    .map_err(|error| Error::field("invalid-public-key", "/publicKey", format!("{error}")))?;
                let proof = proof.as_deref().ok_or_else(|| {
                    Error::field("proof-missing", "/proof", "a publicKey needs the proof that you hold its private key")
                })?;
                proof::verify(environment, &role.name, key, proof)?;
                UserKey::Theirs(key)
            }
        };
        let options = Options {
            connection_types: request.connection_types,
            allowed_cidrs: request.allowed_cidrs,
            tags: request.tags,
            times_location: options::zone(&request.times, request.times_location),
            times: request.times,
            bearer: request.bearer,
            permissions,
            own_key: matches!(key, UserKey::Theirs(_)),
        };
        options::check(&options, &role)?;
        Ok(Parsed { name, role, ttl, key, options })
    }

    pub(super) async fn issuing_context(
        &self,
        org: &OrgSlug,
        env_type: &EnvType,
        role: &str,
    ) -> Result<IssuingContext> {
        let Some(context) = self.store.issuing_context(org, env_type, role).await? else {
            self.require_organization(org).await?;
            return Err(no_environment(org, env_type));
        };
        context.org_state.require_active()?;
        Ok(context)
    }

    /// Composes the user's claims, lints and signs them. The result can be recorded, not yet read.
    pub(super) async fn sign_one(
        &self,
        actor: &Actor,
        environment: &Environment,
        context: &IssuingContext,
        request: Parsed<'_>,
    ) -> Result<(credentials::NewCredential, Option<Seed<User>>)> {
        // Everything up to the cutoff is revoked, also what would be issued in that very second.
        let now = self.clock.unix().max(context.cutoff.map_or(i64::MIN, |at| at + 1));
        let (user, seed, iat) = match request.key {
            UserKey::Ours(seed) => (seed.key_pair().public(), Some(seed), now),
            // A key that was revoked before is revoked for every JWT up to that second.
            UserKey::Theirs(key) => {
                let revoked = self.store.last_revocation(key).await?;
                (key, None, revoked.map_or(now, |at| now.max(at + 1)))
            }
            UserKey::Renewed(key, after) => (key, None, now.max(after + 1)),
            UserKey::Again(key, at) => (key, None, at),
        };
        self.require_allowed(actor, context, &request.role, &request.options)?;
        // A user under a scoped key may carry nothing of its own, so a restricted one carries everything.
        let (issuer, mut claims) = if request.options.restricts() {
            let limits = options::limits(&request.role.limits, &request.options);
            (
                context.plain.as_ref().ok_or_else(replaced_now)?,
                jwt::User::unscoped(context.account, request.role.permissions_for(environment, user), limits),
            )
        } else {
            let scoped = context.scoped.as_ref().ok_or_else(|| {
                if context.pending {
                    return replaced_now();
                }
                Error::conflict(
                    "role-not-provisioned",
                    format!(
                        "the environment was made before the role '{}' existed and has no key for it",
                        request.role.name
                    ),
                )
            })?;
            (scoped, jwt::User::scoped(context.account))
        };
        claims.common.tags.clone_from(&request.options.tags);
        let linted = lint(Claims {
            audience: None,
            expires: Some(iat + request.ttl),
            id: None,
            issued_at: Some(iat),
            issuer: issuer.public.into(),
            name: Some(request.name.to_string()),
            not_before: None,
            subject: user.into(),
            nats: claims,
        })
        .map_err(|error| options::blame(error, &request.options))?;
        let signed = self.signer.sign_as_account(issuer, linted)?;
        let row = Credential {
            id: self.id(),
            org: environment.org.clone(),
            env_type: environment.env_type.clone(),
            name: request.name.to_string(),
            role: request.role.name.clone(),
            user_key: user,
            issuer_key: issuer.public,
            jwt_sha256: signed.sha256(),
            issued_at: time(iat)?,
            expires_at: time(iat + request.ttl)?,
            issued_by: actor.subject.clone(),
            options: request.options,
            replaces: None,
            superseded_at: None,
            ends_at: None,
            revoked_at: None,
            revocation_reason: None,
        };
        let new = credentials::NewCredential {
            row,
            environment: context.environment,
            event: self.id(),
            origin: actor.origin(),
            signed,
        };
        Ok((new, seed))
    }

    pub(super) fn release(&self, row: &Credential, token: &Recorded<jwt::User>, seed: Option<Seed<User>>) -> Issued {
        Issued {
            credential: self.credential_view(row),
            jwt: token.token().to_owned(),
            creds: seed.map(|seed| creds::write(token.token(), &seed)),
        }
    }
}

fn time(unix: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp(unix, 0)
        .filter(|time| *time < DateTime::<Utc>::MAX_UTC - TimeDelta::days(1))
        .ok_or_else(|| Error::field("invalid-duration", "/ttl", "the end lies too far in the future"))
}
