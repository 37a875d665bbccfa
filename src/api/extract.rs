//! What is read from requests. The framework's own extractors answer in shapes of their own, so
//! these here stand in for them: every refusal is a problem that names the field.

use std::{collections::BTreeMap, time::Duration};

use axum::{
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    http::{HeaderMap, StatusCode, header, request::Parts},
};
use futures::StreamExt;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use url::form_urlencoded;
use uuid::Uuid;

use super::{misplaced, problem::Refusal};
use crate::{
    error::{Error, Kind},
    model::{EnvType, ItemName, OrgSlug},
};

/// The largest body, bytes.
pub const MAX_BODY: usize = 1 << 20;

/// How much of a body that is too large is read before the answer: a client that is still writing
/// would otherwise see a broken connection instead of the problem.
const MAX_DISCARDED: usize = 16 << 20;

/// A JSON body.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        require_json(&parts.headers)?;
        parse(&bytes).map(Self)
    }
}

/// A JSON body that may be left out, or be null.
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        require_json(&parts.headers)?;
        let value: Option<T> = parse(&bytes)?;
        Ok(Self(value.unwrap_or_default()))
    }
}

/// The query's parameters. Each may stand once; unknown ones are refused.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let mut values = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            if value.contains('\0') {
                return Err(parameter(&name, "holds a NUL character").into());
            }
            if values.insert(name.to_string(), serde_json::Value::String(value.into_owned())).is_some() {
                return Err(parameter(&name, "stands twice").into());
            }
        }
        let values = serde_json::Value::Object(values.into_iter().collect());
        serde_path_to_error::deserialize(values)
            .map(Self)
            .map_err(|error| parameter(&error.path().to_string(), &error.inner().to_string()).into())
    }
}

/// A refused query parameter.
fn parameter(name: &str, why: &str) -> Error {
    Error::field("invalid-parameter", name, format!("the parameter '{name}' is refused: {why}"))
}

/// `{org}`
pub struct OrgPath(pub OrgSlug);

impl<S: Send + Sync> FromRequestParts<S> for OrgPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let org = named(parts, state, "org").await?.parse().map_err(|error| at("org", &error))?;
        Ok(Self(org))
    }
}

/// `{org}` and `{envType}`
pub struct EnvPath(pub OrgSlug, pub EnvType);

impl<S: Send + Sync> FromRequestParts<S> for EnvPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let OrgPath(org) = OrgPath::from_request_parts(parts, state).await?;
        let env_type = named(parts, state, "envType").await?.parse().map_err(|error| at("envType", &error))?;
        Ok(Self(org, env_type))
    }
}

/// `{org}`, `{envType}` and the `{name}` of a consumer or a stream
pub struct ItemPath(pub OrgSlug, pub EnvType, pub ItemName);

impl<S: Send + Sync> FromRequestParts<S> for ItemPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let EnvPath(org, env_type) = EnvPath::from_request_parts(parts, state).await?;
        let name = named(parts, state, "name").await?.parse().map_err(|error| at("name", &error))?;
        Ok(Self(org, env_type, name))
    }
}

/// `{id}` of a credential. It is opaque to callers: what is no id of ours names nothing.
pub struct CredentialPath(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for CredentialPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = named(parts, state, "id").await?;
        let id =
            Uuid::try_parse(&text).map_err(|_| Error::not_found("no-credential", "there is no such credential"))?;
        Ok(Self(id))
    }
}

/// `{id}` of a key rotation.
pub struct RotationPath(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for RotationPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = named(parts, state, "id").await?;
        let id =
            Uuid::try_parse(&text).map_err(|_| Error::not_found("no-key-rotation", "there is no such key rotation"))?;
        Ok(Self(id))
    }
}

/// `{id}` of a token.
pub struct TokenPath(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for TokenPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let text = named(parts, state, "id").await?;
        Ok(Self(Uuid::try_parse(&text).map_err(|_| Error::not_found("no-token", "there is no such token"))?))
    }
}

/// The account key of the URL resolver, as it stands in the path.
pub struct AccountPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for AccountPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Ok(Self(named(parts, state, "accountId").await?))
    }
}

/// `{name}` of a server.
pub struct ServerPath(pub String);

