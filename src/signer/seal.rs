//! Sealing: how private seeds lie in the database. XChaCha20-Poly1305 with a random nonce; the id of
//! the sealing key stands in front, table, row and column are associated data, so that a sealed
//! value opens only where it was put.

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    entropy::Entropy,
    error::{Error, Result},
};

const ID: usize = 8;
const NONCE: usize = 24;

/// Where a sealed value lies.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Table.
    pub table: &'a str,
    /// Primary key.
    pub row: &'a str,
    /// Column.
    pub column: &'a str,
}

impl Place<'_> {
    fn associated_data(&self) -> Vec<u8> {
        [self.table, self.row, self.column].join("\0").into_bytes()
    }
}

/// A 256-bit sealing key. Cannot be printed, cloned or serialized.
pub struct SealingKey {
    id: [u8; ID],
    cipher: XChaCha20Poly1305,
}

impl SealingKey {
    /// A new key, in the text form that a key file holds: 64 hexadecimal characters.
    pub fn generate(entropy: &dyn Entropy) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        entropy.fill(&mut *bytes);
        Zeroizing::new(data_encoding::HEXLOWER.encode(&*bytes))
    }

    /// A key from the text of its file.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = || {
            Error::invalid(
                "invalid-sealing-key",
                "a sealing key is 64 hexadecimal characters; `nats-authority init` makes one",
            )
        };
        let bytes = Zeroizing::new(data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map_err(|_| refuse())?);
        let cipher = XChaCha20Poly1305::new_from_slice(&bytes).map_err(|_| refuse())?;
        let mut id = [0; ID];
        let digest = Sha256::new().chain_update(b"nats-authority sealing key id\0").chain_update(&*bytes).finalize();
        id.copy_from_slice(&digest[..ID]);
        Ok(Self { id, cipher })
    }

    /// The public identifier of the key, hexadecimal.
    pub fn id(&self) -> String {
        data_encoding::HEXLOWER.encode(&self.id)
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

/// The sealing keys of a deployment: the first seals, any opens.
#[derive(Debug)]
pub struct SealingKeys {
    first: SealingKey,
    others: Vec<SealingKey>,
}

impl SealingKeys {
    /// These keys, the sealing one first.
    pub fn new(keys: Vec<SealingKey>) -> Result<Self> {
        let mut keys = keys.into_iter();
        let first = keys.next().ok_or_else(|| {
            Error::invalid(
                "no-sealing-key",
                "no sealing key is configured; name at least one file in sealing.key_files",
            )
        })?;
        Ok(Self { first, others: keys.collect() })
    }

    /// Seals `plain` for `place`.
    pub fn seal(&self, place: &Place<'_>, plain: &[u8], entropy: &dyn Entropy) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        entropy.fill(&mut nonce);
        let aad = place.associated_data();
        let sealed = self
            .first
            .cipher
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: &aad })
            .map_err(|_| Error::internal("sealing failed"))?;
        Ok([&self.first.id[..], &nonce, &sealed].concat())
    }

    /// Opens what was sealed for `place`: 32 bytes.
    pub fn open(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>> {
        let (Some(id), Some(nonce), Some(text)) =
            (sealed.get(..ID), sealed.get(ID..ID + NONCE), sealed.get(ID + NONCE..))
        else {
            return Err(Error::internal(format!("{}.{} is too short to be sealed", place.table, place.column)));
        };
        let key = std::iter::once(&self.first).chain(&self.others).find(|key| key.id == id).ok_or_else(|| {
            Error::unavailable(
                "wrong-sealing-key",
                format!(
                    "the keys in the database are sealed with the sealing key {}, which is not among the configured ones ({}); add its file to sealing.key_files",
                    data_encoding::HEXLOWER.encode(id),
                    self.ids().join(", "),
                ),
            )
        })?;
        let aad = place.associated_data();
        let plain = key.cipher.decrypt(XNonce::from_slice(nonce), Payload { msg: text, aad: &aad }).map_err(|_| {
            Error::internal(format!("{} of {} in {} was changed or moved", place.column, place.row, place.table))
        })?;
        let plain = Zeroizing::new(plain);
        let mut bytes = Zeroizing::new([0; 32]);
        if plain.len() != bytes.len() {
            return Err(Error::internal("a sealed value of another length than a seed"));
        }
        bytes.copy_from_slice(&plain);
        Ok(bytes)
    }

    /// Whether a value is sealed with the first key.
    pub fn is_first(&self, sealed: &[u8]) -> bool {
        sealed.get(..ID) == Some(&self.first.id[..])
    }

    /// The public identifiers of the keys, the sealing one first.
    pub fn ids(&self) -> Vec<String> {
        std::iter::once(&self.first).chain(&self.others).map(SealingKey::id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    const PLACE: Place<'_> = Place { table: "signing_keys", row: "A1", column: "sealed_seed" };

    fn key(seed: u64) -> SealingKey {
        SealingKey::parse(&SealingKey::generate(&SeededEntropy::new(seed))).unwrap()
    }

    #[test]
    fn opens_only_where_it_was_put_and_unchanged() {
        let keys = SealingKeys::new(vec![key(1)]).unwrap();
        let sealed = keys.seal(&PLACE, &[7; 32], &SeededEntropy::new(9)).unwrap();
        assert_eq!(*keys.open(&PLACE, &sealed).unwrap(), [7; 32]);
        for place in [Place { row: "A2", ..PLACE }, Place { table: "t", ..PLACE }, Place { column: "c", ..PLACE }] {
            assert!(keys.open(&place, &sealed).is_err());
        }
        for index in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[index] ^= 1;
            assert!(keys.open(&PLACE, &changed).is_err(), "byte {index}");
            assert!(keys.open(&PLACE, &sealed[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn the_first_seals_and_any_opens() {
        let old = SealingKeys::new(vec![key(1)]).unwrap();
        let both = SealingKeys::new(vec![key(2), key(1)]).unwrap();
        let new = SealingKeys::new(vec![key(2)]).unwrap();
        let entropy = SeededEntropy::new(9);
        let sealed_old = old.seal(&PLACE, &[7; 32], &entropy).unwrap();
        assert!(both.open(&PLACE, &sealed_old).is_ok());
        assert_eq!(new.open(&PLACE, &sealed_old).unwrap_err().code(), "wrong-sealing-key");
        let sealed_new = both.seal(&PLACE, &[7; 32], &entropy).unwrap();
        assert!(new.open(&PLACE, &sealed_new).is_ok());
    }

    #[test]
    fn a_key_is_not_shown() {
        let text = SealingKey::generate(&SeededEntropy::new(1));
        assert!(!format!("{:?}", key(1)).contains(&text[..16]));
        assert!(SealingKey::parse("abc").is_err() && SealingKeys::new(Vec::new()).is_err());
    }
}
