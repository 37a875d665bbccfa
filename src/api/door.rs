//! The one door: which operation a request asks for, on what, and whether the caller may. Everything is
//! read off the API's own document and the matched route, before any handler runs, so that no handler
//! can forget to ask. A route that the document does not have is refused.
//!
//! A caller that names an organization which it may not enter gets 403, whether there is such an
//! organization or not. A caller that asks by an id which it may not see gets what an unknown id gets.

use std::{collections::HashMap, sync::LazyLock};

use axum::{
    body::Body,
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderValue, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::openapi::{OpenApi, path::Operation as Described};
use uuid::Uuid;

use super::{ApiState, BASE, caller::Caller, extract, problem::Refusal, request::no_method};
use crate::{
    authority::{Authority, Permitted},
    error::{Error, Kind, Result as Outcome},
    policy::access::{Access, GRANT_REACH, Resource, Standing, Verdict},
};

/// Operations that list over all organizations: the handler takes [`Seen`].
const ACROSS: &[&str] = &["list_organizations"];

/// Operations whose organization stands in the body, as `org`.
const IN_BODY: &[&str] = &["ask_can_i"];

/// What an `{id}` in a path is the id of, by the path before it.
const BY_ID: &[(&str, Place)] = &[
    ("/credentials/", Place::Credential),
    ("/key-rotations/", Place::Deployment),
    ("/operator/rotations/", Place::Deployment),
    ("/tokens/", Place::Deployment),
];

/// POSTs that change nothing.
const ONLY_ASK: &[&str] = &["ask_can_i", "diff_policies"];

/// Where an operation takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Deployment,
    Across,
    Organization,
    Environment,
    InBody,
    Credential,
}

/// An operation of the document.
#[derive(Clone, Debug)]
struct Operation {
    id: String,
    place: Place,
    changes: bool,
}

/// By path and method.
static OPERATIONS: LazyLock<HashMap<String, HashMap<Method, Operation>>> =
    LazyLock::new(|| operations(&super::openapi()));

/// What the caller may see of a list over all organizations: none: everything, else these.
#[derive(Clone, Debug)]
pub(super) struct Seen(pub Option<Vec<String>>);

impl<S: Sync> FromRequestParts<S> for Seen {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let seen = parts.extensions.get::<Self>().cloned();
        seen.ok_or_else(|| Error::internal("a list over all organizations is not named in `ACROSS`").into())
    }
}

/// Lets a request pass if its caller may ask for it; the caller learns what permits it.
pub(super) async fn enter(State(state): State<ApiState>, request: Request, next: Next) -> Result<Response, Refusal> {
    let authority = &state.authority;
    let Some(route) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        // No route: there is nothing to ask for, which the fallback says.
        return Ok(next.run(request).await);
    };
    let Some(methods) = OPERATIONS.get(&route) else {
        return Err(Error::internal(format!("the route {route} is not in the document")).into());
    };
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let Some(operation) = methods.get(method) else { return Ok(not_allowed(methods)) };
    let (mut parts, mut body) = request.into_parts();
    let mut caller = Caller::of(&parts)?;
    let policies = authority.policies();
    let question = Question { access: &policies.access, caller: &caller.actor.identity(), standing: &caller.standing };
    let (resource, target) = match operation.place {
        Place::Deployment => (Resource::Deployment, "deployment".to_owned()),
        Place::Across => {
            let (seen, verdict) = question.across(&operation.id)?;
            parts.extensions.insert(Seen(seen));
            admit(authority, &mut caller, operation, "organizations", verdict).await?;
            parts.extensions.insert(caller);
            return Ok(next.run(Request::from_parts(parts, body)).await);
        }
        Place::Organization => {
            let org = parameter(&mut parts, "org").await?;
            (Resource::Organization(org.clone()), org)
        }
        Place::Environment => {
            let (org, env_type) = (parameter(&mut parts, "org").await?, parameter(&mut parts, "envType").await?);
            let target = format!("{org}/{env_type}");
            (Resource::Environment(org, env_type), target)
        }
        Place::InBody => {
            let bytes = extract::read(body).await?;
            let Named { org } = extract::parse(&bytes)?;
            body = Body::from(bytes);
            (Resource::Organization(org.clone()), org)
        }
        Place::Credential => {
            let id = parameter(&mut parts, "id").await?;
            let resource = credential(authority, &id).await?;
            (resource, id)
        }
    };
    let mut verdict = question.ask(&operation.id, &resource)?;
    if !verdict.allowed && operation.place == Place::Credential && !question.ask("show_credential", &resource)?.allowed
    {
        deny(authority, &caller, operation, &target).await;
        return Err(no_credential().into());
    }
    if operation.changes && matches!(resource, Resource::Environment(..)) {
        caller.actor.confined = !question.ask(GRANT_REACH, &resource)?.allowed;
    }
    verdict.policies.truncate(MOST_POLICIES);
    admit(authority, &mut caller, operation, &target, verdict).await?;
    parts.extensions.insert(caller);
    Ok(next.run(Request::from_parts(parts, body)).await)
}

