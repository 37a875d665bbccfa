//! Client certificates with a SPIFFE ID (X509-SVID): who it is that a certificate names, and what the deployer
//! says of it. That a configured authority has signed it was seen in the handshake.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{Doubt, Identity, grants::Wanted};
use crate::{
    error::{Error, Result},
    model::{CallerRole, OrgSlug},
    policy::access::Standing,
};

const SCHEME: &str = "spiffe://";

/// The longest SPIFFE ID, bytes.
const MAX_ID: usize = 256;

/// The longest trust domain, bytes.
const MAX_DOMAIN: usize = 128;

/// What certificates make their bearers, as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCertificateGrant {
    /// A SPIFFE ID; in its path `*` is any one segment, and `{org}` in a segment the slug of an organization.
    pub spiffe: String,
    /// What its bearer is.
    pub role: String,
    /// Where, by slug.
    #[serde(default)]
    pub organizations: Vec<String>,
}

/// One way to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Grant {
    domain: String,
    path: Vec<Segment>,
    role: CallerRole,
    organizations: Vec<OrgSlug>,
}

/// What a segment of a path has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Any,
    Wanted(Wanted),
}

/// All that certificates can make their bearers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates(Vec<Grant>);

impl Certificates {
    /// Checks what is written.
    pub fn check(raw: &[RawCertificateGrant]) -> Result<Self> {
        raw.iter().map(grant).collect::<Result<_>>().map(Self)
    }

    /// Nobody comes with a certificate.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bearer of a certificate, DER. A trust domain that no grant names is not believed, whoever has signed:
    /// an authority may be one of several domains.
    pub fn identify(&self, der: &[u8], now: DateTime<Utc>) -> Result<Identity, Doubt> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Doubt::Certificate)?;
        if !rest.is_empty() {
            return Err(Doubt::Certificate);
        }
        // The handshake looked as well; a connection may outlive the certificate.
        let validity = certificate.validity();
        if now.timestamp() > validity.not_after.timestamp() {
            return Err(Doubt::Expired);
        }
        if now.timestamp() < validity.not_before.timestamp() {
            return Err(Doubt::Early);
        }
        let id = spiffe_id(&certificate).ok_or(Doubt::Certificate)?;
        let (domain, path) = split(id).ok_or(Doubt::Certificate)?;
        if !self.0.iter().any(|grant| grant.domain == domain) {
            return Err(Doubt::Issuer);
        }
        let mut standing = Standing::default();
        for grant in self.0.iter().filter(|grant| grant.domain == domain) {
            if let Some(organizations) = grant.matches(&path) {
                standing.add(grant.role, organizations.iter().map(ToString::to_string));
            }
        }
        Ok(Identity { subject: id.to_owned(), issuer: format!("{SCHEME}{domain}"), standing })
    }
}

impl Grant {
    /// Where the role holds for who has this path; none: it is not the grant's.
    fn matches(&self, path: &[&str]) -> Option<Vec<OrgSlug>> {
        if path.len() != self.path.len() {
            return None;
        }
        let mut organizations = self.organizations.clone();
        for (wanted, segment) in self.path.iter().zip(path) {
            match wanted {
                Segment::Any => {}
                Segment::Wanted(Wanted::Exactly(text)) if text == segment => {}
                Segment::Wanted(Wanted::Exactly(_)) => return None,
                Segment::Wanted(wanted) => organizations.push(wanted.slug(segment)?),
            }
        }
        Some(organizations)
    }
}

/// The only URI among the certificate's names: the standard wants exactly one.
fn spiffe_id<'a>(certificate: &'a X509Certificate<'_>) -> Option<&'a str> {
    let names = certificate.subject_alternative_name().ok()??;
    let mut ids = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(Some(*uri)),
        // What cannot be read may be another one.
        GeneralName::Invalid(..) => Some(None),
        _ => None,
    });
    match (ids.next(), ids.next()) {
        (Some(Some(id)), None) => Some(id),
        _ => None,
    }
}

