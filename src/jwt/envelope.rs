//! The token around claims: header, encoding, signature.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use sha2::{Digest, Sha256};

use super::{
    claims::{Claims, Payload},
    lint::Linted,
};
use crate::nkey::{AnyPublicKey, KeyPair, Role};

/// The header of every token, byte for byte.
pub const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The largest token that servers take, bytes.
pub const MAX_TOKEN: usize = 1 << 20;

/// Why a text is no acceptable token.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Longer than [`MAX_TOKEN`].
    #[error("the token is longer than 1 MiB")]
    TooLong,
    /// Not three base64url parts without padding.
    #[error("not a token: expected three base64url parts separated by dots")]
    Shape,
    /// Another header or algorithm.
    #[error("the header is not that of a NATS JWT (typ JWT, alg ed25519-nkey)")]
    Header,
    /// The claims are no JSON of the expected form.
    #[error("the claims cannot be read: {0}")]
    Claims(String),
    /// Another kind of claims than expected.
    #[error("claims of type {found} where {wanted} is needed")]
    WrongType {
        /// What was needed.
        wanted: String,
        /// What was given.
        found: String,
    },
    /// Not version 2.
    #[error("claims of version {0}; only version 2 is supported")]
    Version(u8),
    /// The issuer's or subject's kind of key may not stand there.
    #[error("a key of kind {kind} cannot be the {place} of this token")]
    KeyKind {
        /// `issuer` or `subject`.
        place: &'static str,
        /// What was given.
        kind: crate::nkey::Kind,
    },
    /// The signature does not belong to header, claims and issuer.
    #[error("the signature does not match the issuer's key")]
    Signature,
}

/// A token whose signature holds, and its claims.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<T> {
    /// The claims.
    pub claims: Claims<T>,
}

/// A signed token that has not left the signer: what it says can be read, its text cannot be had
/// until the store has committed the record of it (`store::Committed`).
pub struct Signed<T> {
    claims: Claims<T>,
    token: String,
}

impl<T: Payload> Linted<T> {
    /// Signs. The issuer in the claims must be `key`; the claims were made for it.
    pub(crate) fn sign<R: Role>(self, key: &KeyPair<R>) -> Signed<T> {
        debug_assert_eq!(self.claims().issuer, AnyPublicKey::from(key.public()));
        let (claims, mut token) = self.into_parts();
        let signature = key.sign(token.as_bytes());
        token.push('.');
        B64.encode_string(signature, &mut token);
        Signed { claims, token }
    }
}

impl<T> Signed<T> {
    /// What the token says.
    pub fn claims(&self) -> &Claims<T> {
        &self.claims
    }

    /// SHA-256 of the token's text: how the ledger and the resolvers identify it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.token.as_bytes()).into()
    }

    /// Length of the token's text, bytes.
    pub fn token_len(&self) -> usize {
        self.token.len()
    }

    /// The token's text, for the store to record and to release after commit; nobody else.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}
