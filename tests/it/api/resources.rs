//! What the routes do, seen from outside.

use axum::body::Body;
use nats_authority::{
    authority::proof::prove,
    entropy::SystemEntropy,
    model::Environment,
    nkey::{KeyPair, PublicKey, User},
    store::{accounts::AccountServer, pushes::PushReport},
};
use serde_json::{Value, json};

use super::Api;

const ORGS: &str = "/api/v1/orgs";
const ACME: &str = "/api/v1/orgs/acme";
const CREDENTIALS: &str = "/api/v1/orgs/acme/envs/prod/credentials";

/// Does what the push task does when every server took everything.
pub async fn push(api: &Api, view: &Value) {
    let account: PublicKey<_> = view["accountId"].as_str().unwrap().parse().unwrap();
    let generation = view["resolver"]["generation"].as_i64().unwrap();
    let has = ["n1", "n2", "n3"].map(|name| AccountServer {
        account,
        server: name.to_owned(),
        server_id: name.to_uppercase(),
        stored: generation,
        effective: Some(generation),
        error: None,
    });
    let now = api.ledger.authority.now();
    let due = api.ledger.authority.store().claim_due_accounts(100, 30, now).await.unwrap();
    let lease = due.iter().find(|due| due.account == account).unwrap().lease;
    let report = PushReport { account, generation, again_at: None, lease, rewrite: false };
    api.ledger.authority.store().report_push(&[report], &has, api.ledger.authority.now()).await.unwrap();
    api.ledger.authority.announce(account);
}

#[tokio::test]
async fn onboarding_finds_or_creates() {
    let api = Api::start().await;
    let request = json!({"slug": "acme", "displayName": "Acme", "plan": "m", "environments": ["prod", "dev"]});
    let created = api.post(ORGS, request.clone()).await;
    let view = created.ok(201);
    assert_eq!(created.header("location"), ACME);
    assert_eq!(created.header("cache-control"), "no-store");
    assert_eq!((&view["state"], &view["plan"]), (&json!("active"), &json!("m")));
    assert_eq!(view["environments"][1]["subjects"], "ws.acme-prod.>");
    assert_eq!(view["resolver"]["state"], "pending");
    let again = api.post(ORGS, request).await.ok(200);
    assert_eq!(again["accountId"], view["accountId"]);
    let other = api.post(ORGS, json!({"slug": "acme", "displayName": "Other"})).await;
    assert_eq!(other.problem(409).0, "organization-exists");
    assert_eq!(api.get(ACME).await.ok(200)["accountId"], view["accountId"]);
}

#[tokio::test]
async fn organizations_change_and_go() {
    let api = Api::start().await;
    api.onboard().await;
    let changed = api.raw("PATCH", ACME, json!({"displayName": "A", "plan": "m"}).to_string()).await.ok(200);
    assert_eq!((&changed["displayName"], &changed["plan"]), (&json!("A"), &json!("m")));
    let wrong = api.raw("PATCH", ACME, json!({"limits": {"connections": 1}}).to_string()).await.problem(422);
    assert!(wrong.1.starts_with("/limits"), "{wrong:?}");
    let suspended = api.post(&format!("{ACME}/suspend"), json!({"reason": "unpaid"})).await.ok(200);
    assert_eq!(suspended["state"], "suspended");
    let issue = api.post(CREDENTIALS, json!({"name": "a", "role": "viewer"})).await;
    assert_eq!(issue.problem(409).0, "organization-suspended");
    // A reason may be left out with its body.
    assert_eq!(api.call("POST", &format!("{ACME}/resume")).await.ok(200)["state"], "active");
    assert_eq!(api.raw("POST", &format!("{ACME}/resume"), "null").await.ok(200)["state"], "active");
    assert_eq!(api.call("DELETE", &format!("{ACME}?purge=true")).await.ok(202)["state"], "deleting");
    let listed = api.get(&format!("{ORGS}?state=deleting&plan=m")).await.ok(200);
    assert_eq!(listed["items"][0]["slug"], "acme");
    let audit = api.get("/api/v1/audit?org=acme&actor=token:admin&since=1h").await.ok(200);
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    assert_eq!(
        actions,
        [
            "organization.delete",
            "organization.resume",
            "organization.suspend",
            "organization.change",
            "organization.onboard",
        ]
    );
    assert!(audit["items"][0]["requestId"].is_string());
}

