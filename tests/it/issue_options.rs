//! What can be asked for beyond a role, on a running server: permissions of one's own, times of day, bearer,
//! and roles that reach the whole organization.

use chrono::Timelike;
use nats_authority::policy::Policies;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    roles::{matrix::Cell, native},
    support::{deployment, http::Http, stack::Stack},
};

/// What the server says to these attempts, `publish SUBJECT` or `subscribe SUBJECT`: `yes` or `no`.
async fn tried(url: &str, issued: &Value, attempts: &[&str]) -> Vec<String> {
    let cells: Vec<_> = attempts
        .iter()
        .map(|attempt| {
            let (does, subject) = attempt.split_once(' ').unwrap();
            Cell { id: (*attempt).to_owned(), does: does.to_owned(), subject: subject.to_owned(), ..Cell::default() }
        })
        .collect();
    let creds = issued["creds"].as_str().unwrap();
    let results = native::run(url, creds, issued["credential"]["inboxPrefix"].as_str().unwrap(), &cells).await;
    attempts.iter().map(|attempt| results[*attempt].clone()).collect()
}

async fn refused(http: &Http, env: &str, body: Value) -> (u16, String, String) {
    let (status, problem) = http.post(&format!("/api/v1/orgs/acme/envs/{env}/credentials"), body).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (status, text(&problem["code"]), text(&problem["errors"][0]["pointer"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn permissions_of_ones_own() {
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod", "dev"]).await;
    let url = stack.cluster.urls().remove(0);
    let permissions = json!({
        "publish": {"allow": ["ws.acme-prod.orders.>"], "deny": ["ws.acme-prod.orders.secret"]},
        "subscribe": {"allow": ["ws.acme-prod.answers.*"]},
    });
    let body = json!({"name": "own", "role": "custom", "ttl": "1h", "permissions": permissions});
    let issued = http.issue("acme", "prod", body).await;
    let inbox = issued["credential"]["inboxPrefix"].as_str().unwrap();
    let attempts = [
        "publish ws.acme-prod.orders.1",
        "subscribe ws.acme-prod.answers.x",
        &format!("subscribe {inbox}.>"),
        "publish ws.acme-prod.orders.secret",
        "publish ws.acme-prod.other",
        "publish ws.acme-dev.orders.1",
        "publish $JS.API.STREAM.INFO.ws-acme-prod-events",
        "subscribe ws.acme-prod.>",
        "subscribe _INBOX.>",
    ];
    let expected = ["yes", "yes", "yes", "no", "no", "no", "no", "no", "no"];
    assert_eq!(tried(&url, &issued, &attempts).await, expected);
    let listens =
        json!({"name": "listens", "role": "custom", "permissions": {"subscribe": {"allow": ["ws.acme-prod.>"]}}});
    let listens = http.issue("acme", "prod", listens).await;
    assert_eq!(tried(&url, &listens, &["subscribe ws.acme-prod.>", "publish x"]).await, ["yes", "no"]);

    // The ledger knows them: whoever looks, asks or rotates.
    let id = issued["credential"]["id"].as_str().unwrap();
    let (_, view) = http.get(&format!("/api/v1/credentials/{id}")).await;
    assert_eq!(
        (&view["reach"], &view["permissions"]["publish"]["allow"][0]),
        (&json!("environment"), &json!("ws.acme-prod.orders.>"))
    );
    assert_eq!(view["permissions"]["publish"]["deny"], permissions["publish"]["deny"]);
    let ask = |subject: &str| json!({"org": "acme", "envType": "prod", "credential": id, "publish": subject});
    for (subject, allowed) in [("ws.acme-prod.orders.1", true), ("ws.acme-prod.orders.secret", false)] {
        assert_eq!(http.post("/api/v1/can-i", ask(subject)).await.1["allowed"], json!(allowed), "{subject}");
    }
    let (status, rotated) = http.post(&format!("/api/v1/credentials/{id}/rotate"), json!({"grace": "0s"})).await;
    assert_eq!(status, 201, "{rotated}");
    let attempts = ["publish ws.acme-prod.orders.1", "publish ws.acme-prod.orders.secret"];
    assert_eq!(tried(&url, &rotated, &attempts).await, ["yes", "no"]);

    let custom = |permissions: Value| json!({"name": "x", "role": "custom", "permissions": permissions});
    let publish = |subjects: Vec<String>| custom(json!({"publish": {"allow": subjects}}));
    let long = (0..60).map(|n| format!("ws.acme-prod.{n:060}")).collect();
    for (body, code, pointer) in [
        (publish(vec!["ws.acme-dev.>".to_owned()]), "invalid-permissions", "/permissions/publish/allow/0"),
        (custom(json!({"subscribe": {"allow": [">"]}})), "invalid-permissions", "/permissions/subscribe/allow/0"),
        (custom(json!({})), "invalid-permissions", "/permissions"),
        (custom(json!({"publish": {"alow": []}})), "unknown-field", "/permissions/publish/alow"),
        (json!({"name": "x", "role": "custom"}), "permissions-missing", "/permissions"),
        (json!({"name": "x", "role": "viewer", "permissions": {}}), "permissions-not-allowed", "/permissions"),
    ] {
        assert_eq!(refused(&http, "prod", body).await, (422, code.to_owned(), pointer.to_owned()));
    }
    let (status, problem) = http.post("/api/v1/orgs/acme/envs/prod/credentials", publish(long)).await;
    let detail = problem["errors"][0]["detail"].as_str().unwrap();
    assert_eq!((status, &problem["errors"][0]["pointer"]), (422, &json!("/permissions")), "{problem}");
    assert!(detail.contains("3700") && detail.contains(" bytes"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn times_bearer_and_reach() {
    let mut policies = Policies::builtin().unwrap();
    policies.roles.get_mut("viewer").unwrap().bearer_allowed = true;
    policies.plans.get_mut("s").unwrap().limits.disallow_bearer = false;
    policies.plans.get_mut("l").unwrap().organization_reach = false;
    let stack = Stack::start_with(1, policies).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod"]).await;
    let url = stack.cluster.urls().remove(0);

    // Two hours that this hour is not in.
    let hour =
        chrono::DateTime::from_timestamp(nats_authority::clock::Clock::unix(&nats_authority::clock::SystemClock), 0)
            .unwrap()
            .hour();
    let elsewhere = if hour < 12 { ("13:00:00", "15:00:00") } else { ("09:00:00", "11:00:00") };
    for ((start, end), enters) in [(("00:00:00", "23:59:59"), true), (elsewhere, false)] {
        let times = json!({"name": "clerk", "role": "viewer", "times": [{"start": start, "end": end}]});
        let issued = http.issue("acme", "prod", times).await;
        assert_eq!(issued["credential"]["timesLocation"], "UTC");
        assert_eq!(deployment::connect(&url, &issued).await.is_ok(), enters, "{start}");
    }
    let times =
        |start: &str, end: &str| json!({"name": "x", "role": "viewer", "times": [{"start": start, "end": end}]});
    for (mut body, zone, pointer) in [
        (times("08:00:00", "08:00:00"), "UTC", "/times/0"),
        (times("8:00", "18:00"), "UTC", "/times/0"),
        (times("08:00:00", "18:00:00"), "Mars/Olympus", "/timesLocation"),
    ] {
        body["timesLocation"] = json!(zone);
        assert_eq!(refused(&http, "prod", body).await, (422, "invalid-times".to_owned(), pointer.to_owned()));
    }

    let bearer = |role: &str| json!({"name": "screen", "role": role, "bearer": true});
    let issued = http.issue("acme", "prod", bearer("viewer")).await;
    assert!(issued["warnings"][0].as_str().unwrap().contains("bearer"), "{issued}");
    let jwt = issued["jwt"].as_str().unwrap().to_owned();
    let unsigned = async_nats::ConnectOptions::with_jwt(jwt, |_| async { Ok(Vec::new()) });
    unsigned.connect(&url).await.unwrap();
    let no_bearer = (422, "bearer-not-allowed".to_owned(), "/bearer".to_owned());
    assert_eq!(refused(&http, "prod", bearer("publisher")).await, no_bearer);
    let (status, _) =
        http.send(Method::PATCH, "/api/v1/orgs/acme", Some(json!({"limits": {"disallowBearer": true}}))).await;
    assert_eq!(status, 200);
    assert_eq!(refused(&http, "prod", bearer("viewer")).await, no_bearer);

    let admin = json!({"name": "admin", "role": "env-admin"});
    let issued = http.issue("acme", "prod", admin.clone()).await;
    assert_eq!(issued["credential"]["reach"], "organization");
    assert!(issued["warnings"][0].as_str().unwrap().contains("every environment of 'acme'"), "{issued}");
    let forbidden = (422, "organization-reach-forbidden".to_owned(), "/role".to_owned());
    let id = issued["credential"]["id"].as_str().unwrap();
    for (change, refuses) in [
        (json!({"allowOrganizationReach": false}), true),
        (json!({"allowOrganizationReach": true}), false),
        (json!({"plan": "l"}), true),
    ] {
        let (status, view) = http.send(Method::PATCH, "/api/v1/orgs/acme", Some(change)).await;
        assert_eq!(status, 200, "{view}");
        let answer = refused(&http, "prod", admin.clone()).await;
        assert_eq!(answer == forbidden, refuses, "{answer:?}");
        // What was issued before works on, and strict roles are no question.
        deployment::connect(&url, &issued).await.unwrap();
        assert_eq!(http.issue("acme", "prod", json!({"name": "v", "role": "viewer"})).await["warnings"], Value::Null);
    }
    let (status, problem) = http.post(&format!("/api/v1/credentials/{id}/rotate"), json!({})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("organization-reach-forbidden")), "{problem}");
}
