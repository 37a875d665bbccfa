//! The OpenAPI document: what stands at the routes comes from them; what holds for all of them is
//! added here, so that no route can forget it.

use utoipa::{
    OpenApi,
    openapi::{
        Components, ContentBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Type,
        path::{HttpMethod, Operation, ParameterBuilder, ParameterIn},
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use super::{
    idempotency::{self, Repeated},
    problem::{MEDIA_TYPE, Problem},
};

/// The name of the security scheme.
const BEARER: &str = "bearer";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "nats-authority",
        description = "The authority behind NATS operator mode: organizations and their accounts, environments, \
            credentials, keys, and what every server has of them.\n\nRefusals are `application/problem+json` \
            (RFC 9457) with a stable `code`. `Prefer: wait=N` on a change holds the answer until the servers have it."
    ),
    components(schemas(Problem, Repeated)),
    tags(
        (name = "organizations", description = "One NATS account each"),
        (name = "environments", description = "Subjects, event stream and KV bucket inside an organization's account"),
        (name = "consumers", description = "Durable pull consumers of an environment's streams, made by the authority"),
        (name = "streams", description = "Further streams of an environment that copy from its event stream, made by the authority"),
        (name = "credentials", description = "Users with a role in one environment"),
        (name = "keys", description = "Signing keys of organizations"),
        (name = "operator", description = "What servers have to trust"),
        (name = "policies", description = "Plans, roles, and what they allow"),
        (name = "resolver", description = "What the servers have"),
        (name = "tokens", description = "Callers of this API: tokens with a role, in organizations or the whole deployment"),
        (name = "audit", description = "Who did what"),
        (name = "url-resolver", description = "JWTs for servers that ask by URL; no token"),
        (name = "probes", description = "For orchestrators; no token"),
    ),
)]
struct Document;

/// What holds for the whole document, before the routes.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut document = Document::openapi();
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    document.security = Some(vec![SecurityRequirement::new(BEARER, Vec::<String>::new())]);
    let components = document.components.get_or_insert_with(Components::new);
    let mut scheme = Http::new(HttpAuthScheme::Bearer);
    scheme.description = Some("An API token".to_owned());
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    components.responses.insert("Problem".to_owned(), problem("Refused; `code` says why").into());
    document
}

/// Adds the refusals that follow from what a route takes.
pub(super) fn finish(document: &mut utoipa::openapi::OpenApi) {
    for (path, item) in &mut document.paths.paths {
        let operations = [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Put, &mut item.put),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Delete, &mut item.delete),
            (HttpMethod::Patch, &mut item.patch),
        ];
        for (method, operation) in operations {
            if let Some(operation) = operation {
                if matches!(method, HttpMethod::Post) && operation.security.is_none() {
                    repeatable(operation);
                }
                refusals(path, operation);
            }
        }
    }
}

/// What every POST takes and answers besides its own.
fn repeatable(operation: &mut Operation) {
    let key = ParameterBuilder::new()
        .name(idempotency::HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible ASCII characters, such as a UUID. The same key with the same request is carried out once; \
             its answer is given again for 24 h, but never a secret. With another request it is refused.",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(255))))
        .build();
    operation.parameters.get_or_insert_default().push(key.into());
    let answers = &mut operation.responses.responses;
    answers.entry("409".to_owned()).or_insert_with(|| problem("The idempotency key stands for another request").into());
    if answers.contains_key("201") {
        answers.entry("200".to_owned()).or_insert_with(|| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Repeated"))).build();
            ResponseBuilder::new()
                .description("Done before under the same idempotency key; what was done, without a secret")
                .content("application/json", content)
                .build()
                .into()
        });
    }
}

fn refusals(path: &str, operation: &mut Operation) {
    let public = operation.security.is_some();
    let answers = &mut operation.responses.responses;
    let conflicts = answers.contains_key("409");
    let mut refuse = |status: &str, description: &str| {
        match answers.get_mut(status) {
            None => drop(answers.insert(status.to_owned(), problem(description).into())),
            // The route says why it refuses; the shape is always the same.
            Some(RefOr::T(answer)) => {
                let description = answer.description.clone();
                *answer = problem(&description);
            }
            Some(RefOr::Ref(_)) => {}
        }
    };
    if !public {
        refuse("401", "No valid token");
        refuse("403", "The caller may not do this");
    }
    if path.contains('{') {
        refuse("404", "There is no such thing");
    }
    if operation.request_body.is_some() {
        refuse("400", "The body is no JSON, or not UTF-8");
        refuse("413", "The body is larger than 1 MiB");
        refuse("415", "The body is not declared as JSON");
    }
    if !public {
        refuse("503", "Something that is needed is not there now; try again after `Retry-After`");
    }
    if conflicts {
        refuse("409", "The request contradicts the present state");
    }
    operation
        .responses
        .responses
        .entry("default".to_owned())
        .or_insert_with(|| RefOr::Ref(Ref::from_response_name("Problem")));
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build()
}
