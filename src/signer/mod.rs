//! The one door through which everything is signed, and the only place where private keys of the
//! operator and of accounts are in the clear. What may be signed is decided by `jwt::lint`; that
//! nothing signed leaves before its record is committed is held by `jwt::Signed` and `store`.

mod seal;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;

pub use seal::{Place, SealingKey, SealingKeys};

use crate::{
    entropy::Entropy,
    error::{Error, Result},
    jwt::{Claims, Linted, Payload, claims::Common, envelope::Signed, lint},
    nkey::{self, AnyPublicKey, KeyPair, PublicKey, Role, Seed},
};

/// How many expanded account keys are kept; opening one costs about 10 us.
const KEPT_KEYS: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A signing key as the database holds it.
#[derive(Clone, Debug)]
pub struct SealedKey<R: Role> {
    /// The public half.
    pub public: PublicKey<R>,
    /// The sealed seed.
    pub sealed: Vec<u8>,
}

/// Opens sealed seeds and signs with them.
pub struct Signer {
    sealing: SealingKeys,
    entropy: Arc<dyn Entropy>,
    accounts: Mutex<LruCache<PublicKey<nkey::Account>, Arc<KeyPair<nkey::Account>>>>,
    operator: Mutex<Option<Arc<KeyPair<nkey::Operator>>>>,
    signed: AtomicU64,
}

impl Signer {
    /// A signer that opens seeds with these sealing keys.
    pub fn new(sealing: SealingKeys, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            sealing,
            entropy,
            accounts: Mutex::new(LruCache::new(KEPT_KEYS)),
            operator: Mutex::new(None),
            signed: AtomicU64::new(0),
        }
    }

    /// How many tokens were signed since the start.
    pub fn tokens_signed(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// Makes a new key and seals its seed; the seed exists nowhere else.
    pub fn generate<R: Role>(&self) -> Result<SealedKey<R>> {
        self.seal(&Seed::generate(self.entropy.as_ref()))
    }

    /// Seals the seed of an existing key.
    pub fn seal<R: Role>(&self, seed: &Seed<R>) -> Result<SealedKey<R>> {
        let public = seed.key_pair().public();
        let sealed = self.sealing.seal(&place(&public.to_string()), seed.expose_bytes(), self.entropy.as_ref())?;
        Ok(SealedKey { public, sealed })
    }

    /// Seals a key with the first sealing key, whichever it is sealed with; none: it is already. Checks that it is
    /// what it says.
    pub fn reseal<R: Role>(&self, key: &SealedKey<R>) -> Result<Option<SealedKey<R>>> {
        if self.sealing.is_first(&key.sealed) {
            return Ok(None);
        }
        let seed = Seed::<R>::from_bytes(self.sealing.open(&place(&key.public.to_string()), &key.sealed)?);
        let resealed = self.seal(&seed)?;
        if resealed.public == key.public { Ok(Some(resealed)) } else { Err(another(key.public)) }
    }

    /// The public identifiers of the sealing keys, the one that seals first.
    pub fn sealing_keys(&self) -> Vec<String> {
        self.sealing.ids()
    }

    /// Checks that a key can be opened and is what it says.
    pub fn check<R: Role>(&self, key: &SealedKey<R>) -> Result<()> {
        self.open(key).map(drop)
    }

    /// Signs with an account's signing key, or an account's claims of its own.
    pub fn sign_as_account<T: Payload>(&self, key: &SealedKey<nkey::Account>, linted: Linted<T>) -> Result<Signed<T>> {
        require_issuer(linted.claims(), key.public)?;
        self.signed.fetch_add(1, Ordering::Relaxed);
        let kept = lock(&self.accounts).get(&key.public).cloned();
        if let Some(pair) = kept {
            return Ok(linted.sign(&pair));
        }
        let pair = Arc::new(self.open(key)?);
        lock(&self.accounts).put(key.public, Arc::clone(&pair));
        Ok(linted.sign(&pair))
    }

    /// Signs with the operator's signing key.
    pub fn sign_as_operator<T: Payload>(
        &self,
        key: &SealedKey<nkey::Operator>,
        linted: Linted<T>,
    ) -> Result<Signed<T>> {
        require_issuer(linted.claims(), key.public)?;
        self.signed.fetch_add(1, Ordering::Relaxed);
        let kept = lock(&self.operator).clone().filter(|pair| pair.public() == key.public);
        if let Some(pair) = kept {
            return Ok(linted.sign(&pair));
        }
        let pair = Arc::new(self.open(key)?);
        *lock(&self.operator) = Some(Arc::clone(&pair));
        Ok(linted.sign(&pair))
    }

    fn open<R: Role>(&self, key: &SealedKey<R>) -> Result<KeyPair<R>> {
        let seed = Seed::<R>::from_bytes(self.sealing.open(&place(&key.public.to_string()), &key.sealed)?);
        let pair = seed.key_pair();
        if pair.public() == key.public { Ok(pair) } else { Err(another(key.public)) }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

/// Lints claims that we composed ourselves: a problem in them is refused with the pointers into the
/// claims, before anything is recorded or signed.
pub fn lint<T: Payload>(claims: Claims<T>) -> Result<Linted<T>> {
    lint::check(claims).map_err(|problems| {
        let text: Vec<_> = problems.iter().map(|p| format!("{}: {}", p.pointer, p.detail)).collect();
        Error::invalid("unacceptable-claims", format!("a server would not accept the result: {}", text.join("; ")))
    })
}

/// Signs with an operator's identity, which its owner holds and no ledger keeps: the operator JWT and nothing else.
pub fn sign_as_identity(
    identity: &KeyPair<nkey::Operator>,
    linted: Linted<crate::jwt::Operator>,
) -> Result<Signed<crate::jwt::Operator>> {
    require_issuer(linted.claims(), identity.public())?;
    Ok(linted.sign(identity))
}

/// Claims with `common` set for their type.
pub fn common<T: Payload>() -> Common {
    Common::of::<T>()
}

fn require_issuer<T>(claims: &Claims<T>, key: impl Into<AnyPublicKey>) -> Result<()> {
    let key = key.into();
    if claims.issuer == key {
        return Ok(());
    }
    Err(Error::internal(format!("claims of issuer {} cannot be signed with {key}", claims.issuer)))
}

fn another<R: Role>(key: PublicKey<R>) -> Error {
    Error::internal(format!("the sealed seed of {key} belongs to another key"))
}

fn place(row: &str) -> Place<'_> {
    Place { table: "signing_keys", row, column: "sealed_seed" }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
