//! Renewal: a fresh JWT for the same user key, asked for over NATS by the user itself. The servers vouch for who
//! asks: they force the account and the user key into the subject of the request. What is decided stands
//! here; how requests arrive and are answered stands in `tasks`.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use lru::LruCache;

use super::{Actor, Authority, issue::Parsed, ledger::no_credential};
use crate::{
    error::{Error, Kind, Result},
    model::{Credential, CredentialState, Environment},
    nkey::{Account, PublicKey, User},
    store::{Recorded, renewals::Renewable},
};

/// A credential that is younger than this, and in the first half of its life, is not renewed: it is answered
/// again. So whoever lost an answer, or shares its creds file with others, gets what there is.
const FRESH: TimeDelta = TimeDelta::minutes(10);

/// How many requests of one user are looked at in a row, and how long until there is room for one more.
const BURST: i64 = 6;
const REFILL: TimeDelta = TimeDelta::seconds(5);

/// How many users the limit remembers; who is forgotten begins anew.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// What is answered.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// The JWT.
    pub jwt: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// What a request for renewal leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// The present JWT is fresh: it is answered again.
    Again,
    /// A new one.
    Renew,
}

impl Authority {
    /// Renews the credential of `user` in `account`. Refuses whoever is not to get in any longer, and whoever
    /// asks too often.
    pub async fn renew(&self, account: PublicKey<Account>, user: PublicKey<User>) -> Result<Renewed> {
        let now = self.now();
        self.renewals.admit(user, now)?;
        let found = self.store.renewable(account, user).await?.ok_or_else(no_credential)?;
        let decision = decide(&found, self.renewable_for(&found.row)?, now)?;
        if decision == Decision::Again
            && let Some(again) = self.again(account, &found.row).await?
        {
            return Ok(again);
        }
        match self.renew_now(account, &found).await {
            // Somebody was faster, perhaps another replica with the same request: then there is a fresh one.
            Err(error) if error.kind() == Kind::Conflict => {
                let now_found = self.store.renewable(account, user).await?.ok_or_else(no_credential)?;
                if now_found.row.id == found.row.id {
                    return Err(error);
                }
                decide(&now_found, None, now)?;
                self.again(account, &now_found.row).await?.ok_or(error)
            }
            other => other,
        }
    }

    fn renewable_for(&self, row: &Credential) -> Result<Option<i64>> {
        Ok(self.policies().grant(&row.role, row.options.permissions.as_ref())?.renewable_for)
    }

    async fn renew_now(&self, account: PublicKey<Account>, found: &Renewable) -> Result<Renewed> {
        let old = &found.row;
        let environment = Environment::new(old.org.clone(), old.env_type.clone());
        let policies = self.policies();
        let role = policies.grant(&old.role, old.options.permissions.as_ref())?;
        // Policies may have become stricter since; a renewal gives no more than they give now.
        let mut life = (old.expires_at - old.issued_at).num_seconds().min(role.max_ttl);
        if let Some(longest) = role.renewable_for {
            life = life.min((found.first_issued_at - self.now()).num_seconds() + longest);
        }
        let parsed = Parsed::renewal(&policies, &environment, old, life)?;
        let context = self.issuing_context(&old.org, &old.env_type, &old.role).await?;
        if context.account != account {
            return Err(no_credential());
        }
        let actor = Actor { subject: format!("user:{}", old.user_key), ..Actor::default() };
        let (mut new, _) = self.sign_one(&actor, &environment, &context, parsed).await?;
        new.row.replaces = Some(old.id);
        let recorded = self.renewals.recorder.record(vec![new]).await?.pop();
        let (row, token) = recorded.ok_or_else(|| Error::internal("renewed nothing"))?;
        Ok(Renewed { jwt: token.token().to_owned(), expires_at: row.expires_at })
    }

    /// The JWT that this row is the record of, signed once more: the same claims give the same text. None: they
    /// no longer do, for the signing key or the role has changed since.
    async fn again(&self, account: PublicKey<Account>, row: &Credential) -> Result<Option<Renewed>> {
        let environment = Environment::new(row.org.clone(), row.env_type.clone());
        let policies = self.policies();
        let context = self.issuing_context(&row.org, &row.env_type, &row.role).await?;
        if context.account != account {
            return Err(no_credential());
        }
        let parsed = Parsed::again(&policies, row)?;
        let (signed, _) = self.sign_one(&Actor::default(), &environment, &context, parsed).await?;
        let recorded = Recorded::found(signed.signed, row);
        Ok(recorded.map(|token| Renewed { jwt: token.token().to_owned(), expires_at: row.expires_at }))
    }
}

