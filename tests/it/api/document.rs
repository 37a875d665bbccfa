//! The OpenAPI document says what is there, and everything in it is guarded as it says.

use axum::{body::Body, http::Request};
use serde_json::Value;

use super::Api;
use crate::support::document::{document, fits, names_refusal, operations as of_document};

/// Method, path with example parameters, and whether it is open to everyone.
fn operations(document: &Value) -> Vec<(String, String, bool)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let open = operation["security"].as_array().is_some_and(|schemes| schemes == &[serde_json::json!({})]);
            let path = path.replace("{org}", "acme").replace("{envType}", "prod").replace("{id}", "x");
            operations.push((method.to_uppercase(), path.replace("{accountId}", "A"), open));
        }
    }
    operations
}

#[tokio::test]
async fn everything_but_the_open_routes_needs_a_token() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.ok(200);
    let operations = operations(&document);
    assert!(operations.len() >= 30, "{}", operations.len());
    for (method, path, open) in &operations {
        let request = Request::builder().method(method.as_str()).uri(path).body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        if *open {
            assert!(!path.starts_with("/api/"), "{method} {path} is open");
            assert_ne!(answer.status, 401, "{method} {path}");
        } else {
            assert!(path.starts_with("/api/v1/"), "{method} {path}");
            assert_eq!(answer.problem(401).0, "unauthenticated", "{method} {path}");
        }
    }
}

#[tokio::test]
async fn the_document_is_whole() {
    let api = Api::start().await;
    let document = api.get("/openapi.json").await.ok(200);
    assert_eq!(document["openapi"].as_str().unwrap().split('.').take(2).collect::<Vec<_>>(), ["3", "1"]);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
    let mut paths: Vec<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    paths.sort_unstable();
    let mut expected = [
        "/api/v1/audit",
        "/api/v1/audit/export",
        "/api/v1/audit/verify",
        "/api/v1/can-i",
        "/api/v1/credentials",
        "/api/v1/credentials/{id}",
        "/api/v1/credentials/{id}/revoke",
        "/api/v1/credentials/{id}/rotate",
        "/api/v1/key-rotations",
        "/api/v1/key-rotations/{id}",
        "/api/v1/key-rotations/{id}/approve",
        "/api/v1/key-rotations/{id}/cancel",
        "/api/v1/key-rotations/{id}/hasten",
        "/api/v1/operator",
        "/api/v1/operator/jwt",
        "/api/v1/operator/jwt/proposal",
        "/api/v1/operator/keys",
        "/api/v1/operator/keys/rotate",
        "/api/v1/operator/rotations",
        "/api/v1/operator/rotations/{id}",
        "/api/v1/operator/rotations/{id}/approve",
        "/api/v1/operator/rotations/{id}/cancel",
        "/api/v1/operator/sealing-keys",
        "/api/v1/operator/sealing-keys/reseal",
        "/api/v1/operator/server-config",
        "/api/v1/operator/system-credentials",
        "/api/v1/orgs",
        "/api/v1/orgs/{org}",
        "/api/v1/orgs/{org}/credentials",
        "/api/v1/orgs/{org}/envs",
        "/api/v1/orgs/{org}/envs/{envType}",
        "/api/v1/orgs/{org}/envs/{envType}/consumers",
        "/api/v1/orgs/{org}/envs/{envType}/consumers/{name}",
        "/api/v1/orgs/{org}/envs/{envType}/credentials",
        "/api/v1/orgs/{org}/envs/{envType}/credentials/batch",
        "/api/v1/orgs/{org}/envs/{envType}/streams",
        "/api/v1/orgs/{org}/envs/{envType}/streams/{name}",
        "/api/v1/orgs/{org}/keys",
        "/api/v1/orgs/{org}/keys/rotate",
        "/api/v1/orgs/{org}/resume",
        "/api/v1/orgs/{org}/revocations",
        "/api/v1/orgs/{org}/suspend",
        "/api/v1/plans",
        "/api/v1/policies",
        "/api/v1/policies/diff",
        "/api/v1/resolver",
        "/api/v1/resolver/reconcile",
        "/api/v1/resolver/servers/{name}",
        "/api/v1/roles",
        "/api/v1/tokens",
        "/api/v1/tokens/{id}",
        "/healthz",
        "/jwt/v1/accounts/",
        "/jwt/v1/accounts/{accountId}",
        "/jwt/v1/operator",
        "/readyz",
    ];
    expected.sort_unstable();
    assert_eq!(paths, expected);
    let mut ids = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place} has another's id");
            assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{place}");
            assert!(operation["responses"]["default"].is_object(), "{place}");
            for (status, answer) in operation["responses"].as_object().unwrap() {
                if status.starts_with('4') {
                    let schema = &answer["content"]["application/problem+json"]["schema"]["$ref"];
                    assert_eq!(schema, "#/components/schemas/Problem", "{place} {status}");
                }
            }
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}

