//! The operator's bundle: made offline by `init`, adopted by a database later. It holds nothing in
//! the clear that signs: the operator's and the system account's signing keys are sealed as the
//! database holds them, the identity seed stands in a file of its own that is taken offline.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{compose::content_hash, server_config::Trust};
use crate::{
    clock::Clock,
    entropy::Entropy,
    error::{Error, Result},
    jwt::{
        self, Claims,
        account::{Export, SigningKeys},
        claims::Common,
        envelope::Signed,
        limits::AccountLimits,
    },
    model::{CallerRole, ids::new_id},
    nkey::{Account, KeyPair, Operator, PublicKey, Seed},
    signer::{SealedKey, Signer, lint},
    store::{
        Store, accounts, audit,
        keys::{self, KeyScope, KeyState, NewAccountKey},
        operator::{self, OperatorRow},
        tokens,
    },
};

/// The version of the file.
const VERSION: u32 = 1;

/// What `init` writes and `serve` adopts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bundle {
    version: u32,
    operator_jwt: String,
    system_account_jwt: String,
    operator_signing_key: SealedText<Operator>,
    system_signing_key: SealedText<Account>,
    admin_token_sha256: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, bound = "")]
struct SealedText<R: crate::nkey::Role> {
    public_key: PublicKey<R>,
    sealed_seed: String,
}

/// A new operator: the bundle and the secrets that go to files of their own.
pub struct NewOperator {
    /// The bundle.
    pub bundle: Bundle,
    /// The operator's identity seed, to be taken offline.
    pub identity_seed: Zeroizing<String>,
    /// The first administrator's token.
    pub admin_token: Zeroizing<String>,
}

/// The prefix by which scanners find our tokens.
pub const TOKEN_PREFIX: &str = "nauth_";

