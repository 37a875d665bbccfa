//! What the deployer says of an issuer: as it is written ([`RawIssuer`]) and checked ([`IssuerSettings`]).

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;
use url::{Host, Url};

use super::grants::{Grant, Place, Pointer, Wanted};
use crate::{
    error::{Error, Result},
    model::{CallerRole, OrgSlug, size::parse_grace},
};

/// How many issuers there may be.
const MAX_ISSUERS: usize = 32;

/// The most that clocks may differ, seconds.
const MAX_LEEWAY: i64 = 300;

/// What is allowed when nobody says.
const DEFAULT_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// An issuer, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawIssuer {
    /// What logs and metrics call it.
    pub name: String,
    /// Its URL, exactly as tokens have it in `iss`.
    pub url: String,
    /// What tokens for us have in `aud`; one of them is enough.
    pub audiences: Vec<String>,
    /// With what its tokens may be signed; `RS256`, `ES256` and `EdDSA` when absent.
    pub algorithms: Option<Vec<String>>,
    /// How much clocks may differ, such as `30s`, at most `5m`; 30 s when absent.
    pub leeway: Option<String>,
    /// Where the name of the caller stands; `/sub` when absent.
    pub subject: Option<String>,
    /// What a token has to say, beside.
    pub require: Vec<RawRequired>,
    /// What makes its bearer what.
    pub grants: Vec<RawGrant>,
    /// Where its keys are; found by discovery when absent.
    pub jwks_url: Option<String>,
    /// Certificate authorities to trust when it is asked, PEM; the system's when absent.
    pub ca_file: Option<PathBuf>,
    /// File with a bearer token to ask it with, read anew each time.
    pub token_file: Option<PathBuf>,
    /// How long keys that were fetched are believed while it does not answer; `24h` when absent.
    pub keep_keys: Option<String>,
}

/// A claim that has to be, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRequired {
    /// JSON pointer.
    pub claim: String,
    /// The text that stands there, or in the list there.
    pub value: String,
}

/// A grant, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawGrant {
    /// JSON pointer.
    pub claim: String,
    /// The text that stands there, or in the list there; `{org}` stands for the slug of an organization.
    pub value: String,
    /// What its bearer is then.
    pub role: String,
    /// Where, by slug.
    #[serde(default)]
    pub organizations: Vec<String>,
    /// Where: JSON pointer to a slug or a list of them.
    pub organizations_claim: Option<String>,
}

/// An issuer, checked.
#[derive(Clone, Debug)]
pub struct IssuerSettings {
    /// What logs and metrics call it.
    pub name: String,
    /// Its URL, exactly as tokens have it.
    pub issuer: String,
    /// What tokens for us have in `aud`.
    pub audiences: BTreeSet<String>,
    /// With what its tokens may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How much clocks may differ.
    pub leeway: TimeDelta,
    /// Where the name of the caller stands.
    pub subject: Pointer,
    /// What a token has to say, beside.
    pub required: Vec<(Pointer, String)>,
    /// What makes its bearer what.
    pub grants: Vec<Grant>,
    /// Where to ask.
    pub source: KeySource,
    /// How long keys that were fetched are believed while the issuer does not answer.
    pub keep_keys: TimeDelta,
}

/// Where keys come from, and what is shown there.
#[derive(Clone, Debug)]
pub struct KeySource {
    /// Where the discovery document is; none: the keys' place is known.
    pub discovery: Option<Url>,
    /// Where the keys are, if that is known.
    pub keys: Option<Url>,
    /// Certificate authorities to trust.
    pub ca_file: Option<PathBuf>,
    /// File with a bearer token.
    pub token_file: Option<PathBuf>,
}

/// Checks issuers; relative paths are taken from `base`.
pub fn check(raw: Vec<RawIssuer>, base: &Path) -> Result<Vec<IssuerSettings>> {
    if raw.len() > MAX_ISSUERS {
        return Err(invalid(&format!("access.issuers: at most {MAX_ISSUERS}")));
    }
    let mut checked: Vec<IssuerSettings> = Vec::with_capacity(raw.len());
    for issuer in raw {
        let issuer = one(issuer, base)?;
        if checked.iter().any(|other| other.name == issuer.name || other.issuer == issuer.issuer) {
            return Err(invalid(&format!("access.issuers: '{}' or its URL stands twice", issuer.name)));
        }
        checked.push(issuer);
    }
    Ok(checked)
}

