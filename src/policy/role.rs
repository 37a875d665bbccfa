//! Roles: named sets of permissions inside one environment. A role file is a template; for an
//! environment it becomes the scope of a signing key, so that users under that key carry nothing.

use serde::Deserialize;
use toml::Spanned;

use super::{
    explain::Direction,
    source::{Amount, Source, ZERO_LOCKS_OUT, check_name},
    territory::{SUBJECT, outside},
};
use crate::{
    error::{Error, Result},
    jwt::{
        Permissions,
        account::{ScopeTemplate, UserScope},
        limits::UserLimits,
        permissions::Permission,
        subject,
    },
    model::{
        EnvType, Environment, Reach,
        names::renewal_subject,
        size,
        view::{PermissionView, PermissionsView},
    },
    nkey::{PublicKey, User},
};

/// The largest scope of a role, JSON, in an environment with a long name. An account JWT carries one
/// scope for each role in each environment, and has to stay far below 1 MiB.
pub const MAX_SCOPE_BYTES: usize = 3_072;

/// How long a credential with permissions of the caller's own lives when its request doesn't say, and how
/// long it may live, seconds.
const CUSTOM_TTL: i64 = 30 * 86_400;
const CUSTOM_MAX_TTL: i64 = 90 * 86_400;

/// Names of callers' roles and such, which a credential's role must not be mistaken for.
const RESERVED: [&str; 10] = [
    "sovereign-admin",
    "security-officer",
    "org-admin",
    "org-developer",
    "org-viewer",
    "system",
    "platform",
    "custom",
    "none",
    "all",
];

/// A named set of permissions inside one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name, also its file's.
    pub name: String,
    /// For people.
    pub description: String,
    /// How far it reaches.
    pub reach: Reach,
    /// How long a credential lives when its request doesn't say, seconds.
    pub default_ttl: i64,
    /// How long a credential may live, seconds.
    pub max_ttl: i64,
    /// For how long a credential may be renewed, seconds since the first JWT of its key; `None`: without end.
    pub renewable_for: Option<i64>,
    /// Where it may be issued; `None` everywhere.
    pub env_types: Option<Vec<EnvType>>,
    /// A credential may be a bearer token. The scope never says so: such a user needs limits of its own.
    pub bearer_allowed: bool,
    /// Limits of each user.
    pub limits: UserLimits,
    template: Permissions,
}

impl Role {
    /// The role `custom` with these permissions, which `custom::check` has accepted: the caller's own, and
    /// the user's inbox. It has no file and no key of its own.
    pub(super) fn custom(own: &PermissionsView) -> Self {
        let part = |part: &PermissionView| Permission { allow: part.allow.clone(), deny: part.deny.clone() };
        // An empty list would allow everything. None stays empty: every user may ask for its renewal.
        let (publish, mut subscribe) = (part(&own.publish), part(&own.subscribe));
        subscribe.allow.insert(0, "{{inbox}}.>".to_owned());
        Self {
            name: super::CUSTOM.to_owned(),
            description: "Permissions of the caller's own".to_owned(),
            reach: Reach::Environment,
            default_ttl: CUSTOM_TTL,
            max_ttl: CUSTOM_MAX_TTL,
            renewable_for: None,
            env_types: None,
            bearer_allowed: false,
            limits: UserLimits {
                // As in the roles that come with the program: leaf nodes and MQTT act in ways that subjects do
                // not bound.
                allowed_connection_types: vec!["STANDARD".to_owned(), "WEBSOCKET".to_owned()],
                ..UserLimits::default()
            },
            template: Permissions { publish, subscribe, response: None },
        }
    }

    /// The scope of the signing key of this role in `env`. It depends on nothing but the role's permissions
    /// and limits: servers close every user of a key whose scope changes in any way, a description included.
    pub fn scope(&self, env: &Environment) -> UserScope {
        UserScope {
            role: self.name.clone(),
            template: ScopeTemplate { permissions: self.permissions_in(env), limits: self.limits.clone() },
            description: env.name(),
        }
    }

    /// What `user` may do in `env`: the scope as the server resolves it. To show, and for users with limits
    /// of their own, who live under an unscoped key.
    pub fn permissions_for(&self, env: &Environment, user: PublicKey<User>) -> Permissions {
        self.filled(env, &user.to_string())
    }

