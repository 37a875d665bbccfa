//! Public keys, with their kind as a value and as a type. Nothing here knows a seed.

use std::{fmt, marker::PhantomData, str::FromStr};

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{KeyError, Kind, Role, codec};

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

    /// The 56 characters of the text form.
    fn text(&self) -> [u8; 56] {
        let mut raw = [0_u8; 35];
        raw[0] = self.kind.prefix();
        raw[1..33].copy_from_slice(&self.bytes);
        let crc = codec::crc16(&raw[..33]);
        raw[33..].copy_from_slice(&crc.to_le_bytes());
        let mut text = [0_u8; 56];
        BASE32_NOPAD.encode_mut(&raw, &mut text);
        text
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
        f.pad(std::str::from_utf8(&self.text()).unwrap_or_default())
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
        let raw = codec::decode::<35>(text, 56)?;
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
    /// A key from the bytes that Ed25519 computed.
    pub(super) const fn from_raw(bytes: [u8; 32]) -> Self {
        Self { bytes, role: PhantomData }
    }

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
        self.any().text().cmp(&other.any().text())
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