/// Each example under an answer's media types; it has to be what the schema beside it says.
fn examples(answer: &Value, place: &str) -> usize {
    let types = answer["content"].as_object().into_iter().flatten();
    let shown = types.filter_map(|(_, content)| Some((content, content.get("example")?)));
    shown.inspect(|(content, example)| fits(content, example, place)).count()
}

#[test]
fn every_operation_shows_what_is_sent_and_answered() {
    for (method, path, operation) in of_document() {
        let place = format!("{method} {path}");
        if let Some(body) = operation.get("requestBody") {
            assert_eq!(examples(body, &place), 1, "{place} shows no request");
        }
        let answers = operation["responses"].as_object().unwrap().iter();
        let done: Vec<_> = answers.filter(|(status, _)| status.starts_with('2')).collect();
        let silent = done.iter().all(|(_, answer)| answer.get("content").is_none());
        let shown: usize = done.iter().map(|(status, answer)| examples(answer, &format!("{place} {status}"))).sum();
        assert!(shown > 0 || silent, "{place} shows no answer");
    }
}

#[test]
fn every_operation_names_its_refusals() {
    let mut named = 0;
    for (method, path, operation) in of_document() {
        let place = format!("{method} {path}");
        let answers = operation["responses"].as_object().unwrap();
        for (status, answer) in answers.iter().filter(|(status, _)| status.starts_with(['4', '5'])) {
            let Some(content) = answer["content"].get("application/problem+json") else {
                assert_eq!((path, status.as_str()), ("/readyz", "503"));
                continue;
            };
            let refusals = content["examples"].as_object().unwrap_or_else(|| panic!("{place} {status} names no code"));
            for (code, example) in refusals {
                let example = document().pointer(&example["$ref"].as_str().unwrap()[1..]).unwrap();
                let problem = &example["value"];
                fits(content, problem, &place);
                assert_eq!(
                    (&problem["code"], problem["status"].to_string()),
                    (&Value::from(code.as_str()), status.clone())
                );
                assert!(example["summary"].as_str().is_some_and(|text| text.len() > 3), "{code} is not explained");
                named += 1;
            }
        }
        if operation["security"].is_null() {
            let has = |status: &str| answers.contains_key(status);
            assert!(["401", "403", "429", "503"].into_iter().all(has), "{place}");
            assert_eq!(
                has("404"),
                path.contains('{') || path.ends_with("/can-i") || path == "/api/v1/credentials",
                "{place}"
            );
        }
    }
    assert!(named > 1000, "{named}");
    // What every answer of these tests is held against does notice.
    names_refusal("GET", "/api/v1/orgs/acme", 404, "no-organization");
    for (status, code) in [(404, "no-token"), (422, "no-organization")] {
        std::panic::catch_unwind(|| names_refusal("GET", "/api/v1/orgs/acme", status, code)).unwrap_err();
    }
}

#[tokio::test]
async fn there_is_a_page_to_try_it() {
    let api = Api::start().await;
    let page = api.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; ") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(api.get("/docs/swagger-initializer.js").await.text().contains("/openapi.json"));
}