fn decide(found: &Renewable, renewable_for: Option<i64>, now: DateTime<Utc>) -> Result<Decision> {
    let row = &found.row;
    let refuse = |code, why: &str| Err(Error::conflict(code, format!("the credential {why}")));
    match row.state(now) {
        CredentialState::Active => {}
        CredentialState::Superseded => {
            return refuse("credential-superseded", "was rotated; use the one that replaces it");
        }
        CredentialState::Revoked => return refuse("credential-revoked", "is revoked; ask for a new one"),
        CredentialState::Expired => return refuse("credential-expired", "has expired; ask for a new one"),
    }
    let (age, life) = (now - row.issued_at, row.expires_at - row.issued_at);
    if age < FRESH.min(life / 2) {
        return Ok(Decision::Again);
    }
    let ends = renewable_for.and_then(TimeDelta::try_seconds).map(|longest| found.first_issued_at + longest);
    if ends.is_some_and(|ends| ends <= row.expires_at) {
        return refuse(
            "renewal-exhausted",
            "was renewed for as long as its role allows; ask for a new one, with a new key",
        );
    }
    Ok(Decision::Renew)
}

/// What renewals need that nothing else does: their own recorders, so that neither waits for the other, and
/// the limit of each user.
pub(super) struct Renewals {
    recorder: super::issuance::Issuance,
    users: Mutex<LruCache<PublicKey<User>, Bucket>>,
}

impl Renewals {
    pub(super) fn start(store: &crate::store::Store) -> Self {
        let recorder = super::issuance::Issuance::start_renewals(store);
        Self { recorder, users: Mutex::new(LruCache::new(REMEMBERED)) }
    }

    fn admit(&self, user: PublicKey<User>, now: DateTime<Utc>) -> Result<()> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if users.get_or_insert_mut(user, || Bucket { left: BURST, at: now }).take(now) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Busy,
            "renewal-too-often",
            format!("this user asks too often; wait {} s between requests", REFILL.num_seconds()),
        ))
    }
}

/// A bucket of requests: full at first, one more after each [`REFILL`].
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: i64,
    at: DateTime<Utc>,
}

impl Bucket {
    fn take(&mut self, now: DateTime<Utc>) -> bool {
        let refills = (now - self.at).num_milliseconds().max(0) / REFILL.num_milliseconds();
        if refills > 0 {
            self.left = self.left.saturating_add(refills).min(BURST);
            self.at = now;
        }
        let admitted = self.left > 0;
        self.left -= i64::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entropy::SeededEntropy,
        model::credential::Options,
        nkey::{Account, KeyPair},
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn credential(life: i64) -> Renewable {
        let entropy = SeededEntropy::new(1);
        let row = Credential {
            id: uuid::Uuid::nil(),
            org: "acme".parse().unwrap(),
            env_type: "prod".parse().unwrap(),
            name: "a".to_owned(),
            role: "viewer".to_owned(),
            user_key: KeyPair::<User>::generate(&entropy).public(),
            issuer_key: KeyPair::<Account>::generate(&entropy).public(),
            jwt_sha256: [0; 32],
            issued_at: at(0),
            expires_at: at(life),
            issued_by: String::new(),
            options: Options::default(),
            replaces: None,
            superseded_at: None,
            ends_at: None,
            revoked_at: None,
            revocation_reason: None,
        };
        Renewable { first_issued_at: at(0), row }
    }

    #[test]
    fn when_a_credential_is_renewed() {
        let decided = |life, now| decide(&credential(life), None, at(now)).map_err(|error| error.code());
        // Fresh for ten minutes, or half of a short life.
        for (life, now, expected) in [
            (86_400, 0, Ok(Decision::Again)),
            (86_400, 599, Ok(Decision::Again)),
            (86_400, 600, Ok(Decision::Renew)),
            (86_400, 86_399, Ok(Decision::Renew)),
            (86_400, 86_400, Err("credential-expired")),
            (60, 29, Ok(Decision::Again)),
            (60, 30, Ok(Decision::Renew)),
            (1, 0, Ok(Decision::Again)),
        ] {
            assert_eq!(decided(life, now), expected, "{life} {now}");
        }
        let mut revoked = credential(86_400);
        revoked.row.revoked_at = Some(at(5));
        assert_eq!(decide(&revoked, None, at(700)).unwrap_err().code(), "credential-revoked");
        let mut rotated = credential(86_400);
        rotated.row.superseded_at = Some(at(5));
        assert_eq!(decide(&rotated, None, at(700)).unwrap_err().code(), "credential-superseded");
        // No further than the role allows, counted from the first JWT of the key.
        assert_eq!(decide(&credential(3600), Some(7200), at(3000)).ok(), Some(Decision::Renew));
        assert_eq!(decide(&credential(7200), Some(7200), at(3700)).unwrap_err().code(), "renewal-exhausted");
    }

    #[test]
    fn a_user_that_asks_without_end_is_slowed_down() {
        let mut bucket = Bucket { left: BURST, at: at(0) };
        let admitted = (0..100).filter(|_| bucket.take(at(0))).count();
        assert_eq!(i64::try_from(admitted).unwrap(), BURST);
        assert!(!bucket.take(at(4)) && bucket.take(at(5)) && !bucket.take(at(5)));
        assert!(bucket.take(at(100_000)));
        assert_eq!(bucket.left, BURST - 1, "no more than at first");
    }
}