/// Makes a token of 256 random bits.
pub fn new_token(entropy: &dyn Entropy) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    entropy.fill(&mut *bytes);
    Zeroizing::new(format!("{TOKEN_PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes)))
}

/// The hash by which a token is known.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Makes an operator: identity, signing key, system account with its signing key. Strict: the
/// identity key signs the operator JWT and nothing else.
pub fn create(name: &str, signer: &Signer, clock: &dyn Clock, entropy: &dyn Entropy) -> Result<NewOperator> {
    let identity_seed = Seed::<Operator>::generate(entropy);
    let identity = signer.seal(&identity_seed)?;
    let operator_key = signer.generate::<Operator>()?;
    let system_key = signer.generate::<Account>()?;
    // The system account's identity names it and signs nothing: its seed is forgotten at once.
    let system_account = KeyPair::<Account>::generate(entropy).public();
    let iat = clock.unix();
    let operator = lint(Claims {
        audience: None,
        expires: None,
        id: None,
        issued_at: Some(iat),
        issuer: identity.public.into(),
        name: Some(name.to_owned()),
        not_before: None,
        subject: identity.public.into(),
        nats: jwt::Operator {
            signing_keys: vec![operator_key.public],
            account_server_url: None,
            operator_service_urls: Vec::new(),
            system_account: Some(system_account),
            assert_server_version: Some("2.10.0".to_owned()),
            strict_signing_key_usage: true,
            common: Common::of::<jwt::Operator>(),
        },
    })?;
    let operator = signer.sign_as_operator(&identity, operator)?;
    let system = lint(Claims {
        audience: None,
        expires: None,
        id: None,
        issued_at: Some(iat),
        issuer: operator_key.public.into(),
        name: Some(SYSTEM_ACCOUNT_NAME.to_owned()),
        not_before: None,
        subject: system_account.into(),
        nats: system_account_claims(system_key.public),
    })?;
    let system = signer.sign_as_operator(&operator_key, system)?;
    let admin_token = new_token(entropy);
    let bundle = Bundle {
        version: VERSION,
        operator_jwt: release_into_bundle(&operator),
        system_account_jwt: release_into_bundle(&system),
        operator_signing_key: SealedText::from(&operator_key),
        system_signing_key: SealedText::from(&system_key),
        admin_token_sha256: data_encoding::HEXLOWER.encode(&token_hash(&admin_token)),
    };
    Ok(NewOperator { bundle, identity_seed: identity_seed.expose_text(), admin_token })
}

const SYSTEM_ACCOUNT_NAME: &str = "SYS";

/// The bundle is the record of what `init` signed: these two tokens and no others leave through it.
fn release_into_bundle<T>(signed: &Signed<T>) -> String {
    signed.token().to_owned()
}

fn system_account_claims(signing_key: PublicKey<Account>) -> jwt::Account {
    let mut account = jwt::Account::new(AccountLimits::unlimited());
    account.signing_keys = SigningKeys([(signing_key, None)].into());
    // What tools of single accounts expect to import from the system account.
    account.exports = vec![
        Export {
            name: Some("account-monitoring-streams".to_owned()),
            subject: "$SYS.ACCOUNT.*.>".to_owned(),
            kind: "stream".to_owned(),
            account_token_position: Some(3),
            ..Export::default()
        },
        Export {
            name: Some("account-monitoring-services".to_owned()),
            subject: "$SYS.REQ.ACCOUNT.*.*".to_owned(),
            kind: "service".to_owned(),
            response_type: Some("Stream".to_owned()),
            account_token_position: Some(4),
            ..Export::default()
        },
    ];
    account
}

impl<R: crate::nkey::Role> From<&SealedKey<R>> for SealedText<R> {
    fn from(key: &SealedKey<R>) -> Self {
        Self { public_key: key.public, sealed_seed: STANDARD.encode(&key.sealed) }
    }
}

impl<R: crate::nkey::Role> SealedText<R> {
    fn key(&self) -> Result<SealedKey<R>> {
        let sealed = STANDARD.decode(&self.sealed_seed).map_err(|_| unreadable("a sealed key is not base64"))?;
        Ok(SealedKey { public: self.public_key, sealed })
    }
}

impl Bundle {
    /// Reads a bundle's text and checks that its parts belong together.
    pub fn parse(text: &str) -> Result<Self> {
        let bundle: Self = serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))?;
        if bundle.version != VERSION {
            return Err(unreadable(&format!("version {} is not known", bundle.version)));
        }
        bundle.trust()?;
        Ok(bundle)
    }

    /// The bundle's text.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string_pretty(self).map_err(|error| Error::internal("bundle").with_source(error))
    }

    /// What servers have to trust.
    pub fn trust(&self) -> Result<Trust> {
        let (operator, system) = self.decode()?;
        let fits = operator.claims.nats.signing_keys.contains(&self.operator_signing_key.public_key)
            && system.claims.issuer == self.operator_signing_key.public_key.any()
            && operator.claims.nats.system_account.map(|key| key.any()) == Some(system.claims.subject);
        if !fits {
            return Err(unreadable("its operator, signing key and system account do not belong together"));
        }
        Ok(Trust {
            operator_jwt: self.operator_jwt.clone(),
            system_account: self.system_account()?.to_string(),
            system_account_jwt: self.system_account_jwt.clone(),
        })
    }

    /// The system account.
    pub fn system_account(&self) -> Result<PublicKey<Account>> {
        let (_, system) = self.decode()?;
        system.claims.subject.typed().map_err(|error| unreadable(&error.to_string()))
    }

    /// Checks that the signing keys can be opened with the configured sealing keys.
    pub fn check_keys(&self, signer: &Signer) -> Result<()> {
        signer.check(&self.operator_signing_key.key()?)?;
        signer.check(&self.system_signing_key.key()?)
    }

    /// Adopts the operator into an empty database; with the same operator there, does nothing; with
    /// another one, refuses.
    pub async fn adopt(
        &self,
        store: &Store,
        signer: &Arc<Signer>,
        clock: &dyn Clock,
        entropy: &dyn Entropy,
    ) -> Result<bool> {
        let (operator, system) = self.decode()?;
        let public_key: PublicKey<Operator> =
            operator.claims.subject.typed().map_err(|error| unreadable(&error.to_string()))?;
        if let Some(found) = store.operator().await? {
            return if found.public_key == public_key { Ok(false) } else { Err(foreign(&found, public_key)) };
        }
        self.check_keys(signer)?;
        let now = clock.now();
        let system_account = self.system_account()?;
        let mut tx = store.begin().await?;
        let row = OperatorRow {
            public_key,
            name: operator.claims.name.clone().unwrap_or_default(),
            jwt: self.operator_jwt.clone(),
            system_account,
            adopted_at: now,
        };
        if !operator::adopt(&mut tx, &row).await? {
            // Another replica was faster; its operator may be another one.
            drop(tx);
            let found = store.operator().await?.ok_or_else(|| Error::internal("an adopted operator is not there"))?;
            return if found.public_key == public_key { Ok(false) } else { Err(foreign(&found, public_key)) };
        }
        let event = audit::Event {
            id: new_id(clock, entropy),
            at: now,
            actor: "task:adopt".to_owned(),
            action: "operator.adopt",
            org: None,
            target: public_key.to_string(),
            origin: audit::Origin::default(),
            detail: json!({"name": row.name, "systemAccount": system_account, "signingKey": self.operator_signing_key.public_key}),
        };
        audit::record(&mut tx, &event).await?;
        keys::insert_operator(&mut tx, &self.operator_signing_key.key()?, KeyState::Active, now).await?;
        accounts::create(&mut tx, system_account, "system", now).await?;
        let system_key =
            NewAccountKey { account: system_account, scope: KeyScope::Account, key: self.system_signing_key.key()? };
        keys::insert(&mut tx, &[system_key], now).await?;
        let hash = content_hash(SYSTEM_ACCOUNT_NAME, &system.claims.nats)
            .map_err(|error| Error::internal("system account").with_source(error))?;
        accounts::record_adopted(&mut tx, &system.claims, &self.system_account_jwt, hash, event.id, now).await?;
        let sha256 = data_encoding::HEXLOWER
            .decode(self.admin_token_sha256.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| unreadable("the admin token's hash is no SHA-256"))?;
        let token = tokens::NewToken {
            id: new_id(clock, entropy),
            name: "admin".to_owned(),
            sha256,
            role: CallerRole::SovereignAdmin,
            organizations: Vec::new(),
            expires_at: None,
            created_by: None,
        };
        tokens::insert(&mut tx, &token, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    fn decode(&self) -> Result<(jwt::Decoded<jwt::Operator>, jwt::Decoded<jwt::Account>)> {
        let wrong = |error: jwt::JwtError| unreadable(&error.to_string());
        let operator = jwt::envelope::decode(&self.operator_jwt).map_err(wrong)?;
        let system = jwt::envelope::decode(&self.system_account_jwt).map_err(wrong)?;
        Ok((operator, system))
    }
}

fn unreadable(why: &str) -> Error {
    Error::invalid("invalid-bundle", format!("the bundle cannot be used: {why}; `nats-authority init` makes one"))
}

fn foreign(found: &OperatorRow, bundle: PublicKey<Operator>) -> Error {
    Error::conflict(
        "foreign-operator",
        format!(
            "the database belongs to the operator {} ({}), the bundle to {bundle}; point `bundle` or `database.url_file` to the right one",
            found.public_key, found.name
        ),
    )
}
