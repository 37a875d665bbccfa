//! Callers with tokens: what a role can do over HTTP, and what one organization learns of another.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};

use super::{Answer, Api};

impl Api {
    /// Makes a token with the admin's; its id and its text.
    async fn token(&self, name: &str, role: &str, organizations: &[&str]) -> (String, String) {
        let body = json!({"name": name, "role": role, "organizations": organizations});
        let made = self.post("/api/v1/tokens", body).await.ok(201);
        (made["token"]["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    }

    async fn as_caller(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Answer {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(Body::from(body.to_string())),
            None => request.body(Body::empty()),
        };
        self.send(request.unwrap()).await
    }

    /// Two organizations with a credential each; the ids of these.
    async fn two(&self) -> [String; 2] {
        let mut ids = Vec::new();
        for slug in ["acme", "globex"] {
            let body = json!({"slug": slug, "environments": ["prod", "dev"]});
            self.post("/api/v1/orgs", body).await.ok(201);
            let path = format!("/api/v1/orgs/{slug}/envs/prod/credentials");
            let issued = self.post(&path, json!({"name": "a", "role": "publisher"})).await.ok(201);
            ids.push(issued["credential"]["id"].as_str().unwrap().to_owned());
        }
        ids.try_into().unwrap()
    }

    /// Everything an administrator can see of an organization and of the operator.
    async fn seen(&self, org: &str) -> Vec<Value> {
        let mut seen = Vec::new();
        for path in ["", "/envs", "/credentials", "/keys"] {
            seen.push(self.get(&format!("/api/v1/orgs/{org}{path}")).await.ok(200));
        }
        seen.push(self.get("/api/v1/tokens").await.ok(200)["items"].as_array().unwrap().len().into());
        seen
    }
}

/// The answer without what differs from request to request, and without the name that was asked for.
fn plain(answer: &Answer, name: &str) -> (u16, String) {
    let mut body = answer.json();
    body.as_object_mut().unwrap().remove("requestId");
    (answer.status.as_u16(), body.to_string().replace(name, "NAME"))
}

#[tokio::test]
async fn an_org_admin_changes_and_learns_nothing_of_another_organization() {
    let api = Api::start().await;
    let [own, foreign] = api.two().await;
    let (_, token) = api.token("anna", "org-admin", &["acme"]).await;
    let before = api.seen("globex").await;
    let document = api.get("/openapi.json").await.ok(200);
    let unknown = "0199c1d2-7a4e-7b1f-9c55-1d0f6f6d2a11";
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/api/v1/") || path == "/api/v1/plans" || path == "/api/v1/roles" {
            continue;
        }
        for method in item.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            if path == "/api/v1/orgs" && method == "GET" {
                continue;
            }
            let fill = |org: &str, id: &str| {
                let path = path.replace("{org}", org).replace("{envType}", "prod").replace("{name}", "x");
                path.replace("{id}", id)
            };
            let body = |org: &str| {
                (method != "GET" && method != "DELETE")
                    .then(|| json!({"org": org, "envType": "prod", "role": "publisher"}))
            };
            let answer = api.as_caller(&token, &method, &fill("globex", &foreign), body("globex")).await;
            let nothing = api.as_caller(&token, &method, &fill("nowhere", unknown), body("nowhere")).await;
            assert!(matches!(answer.status.as_u16(), 403 | 404), "{method} {path}: {}", answer.text());
            assert_eq!(plain(&answer, "globex"), plain(&nothing, "nowhere"), "{method} {path}");
            tried += 1;
        }
    }
    assert!(tried >= 30, "{tried}");
    assert_eq!(api.seen("globex").await, before);
    // Its own it sees, and only its own.
    let listed = api.as_caller(&token, "GET", "/api/v1/orgs", None).await.ok(200);
    let slugs: Vec<_> = listed["items"].as_array().unwrap().iter().map(|org| org["slug"].clone()).collect();
    assert_eq!(slugs, ["acme"]);
    api.as_caller(&token, "GET", &format!("/api/v1/credentials/{own}"), None).await.ok(200);
    // A question about its own organization must not tell whose credential an id is.
    let ask = |id: &str| json!({"org": "acme", "envType": "prod", "credential": id, "publish": "x"});
    for id in [foreign.as_str(), unknown] {
        let answer = api.as_caller(&token, "POST", "/api/v1/can-i", Some(ask(id))).await;
        assert_eq!(answer.problem(404).0, "no-credential", "{id}");
    }
    // The attempts stand in the log, a change names what permitted it.
    let events = api.get("/api/v1/audit?action=access.denied&limit=1000").await.ok(200);
    let denied = events["items"].as_array().unwrap();
    let suspended = denied.iter().find(|e| e["detail"]["operation"] == "suspend_organization").unwrap();
    assert!(denied.iter().any(|e| e["detail"]["operation"] == "show_organization" && e["target"] == "globex"));
    assert_eq!(
        (suspended["actor"].as_str(), suspended["detail"]["roles"][0].as_str()),
        (Some("token:anna"), Some("org-admin"))
    );
    let path = format!("/api/v1/credentials/{own}/revoke");
    api.as_caller(&token, "POST", &path, Some(json!({}))).await.ok(200);
    let events = api.get("/api/v1/audit?action=credential.revoke").await.ok(200);
    let access = &events["items"][0]["detail"]["access"];
    assert_eq!(*access, json!({"operation": "revoke_credential", "policies": ["org-admin-manages-credentials"]}));
}