impl<S: Send + Sync> FromRequestParts<S> for ServerPath {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        Ok(Self(named(parts, state, "name").await?))
    }
}

/// The same error about the path or query parameter `name` instead of a field of the body.
pub(super) fn at(name: &str, error: &Error) -> Error {
    Error::field(error.code(), name, error.to_string())
}

async fn named<S: Send + Sync>(parts: &mut Parts, state: &S, name: &str) -> Result<String, Refusal> {
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| {
        Refusal::http(StatusCode::BAD_REQUEST, "malformed-path", "the path is not UTF-8 where it is percent-encoded")
    })?;
    let value = params.iter().find(|(param, _)| *param == name).map(|(_, value)| value.to_owned());
    value.ok_or_else(|| Error::internal(format!("the route has no parameter '{name}'")).into())
}

/// How long a body may take: a client that sends a byte now and then holds a place that others need.
const BODY_TIME: Duration = Duration::from_secs(10);

pub(super) async fn read(body: axum::body::Body) -> Result<Vec<u8>, Refusal> {
    tokio::time::timeout(BODY_TIME, read_all(body)).await.unwrap_or_else(|_| {
        let detail = "the body did not come within 10 s; nothing was changed, send it faster or in parts";
        Err(Refusal::http(StatusCode::REQUEST_TIMEOUT, "body-too-slow", detail))
    })
}

async fn read_all(body: axum::body::Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut total = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| {
            Refusal::http(StatusCode::BAD_REQUEST, "unreadable-body", "the body broke off before its end")
        })?;
        total += chunk.len();
        if total > MAX_DISCARDED {
            break;
        }
        if total > MAX_BODY {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if total > MAX_BODY {
        return Err(Error::new(Kind::TooLarge, "body-too-large", "a body has at most 1 MiB; send it in parts").into());
    }
    misplaced::require_none(&bytes)?;
    Ok(bytes)
}

fn require_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json")) {
        return Ok(());
    }
    Err(Refusal::http(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported-media-type",
        "the body has to be JSON; send the header 'Content-Type: application/json'",
    ))
}

/// What is no JSON is malformed (400); JSON that is not what was asked for is refused (422).
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let place = error.valid_up_to();
        Refusal::http(
            StatusCode::BAD_REQUEST,
            "invalid-utf8",
            format!("the body is not UTF-8 from byte {place} on; JSON is UTF-8"),
        )
    })?;
    let malformed = |error: &serde_json::Error| {
        let detail = format!("the body is no JSON: {error}");
        Refusal::http(StatusCode::BAD_REQUEST, "malformed-json", detail)
    };
    // Serde would take a list for an object, field by field.
    if text.trim_start().starts_with('[') {
        return Err(Error::field("invalid-body", "", "the body has to be a JSON object").into());
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.inner().classify() {
            serde_json::error::Category::Data => {
                let message = error.inner().to_string();
                // "… at line 1 column 20": the pointer says it better.
                let detail = message.rsplit_once(" at line ").map_or(message.as_str(), |(detail, _)| detail);
                let code = if detail.starts_with("unknown field") { "unknown-field" } else { "invalid-body" };
                Error::field(code, pointer(error.path()), detail).into()
            }
            _ => malformed(error.inner()),
        })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn pointer(path: &Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.extend(["/", &index.to_string()]),
            Segment::Map { key } => pointer.extend(["/", &key.replace('~', "~0").replace('/', "~1")]),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::requests::NewCredentials;

    #[test]
    fn pointers_name_the_field() {
        let field = |text: &str| {
            let refusal = parse::<NewCredentials>(text.as_bytes()).err().map(|refusal| format!("{refusal:?}")).unwrap();
            let from = refusal.find("pointer: \"").map_or(0, |at| at + 10);
            refusal[from..].split('"').next().unwrap().to_owned()
        };
        assert_eq!(field(r#"{"items": [{"name": "a", "role": 1}]}"#), "/items/0/role");
        assert_eq!(field(r#"{"items": [{"name": "a", "role": "r", "what/now": 1}]}"#), "/items/0/what~1now");
        assert_eq!(field(r#"{"items": [], "more": 1}"#), "/more");
        assert_eq!(field(r#"{"items": [{"name": "a"}]}"#), "/items/0");
        assert_eq!(field("[]"), "");
    }
}
