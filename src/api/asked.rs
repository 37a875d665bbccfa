//! How a change is asked for: by whom, under which condition (`If-Match`), and whether it is only tried
//! (`?dryRun=true`). A route that takes a plain [`Caller`] can do neither, and refuses instead of doing
//! what was only to be tried.

use std::sync::Arc;

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Uri, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use super::{ApiState, caller::Caller, problem::Refusal};
use crate::{
    authority::{Actor, Authority, Proposal},
    error::{Error, Result},
    model::{preview::PreviewView, view::ResolverView},
    resolver::Resolver,
    tasks::forecast::forecast,
};

const DRY_RUN: &str = "dryRun";

/// The parameter, as the document describes it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only described; it is read by `Asked`")]
pub(super) struct DryRunParam {
    /// Only try it: nothing is changed, and the answer (200) is a `PreviewView`.
    #[param(rename = "dryRun", default = false)]
    dry_run: Option<bool>,
}

/// The header, as the document describes it.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only described; it is read by `Asked`")]
pub(super) struct IfMatchHeader {
    /// The generation of the account that a dry run answered, in quotes, such as `"7"`: at another one the change
    /// is refused (412) and nothing is changed.
    #[param(rename = "If-Match")]
    if_match: Option<String>,
}

/// What a change answers, or with `dryRun` what it would do.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only described; handlers answer one of the two")]
pub(super) enum Tried<T> {
    /// It was done.
    Done(T),
    /// It was tried.
    Preview(Box<PreviewView>),
}

/// A change as it is asked for.
pub(super) struct Asked {
    /// Who asks, with the condition.
    pub(super) actor: Actor,
    dry_run: bool,
    authority: Arc<Authority>,
    resolver: Option<Arc<dyn Resolver>>,
}

impl Asked {
    /// The servers, if they can be asked.
    pub(super) fn resolver(&self) -> Option<&dyn Resolver> {
        self.resolver.as_deref()
    }

    /// For a change that is only to be tried: the answer.
    pub(super) async fn preview(&self, proposal: Proposal<'_>) -> Result<Option<Response>> {
        if !self.dry_run {
            return Ok(None);
        }
        let preview = self.authority.preview(&self.actor, proposal).await?;
        let view = forecast(self.resolver.as_deref(), &preview).await;
        Ok(Some((etag(view.generation), Json(view)).into_response()))
    }
}

impl FromRequestParts<ApiState> for Asked {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Refusal> {
        let mut actor = Caller::of(parts)?.actor;
        actor.if_generation = if_match(&parts.headers)?;
        Ok(Self {
            actor,
            dry_run: dry_run(&parts.uri)?,
            authority: Arc::clone(&state.authority),
            resolver: state.resolver.clone(),
        })
    }
}

/// Refuses what only [`Asked`] can do.
pub(super) fn refuse_conditions(parts: &Parts) -> Result<()> {
    if dry_run(&parts.uri)? {
        let detail = "this request cannot be tried with dryRun; nothing was done";
        return Err(Error::field("dry-run-unsupported", DRY_RUN, detail));
    }
    if parts.headers.contains_key(header::IF_MATCH) {
        let detail = "this request takes no If-Match; nothing was done";
        return Err(Error::field("if-match-unsupported", "If-Match", detail));
    }
    Ok(())
}

/// Whether a request is only to be tried.
pub(super) fn dry_run(uri: &Uri) -> Result<bool> {
    let query = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut values = query.filter(|(name, _)| name == DRY_RUN).map(|(_, value)| value);
    match (values.next().as_deref(), values.next()) {
        (None, _) | (Some("false"), None) => Ok(false),
        (Some("true"), None) => Ok(true),
        _ => Err(Error::field("invalid-parameter", DRY_RUN, "dryRun is true or false, and stands once")),
    }
}

/// The generation in `If-Match`; none: there is no condition but that the thing is there.
fn if_match(headers: &HeaderMap) -> Result<Option<i64>> {
    let mut values = headers.get_all(header::IF_MATCH).iter();
    let refused = || {
        let detail = "If-Match holds one generation in quotes, such as \"7\", or *";
        Error::field("invalid-if-match", "If-Match", detail)
    };
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => match value.to_str().map_err(|_| refused())?.trim() {
            "*" => Ok(None),
            text => {
                let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or_else(refused)?;
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
                Ok(Some(digits.parse().ok().filter(|_| plain).ok_or_else(refused)?))
            }
        },
        _ => Err(refused()),
    }
}

/// The header that carries an account's generation.
pub(super) fn etag(generation: i64) -> HeaderMap {
    let value = HeaderValue::try_from(format!("\"{generation}\"")).ok();
    value.map(|value| (header::ETAG, value)).into_iter().collect()
}

/// [`etag`] of what the servers have.
pub(super) fn etag_of(resolver: &ResolverView) -> HeaderMap {
    etag(resolver.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let read = |text: &'static str| {
            let headers = [(header::IF_MATCH, HeaderValue::from_static(text))].into_iter().collect();
            if_match(&headers).map_err(|error| error.code())
        };
        assert_eq!(read("\"7\""), Ok(Some(7)));
        assert_eq!(read("\"0\""), Ok(Some(0)));
        assert_eq!(read("*"), Ok(None));
        for bad in ["7", "W/\"7\"", "\"7\", \"8\"", "\"\"", "\"-1\"", "\"+1\"", "\"x\"", "\"99999999999999999999\""] {
            assert_eq!(read(bad), Err("invalid-if-match"), "{bad}");
        }
        assert_eq!(if_match(&HeaderMap::new()).unwrap(), None);
    }
}