fn one(raw: RawIssuer, base: &Path) -> Result<IssuerSettings> {
    let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if raw.name.is_empty() || raw.name.len() > 32 || !raw.name.chars().all(named) {
        return Err(invalid("access.issuers: each has a name of 1 to 32 of a-z, 0-9 and '-'"));
    }
    let key = |field: &str| format!("access.issuers.{}.{field}", raw.name);
    let url = web_url(&key("url"), &raw.url)?;
    // '@' separates a caller's name from who vouches for it.
    if raw.url.contains('@') || raw.url.len() > 512 {
        return Err(invalid(&format!("{}: no '@' and at most 512 bytes", key("url"))));
    }
    if raw.audiences.is_empty() || raw.audiences.iter().any(String::is_empty) {
        return Err(invalid(&format!("{}: name at least one, which no other service has", key("audiences"))));
    }
    let leeway = match &raw.leeway {
        None => 30,
        Some(text) => parse_grace(&key("leeway"), text)?,
    };
    if leeway > MAX_LEEWAY {
        return Err(invalid(&format!("{}: at most {MAX_LEEWAY}s", key("leeway"))));
    }
    let keep_keys = match &raw.keep_keys {
        None => 86_400,
        Some(text) => parse_grace(&key("keep_keys"), text)?,
    };
    if !(600..=30 * 86_400).contains(&keep_keys) {
        return Err(invalid(&format!("{}: 10m to 30d", key("keep_keys"))));
    }
    let keys = raw.jwks_url.as_deref().map(|text| web_url(&key("jwks_url"), text)).transpose()?;
    let discovery = keys.is_none().then(|| discovery(&url));
    let required =
        raw.require.iter().map(|claim| Ok((Pointer::parse(&key("require"), &claim.claim)?, claim.value.clone())));
    Ok(IssuerSettings {
        algorithms: algorithms(&key("algorithms"), raw.algorithms.as_deref())?,
        subject: Pointer::parse(&key("subject"), raw.subject.as_deref().unwrap_or("/sub"))?,
        required: required.collect::<Result<_>>()?,
        grants: raw.grants.iter().map(|raw| grant(&key("grants"), raw)).collect::<Result<_>>()?,
        source: KeySource {
            discovery,
            keys,
            ca_file: raw.ca_file.map(|file| base.join(file)),
            token_file: raw.token_file.map(|file| base.join(file)),
        },
        leeway: TimeDelta::seconds(leeway),
        keep_keys: TimeDelta::seconds(keep_keys),
        name: raw.name,
        issuer: raw.url,
        audiences: raw.audiences.into_iter().collect(),
    })
}

/// Where `OpenID` Connect Discovery 1.0 puts the document: behind the whole URL, its path included.
fn discovery(issuer: &Url) -> Url {
    let mut url = issuer.clone();
    let path = format!("{}/.well-known/openid-configuration", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url
}

/// Whether keys may be fetched from there: over HTTPS, or from this machine.
pub(super) fn is_safe(url: &Url) -> bool {
    url.scheme() == "https" && url.host().is_some() || is_loopback(url)
}

/// Plain HTTP to this very machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
}

fn web_url(key: &str, text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(is_safe);
    let plain = |url: &Url| url.username().is_empty() && url.password().is_none();
    url.filter(|url| plain(url) && url.query().is_none() && url.fragment().is_none()).ok_or_else(|| {
        invalid(&format!(
            "{key}: '{text}' is no https:// URL without user, query and fragment; http:// only for this machine"
        ))
    })
}

fn algorithms(key: &str, names: Option<&[String]>) -> Result<Vec<Algorithm>> {
    let Some(names) = names else { return Ok(DEFAULT_ALGORITHMS.to_vec()) };
    let parse = |name: &String| {
        let algorithm = name.parse().ok().filter(|found: &Algorithm| found.family() != AlgorithmFamily::Hmac);
        algorithm.ok_or_else(|| {
            let known =
                "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA; shared secrets (HS…) are none";
            invalid(&format!("{key}: '{name}' is none of {known}"))
        })
    };
    let algorithms = names.iter().map(parse).collect::<Result<Vec<_>>>()?;
    if algorithms.is_empty() {
        return Err(invalid(&format!("{key}: name at least one")));
    }
    Ok(algorithms)
}

fn grant(key: &str, raw: &RawGrant) -> Result<Grant> {
    let refuse = |why: String| Err(invalid(&format!("{key}: '{}': {why}", raw.value)));
    let claim = Pointer::parse(key, &raw.claim)?;
    let Some(value) = Wanted::parse(&raw.value) else {
        return refuse("a value is a text with at most one {org}".to_owned());
    };
    let role: CallerRole = raw.role.parse().map_err(|error: Error| invalid(&format!("{key}: {error}")))?;
    let in_value = matches!(value, Wanted::Around(..));
    let places = [in_value, !raw.organizations.is_empty(), raw.organizations_claim.is_some()];
    let place = match (role.holds_in_organizations(), places) {
        (false, [false, false, false]) => Place::Deployment,
        (false, _) => return refuse(format!("the role '{role}' holds in the whole deployment, not in organizations")),
        (true, [true, false, false]) => Place::Value,
        (true, [false, true, false]) => {
            let slug =
                |text: &String| text.parse::<OrgSlug>().map_err(|error| invalid(&format!("{key}: '{text}': {error}")));
            Place::These(raw.organizations.iter().map(slug).collect::<Result<_>>()?)
        }
        (true, [false, false, true]) => {
            Place::Claim(Pointer::parse(key, raw.organizations_claim.as_deref().unwrap_or_default())?)
        }
        (true, _) => {
            let why =
                "holds in organizations: say where by one of organizations, organizations_claim and {org} in the value";
            return refuse(format!("the role '{role}' {why}"));
        }
    };
    Ok(Grant { claim, value, role, place })
}

