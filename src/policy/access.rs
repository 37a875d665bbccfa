//! Who may do what over the API, decided by Cedar. Here lives what is asked and how it is answered; who
//! asks and on what is found out in `api`, what may be done is written in `policies/api.cedar`.
//!
//! Nothing here reads a database or a clock: a decision follows from its question alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    Request, RestrictedExpression, Schema, ValidationMode, Validator,
};

use sha2::{Digest, Sha256};

use crate::{
    error::{Error, Result},
    model::CallerRole,
};

/// The schema is the program's: it says what the program asks.
const SCHEMA: &str = include_str!("../../policies/api.cedarschema");

/// The policies that come with the program.
pub(super) const BUILTIN: &str = include_str!("../../policies/api.cedar");

/// Asked beside an operation that issues credentials: may they reach beyond their environment?
pub const GRANT_REACH: &str = "grant_organization_reach";

/// What a caller is: roles of the whole deployment, and roles in organizations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    roles: BTreeSet<CallerRole>,
    organizations: BTreeMap<CallerRole, BTreeSet<String>>,
}

impl Standing {
    /// Adds a role; one that holds in organizations needs them, one of the whole deployment has none.
    pub fn add(&mut self, role: CallerRole, organizations: impl IntoIterator<Item = String>) {
        if role.holds_in_organizations() {
            self.organizations.entry(role).or_default().extend(organizations);
        } else {
            self.roles.insert(role);
        }
    }

    /// All roles, wherever they hold.
    pub fn roles(&self) -> Vec<CallerRole> {
        self.roles.iter().chain(self.organizations.keys()).copied().collect()
    }

    /// Where it has a role, by slug.
    pub fn organizations(&self) -> BTreeSet<&str> {
        self.organizations.values().flatten().map(String::as_str).collect()
    }
}

/// On what something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// What belongs to no organization.
    Deployment,
    /// The organization of this slug, which need not exist.
    Organization(String),
    /// The environment of this organization and type, which need not exist.
    Environment(String, String),
}

/// An answer, with the policies that it rests on; none where nothing permits it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It may be done.
    pub allowed: bool,
    /// The `@id`s of the deciding policies.
    pub policies: Vec<String>,
}

/// Policies in force, checked against the schema.
#[derive(Clone)]
pub struct Access {
    text: String,
    policies: PolicySet,
    actions: HashMap<String, Action>,
    types: Types,
}

/// An action with the groups that it is in.
#[derive(Clone)]
struct Action {
    uid: EntityUid,
    entities: Vec<Entity>,
}

#[derive(Clone)]
struct Types {
    caller: EntityTypeName,
    role: EntityTypeName,
    organization: EntityTypeName,
    environment: EntityTypeName,
    deployment: EntityTypeName,
}

impl PartialEq for Access {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Access {}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("policies", &self.policies.num_of_policies()).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads policies; `file` names them in errors. Refused is what does not fit the schema, and a policy
    /// without an `@id` of its own.
    pub fn parse(file: &str, text: &str) -> Result<Self> {
        let refuse = |why: String| {
            let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
            Error::invalid("invalid-policy", format!("{file}: {why}"))
        };
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA)
            .map_err(|error| Error::internal(format!("api.cedarschema: {error}")))?;
        let read: PolicySet = text.parse().map_err(|error: cedar_policy::ParseErrors| {
            let (line, why) = place(text, &error);
            Error::invalid("invalid-policy", format!("{file}:{line}: {why}"))
        })?;
        if read.num_of_templates() > 0 {
            return Err(refuse("templates are not used here; write policies".to_owned()));
        }
        let policies =
            PolicySet::from_policies(read.policies().map(named).collect::<Result<Vec<_>, _>>().map_err(refuse)?)
                .map_err(|error| refuse(format!("an @id stands twice: {error}")))?;
        let validator = Validator::new(schema);
        let result = validator.validate(&policies, ValidationMode::Strict);
        if let Some(error) = result.validation_errors().next() {
            return Err(refuse(error.to_string()));
        }
        let actions = actions(validator.schema())?;
        Ok(Self { text: text.to_owned(), policies, actions, types: Types::new()? })
    }

    /// SHA-256 of the policies' text.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }

    /// They are those that come with the program.
    pub fn is_builtin(&self) -> bool {
        self.text == BUILTIN
    }

    /// The `@id`s of all policies, sorted.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<_> = self.policies.policies().map(|policy| policy.id().to_string()).collect();
        ids.sort_unstable();
        ids
    }

    /// The actions of the schema that are operations: what is in no group's place.
    pub fn operations(&self) -> BTreeSet<&str> {
        let groups = ["readOrganization", "readCatalogue", "useEnvironment", "readEverything", "secure", GRANT_REACH];
        self.actions.keys().map(String::as_str).filter(|name| !groups.contains(name)).collect()
    }

    /// Decides. An action that the schema does not know is refused.
    pub fn decide(&self, caller: &str, standing: &Standing, action: &str, resource: &Resource) -> Result<Verdict> {
        let Some(action) = self.actions.get(action) else {
            return Ok(Verdict { allowed: false, policies: Vec::new() });
        };
        let (principal, mut entities) = self.types.caller(caller, standing)?;
        let resource = self.types.resource(resource, &mut entities)?;
        entities.extend(action.entities.iter().cloned());
        let entities = Entities::from_entities(entities, None).map_err(|error| wrong(&error))?;
        let request = Request::new(principal, action.uid.clone(), resource, Context::empty(), None)
            .map_err(|error| wrong(&error))?;
        let response = Authorizer::new().is_authorized(&request, &self.policies, &entities);
        if let Some(error) = response.diagnostics().errors().next() {
            // Cedar leaves such a policy out. One that forbids would be left out as well.
            return Err(wrong(error));
        }
        let mut policies: Vec<_> = response.diagnostics().reason().map(ToString::to_string).collect();
        policies.sort_unstable();
        Ok(Verdict { allowed: response.decision() == Decision::Allow, policies })
    }
}