    /// How long a credential lives, seconds: what is asked for, or the default.
    pub fn ttl(&self, requested: Option<i64>) -> Result<i64> {
        let ttl = requested.unwrap_or(self.default_ttl);
        let refuse = |detail| Err(Error::field("invalid-ttl", "/ttl", detail));
        if ttl < 1 {
            return refuse("a credential lives at least one second".to_owned());
        }
        if ttl > self.max_ttl {
            let max = size::format_duration(self.max_ttl);
            return refuse(format!("credentials of role '{}' live at most {max}", self.name));
        }
        Ok(ttl)
    }

    /// Refuses an environment type in which the role may not be issued.
    pub fn check_env_type(&self, env_type: &EnvType) -> Result<()> {
        match &self.env_types {
            Some(allowed) if !allowed.contains(env_type) => {
                let allowed: Vec<_> = allowed.iter().map(EnvType::as_str).collect();
                let detail = format!("role '{}' is issued only in: {}", self.name, allowed.join(", "));
                Err(Error::field("role-not-allowed", "/role", detail))
            }
            _ => Ok(()),
        }
    }

    /// Reads a role; `stem` is the file's name without `.toml`.
    pub(super) fn parse(file: &str, stem: &str, text: &str) -> Result<Self> {
        let source = Source::new(file, text);
        let raw: RawRole = source.parse()?;
        check_name(&source, &raw.name, stem, &RESERVED)?;
        let duration = |text: &Spanned<String>| {
            size::parse_duration("", text.get_ref()).map_err(|error| source.error(&text.span(), &error.to_string()))
        };
        let (default_ttl, max_ttl) = (duration(&raw.default_ttl)?, duration(&raw.max_ttl)?);
        if default_ttl > max_ttl {
            return Err(source.error(&raw.default_ttl.span(), "is longer than max_ttl"));
        }
        if let Some(types) = raw.env_types.as_ref().filter(|types| types.get_ref().is_empty()) {
            return Err(source.error(&types.span(), "allows no environment; leave it out to allow all"));
        }
        let RawPermissions { publish, subscribe } = &raw.permissions;
        check_permission(&source, raw.reach, Direction::Publish, publish)?;
        check_permission(&source, raw.reach, Direction::Subscribe, subscribe)?;
        let role = Self {
            name: raw.name.into_inner(),
            description: raw.description,
            reach: raw.reach,
            default_ttl,
            max_ttl,
            renewable_for: raw.renewable_for.as_ref().map(duration).transpose()?,
            env_types: raw.env_types.map(Spanned::into_inner),
            bearer_allowed: raw.bearer_allowed,
            limits: raw.limits.resolve(&source)?,
            template: Permissions { publish: publish.plain(), subscribe: subscribe.plain(), response: None },
        };
        let long = sample(&format!("a{}", "b".repeat(31)), "c123456789abcdef")?;
        let bytes = serde_json::to_string(&role.scope(&long)).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_SCOPE_BYTES {
            let reason = format!("the scope grows to {bytes} bytes; at most {MAX_SCOPE_BYTES}, use fewer subjects");
            return Err(source.error_in("permissions.publish", &reason));
        }
        Ok(role)
    }

    /// Every user may ask for its own renewal, whatever the file says: what a user of a strict role may
    /// ask JetStream is bounded by the file, that its credential ends by the authority.
    fn permissions_in(&self, env: &Environment) -> Permissions {
        self.filled(env, SUBJECT)
    }

    fn filled(&self, env: &Environment, user: &str) -> Permissions {
        let names = names(env, user);
        let mut permissions = map(&self.template, |text| fill(text, &names));
        permissions.publish.allow.push(renewal_subject(user));
        permissions
    }
}

/// Puts the names of `env` into a template. `{{inbox}}` stays open in the user: servers put its key there.
fn expand(template: &str, env: &Environment) -> String {
    fill(template, &names(env, SUBJECT))
}