fn invalid(why: &str) -> Error {
    Error::invalid("invalid-configuration", format!("configuration: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = 'idp'\nurl = 'https://id.example/realms/x'\naudiences = ['nats-authority']\n";

    fn read(text: &str) -> Result<IssuerSettings> {
        let raw: RawIssuer = toml::from_str(text).map_err(|error| invalid(&error.to_string()))?;
        Ok(check(vec![raw], Path::new("/etc/x"))?.remove(0))
    }

    #[test]
    fn what_is_not_said_is_strict() {
        let issuer = read(GOOD).unwrap();
        assert_eq!(issuer.algorithms, DEFAULT_ALGORITHMS);
        assert_eq!((issuer.leeway.num_seconds(), issuer.keep_keys.num_hours()), (30, 24));
        let discovery = issuer.source.discovery.unwrap();
        assert_eq!(discovery.as_str(), "https://id.example/realms/x/.well-known/openid-configuration");
        let kubernetes = format!("{GOOD}jwks_url = 'https://k/openid/v1/jwks'\nca_file = 'ca.crt'\ntoken_file = '/t'");
        let source = read(&kubernetes).unwrap().source;
        assert_eq!((source.discovery, source.keys.unwrap().as_str()), (None, "https://k/openid/v1/jwks"));
        assert_eq!(source.ca_file.unwrap(), Path::new("/etc/x/ca.crt"));
        assert_eq!(source.token_file.unwrap(), Path::new("/t"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let grant = |text: &str| format!("{GOOD}[[grants]]\nclaim = '/g'\n{text}");
        for (text, word) in [
            ("name = 'A b'".to_owned(), "name"),
            ("name = 'a'\nurl = 'http://id.example'\naudiences = ['x']".to_owned(), "https://"),
            ("name = 'a'\nurl = 'http://127.0.0.1.evil.example'\naudiences = ['x']".to_owned(), "https://"),
            ("name = 'a'\nurl = 'https://u:p@id.example'\naudiences = ['x']".to_owned(), "without user"),
            ("name = 'a'\nurl = 'https://id.example?x=1'\naudiences = ['x']".to_owned(), "query"),
            ("name = 'a'\nurl = 'https://id.example/@x'\naudiences = ['x']".to_owned(), "'@'"),
            ("name = 'a'\nurl = 'https://id.example'".to_owned(), "audiences"),
            ("name = 'a'\nurl = 'https://id.example'\naudiences = ['']".to_owned(), "audiences"),
            (format!("{GOOD}algorithms = ['HS256']"), "'HS256' is none of"),
            (format!("{GOOD}algorithms = ['none']"), "'none' is none of"),
            (format!("{GOOD}algorithms = []"), "at least one"),
            (format!("{GOOD}leeway = '1h'"), "leeway"),
            (format!("{GOOD}keep_keys = '1s'"), "keep_keys"),
            (format!("{GOOD}jwks_url = 'file:///etc/passwd'"), "jwks_url"),
            (format!("{GOOD}subject = 'sub'"), "JSON pointer"),
            (grant("value = 'x'\nrole = 'root'"), "root"),
            (grant("value = ''\nrole = 'sovereign-admin'"), "{org}"),
            (grant("value = 'x'\nrole = 'org-admin'"), "say where"),
            (grant("value = 'x-{org}'\nrole = 'org-admin'\norganizations = ['acme']"), "say where"),
            (grant("value = 'x'\nrole = 'org-admin'\norganizations = ['A']"), "'A'"),
            (grant("value = 'x-{org}'\nrole = 'security-officer'"), "whole deployment"),
            (grant("value = 'x'\nrole = 'sovereign-admin'\nwhat = 1"), "what"),
        ] {
            let error = read(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
        let twice: RawIssuer = toml::from_str(GOOD).unwrap();
        assert!(check(vec![twice.clone(), twice], Path::new("")).unwrap_err().to_string().contains("twice"));
        for url in ["http://localhost:1", "http://127.0.0.1:1/x", "http://[::1]:1"] {
            assert!(web_url("k", url).is_ok(), "{url}");
        }
    }
}
