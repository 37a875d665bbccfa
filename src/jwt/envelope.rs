//! The token around claims: header, encoding, signature. Whether the claims make sense is `lint`'s
//! to say, whether the issuer is trusted and the time is right the caller's.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    Account, Activation, Generic, Operator, User,
    claims::{Claims, Payload, VERSION},
    lint::Linted,
    strict,
};
use crate::nkey::{AnyPublicKey, KeyPair, Kind, Role};

/// The header of every token, byte for byte.
pub const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// The largest token that servers take, bytes.
pub const MAX_TOKEN: usize = 1 << 20;

/// The length of a signature in a token, with the dot before it.
pub(super) const SIGNATURE_PART: usize = 1 + 86;

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
        kind: Kind,
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

/// A token of any kind whose signature holds.
#[derive(Clone, Debug, PartialEq)]
pub enum AnyDecoded {
    /// An operator's.
    Operator(Box<Decoded<Operator>>),
    /// An account's.
    Account(Box<Decoded<Account>>),
    /// A user's.
    User(Box<Decoded<User>>),
    /// An activation.
    Activation(Box<Decoded<Activation>>),
    /// Generic claims.
    Generic(Box<Decoded<Generic>>),
}

/// Reads a token of one kind and verifies its signature against the issuer that it names. That the
/// issuer may be trusted and that the token is valid *now* is not looked at.
pub fn decode<T: Payload>(token: &str) -> Result<Decoded<T>, JwtError> {
    Parts::of(token)?.decode()
}

/// Reads a token of whichever kind it says to be; see [`decode`].
pub fn decode_any(token: &str) -> Result<AnyDecoded, JwtError> {
    let parts = Parts::of(token)?;
    let kind = parts.outline.nats.kind.as_deref();
    if kind == Operator::TYPE {
        parts.decode().map(Box::new).map(AnyDecoded::Operator)
    } else if kind == Account::TYPE {
        parts.decode().map(Box::new).map(AnyDecoded::Account)
    } else if kind == User::TYPE {
        parts.decode().map(Box::new).map(AnyDecoded::User)
    } else if kind == Activation::TYPE {
        parts.decode().map(Box::new).map(AnyDecoded::Activation)
    } else {
        parts.decode().map(Box::new).map(AnyDecoded::Generic)
    }
}

/// What a token says, believed by nobody: for showing it to people.
#[derive(Clone, Debug, PartialEq)]
pub struct Unverified {
    /// The header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

/// Reads a token without verifying anything but its outer form.
pub fn read_unverified(token: &str) -> Result<Unverified, JwtError> {
    let [header, payload, _] = split(token)?;
    let json = |part| {
        let bytes = B64.decode(part).map_err(|_| JwtError::Shape)?;
        strict::from_slice(&bytes).map_err(|error| JwtError::Claims(error.to_string()))
    };
    Ok(Unverified { header: json(header)?, claims: json(payload)? })
}

/// What is signed: header and payload.
pub(super) fn signing_input(payload: &[u8]) -> String {
    let mut input = String::with_capacity(64 + payload.len().div_ceil(3) * 4 + SIGNATURE_PART);
    B64.encode_string(HEADER, &mut input);
    input.push('.');
    B64.encode_string(payload, &mut input);
    input
}

/// The header as other libraries may write it.
#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
}

/// What has to be known of the claims before the rest of them is looked at.
#[derive(Deserialize)]
struct Outline {
    iss: AnyPublicKey,
    sub: AnyPublicKey,
    nats: OutlineOfNats,
}

#[derive(Deserialize)]
struct OutlineOfNats {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    // Version 1 had none.
    #[serde(default = "one")]
    version: u64,
}

const fn one() -> u64 {
    1
}

/// A token of acceptable form and version, not yet verified.
struct Parts<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    payload: Vec<u8>,
    outline: Outline,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Result<Self, JwtError> {
        let [header, payload, signature] = split(token)?;
        let bytes = |part: &str| B64.decode(part).map_err(|_| JwtError::Shape);
        let (header, payload, signature) = (bytes(header)?, bytes(payload)?, bytes(signature)?);
        let header: Header = strict::from_slice(&header).map_err(|_| JwtError::Header)?;
        if !header.typ.eq_ignore_ascii_case("JWT") || header.alg != "ed25519-nkey" {
            return Err(JwtError::Header);
        }
        let outline: Outline = read(&payload)?;
        if outline.nats.version != u64::from(VERSION) {
            return Err(JwtError::Version(u8::try_from(outline.nats.version).unwrap_or(u8::MAX)));
        }
        let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
        Ok(Self { signed, signature, payload, outline })
    }

    fn decode<T: Payload>(&self) -> Result<Decoded<T>, JwtError> {
        let Outline { iss, sub, nats } = &self.outline;
        // Older libraries wrote the type of generic claims out.
        let found = nats.kind.as_deref().filter(|kind| *kind != "generic");
        if found != T::TYPE {
            let name = |kind: Option<&str>| kind.unwrap_or("generic").to_owned();
            return Err(JwtError::WrongType { wanted: name(T::TYPE), found: name(found) });
        }
        if !T::ISSUERS.contains(&iss.kind()) {
            return Err(JwtError::KeyKind { place: "issuer", kind: iss.kind() });
        }
        if T::SUBJECT.is_some_and(|kind| kind != sub.kind()) {
            return Err(JwtError::KeyKind { place: "subject", kind: sub.kind() });
        }
        if !iss.verify(self.signed.as_bytes(), &self.signature) {
            return Err(JwtError::Signature);
        }
        Ok(Decoded { claims: read(&self.payload)? })
    }
}

/// The three parts. The length is looked at first, before any work is done.
fn split(token: &str) -> Result<[&str; 3], JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::TooLong);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(payload), Some(signature), None) => Ok([header, payload, signature]),
        _ => Err(JwtError::Shape),
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, JwtError> {
    strict::from_slice(payload).map_err(|error| JwtError::Claims(error.to_string()))
}

/// A signed token that has not left the signer: what it says can be read, its text cannot be had
/// until the store has committed the record of it (`store::Recorded`).
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