type Names = [(&'static str, String); 6];

/// What stands for what in a template.
fn names(env: &Environment, user: &str) -> Names {
    [
        ("{{env}}", env.name()),
        ("{{subjects}}", env.subjects()),
        ("{{stream}}", env.stream()),
        ("{{bucket}}", env.bucket()),
        ("{{inbox}}", format!("_INBOX.{user}")),
        (SUBJECT, user.to_owned()),
    ]
}

/// In one pass: a batch of credentials fills some twenty subjects for each.
fn fill(template: &str, names: &Names) -> String {
    let mut filled = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some(at) = rest.find("{{") {
        let (before, open) = rest.split_at(at);
        filled.push_str(before);
        let (name, value) =
            names.iter().find(|(name, _)| open.starts_with(name)).map_or(("{{", "{{"), |(name, value)| (*name, value));
        filled.push_str(value);
        rest = &open[name.len()..];
    }
    filled.push_str(rest);
    filled
}

fn map(permissions: &Permissions, change: impl Fn(&str) -> String) -> Permissions {
    let all = |subjects: &[String]| subjects.iter().map(|text| change(text)).collect();
    let permission = |one: &Permission| Permission { allow: all(&one.allow), deny: all(&one.deny) };
    Permissions {
        publish: permission(&permissions.publish),
        subscribe: permission(&permissions.subscribe),
        response: permissions.response,
    }
}

fn sample(org: &str, env_type: &str) -> Result<Environment> {
    Ok(Environment::new(org.parse()?, env_type.parse()?))
}

fn check_permission(source: &Source<'_>, reach: Reach, direction: Direction, raw: &RawPermission) -> Result<()> {
    if raw.allow.get_ref().is_empty() {
        return Err(source.error(&raw.allow.span(), "an empty list would allow everything"));
    }
    // Two environments that share no token: a name written out fits at most one of them.
    let samples = [sample("first-org", "prod")?, sample("second", "dev")?];
    for text in raw.allow.get_ref().iter().chain(&raw.deny) {
        check_placeholders(text.get_ref()).map_err(|reason| source.error(&text.span(), &reason))?;
        for env in &samples {
            let expanded = expand(text.get_ref(), env);
            if !subject::is_valid(&expanded) {
                return Err(source.error(&text.span(), &format!("'{expanded}' is no well-formed subject")));
            }
        }
    }
    if reach == Reach::Environment {
        for text in raw.allow.get_ref() {
            for env in &samples {
                if let Some(reason) = outside(direction, &expand(text.get_ref(), env), env) {
                    return Err(source.error(&text.span(), &reason));
                }
            }
        }
    }
    Ok(())
}

fn check_placeholders(template: &str) -> Result<(), String> {
    const KNOWN: [&str; 5] = ["env", "subjects", "stream", "bucket", "inbox"];
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let placeholder = rest[at..].strip_prefix("{{").and_then(|inner| inner.split_once("}}"));
        match placeholder {
            Some((name, after)) if KNOWN.contains(&name) => rest = after,
            Some((name, _)) => {
                return Err(format!("unknown placeholder '{{{{{name}}}}}'; known: {}", KNOWN.join(", ")));
            }
            None => return Err(format!("'{template}' has a brace that is no placeholder such as {{{{env}}}}")),
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRole {
    name: Spanned<String>,
    description: String,
    reach: Reach,
    default_ttl: Spanned<String>,
    max_ttl: Spanned<String>,
    renewable_for: Option<Spanned<String>>,
    env_types: Option<Spanned<Vec<EnvType>>>,
    #[serde(default)]
    bearer_allowed: bool,
    permissions: RawPermissions,
    #[serde(default)]
    limits: RawUserLimits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPermissions {
    publish: RawPermission,
    subscribe: RawPermission,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPermission {
    allow: Spanned<Vec<Spanned<String>>>,
    #[serde(default)]
    deny: Vec<Spanned<String>>,
}

impl RawPermission {
    fn plain(&self) -> Permission {
        let plain = |subjects: &[Spanned<String>]| subjects.iter().map(|text| text.get_ref().clone()).collect();
        Permission { allow: plain(self.allow.get_ref()), deny: plain(&self.deny) }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUserLimits {
    subscriptions: Option<Spanned<Amount>>,
    payload: Option<Spanned<Amount>>,
    #[serde(default)]
    connection_types: Vec<Spanned<String>>,
}

impl RawUserLimits {
    fn resolve(&self, source: &Source<'_>) -> Result<UserLimits> {
        const TYPES: [&str; 7] = ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"];
        let optional = |amount: &Option<Spanned<Amount>>| {
            amount.as_ref().map(|amount| source.amount(amount, ZERO_LOCKS_OUT)).transpose()
        };
        for kind in &self.connection_types {
            if !TYPES.contains(&kind.get_ref().as_str()) {
                let reason = format!("'{}' is no connection type; known: {}", kind.get_ref(), TYPES.join(", "));
                return Err(source.error(&kind.span(), &reason));
            }
        }
        Ok(UserLimits {
            subs: optional(&self.subscriptions)?,
            payload: optional(&self.payload)?,
            allowed_connection_types: self.connection_types.iter().map(|kind| kind.get_ref().clone()).collect(),
            ..UserLimits::default()
        })
    }
}
