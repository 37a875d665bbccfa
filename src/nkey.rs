//! Typed nkeys: a public key says in its type whose it is, a seed cannot be printed, cloned or
//! serialized. Signing is aws-lc-rs (measured twice as fast as the alternatives), verification is
//! ed25519-dalek in strict mode, so that no signature leaves which a second implementation refuses.
//!
//! Text form (source: nats-io/nkeys): base32 without padding of `prefix | 32 bytes | CRC16-XMODEM,
//! little-endian`; 56 characters for a public key. A seed carries two prefixes packed into two
//! bytes and has 58 characters.

use std::{fmt, marker::PhantomData, str::FromStr};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::{Zeroize, Zeroizing};

use crate::entropy::Entropy;

/// Whose a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `O…`
    Operator,
    /// `A…`
    Account,
    /// `U…`
    User,
    /// `N…`
    Server,
    /// `C…`
    Cluster,
    /// `X…`: encryption, cannot sign.
    Curve,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Operator, Self::Account, Self::User, Self::Server, Self::Cluster, Self::Curve];

    const fn prefix(self) -> u8 {
        match self {
            Self::Operator => 14 << 3,
            Self::Account => 0,
            Self::User => 20 << 3,
            Self::Server => 13 << 3,
            Self::Cluster => 2 << 3,
            Self::Curve => 23 << 3,
        }
    }

    fn of_prefix(prefix: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.prefix() == prefix)
    }

    /// The first letter of the text form.
    pub const fn letter(self) -> char {
        match self {
            Self::Operator => 'O',
            Self::Account => 'A',
            Self::User => 'U',
            Self::Server => 'N',
            Self::Cluster => 'C',
            Self::Curve => 'X',
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Operator => "operator",
            Self::Account => "account",
            Self::User => "user",
            Self::Server => "server",
            Self::Cluster => "cluster",
            Self::Curve => "curve",
        })
    }
}

/// A kind of key as a type.
pub trait Role: Send + Sync + 'static {
    /// The kind that this type stands for.
    const KIND: Kind;
}

macro_rules! roles {
    ($($name:ident),*) => {$(
        #[doc = concat!("The ", stringify!($name), " kind of key, as a type.")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {}
        impl Role for $name { const KIND: Kind = Kind::$name; }
    )*};
}
roles!(Operator, Account, User, Server, Cluster, Curve);

/// Why a text is no key. Never holds the text: it may be a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 56 (public key) or 58 (seed) base32 characters.
    #[error("not a key: expected {0} base32 characters (A-Z, 2-7)")]
    Format(usize),
    /// The checksum is wrong: a typing or copying mistake.
    #[error("the key's checksum is wrong: a character was lost or changed")]
    Checksum,
    /// A key of another kind.
    #[error("a key of kind {found} where one of kind {wanted} is needed")]
    WrongKind {
        /// What was needed.
        wanted: Kind,
        /// What was given.
        found: Kind,
    },
    /// The prefix belongs to no kind that we know.
    #[error("the key's prefix belongs to no known kind")]
    UnknownKind,
    /// Ed25519 refuses the 32 bytes.
    #[error("the key is not a valid Ed25519 key")]
    Invalid,
    /// A seed where a public key is needed: it must be treated as disclosed.
    #[error("this is a private seed, not a public key; treat it as disclosed and make a new one")]
    Seed,
}

/// A public key of any kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnyPublicKey {
    kind: Kind,
    bytes: [u8; 32],
}

impl AnyPublicKey {
    /// Whose the key is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The raw 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// This key as one of kind `R`.
    pub fn typed<R: Role>(self) -> Result<PublicKey<R>, KeyError> {
        if self.kind == R::KIND {
            Ok(PublicKey { bytes: self.bytes, role: PhantomData })
        } else {
            Err(KeyError::WrongKind { wanted: R::KIND, found: self.kind })
        }
    }

    /// Verifies strictly (RFC 8032 with canonical encodings, small-order keys refused).
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        self.kind != Kind::Curve
            && ed25519_dalek::VerifyingKey::from_bytes(&self.bytes)
                .is_ok_and(|key| key.verify_strict(message, &signature).is_ok())
    }
}

impl fmt::Display for AnyPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut raw = [0_u8; 35];
        raw[0] = self.kind.prefix();
        raw[1..33].copy_from_slice(&self.bytes);
        let crc = crc16(&raw[..33]);
        raw[33..].copy_from_slice(&crc.to_le_bytes());
        let mut text = [0_u8; 56];
        BASE32_NOPAD.encode_mut(&raw, &mut text);
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for AnyPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for AnyPublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.len() == 58 && text.starts_with('S') {
            return Err(KeyError::Seed);
        }
        let raw = decode::<35>(text, 56)?;
        let kind = Kind::of_prefix(raw[0]).ok_or(KeyError::UnknownKind)?;
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&raw[1..33]);
        Ok(Self { kind, bytes })
    }
}

/// A public key of kind `R`.
pub struct PublicKey<R> {
    bytes: [u8; 32],
    role: PhantomData<fn() -> R>,
}

impl<R: Role> PublicKey<R> {
    /// This key without its kind in the type.
    pub const fn any(&self) -> AnyPublicKey {
        AnyPublicKey { kind: R::KIND, bytes: self.bytes }
    }

    /// The raw 32 bytes.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Verifies strictly; see [`AnyPublicKey::verify`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        self.any().verify(message, signature)
    }
}

