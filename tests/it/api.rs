//! The REST API over a real Postgres, without nats-servers: how the servers stand is a fact that the
//! tests state.

mod callers;
mod consumers;
mod document;
mod idempotency;
mod key_rotations;
mod refusals;
mod resources;

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use nats_authority::{
    api::{self, ApiState},
    authority::Standing,
};
use serde_json::Value;
use tower::ServiceExt;

use crate::{
    ledger::{Ledger, ledger},
    support::{document::names_refusal, http::as_text, run},
};

/// An API over an authority as [`ledger`] makes it.
struct Api {
    router: Router,
    ledger: Ledger,
}

/// What came back.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the shape of a problem and returns its code and the pointer of its first field.
    #[track_caller]
    fn problem(&self, status: u16) -> (String, String) {
        let body = self.json();
        assert_eq!(self.status, status, "{body}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{body}");
        let code = body["code"].as_str().unwrap();
        assert_eq!(body["type"], format!("urn:nats-authority:problem:{code}"));
        assert_eq!(body["status"], status);
        assert_eq!(body["requestId"], self.header("x-request-id"));
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        assert_eq!(self.header("x-content-type-options"), "nosniff");
        (code.to_owned(), body["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    }

    #[track_caller]
    fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }
}

impl Api {
    async fn start() -> Self {
        let ledger = ledger().await;
        let router = api::router(ApiState::new(Arc::clone(&ledger.authority)));
        Self { router, ledger }
    }

    /// States of every server whether it answers and trusts us.
    fn set_servers(&self, live: bool, trusts_us: Option<bool>) {
        let mut standing = Standing::clone(&self.ledger.authority.standing());
        for server in &mut standing.servers {
            server.row.live = live;
            server.trusts_us = trusts_us;
        }
        self.ledger.authority.set_standing(standing);
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        if let Some(bearer) = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
            run::saw(bearer);
        }
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        if let Some(code) = answer.json()["code"].as_str() {
            names_refusal(&method, &path, answer.status.as_u16(), code);
        }
        run::saw(&as_text(&answer.json()));
        answer
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method.parse::<Method>().unwrap())
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.ledger.admin_token))
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path).await
    }

    /// A request without a body.
    async fn call(&self, method: &str, path: &str) -> Answer {
        self.send(self.request(method, path).body(Body::empty()).unwrap()).await
    }

    /// A request with a JSON body as it stands.
    async fn raw(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let request = self.request(method, path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.raw("POST", path, body.to_string()).await
    }

    /// Onboards `acme` with a `prod` environment.
    async fn onboard(&self) -> Value {
        let body = serde_json::json!({"slug": "acme", "environments": ["prod"]});
        self.post("/api/v1/orgs", body).await.ok(201)
    }
}
