//! A token of an issuer (RFC 7519, as a compact JWS): read without belief, then checked against the issuer's
//! keys and settings at a time that is given. The unverified `iss` only selects the settings.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, AlgorithmFamily, Validation};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{
    Doubt, Identity, grants,
    keys::{Key, MAX_KID},
    settings::IssuerSettings,
    strict,
};

/// The longest token that is looked at, bytes.
pub const MAX_TOKEN: usize = 8192;

/// The longest name of a caller, bytes.
const MAX_SUBJECT: usize = 256;

/// Headers by which a token brings its own key, or says where to get it.
const OWN_KEY: [&str; 4] = ["jku", "jwk", "x5u", "x5c"];

/// What a token may say that it is; absent is fine too.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// Names of callers that are ours to give.
const RESERVED: [&str; 2] = ["token:", "task:"];

/// A token that was read and that nobody believes yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    text: &'a str,
    /// What it says that it is signed with.
    pub algorithm: Algorithm,
    /// The key that it names.
    pub kid: String,
    /// Who it says has issued it.
    pub issuer: String,
    claims: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token. Nothing but its size is looked at before its size.
    pub fn read(text: &'a str) -> Result<Self, Doubt> {
        if text.len() > MAX_TOKEN {
            return Err(Doubt::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(header), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Doubt::Malformed);
        };
        let header = object(header)?;
        let claims = object(claims)?;
        let (algorithm, kid) = head(&header)?;
        let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Doubt::Issuer)?.to_owned();
        Ok(Self { text, algorithm, kid, issuer, claims })
    }

    /// The caller, if one of `keys` has signed the token and it says at `now` what `issuer` wants of it.
    pub fn verify(&self, issuer: &IssuerSettings, keys: &[Key], now: DateTime<Utc>) -> Result<Identity, Doubt> {
        if self.issuer != issuer.issuer {
            return Err(Doubt::Issuer);
        }
        if !issuer.algorithms.contains(&self.algorithm) {
            return Err(Doubt::Algorithm);
        }
        let key = self.key(keys).ok_or(Doubt::Key)?;
        // Times are checked below, with our clock: the library would read the machine's.
        let mut validation = Validation::new(self.algorithm);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.iss = Some(HashSet::from([issuer.issuer.clone()]));
        validation.aud = Some(issuer.audiences.iter().cloned().collect());
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        jsonwebtoken::decode::<IgnoredAny>(self.text, &key.key, &validation).map_err(|error| {
            use jsonwebtoken::errors::ErrorKind;
            match error.kind() {
                ErrorKind::InvalidAudience => Doubt::Audience,
                ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Doubt::Audience,
                ErrorKind::MissingRequiredClaim(_) => Doubt::Claims,
                _ => Doubt::Signature,
            }
        })?;
        self.check_audience(issuer)?;
        self.check_times(issuer, now)?;
        self.identity(issuer)
    }

    /// The key that it names, if that fits its algorithm.
    pub fn key<'k>(&self, keys: &'k [Key]) -> Option<&'k Key> {
        keys.iter().find(|key| key.kid == self.kid && key.algorithms.contains(&self.algorithm))
    }

    /// Once more, by our own reading of the claims.
    fn check_audience(&self, issuer: &IssuerSettings) -> Result<(), Doubt> {
        let ours = |value: &Value| value.as_str().is_some_and(|text| issuer.audiences.contains(text));
        match self.claims.get("aud") {
            Some(Value::Array(all)) if all.iter().any(ours) => Ok(()),
            Some(one) if ours(one) => Ok(()),
            _ => Err(Doubt::Audience),
        }
    }

    fn check_times(&self, issuer: &IssuerSettings, now: DateTime<Utc>) -> Result<(), Doubt> {
        let end = self.time("exp")?.ok_or(Doubt::Claims)?;
        if now - issuer.leeway >= end {
            return Err(Doubt::Expired);
        }
        for claim in ["nbf", "iat"] {
            if self.time(claim)?.is_some_and(|time| time > now + issuer.leeway) {
                return Err(Doubt::Early);
            }
        }
        Ok(())
    }

    /// A time in seconds, which may have a fraction (RFC 7519, `NumericDate`).
    fn time(&self, claim: &str) -> Result<Option<DateTime<Utc>>, Doubt> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = value.as_i64().or_else(|| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a fraction of a second does not matter, nor what saturates"
            )]
            let whole = value.as_f64()? as i64;
            Some(whole)
        });
        let time =
            seconds.filter(|seconds| (0..=1 << 40).contains(seconds)).and_then(|s| DateTime::from_timestamp(s, 0));
        time.map(Some).ok_or(Doubt::Claims)
    }

    fn identity(&self, issuer: &IssuerSettings) -> Result<Identity, Doubt> {
        // Bound to a key that we cannot see its sender have.
        if self.claims.contains_key("cnf") {
            return Err(Doubt::Claims);
        }
        for (claim, value) in &issuer.required {
            if !claim.texts(&self.claims).contains(&value.as_str()) {
                return Err(Doubt::Claims);
            }
        }
        let subject = issuer.subject.text(&self.claims).filter(|subject| is_name(subject)).ok_or(Doubt::Claims)?;
        Ok(Identity {
            subject: subject.to_owned(),
            issuer: issuer.issuer.clone(),
            standing: grants::standing(&issuer.grants, &self.claims),
        })
    }
}

/// Whether the audit log can carry it as the name of a caller.
fn is_name(subject: &str) -> bool {
    (1..=MAX_SUBJECT).contains(&subject.len())
        && !subject.chars().any(|c| c.is_control() || c.is_whitespace() && c != ' ')
        && subject.trim() == subject
        && !RESERVED.iter().any(|reserved| subject.starts_with(reserved))
}

fn object(part: &str) -> Result<Map<String, Value>, Doubt> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Doubt::Malformed)?;
    strict::object(&bytes).ok_or(Doubt::Malformed)
}

fn head(header: &Map<String, Value>) -> Result<(Algorithm, String), Doubt> {
    let text = |name: &str| header.get(name).map(|value| value.as_str().ok_or(Doubt::Header)).transpose();
    let algorithm = text("alg")?.ok_or(Doubt::Algorithm)?.parse::<Algorithm>().map_err(|_| Doubt::Algorithm)?;
    if algorithm.family() == AlgorithmFamily::Hmac {
        return Err(Doubt::Algorithm);
    }
    if OWN_KEY.iter().any(|name| header.contains_key(*name)) || header.contains_key("crit") {
        return Err(Doubt::Header);
    }
    if text("typ")?.is_some_and(|kind| !TYPES.contains(&kind.to_ascii_lowercase().as_str())) {
        return Err(Doubt::Header);
    }
    let kid = text("kid")?.filter(|kid| (1..=MAX_KID).contains(&kid.len())).ok_or(Doubt::Header)?;
    Ok((algorithm, kid.to_owned()))
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
