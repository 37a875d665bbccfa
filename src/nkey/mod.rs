//! Typed nkeys: a public key says in its type whose it is, a seed cannot be printed, cloned or
//! serialized. Signing is aws-lc-rs (measured twice as fast as the alternatives), verification is
//! ed25519-dalek in strict mode, so that no signature leaves which a second implementation refuses.
//!
//! Text form (source: nats-io/nkeys): base32 without padding of `prefix | 32 bytes | CRC16-XMODEM,
//! little-endian`; 56 characters for a public key. A seed carries two prefixes packed into two
//! bytes and has 58 characters.

mod codec;
mod public;
mod secret;
#[cfg(test)]
mod tests;

use std::fmt;

pub use public::{AnyPublicKey, PublicKey};
pub use secret::{KeyPair, Seed, holds_seed};

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
