//! Callers that somebody else vouches for: tokens of configured issuers (OIDC, Kubernetes), client certificates. Here is found
//! out whether such a caller can be believed, and what it is according to the configuration; what it may do
//! is decided in `policy::access`, our own API tokens are looked up in `store`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`certificate`] | who a client certificate names (SPIFFE), pure |
//! | [`settings`] | what the deployer says of an issuer, checked |
//! | [`grants`] | from claims to roles and organizations, pure |
//! | [`token`] | a token read and checked, pure |
//! | `strict` | JSON without duplicate names, pure |
//! | [`keys`] | a set of public keys, pure |
//! | `fetch` | the only requests to an issuer |
//! | [`issuers`] | the keys at hand, kept fresh beside the requests |

pub mod certificate;
mod fetch;
pub mod grants;
pub mod issuers;
pub mod keys;
pub mod settings;
mod strict;
pub mod token;

use std::fmt;

use crate::policy::access::Standing;

pub use issuers::Issuers;

/// Somebody who was vouched for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, as who vouches for it has it.
    pub subject: String,
    /// Who vouches for it: the URL of an issuer, or of a trust domain.
    pub issuer: String,
    /// What it is, and where. Nothing, where no grant fits.
    pub standing: Standing,
}

/// Why somebody is not believed. It goes to the log and to a metric, never to the caller: all get one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Longer than any token that is looked at.
    TooLong,
    /// No token in three parts, no JSON, a name that stands twice.
    Malformed,
    /// A header that is not taken: it names its own key, wants something understood, is of another type, has no `kid`.
    Header,
    /// `none`, a shared secret, or one that is not allowed for the issuer.
    Algorithm,
    /// An issuer that is not configured.
    Issuer,
    /// A key that the issuer does not have, or none of its keys is at hand.
    Key,
    /// Not signed with the key that it names.
    Signature,
    /// Not for us.
    Audience,
    /// It is over.
    Expired,
    /// Not valid yet, or made in the future.
    Early,
    /// A claim is missing, or not what the issuer's settings want.
    Claims,
    /// A client certificate that does not name exactly one SPIFFE ID.
    Certificate,
    /// Not one of our own tokens, or one that is revoked or over.
    Unknown,
}

impl Doubt {
    /// All, as the metric names them.
    pub const ALL: [Self; 13] = [
        Self::TooLong,
        Self::Malformed,
        Self::Header,
        Self::Algorithm,
        Self::Issuer,
        Self::Key,
        Self::Signature,
        Self::Audience,
        Self::Expired,
        Self::Early,
        Self::Claims,
        Self::Certificate,
        Self::Unknown,
    ];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too-long",
            Self::Malformed => "malformed",
            Self::Header => "header",
            Self::Algorithm => "algorithm",
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Claims => "claims",
            Self::Certificate => "certificate",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
