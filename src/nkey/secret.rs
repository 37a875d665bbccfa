//! Seeds and expanded private keys: neither can be printed, cloned or serialized. How they are
//! stored is not decided here.

use std::{fmt, marker::PhantomData};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use data_encoding::BASE32_NOPAD;
use zeroize::{Zeroize, Zeroizing};

use super::{KeyError, Kind, PublicKey, Role, codec};
use crate::entropy::Entropy;

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
        let mut raw = Zeroizing::new(codec::decode::<36>(text, SEED_TEXT)?);
        if raw[0] & 0xF8 != codec::SEED_PREFIX {
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
        raw[0] = codec::SEED_PREFIX | (prefix >> 5);
        raw[1] = (prefix & 31) << 3;
        raw[2..34].copy_from_slice(&*self.bytes);
        let crc = codec::crc16(&raw[..34]);
        raw[34..].copy_from_slice(&crc.to_le_bytes());
        Zeroizing::new(BASE32_NOPAD.encode(&*raw))
    }

    /// The raw bytes: for sealing only.
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Expands the seed into a key that signs.
    #[expect(clippy::missing_panics_doc, reason = "cannot happen: any 32 bytes are an Ed25519 seed")]
    pub fn key_pair(&self) -> KeyPair<R> {
        #[expect(clippy::expect_used, reason = "any 32 bytes are an Ed25519 seed")]
        let pair = Ed25519KeyPair::from_seed_unchecked(&*self.bytes).expect("32 bytes are a seed");
        let mut bytes = [0; 32];
        bytes.copy_from_slice(pair.public_key().as_ref());
        KeyPair { pair, public: PublicKey::from_raw(bytes) }
    }
}

/// Whether the text form of a seed, of whatever kind, stands in a text.
pub fn holds_seed(text: &[u8]) -> bool {
    let starts = text.iter().enumerate().filter(|(_, byte)| **byte == b'S');
    starts.filter_map(|(at, _)| std::str::from_utf8(text.get(at..at + SEED_TEXT)?).ok()).any(|window| {
        // Most windows are no base32 at all: their first characters tell.
        codec::decode::<36>(window, SEED_TEXT).is_ok_and(|raw| Zeroizing::new(raw)[0] & 0xF8 == codec::SEED_PREFIX)
    })
}

/// Characters of a seed.
const SEED_TEXT: usize = 58;

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