/// How many deciding policies go to the audit log.
const MOST_POLICIES: usize = 8;

/// The part of a body that names the organization.
#[derive(Deserialize)]
struct Named {
    org: String,
}

/// Who asks, of whom.
struct Question<'a> {
    access: &'a Access,
    caller: &'a str,
    standing: &'a Standing,
}

impl Question<'_> {
    fn ask(&self, action: &str, resource: &Resource) -> Outcome<Verdict> {
        self.access.decide(self.caller, self.standing, action, resource)
    }

    /// What may be seen of a list over all organizations.
    fn across(&self, action: &str) -> Outcome<(Option<Vec<String>>, Verdict)> {
        let whole = self.ask(action, &Resource::Deployment)?;
        if whole.allowed {
            return Ok((None, whole));
        }
        let (mut seen, mut by) = (Vec::new(), whole);
        for org in self.standing.organizations() {
            let verdict = self.ask(action, &Resource::Organization(org.to_owned()))?;
            if verdict.allowed {
                seen.push(org.to_owned());
                by = verdict;
            }
        }
        Ok((Some(seen), by))
    }
}

/// Refuses what nothing permits; else the caller carries on what does.
async fn admit(
    authority: &Authority,
    caller: &mut Caller,
    operation: &Operation,
    target: &str,
    verdict: Verdict,
) -> Result<(), Refusal> {
    if !verdict.allowed {
        deny(authority, caller, operation, target).await;
        let roles: Vec<_> = caller.actor.roles.iter().map(|role| role.as_str()).collect();
        let roles = if roles.is_empty() { "without a role".to_owned() } else { format!("as {}", roles.join(", ")) };
        let detail = format!("this caller, {roles}, may not do '{}' there", operation.id);
        return Err(Error::new(Kind::Forbidden, "forbidden", detail).into());
    }
    caller.actor.access = Some(Permitted { operation: operation.id.clone(), policies: verdict.policies });
    Ok(())
}

/// Denied attempts go to the audit log. That it cannot be written must not let anybody in.
async fn deny(authority: &Authority, caller: &Caller, operation: &Operation, target: &str) {
    let target: String = target.chars().filter(|c| !c.is_control()).take(128).collect();
    if let Err(error) = authority.record_denied(&caller.actor, &operation.id, operation.changes, &target).await {
        tracing::warn!(%error, cause = error.internal_report(), "a denied attempt could not be recorded");
    }
}

/// Where the credential of this id is. One of an organization that is deleted is nobody's.
async fn credential(authority: &Authority, id: &str) -> Result<Resource, Refusal> {
    let id = Uuid::try_parse(id).map_err(|_| no_credential())?;
    let (org, env_type, deleted) = authority.store().place_of_credential(id).await?.ok_or_else(no_credential)?;
    // Whoever has its slug now is not its owner; ':' stands in no slug.
    let org = if deleted { format!("deleted:{org}") } else { org };
    Ok(Resource::Environment(org, env_type))
}