impl Types {
    fn new() -> Result<Self> {
        let name = |text: &str| text.parse().map_err(|error| Error::internal(format!("entity type {text}: {error}")));
        Ok(Self {
            caller: name("Caller")?,
            role: name("Role")?,
            organization: name("Organization")?,
            environment: name("Environment")?,
            deployment: name("Deployment")?,
        })
    }

    fn caller(&self, subject: &str, standing: &Standing) -> Result<(EntityUid, Vec<Entity>)> {
        let set = |role: CallerRole| {
            let slugs = standing.organizations.get(&role).into_iter().flatten();
            let entity = |slug: &String| RestrictedExpression::new_entity_uid(uid(&self.organization, slug));
            RestrictedExpression::new_set(slugs.map(entity))
        };
        let attributes = HashMap::from([
            ("adminOf".to_owned(), set(CallerRole::OrgAdmin)),
            ("developerOf".to_owned(), set(CallerRole::OrgDeveloper)),
            ("viewerOf".to_owned(), set(CallerRole::OrgViewer)),
        ]);
        let roles: HashSet<_> = standing.roles.iter().map(|role| uid(&self.role, role.as_str())).collect();
        let principal = uid(&self.caller, subject);
        let entity = Entity::new(principal.clone(), attributes, roles).map_err(|error| wrong(&error))?;
        Ok((principal, vec![entity]))
    }

    fn resource(&self, resource: &Resource, entities: &mut Vec<Entity>) -> Result<EntityUid> {
        Ok(match resource {
            Resource::Deployment => uid(&self.deployment, "this"),
            Resource::Organization(slug) => uid(&self.organization, slug),
            Resource::Environment(slug, env_type) => {
                let itself = uid(&self.environment, &format!("{slug}/{env_type}"));
                let attributes =
                    HashMap::from([("envType".to_owned(), RestrictedExpression::new_string(env_type.clone()))]);
                let parents = HashSet::from([uid(&self.organization, slug)]);
                entities.push(Entity::new(itself.clone(), attributes, parents).map_err(|error| wrong(&error))?);
                itself
            }
        })
    }
}

fn wrong(error: &dyn fmt::Display) -> Error {
    Error::internal(format!("access decision: {error}"))
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// The policy under its `@id`.
fn named(policy: &Policy) -> Result<Policy, String> {
    match policy.annotation("id").filter(|id| !id.is_empty()) {
        Some(id) => Ok(policy.new_id(PolicyId::new(id))),
        None => Err(format!("a policy has no @id: {policy}")),
    }
}

/// Each action with its groups, so that a decision looks at them alone.
fn actions(schema: &Schema) -> Result<HashMap<String, Action>> {
    let failed = |error| Error::internal(format!("api.cedarschema: actions: {error}"));
    let all = schema.action_entities().map_err(failed)?;
    let action = |entity: &Entity| {
        let uid = entity.uid();
        let groups = all.ancestors(&uid).into_iter().flatten().filter_map(|group| all.get(group));
        let entities = std::iter::once(entity).chain(groups).cloned().collect();
        (uid.id().unescaped().to_owned(), Action { uid, entities })
    };
    Ok(all.iter().map(action).collect())
}

/// The line of the first error and its words.
fn place(text: &str, error: &cedar_policy::ParseErrors) -> (usize, String) {
    use miette::Diagnostic;
    let offset = error.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset());
    let line = text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1);
    (line, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Access::parse("api.cedar", text).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_place() {
        assert_eq!(code(BUILTIN), "");
        for (text, word) in [
            ("permit (principal, action, resource);", "no @id"),
            ("@id(\"a\")\npermit (principal, action", "api.cedar:2"),
            ("@id(\"a\") permit (principal, action == Action::\"fly\", resource);", "fly"),
            ("@id(\"a\") permit (principal, action, resource) when { resource.color == \"red\" };", "color"),
            (
                "@id(\"a\") permit (principal, action, resource);@id(\"a\") forbid (principal, action, resource);",
                "twice",
            ),
        ] {
            let words = code(text);
            assert!(words.contains(word) && words.lines().count() == 1, "{text}: {words}");
        }
    }

    #[test]
    fn what_nothing_permits_is_refused() {
        let access = Access::parse("api.cedar", "").unwrap();
        let mut standing = Standing::default();
        standing.add(CallerRole::SovereignAdmin, []);
        let verdict = access.decide("a", &standing, "list_plans", &Resource::Deployment).unwrap();
        assert_eq!(verdict, Verdict { allowed: false, policies: Vec::new() });
        let access = Access::parse("api.cedar", BUILTIN).unwrap();
        assert!(!access.decide("a", &standing, "unheard_of", &Resource::Deployment).unwrap().allowed);
        let verdict = access.decide("a", &standing, "list_plans", &Resource::Deployment).unwrap();
        assert_eq!(verdict.policies, ["everybody-reads-the-catalogue", "sovereign-admin-does-everything"]);
    }
}
