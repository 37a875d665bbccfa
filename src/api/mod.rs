//! HTTP: routes, callers, problems, the OpenAPI document. What may be done and what follows from it is
//! decided in `authority`; here requests are read, callers known and answers written.
//!
//! | module | what lives there |
//! |---|---|
//! | `request` | what surrounds every request: id, span, figures, time limit |
//! | `caller` | who asks |
//! | `door` | whether it may, on what |
//! | `limits` | how much one caller, one organization and all together may take |
//! | `server` | the listener: TLS, bounds on connections |
//! | `idempotency` | requests that may be sent again |
//! | `asked` | changes that may be tried or carry a condition |
//! | `openapi`, `grammar`, `codes`, `examples` | the document: what holds for all routes; the form of texts, links between operations; refusals; examples |
//! | `extract` | bodies, paths and queries, read into types |
//! | `misplaced` | seeds and tokens where none belong |
//! | [`problem`] | the one mapping from errors to statuses |
//! | `page`, `prefer` | lists; waiting for the servers |
//! | the others | one resource each |

mod asked;
pub mod audit;
mod caller;
mod codes;
pub mod consumers;
pub mod credentials;
mod door;
pub mod environments;
mod examples;
mod expiry;
mod extract;
mod grammar;
pub mod idempotency;
pub mod keys;
mod limits;
mod misplaced;
mod openapi;
pub mod operator;
pub mod operator_keys;
pub mod organizations;
pub mod page;
pub mod policies;
pub mod policy_diff;
pub mod prefer;
pub mod probes;
pub mod problem;
mod request;
pub mod resolver;
pub mod revocations;
mod sealing;
pub mod server;
pub mod streams;
pub mod tokens;
mod url_resolver;

use std::sync::Arc;

use axum::{
    Router,
    extract::FromRef,
    http::{HeaderValue, header},
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

pub use limits::LimitSettings;

use crate::{
    authority::Authority,
    clock::SystemClock,
    identity::{Issuers, certificate::Certificates},
    resolver::Resolver,
};

/// Where the resources live.
pub const BASE: &str = "/api/v1";

/// What handlers need.
#[derive(Clone)]
pub struct ApiState {
    authority: Arc<Authority>,
    callers: Arc<caller::Callers>,
    limits: Arc<limits::Limits>,
    resolver: Option<Arc<dyn Resolver>>,
    break_glass: bool,
    issuers: Arc<Issuers>,
    certificates: Arc<Certificates>,
}

impl ApiState {
    /// The state of an API over this authority.
    pub fn new(authority: Arc<Authority>) -> Self {
        let limits = Arc::new(limits::Limits::new(LimitSettings::default()));
        let issuers = Arc::new(Issuers::new(Vec::new(), Arc::new(SystemClock)));
        Self {
            authority,
            callers: Arc::default(),
            limits,
            resolver: None,
            break_glass: true,
            issuers,
            certificates: Arc::default(),
        }
    }

    /// The same, believing these issuers; somebody has to run them.
    #[must_use]
    pub fn believing(self, issuers: Arc<Issuers>) -> Self {
        Self { issuers, ..self }
    }

    /// The same, knowing whom client certificates name.
    #[must_use]
    pub fn knowing(self, certificates: Certificates) -> Self {
        Self { certificates: Arc::new(certificates), ..self }
    }

    /// The same, with other limits.
    #[must_use]
    pub fn limited(self, settings: LimitSettings) -> Self {
        Self { limits: Arc::new(limits::Limits::new(settings)), ..self }
    }

    /// The same; the token of the bundle opens it only if `open`.
    #[must_use]
    pub fn break_glass(self, open: bool) -> Self {
        Self { break_glass: open, ..self }
    }

    /// The same, with servers that can be asked what a change would do to them.
    #[must_use]
    pub fn asking(self, resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver: Some(resolver), ..self }
    }
}

impl FromRef<ApiState> for Arc<Authority> {
    fn from_ref(state: &ApiState) -> Self {
        Self::clone(&state.authority)
    }
}

/// The whole API: resources behind authentication, probes and the URL resolver without.
pub fn router(state: ApiState) -> Router {
    let (resources, _) = resources().split_for_parts();
    let resources = resources
        .fallback(request::no_route)
        .method_not_allowed_fallback(|| std::future::ready(request::no_method()))
        .layer(from_fn_with_state(state.clone(), idempotency::once))
        .layer(from_fn_with_state(state.clone(), door::enter))
        .layer(from_fn_with_state(state.clone(), limits::ration))
        .layer(from_fn_with_state(state.clone(), caller::authenticate))
        .layer(from_fn_with_state(state.clone(), limits::admit))
        .layer(map_response(no_store));
    let (public, _) = public().split_for_parts();
    let document = axum::body::Bytes::from(document().to_string());
    // Without a word about validators the page asks one on the internet.
    let docs = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    let docs = Router::<ApiState>::from(docs).layer(map_response(at_home));
    Router::new()
        .nest(BASE, resources)
        .merge(public)
        .merge(docs)
        .route("/openapi.json", get(move || std::future::ready(json(document.clone()))))
        .fallback(request::no_route)
        .method_not_allowed_fallback(|| std::future::ready(request::no_method()))
        .layer(CatchPanicLayer::custom(request::panicked))
        .layer(from_fn_with_state(state.clone(), request::surround))
        .with_state(state)
}

/// The probes alone, for a listener of their own.
pub fn probes(state: ApiState) -> Router {
    let (probes, _) = OpenApiRouter::new().merge(probes::routes()).split_for_parts();
    probes.layer(from_fn_with_state(state.clone(), request::surround)).with_state(state)
}

/// The OpenAPI document of [`router`], as it is served.
pub fn document() -> serde_json::Value {
    let mut document = grammar::described(&openapi());
    codes::put(&mut document);
    examples::put(&mut document);
    document
}

/// What the routes say of themselves.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document =
        OpenApiRouter::with_openapi(openapi::base()).merge(public()).nest(BASE, resources()).into_openapi();
    openapi::finish(&mut document);
    document
}

fn resources() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .merge(organizations::routes())
        .merge(environments::routes())
        .merge(expiry::routes())
        .merge(consumers::routes())
        .merge(streams::routes())
        .merge(credentials::routes())
        .merge(revocations::routes())
        .merge(keys::routes())
        .merge(operator::routes())
        .merge(operator_keys::routes())
        .merge(sealing::routes())
        .merge(policies::routes())
        .merge(policy_diff::routes())
        .merge(resolver::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
}

fn public() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new().merge(url_resolver::routes()).merge(probes::routes())
}

/// What the resources answer is the caller's alone, and true only now.
async fn no_store(mut response: Response) -> Response {
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// The page for people may load and ask nothing but this service, and be put into no other page: tokens are
/// typed into it.
async fn at_home(mut response: Response) -> Response {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
        connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

fn json(document: axum::body::Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}