/// Trust domain and path of a workload's SPIFFE ID; none: it is not written as the standard says.
fn split(id: &str) -> Option<(&str, Vec<&str>)> {
    let (domain, path) = id.strip_prefix(SCHEME).filter(|_| id.len() <= MAX_ID)?.split_once('/')?;
    let in_domain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    let in_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let segments: Vec<_> = path.split('/').collect();
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.chars().all(in_path);
    ((1..=MAX_DOMAIN).contains(&domain.len())
        && domain.chars().all(in_domain)
        && segments.iter().all(|segment| is_segment(segment)))
    .then_some((domain, segments))
}

fn grant(raw: &RawCertificateGrant) -> Result<Grant> {
    let refuse = |why: &str| {
        let why = format!("configuration: access.certificates: '{}': {why}", raw.spiffe);
        Error::invalid("invalid-configuration", why)
    };
    let written = raw.spiffe.strip_prefix(SCHEME).and_then(|rest| rest.split_once('/'));
    // Placeholders are checked as if a text stood there.
    let plain = |(domain, path): (&str, &str)| {
        let segments = path.split('/').map(|segment| if segment == "*" { "any" } else { segment });
        format!("{SCHEME}{domain}/{}", segments.collect::<Vec<_>>().join("/").replace("{org}", "org"))
    };
    let Some((domain, path)) = written.filter(|written| split(&plain(*written)).is_some()) else {
        return Err(refuse(
            "write spiffe://domain/path; a segment of the path may be *, or have {org} for a slug in it",
        ));
    };
    let segment = |text: &str| match text {
        "*" => Some(Segment::Any),
        text => Wanted::parse(text).map(Segment::Wanted),
    };
    let path: Option<Vec<_>> = path.split('/').map(segment).collect();
    let path = path.ok_or_else(|| refuse("{org} stands at most once in a segment"))?;
    let named = path.iter().any(|segment| matches!(segment, Segment::Wanted(Wanted::Around(..))));
    let role: CallerRole = raw.role.parse().map_err(|error: Error| refuse(&error.to_string()))?;
    let slug = |text: &String| text.parse().map_err(|error: Error| refuse(&format!("'{text}': {error}")));
    let organizations = raw.organizations.iter().map(slug).collect::<Result<Vec<OrgSlug>>>()?;
    match (role.holds_in_organizations(), named, organizations.is_empty()) {
        (false, false, true) | (true, true, true) | (true, false, false) => {}
        (false, ..) => return Err(refuse("this role holds in the whole deployment, not in organizations")),
        (true, ..) => return Err(refuse("this role holds in organizations: name them, or write {org} in the path")),
    }
    let slugs = path.iter().filter(|segment| matches!(segment, Segment::Wanted(Wanted::Around(..))));
    if slugs.count() > 1 {
        return Err(refuse("{org} stands once in the path"));
    }
    Ok(Grant { domain: domain.to_owned(), path, role, organizations })
}

#[cfg(test)]
mod tests {
    use CallerRole::{OrgDeveloper, OrgViewer, SovereignAdmin};
    use rcgen::{CertificateParams, KeyPair, SanType, date_time_ymd};

    use super::*;

    fn raw(spiffe: &str, role: &str, organizations: &[&str]) -> RawCertificateGrant {
        let organizations = organizations.iter().map(ToString::to_string).collect();
        RawCertificateGrant { spiffe: spiffe.to_owned(), role: role.to_owned(), organizations }
    }

