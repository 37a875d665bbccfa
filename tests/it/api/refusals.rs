//! Every way of being refused comes in one shape and names what is wrong.

use axum::{body::Body, http::Request};
use nats_authority::{
    authority::proof::prove,
    entropy::SystemEntropy,
    model::Environment,
    nkey::{Account, KeyPair, User},
};
use serde_json::{Value, json};

use super::Api;

const ORGS: &str = "/api/v1/orgs";
const CREDENTIALS: &str = "/api/v1/orgs/acme/envs/prod/credentials";

#[tokio::test]
async fn bodies_that_are_not_what_was_asked_for() {
    let api = Api::start().await;
    let problem = |answer: super::Answer, status| answer.problem(status);
    let code = |answer: super::Answer, status| answer.problem(status).0;
    assert_eq!(code(api.raw("POST", ORGS, "{").await, 400), "malformed-json");
    assert_eq!(code(api.raw("POST", ORGS, "").await, 400), "malformed-json");
    assert_eq!(code(api.raw("POST", ORGS, r#"{"slug": "acme"} x"#).await, 400), "malformed-json");
    assert_eq!(code(api.raw("POST", ORGS, "[".repeat(1000)).await, 422), "invalid-body");
    assert_eq!(code(api.raw("POST", ORGS, vec![b'"', 0xff, b'"']).await, 400), "invalid-utf8");
    assert_eq!(code(api.raw("POST", ORGS, "\"\\ud800\"").await, 400), "malformed-json");
    let unknown = api.post(ORGS, json!({"slug": "acme", "tenant": 1})).await;
    assert_eq!(problem(unknown, 422), ("unknown-field".to_owned(), "/tenant".to_owned()));
    let wrong = api.post(ORGS, json!({"slug": "acme", "environments": ["prod", 7]})).await;
    assert_eq!(problem(wrong, 422), ("invalid-body".to_owned(), "/environments/1".to_owned()));
    let twice = api.raw("POST", ORGS, r#"{"slug": "acme", "slug": "acme"}"#).await;
    assert_eq!(problem(twice, 422).0, "invalid-body");
    assert_eq!(code(api.raw("POST", ORGS, r#"["acme"]"#).await, 422), "invalid-body");
    let large = format!(r#"{{"slug": "acme", "displayName": "{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(code(api.raw("POST", ORGS, large).await, 413), "body-too-large");
    let untyped = api.request("POST", ORGS).body(Body::from(r#"{"slug": "acme"}"#)).unwrap();
    assert_eq!(code(api.send(untyped).await, 415), "unsupported-media-type");
    let nul = api.post(ORGS, json!({"slug": "acme", "displayName": "a\u{0}b"})).await;
    assert_eq!(problem(nul, 422), ("invalid-display-name".to_owned(), "/displayName".to_owned()));
    // Nothing of all this has onboarded anything.
    assert_eq!(api.get(ORGS).await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn names_that_are_not_allowed() {
    let api = Api::start().await;
    for (slug, code) in [
        ("system", "reserved-slug"),
        ("kube-dns", "reserved-slug"),
        ("prod", "reserved-slug"),
        ("Acme", "invalid-slug"),
        ("ac", "invalid-slug"),
        ("ac.me", "invalid-slug"),
        ("acme\u{0}", "invalid-slug"),
    ] {
        let refused = api.post(ORGS, json!({"slug": slug})).await.problem(422);
        assert_eq!(refused, (code.to_owned(), "/slug".to_owned()), "{slug}");
    }
    let environment = api.post(ORGS, json!({"slug": "acme", "environments": ["prod", "pro-d"]})).await.problem(422);
    assert_eq!(environment, ("invalid-env-type".to_owned(), "/environments/1".to_owned()));
    api.onboard().await;
    let in_path = |code: &str, name: &str| (code.to_owned(), name.to_owned());
    let answer = api.call("PUT", "/api/v1/orgs/acme/envs/pro-d").await;
    assert_eq!(answer.problem(422), in_path("invalid-env-type", "envType"));
    let answer = api.call("PUT", "/api/v1/orgs/acme/envs/qa").await;
    assert_eq!(answer.problem(422), in_path("unknown-env-type", "envType"));
    assert_eq!(api.get("/api/v1/orgs/ACME").await.problem(422), in_path("invalid-slug", "org"));
    assert_eq!(api.get("/api/v1/orgs/%ff").await.problem(400).0, "malformed-path");
    assert_eq!(api.get("/api/v1/orgs/nobody").await.problem(404).0, "no-organization");
    assert_eq!(api.get("/api/v1/orgs/acme/envs/dev").await.problem(404).0, "no-environment");
    for id in ["x", "0199c1d2-7a4e-7b1f-9c55-1d0f6f6d2a11"] {
        assert_eq!(api.get(&format!("/api/v1/credentials/{id}")).await.problem(404).0, "no-credential");
    }
}

#[tokio::test]
async fn parameters_that_cannot_be_read() {
    let api = Api::start().await;
    api.onboard().await;
    for (query, code, name) in [
        ("orgs?state=asleep", "invalid-parameter", "state"),
        ("orgs?limit=0", "invalid-parameter", "limit"),
        ("orgs?limit=1001", "invalid-parameter", "limit"),
        ("orgs?limit=many", "invalid-parameter", "limit"),
        ("orgs?colour=red", "invalid-parameter", "colour"),
        ("orgs?plan=s&plan=m", "invalid-parameter", "plan"),
        ("orgs?plan=%00", "invalid-parameter", "plan"),
        ("orgs?cursor=!", "invalid-cursor", "cursor"),
        ("audit?cursor=YWNtZQ", "invalid-cursor", "cursor"),
        ("audit?since=yesterday", "invalid-time", "since"),
        ("orgs/acme/credentials?expiresBefore=9999999999d", "invalid-time", "expiresBefore"),
        ("orgs/acme/credentials?env=pro-d", "invalid-env-type", "env"),
        ("orgs/acme/credentials?cursor=YWNtZQ", "invalid-cursor", "cursor"),
    ] {
        let refused = api.get(&format!("/api/v1/{query}")).await.problem(422);
        assert_eq!(refused, (code.to_owned(), name.to_owned()), "{query}");
    }
    assert_eq!(api.call("DELETE", "/api/v1/orgs/acme?purge=yes").await.problem(422).1, "purge");
}

#[tokio::test]
async fn credentials_that_may_not_be() {
    let api = Api::start().await;
    api.onboard().await;
    let issue = async |more: Value| {
        let mut body = json!({"name": "a", "role": "projector"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        api.post(CREDENTIALS, body).await.problem(422)
    };
    for ttl in ["0s", "-1h", "soon", "1"] {
        assert_eq!(issue(json!({"ttl": ttl})).await, ("invalid-duration".to_owned(), "/ttl".to_owned()), "{ttl}");
    }
    assert_eq!(issue(json!({"ttl": "36500d"})).await.1, "/ttl");
    assert_eq!(issue(json!({"ttl": 90})).await, ("invalid-body".to_owned(), "/ttl".to_owned()));
    assert_eq!(issue(json!({"role": "nobody"})).await, ("unknown-role".to_owned(), "/role".to_owned()));
    assert_eq!(issue(json!({"name": "a.b"})).await.1, "/name");
    assert_eq!(issue(json!({"allowedCidrs": ["10.0.0.0/8", "x"]})).await.1, "/allowedCidrs/1");
    assert_eq!(issue(json!({"connectionTypes": ["TELEX"]})).await.1, "/connectionTypes/0");

    let entropy = SystemEntropy::new();
    let user = KeyPair::<User>::generate(&entropy);
    let key = user.public().to_string();
    let account = KeyPair::<Account>::generate(&entropy).public().to_string();
    let mut broken = key.clone();
    let last = if broken.pop() == Some('A') { 'B' } else { 'A' };
    broken.push(last);
    for wrong in [account.as_str(), broken.as_str(), "U", ""] {
        let refused = issue(json!({"publicKey": wrong, "proof": "x"})).await;
        assert_eq!(refused, ("invalid-public-key".to_owned(), "/publicKey".to_owned()), "{wrong}");
    }
    assert_eq!(issue(json!({"publicKey": key})).await.0, "proof-missing");
    assert_eq!(issue(json!({"proof": "x"})).await.0, "proof-without-key");
    let elsewhere = Environment::new("acme".parse().unwrap(), "dev".parse().unwrap());
    let proof = prove(&elsewhere, "projector", &user);
    assert_eq!(issue(json!({"publicKey": key, "proof": proof})).await, ("wrong-proof".to_owned(), "/proof".to_owned()));

    let batch = format!("{CREDENTIALS}/batch");
    let items = json!({"items": [{"name": "a", "role": "viewer"}, {"name": "b", "role": "viewer", "ttl": "0s"}]});
    assert_eq!(api.post(&batch, items).await.problem(422).1, "/items/1/ttl");
    assert_eq!(api.post(&batch, json!({"items": []})).await.problem(422).1, "/items");
    let listed = api.get("/api/v1/orgs/acme/credentials").await.ok(200);
    assert_eq!(listed["items"], json!([]), "all or none");
}

#[tokio::test]
async fn callers_that_are_not_known() {
    let api = Api::start().await;
    for header in
        ["", "Bearer", "Bearer ", "Bearer nauth_x", "Basic YTpi", &format!("Token {}", api.ledger.admin_token)]
    {
        let request = Request::get(ORGS).header("authorization", header).body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        assert_eq!(answer.problem(401).0, "unauthenticated", "{header}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{header}");
    }
    let request = Request::get(ORGS).header("authorization", format!("bearer {}", api.ledger.admin_token));
    assert_eq!(api.send(request.body(Body::empty()).unwrap()).await.status, 200, "the scheme's case does not matter");
}

#[tokio::test]
async fn routes_and_methods_that_do_not_exist() {
    let api = Api::start().await;
    assert_eq!(api.get("/nothing").await.problem(404).0, "no-route");
    assert_eq!(api.get("/api/v1/nothing").await.problem(404).0, "no-route");
    let answer = api.call("DELETE", "/api/v1/plans").await;
    assert_eq!(answer.problem(405).0, "method-not-allowed");
    assert!(answer.header("allow").contains("GET"), "{:?}", answer.headers);
    assert_eq!(api.call("POST", "/healthz").await.problem(405).0, "method-not-allowed");
    // Who is not known learns nothing about which routes there are.
    let request = Request::get("/api/v1/nothing").body(Body::empty()).unwrap();
    assert_eq!(api.send(request).await.problem(401).0, "unauthenticated");
}

#[tokio::test]
async fn request_ids_are_taken_over_when_sane() {
    let api = Api::start().await;
    let ask = async |id: &str| {
        let request = api.request("GET", "/api/v1/nothing").header("x-request-id", id).body(Body::empty()).unwrap();
        let answer = api.send(request).await;
        answer.problem(404);
        answer.header("x-request-id").to_owned()
    };
    assert_eq!(ask("job-17/step.2").await, "job-17/step.2");
    for other in ["a b", "", &"x".repeat(129)] {
        let id = ask(other).await;
        assert_eq!(id.len(), 36, "{other} became {id}");
    }
}

#[tokio::test]
async fn a_lost_database_opens_nothing() {
    let api = Api::start().await;
    assert_eq!(api.get("/readyz").await.ok(200)["ready"], true);
    api.ledger.authority.store().close().await;
    let answer = api.get(ORGS).await;
    assert_eq!(answer.problem(503).0, "database-unavailable");
    assert!(!answer.header("retry-after").is_empty());
    let ready = api.get("/readyz").await.ok(503);
    assert_eq!((&ready["ready"], &ready["checks"][0]["name"]), (&json!(false), &json!("database")));
    assert_eq!(api.get("/healthz").await.status, 200);
}

/// Serde would take a list for an object, field by field, wherever one stands.
#[tokio::test]
async fn no_list_is_taken_for_an_object() {
    let api = Api::start().await;
    api.onboard().await;
    for limits in [json!([]), json!([null, null]), json!({"tieredLimits": {"R1": []}})] {
        let answer = api.raw("PATCH", "/api/v1/orgs/acme", json!({"limits": limits}).to_string()).await;
        assert_eq!(answer.problem(422), ("invalid-limits".to_owned(), "/limits".to_owned()), "{limits}");
    }
    let path = "/api/v1/orgs/acme/envs/prod/credentials";
    for (field, value, pointer) in [
        ("permissions", json!([]), "/permissions"),
        ("permissions", json!({"publish": [["ws.acme-prod.>"]]}), "/permissions/publish"),
        ("times", json!([["08:00:00", "17:00:00"]]), "/times/0"),
    ] {
        let mut credential = json!({"name": "a", "role": "custom"});
        credential[field] = value;
        let answer = api.post(path, credential.clone()).await;
        assert_eq!(answer.problem(422), ("invalid-body".to_owned(), pointer.to_owned()), "{credential}");
        let answer = api.post(&format!("{path}/batch"), json!({"items": [credential]})).await;
        assert_eq!(answer.problem(422).1, format!("/items/0{pointer}"));
    }
    let answer = api.post(&format!("{path}/batch"), json!({"items": [["a", "viewer"]]})).await;
    assert_eq!(answer.problem(422), ("invalid-body".to_owned(), "/items/0".to_owned()));
}

/// Amounts are added up: over organizations, and with what the authority needs itself.
#[tokio::test]
async fn an_amount_that_cannot_be_added_up_is_refused() {
    let api = Api::start().await;
    api.onboard().await;
    for (name, amount) in [("imports", i64::MAX), ("diskStorage", i64::MAX - 1), ("conn", 1 << 53)] {
        let body = json!({"limits": {name: amount}}).to_string();
        let answer = api.raw("PATCH", "/api/v1/orgs/acme", body).await;
        assert_eq!(answer.problem(422), ("invalid-limit".to_owned(), format!("/limits/{name}")));
    }
    let body = json!({"limits": {"imports": (1i64 << 53) - 1}}).to_string();
    api.raw("PATCH", "/api/v1/orgs/acme", body).await.ok(200);
}
