//! Users of our own: of the system account, to push and inspect; of an organization's account, to
//! make streams, buckets and consumers; of the system account for an operator's tools. They live for minutes;
//! ours exist only in memory, and each is recorded in the audit log before it is used.

use serde_json::json;

use super::{Actor, Authority, requests::NewSystemCredential};
use crate::{
    error::{Error, Result},
    jwt::{self, Claims, Permissions, creds, limits::UserLimits, permissions::Permission},
    model::{EnvType, Environment, ItemName, OrgSlug, names::inbox_prefix, size::parse_duration},
    nkey::{Account, KeyPair, PublicKey, Seed, User},
    signer::lint,
};

/// How long a system user lives, seconds.
pub const SYSTEM_USER_LIFE: i64 = 300;

/// How long a user lives that makes the streams of one environment, seconds.
const PROVISIONER_LIFE: i64 = 120;

/// The longest life of a system credential for tools, seconds.
const MAX_TOOL_LIFE: i64 = 3600;

/// A user that exists in memory only.
pub struct OwnUser {
    /// Its JWT.
    pub jwt: String,
    /// Its key.
    pub key: KeyPair<User>,
    /// When it ends, Unix seconds.
    pub expires_at: i64,
}

impl Authority {
    /// A system user for the service's own connection.
    pub async fn system_user(&self) -> Result<OwnUser> {
        let actor = Actor::task("connect");
        self.own_user(
            &actor,
            "system-user.mint",
            None,
            self.operator().system_account,
            "nats-authority",
            Permissions::default(),
            SYSTEM_USER_LIFE,
        )
        .await
    }

    /// A user of the platform account for one of our own tasks, with these permissions and nothing more. Where
    /// it may publish, it may also subscribe to its own inbox, `_INBOX.<its key>`.
    pub async fn platform_user(&self, task: &str, permissions: Permissions) -> Result<OwnUser> {
        self.own_user(
            &Actor::task(task),
            "platform-user.mint",
            None,
            self.platform()?,
            "nats-authority",
            permissions,
            SYSTEM_USER_LIFE,
        )
        .await
    }

    /// A user that may make and remove the stream and the bucket of one environment, remove its `further`
    /// streams, and nothing else.
    pub async fn provisioner(
        &self,
        org: &OrgSlug,
        env_type: &EnvType,
        account: PublicKey<Account>,
        further: &[String],
    ) -> Result<OwnUser> {
        let environment = Environment::new(org.clone(), env_type.clone());
        let stream = environment.stream();
        let bucket = format!("KV_{}", environment.bucket());
        let mut allow = vec!["$JS.API.INFO".to_owned()];
        for stream in [stream, bucket] {
            for verb in ["CREATE", "UPDATE", "INFO", "DELETE"] {
                allow.push(format!("$JS.API.STREAM.{verb}.{stream}"));
            }
        }
        allow.extend(further.iter().map(|stream| format!("$JS.API.STREAM.DELETE.{stream}")));
        self.item_provisioner(org, account, allow).await
    }

    /// A user that may publish these requests, which make or remove one thing, and nothing else.
    pub async fn item_provisioner(
        &self,
        org: &OrgSlug,
        account: PublicKey<Account>,
        requests: Vec<String>,
    ) -> Result<OwnUser> {
        let permissions = Permissions {
            publish: Permission { allow: requests, deny: Vec::new() },
            // Its own inbox is added with its key.
            ..Permissions::default()
        };
        self.own_user(
            &Actor::task("provision"),
            "provisioner.mint",
            Some(org),
            account,
            "nats-authority",
            permissions,
            PROVISIONER_LIFE,
        )
        .await
    }

    /// A creds file of a system user for tools such as `nats server`, shown once.
    pub async fn system_credential(
        &self,
        actor: &Actor,
        request: &NewSystemCredential,
    ) -> Result<zeroize::Zeroizing<String>> {
        let name: ItemName = request.name.parse()?;
        let ttl = parse_duration("/ttl", &request.ttl)?;
        if ttl > MAX_TOOL_LIFE {
            return Err(Error::field("ttl-too-long", "/ttl", "a system credential lives at most 1h"));
        }
        let seed = Seed::<User>::generate(self.entropy.as_ref());
        let user = seed.key_pair().public();
        let recorded = self
            .sign_own(
                actor,
                "system-credential.issue",
                None,
                self.operator().system_account,
                name.as_str(),
                user,
                Permissions::default(),
                ttl,
            )
            .await?;
        Ok(creds::write(recorded.token(), &seed))
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different fact about the user")]
    async fn own_user(
        &self,
        actor: &Actor,
        action: &'static str,
        org: Option<&OrgSlug>,
        account: PublicKey<Account>,
        name: &str,
        mut permissions: Permissions,
        life: i64,
    ) -> Result<OwnUser> {
        let key = KeyPair::<User>::generate(self.entropy.as_ref());
        if !permissions.publish.is_empty() {
            permissions.subscribe.allow.push(format!("{}.>", inbox_prefix(key.public())));
        }
        let recorded = self.sign_own(actor, action, org, account, name, key.public(), permissions, life).await?;
        let expires_at = recorded.claims().expires.unwrap_or_default();
        Ok(OwnUser { jwt: recorded.token().to_owned(), key, expires_at })
    }

    #[expect(clippy::too_many_arguments, reason = "each is a different fact about the user")]
    async fn sign_own(
        &self,
        actor: &Actor,
        action: &'static str,
        org: Option<&OrgSlug>,
        account: PublicKey<Account>,
        name: &str,
        user: PublicKey<User>,
        permissions: Permissions,
        life: i64,
    ) -> Result<crate::store::Recorded<jwt::User>> {
        let issuer = self.store.account_signing_key(account).await?;
        let issued_at = self.clock.unix().max(self.store.issued_from(account).await?);
        let limits = UserLimits { subs: Some(-1), data: Some(-1), payload: Some(-1), ..UserLimits::default() };
        let linted = lint(Claims {
            audience: None,
            expires: Some(issued_at + life),
            id: None,
            issued_at: Some(issued_at),
            issuer: issuer.public.into(),
            name: Some(name.to_owned()),
            not_before: None,
            subject: user.into(),
            nats: jwt::User::unscoped(account, permissions, limits),
        })?;
        let signed = self.signer.sign_as_account(&issuer, linted)?;
        let event = self.event(actor, action, org, user, json!({
            "account": account, "name": name, "lifeSeconds": life, "jwtSha256": data_encoding::HEXLOWER.encode(&signed.sha256()),
        }));
        self.store.record_own(&event, signed).await
    }
}
