//! What must hold before anything is signed: the official library's `Validate()` and the sizes
//! that servers enforce. What claims *should* say is decided elsewhere; here is only what no server
//! would take, or would take and then understand differently. Nothing here asks for the time.

mod access;
mod account;
mod operator;
mod rules;
mod shares;

use data_encoding::BASE32_NOPAD;
use sha2::{Digest, Sha512_256};

use self::rules::Problems;
pub(super) use self::rules::Rules;
use super::{
    claims::{Claims, Payload, VERSION},
    envelope,
};

/// The largest user token, bytes: CONNECT has to fit into `max_control_line` (4,096 by default)
/// beside the signature of the nonce and the client's own words.
pub const MAX_USER_TOKEN: usize = 3_700;

/// The largest description or information URL, bytes.
pub const MAX_INFO: usize = 8 * 1024;

/// One thing that is wrong with claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer into the claims.
    pub pointer: String,
    /// What is wrong and what to do.
    pub detail: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.pointer.is_empty() { f.write_str(&self.detail) } else { write!(f, "{}: {}", self.pointer, self.detail) }
    }
}

/// Claims that passed every check, with the bytes to sign. Only [`check`] makes one.
#[derive(Debug)]
pub struct Linted<T> {
    claims: Claims<T>,
    signing_input: String,
}

impl<T: Payload> Linted<T> {
    /// What was checked.
    pub fn claims(&self) -> &Claims<T> {
        &self.claims
    }

    /// Length of the token that signing it will make, bytes.
    pub fn token_len(&self) -> usize {
        self.signing_input.len() + envelope::SIGNATURE_PART
    }

    pub(super) fn into_parts(self) -> (Claims<T>, String) {
        (self.claims, self.signing_input)
    }
}

/// As long as the base32 of 32 bytes.
const BLANK_ID: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const ID_NAME: &[u8] = br#""jti":""#;

/// Sets the id (a hash of the whole payload) and checks the claims.
pub fn check<T: Payload>(mut claims: Claims<T>) -> Result<Linted<T>, Vec<Problem>> {
    let mut problems = examine(&claims);
    // The official id leaves `nats` out, so that two tokens of one second share it; no server
    // verifies it, and ours tells them apart: it is the hash of the payload with a blank id, which it
    // then replaces in place, for writing the claims is what linting spends its time on.
    claims.id = Some(BLANK_ID.to_owned());
    let mut payload = serialise(&claims)?;
    let id = BASE32_NOPAD.encode(&Sha512_256::digest(&payload));
    // Only the name of the claim looks like this: quotes inside of texts are escaped.
    let at = payload.windows(ID_NAME.len()).position(|window| window == ID_NAME).map(|at| at + ID_NAME.len());
    if let Some(blank) = at.and_then(|at| payload.get_mut(at..at + BLANK_ID.len())) {
        blank.copy_from_slice(id.as_bytes());
    }
    claims.id = Some(id);
    let signing_input = envelope::signing_input(&payload);
    check_size::<T>(signing_input.len() + envelope::SIGNATURE_PART, &mut problems);
    if problems.is_empty() { Ok(Linted { claims, signing_input }) } else { Err(problems.into_vec()) }
}

/// What is wrong with claims that somebody else has signed into a token of `length` bytes.
pub(super) fn of_signed<T: Payload>(claims: &Claims<T>, length: usize) -> Vec<Problem> {
    let mut problems = examine(claims);
    check_size::<T>(length, &mut problems);
    problems.into_vec()
}

fn examine<T: Payload>(claims: &Claims<T>) -> Problems {
    let mut problems = Problems::default();
    check_common(claims, &mut problems);
    T::examine(claims, &mut problems);
    problems
}

fn check_common<T: Payload>(claims: &Claims<T>, problems: &mut Problems) {
    let common = claims.nats.common();
    problems.add_unless(common.version == VERSION, "/nats/version", "must be 2");
    if common.kind.as_deref() != T::TYPE {
        problems.add("/nats/type", format!("must be {}", T::TYPE.unwrap_or("absent")));
    }
    for (index, tag) in common.tags.iter().enumerate() {
        if tag.is_empty() || tag.trim() != tag {
            problems.add(format!("/nats/tags/{index}"), "a tag must not be empty or have white space around it");
        }
    }
    if !T::ISSUERS.contains(&claims.issuer.kind()) {
        problems.add("/iss", format!("a key of kind {} may not sign this", claims.issuer.kind()));
    }
    if let Some(wanted) = T::SUBJECT
        && wanted != claims.subject.kind()
    {
        problems.add("/sub", format!("a key of kind {wanted} is needed, not one of kind {}", claims.subject.kind()));
    }
    check_times(claims, problems);
}

fn check_times<T>(claims: &Claims<T>, problems: &mut Problems) {
    let positive = |time: Option<i64>| time.is_none_or(|time| time > 0);
    problems.add_unless(
        claims.issued_at.is_some_and(|time| time > 0),
        "/iat",
        "the time of issue is missing: resolvers and revocations compare it",
    );
    problems.add_unless(positive(claims.expires), "/exp", "must be after 1970; leave it out for no end");
    problems.add_unless(positive(claims.not_before), "/nbf", "must be after 1970; leave it out for no begin");
    if let Some(expires) = claims.expires {
        let start = claims.issued_at.max(claims.not_before);
        let detail = "the token would never be valid: it ends before it begins";
        problems.add_unless(start.is_none_or(|start| start < expires), "/exp", detail);
    }
}

fn check_size<T: Payload>(length: usize, problems: &mut Problems) {
    if length > T::MAX_TOKEN {
        let detail = format!(
            "the token has {length} bytes, at most {} are allowed: {}",
            T::MAX_TOKEN,
            if T::MAX_TOKEN == MAX_USER_TOKEN {
                "move permissions into the scope of a signing key"
            } else {
                "take revocations, imports or scopes out"
            }
        );
        problems.add("", detail);
    }
}

fn serialise<T: Payload>(claims: &Claims<T>) -> Result<Vec<u8>, Vec<Problem>> {
    let problem = |error: serde_json::Error| {
        vec![Problem { pointer: String::new(), detail: format!("the claims cannot be written: {error}") }]
    };
    serde_json::to_vec(claims).map_err(problem)
}

/// Description and information URL, as accounts and exports carry them.
fn check_info(description: Option<&str>, info_url: Option<&str>, at: &str, problems: &mut Problems) {
    if description.is_some_and(|text| text.len() > MAX_INFO) {
        problems.add(format!("{at}/description"), "longer than 8 KiB");
    }
    if let Some(text) = info_url {
        let at = format!("{at}/info_url");
        problems.add_unless(text.len() <= MAX_INFO, &at, "longer than 8 KiB");
        let whole = url::Url::parse(text).is_ok_and(|url| url.has_host());
        problems.add_unless(whole, &at, "not a URL with a scheme and a host");
    }
}

/// A name as a part of a JSON pointer.
fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

const NOT_A_SUBJECT: &str = "not a subject: no empty tokens, no white space, '>' only at the end";

#[cfg(test)]
mod tests;