    fn certificate(uris: &[&str], years: [i32; 2]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["pod.example".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.not_before = date_time_ymd(years[0], 1, 1);
        params.not_after = date_time_ymd(years[1], 1, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn grants() -> Certificates {
        Certificates::check(&[
            raw("spiffe://prod.example/ns/platform/sa/onboarding", "sovereign-admin", &[]),
            raw("spiffe://prod.example/ns/org-{org}/sa/*", "org-developer", &[]),
            raw("spiffe://prod.example/ns/*/sa/viewer", "org-viewer", &["acme", "globex"]),
        ])
        .unwrap()
    }

    #[test]
    fn an_id_is_what_the_patterns_say() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let is = |uris: &[&str]| {
            let identity = grants().identify(&certificate(uris, [2020, 2040]), now)?;
            assert_eq!((identity.subject.as_str(), identity.issuer.as_str()), (uris[0], "spiffe://prod.example"));
            let organizations: Vec<_> = identity.standing.organizations().into_iter().map(str::to_owned).collect();
            Ok((identity.standing.roles(), organizations.join(" ")))
        };
        for (uris, expected) in [
            (&["spiffe://prod.example/ns/platform/sa/onboarding"][..], Ok((vec![SovereignAdmin], ""))),
            (&["spiffe://prod.example/ns/org-acme/sa/api"], Ok((vec![OrgDeveloper], "acme"))),
            (
                &["spiffe://prod.example/ns/org-initech/sa/viewer"],
                Ok((vec![OrgDeveloper, OrgViewer], "acme globex initech")),
            ),
            // Known, and nothing.
            (&["spiffe://prod.example/ns/platform/sa/other"], Ok((vec![], ""))),
            (&["spiffe://prod.example/ns/platform/sa/onboarding/x"], Ok((vec![], ""))),
            (&["spiffe://prod.example/NS/platform/sa/onboarding"], Ok((vec![], ""))),
            (&["spiffe://prod.example/ns/org-/sa/api"], Ok((vec![], ""))),
            (&["spiffe://prod.example/ns/org-ACME/sa/api"], Ok((vec![], ""))),
            (&["spiffe://other.example/ns/platform/sa/onboarding"], Err(Doubt::Issuer)),
            (&[], Err(Doubt::Certificate)),
            (&["https://prod.example/ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["SPIFFE://prod.example/ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe://PROD.example/ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/platform/sa/onboarding/"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/x/../platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/platform/sa/onboarding?x"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/platform/sa/%6fnboarding"], Err(Doubt::Certificate)),
            (&["spiffe://u@prod.example/ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example:1/ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe:///ns/platform/sa/onboarding"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/platform/sa/onboarding", "spiffe://prod.example/x"], Err(Doubt::Certificate)),
            (&["spiffe://prod.example/ns/platform/sa/onboarding", "https://x"], Err(Doubt::Certificate)),
        ] {
            let expected = expected.map(|(roles, organizations)| (roles, organizations.to_owned()));
            assert_eq!(is(uris), expected, "{uris:?}");
        }
        let id = ["spiffe://prod.example/ns/platform/sa/onboarding"];
        for (years, doubt) in [([2020, 2027], Doubt::Expired), ([2028, 2040], Doubt::Early)] {
            assert_eq!(grants().identify(&certificate(&id, years), now), Err(doubt));
        }
        let mut longer = certificate(&id, [2020, 2040]);
        longer.push(0);
        assert_eq!(grants().identify(&longer, now), Err(Doubt::Certificate));
        assert_eq!(grants().identify(b"", now), Err(Doubt::Certificate));
        assert_eq!(Certificates::default().identify(&certificate(&id, [2020, 2040]), now), Err(Doubt::Issuer));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (raw, word) in [
            (raw("https://x/y", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://x", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://*/y", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://X/y", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://{org}/y", "org-admin", &["acme"]), "spiffe://"),
            (raw("spiffe://x*/y", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://x/a*", "sovereign-admin", &[]), "spiffe://"),
            (raw("spiffe://x/{org}{org}", "org-admin", &[]), "at most once"),
            (raw("spiffe://x/{org}/{org}", "org-admin", &[]), "once"),
            (raw("spiffe://x/y", "root", &[]), "root"),
            (raw("spiffe://x/y", "org-admin", &[]), "name them"),
            (raw("spiffe://x/{org}", "org-admin", &["acme"]), "name them"),
            (raw("spiffe://x/y", "sovereign-admin", &["acme"]), "whole deployment"),
            (raw("spiffe://x/{org}", "security-officer", &[]), "whole deployment"),
            (raw("spiffe://x/y", "org-admin", &["A"]), "'A'"),
        ] {
            let error = Certificates::check(std::slice::from_ref(&raw)).unwrap_err().to_string();
            assert!(error.contains(word), "{raw:?}: {error}");
        }
    }
}