fn no_credential() -> Error {
    Error::not_found("no-credential", "there is no such credential")
}

async fn parameter(parts: &mut Parts, name: &str) -> Result<String, Refusal> {
    let malformed = || {
        Refusal::http(
            axum::http::StatusCode::BAD_REQUEST,
            "malformed-path",
            "the path is not UTF-8 where it is percent-encoded",
        )
    };
    let parameters = RawPathParams::from_request_parts(parts, &()).await.map_err(|_| malformed())?;
    let value = parameters.iter().find(|(parameter, _)| *parameter == name).map(|(_, value)| value.to_owned());
    value.ok_or_else(|| Error::internal(format!("the route has no parameter '{name}'")).into())
}

fn not_allowed(methods: &HashMap<Method, Operation>) -> Response {
    let mut names: Vec<_> = methods.keys().map(Method::as_str).collect();
    if methods.contains_key(&Method::GET) {
        names.push("HEAD");
    }
    names.sort_unstable();
    let mut response = no_method().into_response();
    if let Ok(value) = HeaderValue::from_str(&names.join(",")) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// What the document says of everything that needs a caller.
fn operations(document: &OpenApi) -> HashMap<String, HashMap<Method, Operation>> {
    let mut operations: HashMap<String, HashMap<Method, Operation>> = HashMap::new();
    for (path, item) in &document.paths.paths {
        let described = [
            (Method::GET, &item.get),
            (Method::PUT, &item.put),
            (Method::POST, &item.post),
            (Method::DELETE, &item.delete),
            (Method::PATCH, &item.patch),
        ];
        for (method, described) in described {
            if let Some(described) = described.as_ref().filter(|described| described.security.is_none())
                && let Some(operation) = operation(path, &method, described)
            {
                operations.entry(path.clone()).or_default().insert(method, operation);
            }
        }
    }
    operations
}

/// None: nobody has said what the ids in this path are the ids of, so nothing gets in.
fn operation(path: &str, method: &Method, described: &Described) -> Option<Operation> {
    let id = described.operation_id.clone()?;
    let path = path.strip_prefix(BASE)?;
    let place = if ACROSS.contains(&id.as_str()) {
        Place::Across
    } else if IN_BODY.contains(&id.as_str()) {
        Place::InBody
    } else if path.contains("{envType}") {
        Place::Environment
    } else if path.contains("{org}") {
        Place::Organization
    } else if let Some((before, _)) = path.split_once("{id}") {
        BY_ID.iter().find(|(prefix, _)| *prefix == before)?.1
    } else {
        Place::Deployment
    };
    let changes = *method != Method::GET && !ONLY_ASK.contains(&id.as_str());
    Some(Operation { id, place, changes })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::Policies;

    const ACTION: &str = "\n\nThe left one has actions of policies/api.cedarschema, the right one operations of the API. For a new \
        operation: add it there to the line of the operations that are like it (or write a line), then to \
        policies/cases/api.toml. See docs/DEVELOPING.md, Add an endpoint.";
    const PLACE: &str = "\n\nThe left one has operations that the door knows, the right one operations of the API. An `{id}` in a path: \
        say in `BY_ID` in src/api/door.rs what it is the id of. See docs/DEVELOPING.md, Add an endpoint.";

    #[test]
    fn every_operation_is_an_action_and_has_a_place() {
        let document = super::super::openapi();
        let known: BTreeSet<String> =
            OPERATIONS.values().flat_map(HashMap::values).map(|operation| operation.id.clone()).collect();
        let mut described = BTreeSet::new();
        for item in document.paths.paths.values() {
            for operation in [&item.get, &item.put, &item.post, &item.delete, &item.patch].into_iter().flatten() {
                if operation.security.is_none() {
                    described.insert(operation.operation_id.clone().unwrap());
                }
            }
        }
        assert_eq!(known, described, "{PLACE}");
        let policies = Policies::builtin().unwrap();
        let actions: BTreeSet<String> = policies.access.operations().into_iter().map(str::to_owned).collect();
        assert_eq!(actions, described, "{ACTION}");
    }
}