#[tokio::test]
async fn a_developer_stays_outside_production() {
    let api = Api::start().await;
    let [own, _] = api.two().await;
    let (_, token) = api.token("dev", "org-developer", &["acme"]).await;
    let issue = json!({"name": "d", "role": "publisher"});
    let path = |env: &str| format!("/api/v1/orgs/acme/envs/{env}/credentials");
    api.as_caller(&token, "POST", &path("dev"), Some(issue.clone())).await.ok(201);
    let refused = api.as_caller(&token, "POST", &path("prod"), Some(issue)).await;
    assert_eq!(refused.problem(403).0, "forbidden");
    // It may see this one, so it is told that it may not, instead of that there is none.
    let path = format!("/api/v1/credentials/{own}/revoke");
    assert_eq!(api.as_caller(&token, "POST", &path, Some(json!({}))).await.problem(403).0, "forbidden");
    // What reaches out of `dev` reaches `prod`.
    let change = json!({"allowOrganizationReach": true, "plan": "m"});
    api.raw("PATCH", "/api/v1/orgs/acme", change.to_string()).await.ok(200);
    let wide = json!({"name": "w", "role": "env-admin"});
    let answer = api.as_caller(&token, "POST", "/api/v1/orgs/acme/envs/dev/credentials", Some(wide)).await;
    assert_eq!(answer.problem(403).0, "organization-reach-not-granted");
}

#[tokio::test]
async fn tokens_are_made_listed_and_revoked() {
    let api = Api::start().await;
    api.two().await;
    let (id, token) = api.token("ci", "org-viewer", &["acme"]).await;
    assert!(token.starts_with("nauth_") && token.len() == 49, "256 bits");
    api.as_caller(&token, "GET", "/api/v1/orgs/acme", None).await.ok(200);
    let listed = api.get("/api/v1/tokens").await.ok(200);
    let found = listed["items"].as_array().unwrap().iter().find(|item| item["id"] == id.as_str()).unwrap().clone();
    assert_eq!((found["createdBy"].as_str(), found["organizations"][0].as_str()), (Some("token:admin"), Some("acme")));
    assert!(found["lastUsedAt"].is_string() && !listed.to_string().contains(&token));
    for (body, code, pointer) in [
        (json!({"name": "ci", "role": "org-viewer", "organizations": ["acme"]}), "token-name-taken", ""),
        (json!({"name": "b", "role": "root"}), "unknown-caller-role", "/role"),
        (json!({"name": "b", "role": "org-viewer"}), "invalid-token-scope", "/organizations"),
        (
            json!({"name": "b", "role": "sovereign-admin", "organizations": ["acme"]}),
            "invalid-token-scope",
            "/organizations",
        ),
        (json!({"name": "b", "role": "org-viewer", "organizations": ["nope"]}), "no-organization", "/organizations/0"),
        (json!({"name": "b", "role": "org-viewer", "organizations": ["acme"], "ttl": "366d"}), "invalid-ttl", "/ttl"),
    ] {
        let answer = api.post("/api/v1/tokens", body.clone()).await;
        let status = answer.status.as_u16();
        assert!(matches!(status, 409 | 422), "{body}");
        assert_eq!(answer.problem(status), (code.to_owned(), pointer.to_owned()), "{body}");
    }
    let gone = api.call("DELETE", &format!("/api/v1/tokens/{id}")).await.ok(200);
    assert!(gone["revokedAt"].is_string());
    assert_eq!(api.as_caller(&token, "GET", "/api/v1/orgs/acme", None).await.problem(401).0, "unauthenticated");
    // Another process, which has not seen it lately.
    let other = nats_authority::api::router(nats_authority::api::ApiState::new(api.ledger.authority.clone()));
    let other = Api { router: other, ledger: api.ledger };
    assert_eq!(other.as_caller(&token, "GET", "/api/v1/orgs/acme", None).await.problem(401).0, "unauthenticated");
    // The token of the bundle can be switched off; others go on.
    let (_, admin) = other.token("boss", "sovereign-admin", &[]).await;
    let state = nats_authority::api::ApiState::new(other.ledger.authority.clone()).break_glass(false);
    let closed = Api { router: nats_authority::api::router(state), ledger: other.ledger };
    assert_eq!(closed.get("/api/v1/tokens").await.problem(401).0, "unauthenticated");
    closed.as_caller(&admin, "GET", "/api/v1/tokens", None).await.ok(200);
    // Who made whom is known, and the name of the bundle's token is never another's.
    let made = json!({"name": "officer", "role": "security-officer"});
    closed.as_caller(&admin, "POST", "/api/v1/tokens", Some(made)).await.ok(201);
    let mut tx = closed.ledger.authority.store().begin().await.unwrap();
    let lineage = nats_authority::store::tokens::lineage(&mut tx, "token:officer").await.unwrap();
    drop(tx);
    assert_eq!(lineage.identities, ["token:admin", "token:boss", "token:officer"].map(str::to_owned).into());
    assert_eq!(lineage.break_glass, ["token:admin".to_owned()].into());
    let listed = closed.as_caller(&admin, "GET", "/api/v1/tokens", None).await.ok(200);
    let first = listed["items"].as_array().unwrap().iter().find(|item| item["name"] == "admin").unwrap();
    let path = format!("/api/v1/tokens/{}", first["id"].as_str().unwrap());
    closed.as_caller(&admin, "DELETE", &path, None).await.ok(200);
    let again = json!({"name": "admin", "role": "sovereign-admin"});
    let answer = closed.as_caller(&admin, "POST", "/api/v1/tokens", Some(again)).await;
    assert_eq!(answer.problem(409).0, "token-name-taken");
}

