//! From claims to roles and organizations. A grant says which value of which claim is which role, and where;
//! what no grant names gives nothing.

use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    model::{CallerRole, OrgSlug},
    policy::access::Standing,
};

/// Where the slug of an organization stands in a value.
const ORG: &str = "{org}";

/// A place in the claims: a JSON pointer (RFC 6901), such as `/kubernetes.io/namespace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

impl Pointer {
    /// Reads a pointer; the empty one, which means all of it, is refused. `key` names it in errors.
    pub fn parse(key: &str, text: &str) -> Result<Self> {
        let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
        if text.len() > 1 && text.starts_with('/') && escapes {
            return Ok(Self(text.to_owned()));
        }
        let why = format!("{key}: '{text}' is no JSON pointer such as /groups; '/' in a name is ~1, '~' is ~0");
        Err(Error::invalid("invalid-configuration", format!("configuration: {why}")))
    }

    /// The text there, or all texts of the list there; none for anything else.
    pub fn texts<'a>(&self, claims: &'a Map<String, Value>) -> Vec<&'a str> {
        match self.find(claims) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The text there; a list of them is not one.
    pub fn text<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a str> {
        self.find(claims).and_then(Value::as_str)
    }

    fn find<'a>(&self, claims: &'a Map<String, Value>) -> Option<&'a Value> {
        let (first, rest) = match self.0[1..].split_once('/') {
            Some((first, _)) => (first, &self.0[1 + first.len()..]),
            None => (&self.0[1..], ""),
        };
        claims.get(&first.replace("~1", "/").replace("~0", "~"))?.pointer(rest)
    }
}

/// What a value has to be: this text, or one with the slug of an organization in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Exactly this.
    Exactly(String),
    /// This before a slug, and this behind it.
    Around(String, String),
}

impl Wanted {
    /// Reads `platform-admins` or `org-{org}-admins`; none: more than one `{org}`, or nothing at all.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(ORG) {
            None => (!text.is_empty()).then(|| Self::Exactly(text.to_owned())),
            Some((before, after)) => (!after.contains(ORG)).then(|| Self::Around(before.to_owned(), after.to_owned())),
        }
    }

    /// The slug in it.
    pub(super) fn slug(&self, value: &str) -> Option<OrgSlug> {
        let Self::Around(before, after) = self else { return None };
        value.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?.parse().ok()
    }
}

/// Where a role holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the deployment.
    Deployment,
    /// In these organizations.
    These(Vec<OrgSlug>),
    /// In those that this claim names.
    Claim(Pointer),
    /// In the one whose slug stands in the value.
    Value,
}

/// One way to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Where to look.
    pub claim: Pointer,
    /// What has to stand there, alone or among others.
    pub value: Wanted,
    /// What its bearer is then.
    pub role: CallerRole,
    /// Where.
    pub place: Place,
}

/// What the claims make their bearer.
pub fn standing(grants: &[Grant], claims: &Map<String, Value>) -> Standing {
    let mut standing = Standing::default();
    for grant in grants {
        let values = grant.claim.texts(claims);
        let organizations: Vec<OrgSlug> = match (&grant.value, &grant.place) {
            (Wanted::Around(..), _) => values.iter().filter_map(|value| grant.value.slug(value)).collect(),
            (Wanted::Exactly(value), _) if !values.contains(&value.as_str()) => continue,
            (_, Place::Deployment) => {
                standing.add(grant.role, []);
                continue;
            }
            (_, Place::These(these)) => these.clone(),
            (_, Place::Claim(claim)) => claim.texts(claims).iter().filter_map(|slug| slug.parse().ok()).collect(),
            (_, Place::Value) => Vec::new(),
        };
        // A role without a place to hold in would look like one.
        if !organizations.is_empty() {
            standing.add(grant.role, organizations.iter().map(ToString::to_string));
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn grant(claim: &str, value: &str, role: CallerRole, place: Place) -> Grant {
        Grant { claim: Pointer::parse("claim", claim).unwrap(), value: Wanted::parse(value).unwrap(), role, place }
    }

    fn is(grants: &[Grant], claims: &Value) -> (Vec<CallerRole>, Vec<String>) {
        let standing = standing(grants, claims.as_object().unwrap());
        (standing.roles(), standing.organizations().into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn claims_become_roles_and_organizations() {
        let pointer = |text: &str| Pointer::parse("claim", text).unwrap();
        let grants = [
            grant("/groups", "platform-admins", CallerRole::SovereignAdmin, Place::Deployment),
            grant("/groups", "org-{org}-admins", CallerRole::OrgAdmin, Place::Value),
            grant("/realm/roles", "viewer", CallerRole::OrgViewer, Place::Claim(pointer("/orgs"))),
            grant("/https:~1~1x/team", "a", CallerRole::OrgDeveloper, Place::These(vec!["acme".parse().unwrap()])),
        ];
        let none = (Vec::new(), Vec::new());
        let orgs = |slugs: &[&str]| slugs.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (claims, expected) in [
            (json!({}), none.clone()),
            (json!({"groups": ["platform-admins", 7]}), (vec![CallerRole::SovereignAdmin], orgs(&[]))),
            (json!({"groups": "platform-admins"}), (vec![CallerRole::SovereignAdmin], orgs(&[]))),
            // Neither a part of it, nor another case, nor a place deeper down.
            (json!({"groups": ["platform-admins2", "Platform-Admins", " platform-admins"]}), none.clone()),
            (json!({"groups": {"platform-admins": true}}), none.clone()),
            (json!({"groups": [["platform-admins"]]}), none.clone()),
            (
                json!({"groups": ["org-acme-admins", "org-globex-admins", "org-acme-admin"]}),
                (vec![CallerRole::OrgAdmin], orgs(&["acme", "globex"])),
            ),
            // What is no slug is nobody's.
            (json!({"groups": ["org--admins", "org-A/../B-admins", "org-*-admins", "org-{org}-admins"]}), none.clone()),
            (
                json!({"realm": {"roles": ["viewer"]}, "orgs": ["acme", "No Slug", 3]}),
                (vec![CallerRole::OrgViewer], orgs(&["acme"])),
            ),
            (json!({"realm": {"roles": ["viewer"]}}), none.clone()),
            (json!({"https://x": {"team": "a"}}), (vec![CallerRole::OrgDeveloper], orgs(&["acme"]))),
        ] {
            assert_eq!(is(&grants, &claims), expected, "{claims}");
        }
    }

    #[test]
    fn pointers_are_read_as_the_standard_says() {
        for bad in ["", "/", "groups", "/a~2", "/a~"] {
            assert!(Pointer::parse("claim", bad).is_err(), "{bad}");
        }
        let claims = json!({"a": {"b": ["x"]}, "c~d": "y", "kubernetes.io": {"namespace": "n"}});
        let text = |pointer: &str| {
            let pointer = Pointer::parse("claim", pointer).unwrap();
            pointer.text(claims.as_object().unwrap()).map(str::to_owned)
        };
        assert_eq!(text("/a/b/0").as_deref(), Some("x"));
        assert_eq!(text("/c~0d").as_deref(), Some("y"));
        assert_eq!(text("/kubernetes.io/namespace").as_deref(), Some("n"));
        assert_eq!((text("/a/b"), text("/nothing")), (None, None));
        assert_eq!((Wanted::parse(""), Wanted::parse("{org}{org}")), (None, None));
    }
}