#[tokio::test]
async fn lists_go_on_where_they_stopped() {
    let api = Api::start().await;
    for slug in ["aaa", "bbb", "ccc"] {
        api.post(ORGS, json!({"slug": slug})).await.ok(201);
    }
    let mut seen = Vec::new();
    let mut path = format!("{ORGS}?limit=2");
    for _ in 0..2 {
        let page = api.get(&path).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|org| org["slug"].as_str().unwrap().to_owned()));
        assert!(page.as_object().unwrap().contains_key("nextCursor"));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("{ORGS}?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["aaa", "bbb", "ccc"]);
    let newest = api.get("/api/v1/audit?limit=1").await.ok(200);
    let next =
        api.get(&format!("/api/v1/audit?limit=1&cursor={}", newest["nextCursor"].as_str().unwrap())).await.ok(200);
    assert_eq!(newest["items"][0]["seq"].as_i64().unwrap() - 1, next["items"][0]["seq"].as_i64().unwrap());
}

#[tokio::test]
async fn environments_come_and_go() {
    let api = Api::start().await;
    api.onboard().await;
    let path = format!("{ACME}/envs/dev");
    let added = api.call("PUT", &path).await.ok(201);
    assert_eq!((&added["name"], &added["state"]), (&json!("acme-dev"), &json!("pending")));
    assert!(added["resolver"]["servers"].is_array());
    assert_eq!(api.call("PUT", &path).await.status, 200);
    assert_eq!(api.get(&format!("{ACME}/envs")).await.ok(200)["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.call("DELETE", &path).await.ok(202)["state"], "deleting");
    assert_eq!(api.call("PUT", &path).await.problem(409).0, "environment-deleting");
    let keys = api.get(&format!("{ACME}/keys")).await.ok(200);
    let keys = keys["items"].as_array().unwrap();
    assert!(keys.iter().any(|key| key["kind"] == "account") && keys.iter().any(|key| key["state"] == "retired"));
}

#[tokio::test]
async fn credentials_are_issued_once_and_revoked() {
    let api = Api::start().await;
    api.onboard().await;
    let answer = api.post(CREDENTIALS, json!({"name": "projector-1", "role": "projector", "tags": ["t:1"]})).await;
    let issued = answer.ok(201);
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(issued["creds"].as_str().unwrap().contains("NKEY SEED"));
    let id = issued["credential"]["id"].as_str().unwrap();
    let path = format!("/api/v1/credentials/{id}");
    assert_eq!(answer.header("location"), path);
    let shown = api.get(&path).await;
    assert_eq!(shown.ok(200), issued["credential"]);
    assert!(!shown.text().contains("SEED"));

    let user = KeyPair::<User>::generate(&SystemEntropy::new());
    let environment = Environment::new("acme".parse().unwrap(), "prod".parse().unwrap());
    let own = json!({
        "name": "own", "role": "viewer", "ttl": "1h", "publicKey": user.public().to_string(),
        "proof": prove(&environment, "viewer", &user),
    });
    let own_issued = api.post(CREDENTIALS, own.clone()).await.ok(201);
    assert_eq!(own_issued["credential"]["userKey"], user.public().to_string());
    assert!(own_issued.get("creds").is_none());
    assert_eq!(api.post(CREDENTIALS, own).await.problem(409).0, "public-key-in-use");

    let list = async |query: &str| {
        let page = api.get(&format!("{ACME}/credentials?{query}")).await.ok(200);
        let names = page["items"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap().to_owned());
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    assert_eq!(list("env=prod").await, ["own", "projector-1"]);
    assert_eq!(list("expiresBefore=14d").await, ["own"]);
    assert_eq!(list("role=projector&state=active").await, ["projector-1"]);
    assert_eq!(list("expiresBefore=2000-01-01T00:00:00+00:00").await, Vec::<String>::new());

    let rotate = format!("/api/v1/credentials/{}/rotate", own_issued["credential"]["id"].as_str().unwrap());
    assert_eq!(api.post(&rotate, json!({"grace": "1 fortnight"})).await.problem(422).0, "invalid-duration");
    let rotated = api.post(&rotate, json!({"grace": "10m"})).await;
    let new = rotated.ok(201);
    assert_eq!(rotated.header("cache-control"), "no-store");
    assert_eq!(
        rotated.header("location"),
        format!("/api/v1/credentials/{}", new["credential"]["id"].as_str().unwrap())
    );
    assert_eq!(new["credential"]["replaces"], own_issued["credential"]["id"]);
    assert_eq!(new["credential"]["endsAt"], json!(null));
    assert!(new["creds"].as_str().unwrap().contains("NKEY SEED"), "the authority made the new key");
    assert_eq!(api.post(&rotate, json!({})).await.problem(409).0, "credential-superseded");
    assert_eq!(list("state=superseded").await, ["own"]);
    let superseded = api.get(rotate.trim_end_matches("/rotate")).await.ok(200);
    assert!(superseded["endsAt"].is_string());

    let revoked = api.post(&format!("{path}/revoke"), json!({"reason": "leaked"})).await.ok(200);
    assert_eq!((&revoked["state"], &revoked["revocationReason"]), (&json!("revoked"), &json!("leaked")));
    assert_eq!(revoked["resolver"]["state"], "pending");
    assert_eq!(list("state=revoked").await, ["projector-1"]);

    let items: Vec<_> = (0..3).map(|n| json!({"name": format!("b{n}"), "role": "viewer"})).collect();
    let batch = api.post(&format!("{CREDENTIALS}/batch"), json!({"items": items})).await;
    assert_eq!(batch.ok(201)["items"][2]["credential"]["name"], "b2");
    assert_eq!(batch.header("cache-control"), "no-store");
}

#[tokio::test]
async fn answers_wait_for_the_servers_when_asked_to() {
    let api = Api::start().await;
    let view = api.onboard().await;
    let suspend = |wait: &str| {
        let request = api.request("POST", &format!("{ACME}/suspend")).header("prefer", format!("wait={wait}"));
        request.body(Body::empty()).unwrap()
    };
    let late = api.send(suspend("0")).await;
    assert_eq!(late.header("preference-applied"), "wait");
    assert_eq!(late.ok(200)["resolver"]["state"], "pending");
    let suspended = late.json();
    assert!(suspended["resolver"]["generation"].as_i64() > view["resolver"]["generation"].as_i64());
    let pushing = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        push(&api, &suspended).await;
    };
    let (answer, ()) = tokio::join!(api.send(suspend("20")), pushing);
    assert_eq!(answer.ok(200)["resolver"]["state"], "converged");
}

#[tokio::test]
async fn servers_can_ask_by_url() {
    let api = Api::start().await;
    let view = api.onboard().await;
    let ask = async |path: &str, tag: &str| {
        let request = axum::http::Request::get(path).header("if-none-match", tag).body(Body::empty()).unwrap();
        api.send(request).await
    };
    let path = format!("/jwt/v1/accounts/{}", view["accountId"].as_str().unwrap());
    let answer = ask(&path, "").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/jwt"));
    assert!(answer.text().starts_with("ey") && !answer.header("cache-control").is_empty());
    let tag = answer.header("etag").to_owned();
    let same = ask(&path, &format!("\"x\", W/{tag}")).await;
    assert_eq!((same.status.as_u16(), same.body.len(), same.header("etag")), (304, 0, tag.as_str()));
    api.call("POST", &format!("{ACME}/suspend")).await.ok(200);
    let suspended = ask(&path, &tag).await;
    assert_eq!(suspended.status, 200, "a suspended account stays served, with its new JWT");
    assert_ne!(suspended.header("etag"), tag);
    assert_eq!(ask("/jwt/v1/accounts/", "").await.status, 200);
    let operator = ask("/jwt/v1/operator", "").await;
    assert_eq!(operator.text(), api.get("/api/v1/operator").await.ok(200)["jwt"]);
    let stranger = KeyPair::<nats_authority::nkey::Account>::generate(&SystemEntropy::new()).public();
    for unknown in [stranger.to_string(), "A".to_owned(), "x".to_owned()] {
        assert_eq!(ask(&format!("/jwt/v1/accounts/{unknown}"), "").await.problem(404).0, "no-account");
    }
}

#[tokio::test]
async fn the_rest() {
    let api = Api::start().await;
    api.onboard().await;
    let plans = api.get("/api/v1/plans").await.ok(200);
    assert!(plans["items"].as_array().unwrap().iter().any(|plan| plan["name"] == "s"));
    let roles = api.get("/api/v1/roles").await.ok(200);
    assert!(roles["items"].as_array().unwrap().iter().any(|role| role["reach"] == "environment"));
    let question = json!({"org": "acme", "envType": "prod", "role": "viewer", "publish": "ws.acme-dev.x"});
    assert_eq!(api.post("/api/v1/can-i", question).await.ok(200)["allowed"], false);
    let question = json!({"org": "ACME", "envType": "prod", "role": "viewer", "publish": "x"});
    assert_eq!(api.post("/api/v1/can-i", question).await.problem(422).1, "/org");
    let status = api.get("/api/v1/resolver").await.ok(200);
    assert_eq!((&status["connected"], &status["servers"][0]["name"]), (&json!(true), &json!("n1")));
    assert_eq!(status["accounts"]["total"], 3);
    assert_eq!(api.call("POST", "/api/v1/resolver/reconcile").await.ok(202)["accounts"], 3);
    let config = api.get("/api/v1/operator/server-config").await;
    assert!(config.header("content-type").starts_with("text/plain") && config.text().contains("resolver_preload"));
    assert_eq!(api.get("/api/v1/operator/keys").await.ok(200)["items"][0]["kind"], "operator");
    let system = api.post("/api/v1/operator/system-credentials", json!({"name": "tools", "ttl": "15m"})).await;
    assert!(system.ok(201)["creds"].as_str().unwrap().contains("NKEY SEED"));
    assert_eq!(system.header("cache-control"), "no-store");
    let long = api.post("/api/v1/operator/system-credentials", json!({"name": "tools", "ttl": "2h"})).await;
    assert_eq!(long.problem(422).1, "/ttl");
}

#[tokio::test]
async fn figures_are_kept_by_route() {
    let api = Api::start().await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    api.onboard().await;
    api.get(ACME).await.ok(200);
    api.get("/api/v1/nothing/of/this").await.problem(404);
    let figures = recorder.handle().render();
    assert!(
        figures
            .contains(r#"nats_authority_http_requests_total{method="GET",route="/api/v1/orgs/{org}",status="200"} 1"#),
        "{figures}"
    );
    assert!(!figures.contains("nothing") && !figures.contains("acme"), "{figures}");
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let api = Api::start().await;
    assert_eq!(api.get("/readyz").await.status, 200);
    let missing = async || {
        let ready = api.get("/readyz").await.ok(503);
        let checks = ready["checks"].as_array().unwrap().clone();
        let failed = checks.into_iter().find(|check| check["ok"] == false).unwrap();
        assert!(failed["reason"].is_string());
        failed["name"].as_str().unwrap().to_owned()
    };
    api.set_servers(false, None);
    assert_eq!(missing().await, "servers");
    api.set_servers(true, Some(false));
    assert_eq!(missing().await, "operator-trusted");
    let refused = api.post(ORGS, json!({"slug": "later"})).await;
    assert_eq!(refused.problem(503).0, "operator-not-trusted");
}

#[tokio::test]
async fn a_change_is_tried_or_carries_a_condition() {
    let api = Api::start().await;
    api.onboard().await;
    let shown = api.get("/api/v1/orgs/acme").await;
    assert_eq!(shown.header("etag"), "\"1\"");
    let tried = api.call("POST", "/api/v1/orgs/acme/suspend?dryRun=true").await;
    let preview = tried.ok(200);
    assert_eq!(
        (tried.header("etag"), &preview["generation"], &preview["nextGeneration"]),
        ("\"1\"", &1.into(), &2.into())
    );
    // Nobody can be asked here, and the answer says so.
    assert_eq!((&preview["jetstream"], &preview["unaskedServers"]), (&Value::Null, &serde_json::json!(["(all)"])));
    let change = |pointer: &str| preview["changes"].as_array().unwrap().iter().any(|c| c["pointer"] == pointer);
    assert!(change("/nats/limits/conn"), "{preview}");
    assert_eq!(api.get("/api/v1/orgs/acme").await.ok(200)["state"], "active");
    let new = api.raw("POST", "/api/v1/orgs?dryRun=true", r#"{"slug": "other"}"#).await.ok(200);
    assert_eq!((&new["generation"], &new["changes"][0]["before"]), (&0.into(), &Value::Null));
    assert_eq!(api.get("/api/v1/orgs/other").await.status, 404);
    assert_eq!(api.call("DELETE", "/api/v1/orgs/acme?dryRun=true&purge=true").await.ok(200)["org"], "acme");

    let conditional = async |generation: &str, path: &str| {
        let request = api.request("POST", path).header("if-match", generation);
        api.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(conditional("\"2\"", "/api/v1/orgs/acme/suspend").await.problem(412).0, "generation-changed");
    assert_eq!(conditional("2", "/api/v1/orgs/acme/suspend").await.problem(422).0, "invalid-if-match");
    let done = conditional("\"1\"", "/api/v1/orgs/acme/suspend").await;
    assert_eq!((done.ok(200)["state"].as_str(), done.header("etag")), (Some("suspended"), "\"2\""));

    // What cannot be tried is not done instead.
    let refused = api.raw("POST", "/api/v1/orgs/acme/envs/prod/credentials?dryRun=true", "{}").await;
    assert_eq!(refused.problem(422), ("dry-run-unsupported".to_owned(), "dryRun".to_owned()));
    let refused = conditional("\"1\"", "/api/v1/resolver/reconcile").await;
    assert_eq!(refused.problem(422), ("if-match-unsupported".to_owned(), "If-Match".to_owned()));
    for bad in ["dryRun", "dryRun=yes", "dryRun=true&dryRun=true"] {
        let refused = api.call("POST", &format!("/api/v1/orgs/acme/resume?{bad}")).await;
        assert_eq!(refused.problem(422).0, "invalid-parameter", "{bad}");
    }
}