#[tokio::test]
async fn who_made_the_approvers_token_is_no_second_person() {
    let api = Api::start().await;
    api.two().await;
    let (_, boss) = api.token("boss", "sovereign-admin", &[]).await;
    let (_, other) = api.token("other", "security-officer", &[]).await;
    let made = async |by: &str, name: &str, role: &str| {
        let body = json!({"name": name, "role": role});
        let made = api.as_caller(by, "POST", "/api/v1/tokens", Some(body)).await.ok(201);
        made["secret"].as_str().unwrap().to_owned()
    };
    let own = made(&boss, "own", "security-officer").await;
    let detour = made(&boss, "detour", "sovereign-admin").await;
    let behind = made(&detour, "behind", "security-officer").await;
    let body = json!({"envType": "prod", "role": "publisher"});
    let asked = api.as_caller(&boss, "POST", "/api/v1/orgs/acme/keys/rotate", Some(body)).await.ok(202);
    let path = format!("/api/v1/key-rotations/{}/approve", asked["items"][0]["id"].as_str().unwrap());
    for (token, code) in [
        (&boss, "approval-needs-security-officer"),
        (&own, "approval-needs-second-person"),
        (&behind, "approval-needs-second-person"),
    ] {
        assert_eq!(api.as_caller(token, "POST", &path, None).await.problem(403).0, code);
    }
    api.as_caller(&other, "POST", &path, None).await.ok(200);
}

#[tokio::test]
async fn the_rotation_of_the_operators_key_is_approved_by_another_persons_token() {
    let api = Api::start().await;
    let (_, olga) = api.token("olga", "security-officer", &[]).await;
    let (_, oscar) = api.token("oscar", "security-officer", &[]).await;
    let (_, boss) = api.token("boss", "sovereign-admin", &[]).await;
    let reason = json!({"reason": "once a year"});
    let asked = api.as_caller(&olga, "POST", "/api/v1/operator/keys/rotate", Some(reason)).await.ok(202);
    assert_eq!((&asked["state"], &asked["requestedBy"]), (&json!("proposed"), &json!("token:olga")));
    let path = format!("/api/v1/operator/rotations/{}", asked["id"].as_str().unwrap());
    let approve = format!("{path}/approve");
    for (token, code) in [(&olga, "approval-needs-second-person"), (&boss, "approval-needs-security-officer")] {
        assert_eq!(api.as_caller(token, "POST", &approve, None).await.problem(403).0, code);
    }
    assert_eq!(api.get(&path).await.ok(200)["newKey"], Value::Null, "nothing happened");
    let approved = api.as_caller(&oscar, "POST", &approve, None).await.ok(200);
    assert_eq!((&approved["state"], &approved["approvedBy"]), (&json!("pending"), &json!("token:oscar")));
    assert!(approved["newKey"].is_string() && approved["needsOperatorJwt"] == true);
    assert_eq!(api.as_caller(&oscar, "POST", &approve, None).await.problem(409).0, "key-rotation-state");
    let event = api.get("/api/v1/audit?action=operator-key.approve").await.ok(200);
    assert_eq!(
        (&event["items"][0]["actor"], &event["items"][0]["detail"]["requestedBy"]),
        (&json!("token:oscar"), &json!("token:olga"))
    );
}