impl<R: Role> From<PublicKey<R>> for AnyPublicKey {
    fn from(key: PublicKey<R>) -> Self {
        key.any()
    }
}

impl<R> Copy for PublicKey<R> {}
impl<R> Clone for PublicKey<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> PartialEq for PublicKey<R> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<R> Eq for PublicKey<R> {}
impl<R: Role> PartialOrd for PublicKey<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<R: Role> Ord for PublicKey<R> {
    /// The order of the text forms: base32 keeps the order of letters but puts digits first, so
    /// bytes would sort differently from what other tools show and sign.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.to_string().cmp(&other.to_string())
    }
}
impl<R> std::hash::Hash for PublicKey<R> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}
impl<R: Role> fmt::Display for PublicKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.any(), f)
    }
}
impl<R: Role> fmt::Debug for PublicKey<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.any(), f)
    }
}
impl<R: Role> FromStr for PublicKey<R> {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.parse::<AnyPublicKey>()?.typed()
    }
}

macro_rules! serde_as_text {
    ($type:ty $(, $role:ident)?) => {
        impl$(<$role: Role>)? Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de $(, $role: Role)?> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}
serde_as_text!(AnyPublicKey);
serde_as_text!(PublicKey<R>, R);

/// A private seed. Cannot be printed, cloned or serialized; wiped when dropped.
pub struct Seed<R> {
    bytes: Zeroizing<[u8; 32]>,
    role: PhantomData<fn() -> R>,
}

impl<R: Role> Seed<R> {
    /// A new seed.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        entropy.fill(&mut *bytes);
        Self { bytes, role: PhantomData }
    }

    /// A seed from its raw bytes, as the sealed form holds them.
    pub fn from_bytes(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self { bytes, role: PhantomData }
    }

    /// A seed from its text form `S…`.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let mut raw = Zeroizing::new(decode::<36>(text, 58)?);
        if raw[0] & 0xF8 != SEED_PREFIX {
            return Err(KeyError::UnknownKind);
        }
        let prefix = ((raw[0] & 0x07) << 5) | ((raw[1] & 0xF8) >> 3);
        let found = Kind::of_prefix(prefix).ok_or(KeyError::UnknownKind)?;
        if found != R::KIND {
            return Err(KeyError::WrongKind { wanted: R::KIND, found });
        }
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(&raw[2..34]);
        raw.zeroize();
        Ok(Self { bytes, role: PhantomData })
    }

    /// The text form `S…`: for the few places that hand a seed to its owner.
    pub fn expose_text(&self) -> Zeroizing<String> {
        let prefix = R::KIND.prefix();
        let mut raw = Zeroizing::new([0_u8; 36]);
        raw[0] = SEED_PREFIX | (prefix >> 5);
        raw[1] = (prefix & 31) << 3;
        raw[2..34].copy_from_slice(&*self.bytes);
        let crc = crc16(&raw[..34]);
        raw[34..].copy_from_slice(&crc.to_le_bytes());
        Zeroizing::new(BASE32_NOPAD.encode(&*raw))
    }

    /// The raw bytes: for sealing only.
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Expands the seed into a key that signs.
    pub fn key_pair(&self) -> KeyPair<R> {
        #[expect(clippy::expect_used, reason = "any 32 bytes are an Ed25519 seed")]
        let pair = Ed25519KeyPair::from_seed_unchecked(&*self.bytes).expect("32 bytes are a seed");
        let mut bytes = [0; 32];
        bytes.copy_from_slice(pair.public_key().as_ref());
        KeyPair { pair, public: PublicKey { bytes, role: PhantomData } }
    }
}

impl<R: Role> fmt::Debug for Seed<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seed<{}>(…)", R::KIND)
    }
}

/// An expanded private key. Cannot be printed, cloned or serialized.
pub struct KeyPair<R> {
    pair: Ed25519KeyPair,
    public: PublicKey<R>,
}

impl<R: Role> KeyPair<R> {
    /// A new key whose seed nobody keeps.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        Seed::generate(entropy).key_pair()
    }

    /// The public half.
    pub const fn public(&self) -> PublicKey<R> {
        self.public
    }

    /// Signs. Ed25519 is deterministic: the same message gives the same signature.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl<R: Role> fmt::Debug for KeyPair<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({})", self.public)
    }
}

const SEED_PREFIX: u8 = 18 << 3;

fn decode<const N: usize>(text: &str, characters: usize) -> Result<[u8; N], KeyError> {
    if text.len() != characters {
        return Err(KeyError::Format(characters));
    }
    let mut raw = [0; N];
    let length = BASE32_NOPAD.decode_len(text.len()).map_err(|_| KeyError::Format(characters))?;
    if length != N {
        return Err(KeyError::Format(characters));
    }
    BASE32_NOPAD.decode_mut(text.as_bytes(), &mut raw).map_err(|_| KeyError::Format(characters))?;
    let (body, crc) = raw.split_at(N - 2);
    if crc16(body).to_le_bytes() == *crc { Ok(raw) } else { Err(KeyError::Checksum) }
}

/// CRC16-XMODEM, as nkeys uses it to find typing mistakes.
fn crc16(data: &[u8]) -> u16 {
    data.iter().fold(0, |crc, byte| {
        let index = (crc >> 8) ^ u16::from(*byte);
        (crc << 8) ^ CRC_TABLE[usize::from(index)]
    })
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
