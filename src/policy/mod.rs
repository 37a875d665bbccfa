//! Plans and roles: files into limits and permissions; who may do what over the API (`access`).
//!
//! Here lives what the files mean and what they may say, and how permissions decide. Not here: which
//! organization has which plan, who may issue which role, and anything that reads the database.
//!
//! A file says what it means in people's terms; what is wrong in it is refused at start, in one line
//! with the file, the line, the field and the reason.

use std::{borrow::Cow, collections::BTreeMap, fs, path::Path};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    model::view::PermissionsView,
};

pub mod access;
pub mod custom;
pub mod explain;
pub mod limits_override;
pub mod plan;
pub mod role;
mod source;
pub mod territory;

pub use access::Access;
pub use custom::CUSTOM;
pub use explain::{Direction, Verdict, explain};
pub use limits_override::{LimitsOverride, TierOverride};
pub use plan::{EnvironmentSettings, Plan, Promise, promise_of};
pub use role::Role;
pub use source::{Amount, MAX_AMOUNT};
pub use territory::{Outside, strictness_problems};

/// Texts of files by name without `.toml`.
pub type Texts = BTreeMap<String, String>;

/// The plans and roles in force, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policies {
    /// Plans.
    pub plans: BTreeMap<String, Plan>,
    /// Roles.
    pub roles: BTreeMap<String, Role>,
    /// SHA-256 over names and texts of the files: whoever has the same has the same plans and roles.
    pub fingerprint: [u8; 32],
    /// Who may do what over the API.
    pub access: Access,
}

macro_rules! builtin {
    ($folder:literal: $($name:literal),+) => {
        [$(($name, include_str!(concat!("../../policies/", $folder, "/", $name, ".toml")))),+]
    };
}

const PLANS: [(&str, &str); 5] = builtin!("plans": "s", "m", "l", "xl", "flexi");
const ROLES: [(&str, &str); 5] = builtin!("roles": "publisher", "consumer", "projector", "viewer", "env-admin");

impl Policies {
    /// The plans and roles that come with the program, for when no folder is configured.
    pub fn builtin() -> Result<Self> {
        let files = |files: [(&str, &str); 5]| files.map(|(stem, text)| (stem.to_owned(), text.to_owned()));
        Self::parse("builtin", files(PLANS), files(ROLES))
    }

    /// Reads `dir/plans/*.toml` and `dir/roles/*.toml`. They replace the built-in ones: what is in force
    /// is what is in the folder. `dir/api.cedar` replaces the built-in one where it is there.
    pub fn load(dir: &Path) -> Result<Self> {
        let (plans, roles) = Self::texts(dir)?;
        let mut policies = Self::parse(&dir.display().to_string(), plans, roles)?;
        let file = dir.join("api.cedar");
        match fs::read_to_string(&file) {
            Ok(text) => policies.access = Access::parse(&file.display().to_string(), &text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::invalid("invalid-policy", format!("{}: {error}", file.display()))),
        }
        Ok(policies)
    }

    /// The texts of `dir/plans/*.toml` and `dir/roles/*.toml` by name, not looked into.
    pub fn texts(dir: &Path) -> Result<(Texts, Texts)> {
        Ok((read(&dir.join("plans"))?, read(&dir.join("roles"))?))
    }

    /// The plan of this name.
    pub fn plan(&self, name: &str) -> Result<&Plan> {
        self.plans.get(name).ok_or_else(|| unknown("unknown-plan", "/plan", "plan", name, self.plans.keys()))
    }

    /// What a credential of `role` gets: the role of this name, or `custom` with permissions of its own.
    pub fn grant(&self, role: &str, own: Option<&PermissionsView>) -> Result<Cow<'_, Role>> {
        match (role, own) {
            (CUSTOM, Some(own)) => Ok(Cow::Owned(Role::custom(own))),
            (CUSTOM, None) => {
                Err(Error::field("permissions-missing", "/permissions", "the role 'custom' needs permissions"))
            }
            (_, Some(_)) => Err(Error::field(
                "permissions-not-allowed",
                "/permissions",
                format!("the role '{role}' has permissions of its own; leave them out, or choose the role 'custom'"),
            )),
            (role, None) => self.role(role).map(Cow::Borrowed),
        }
    }

    /// The role of this name.
    pub fn role(&self, name: &str) -> Result<&Role> {
        self.roles.get(name).ok_or_else(|| unknown("unknown-role", "/role", "role", name, self.roles.keys()))
    }

    /// Reads files that are already here: texts by name without `.toml`. `dir` is what messages call the folder.
    pub fn parse(
        dir: &str,
        plans: impl IntoIterator<Item = (String, String)>,
        roles: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let access = Access::parse("api.cedar", access::BUILTIN)?;
        let mut policies = Self { plans: BTreeMap::new(), roles: BTreeMap::new(), fingerprint: [0; 32], access };
        let mut hash = Sha256::new();
        let mut add = |kind: &str, stem: &str, text: &str| {
            for part in [kind, stem, text] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        };
        // Sorted: the order in which files are given means nothing.
        let plans: BTreeMap<_, _> = plans.into_iter().collect();
        let roles: BTreeMap<_, _> = roles.into_iter().collect();
        for (stem, text) in plans {
            let plan = Plan::parse(&format!("{dir}/plans/{stem}.toml"), &stem, &text)?;
            add("plan", &stem, &text);
            policies.plans.insert(stem, plan);
        }
        for (stem, text) in roles {
            let role = Role::parse(&format!("{dir}/roles/{stem}.toml"), &stem, &text)?;
            add("role", &stem, &text);
            policies.roles.insert(stem, role);
        }
        policies.fingerprint = hash.finalize().into();
        Ok(policies)
    }
}

fn unknown<'a>(
    code: &'static str,
    pointer: &str,
    kind: &str,
    name: &str,
    known: impl Iterator<Item = &'a String>,
) -> Error {
    let known: Vec<_> = known.map(String::as_str).collect();
    Error::field(code, pointer, format!("there is no {kind} '{name}'; known: {}", known.join(", ")))
}

/// The `.toml` files of a folder by stem, sorted, so that the first error is always the same one.
fn read(dir: &Path) -> Result<Texts> {
    let unreadable = |path: &Path, why: &dyn std::fmt::Display| {
        Error::invalid("invalid-policy", format!("{}: {why}", path.display()))
    };
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            return Err(unreadable(&path, &"the file's name is no UTF-8"));
        };
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
        files.insert(stem.to_owned(), text);
    }
    if files.is_empty() {
        return Err(unreadable(dir, &"holds no .toml file"));
    }
    Ok(files)
}
