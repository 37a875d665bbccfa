//! Consumers in the ledger: what is refused, found, recorded, and goes with what.

use nats_authority::{
    model::{EnvState, ItemState},
    store::items,
};
use serde_json::{Value, json};

use super::Api;

const CONSUMERS: &str = "/api/v1/orgs/acme/envs/prod/consumers";

async fn put(api: &Api, name: &str, body: Value) -> super::Answer {
    api.raw("PUT", &format!("{CONSUMERS}/{name}"), body.to_string()).await
}

/// Does what the provision task does when JetStream did all it was asked for.
async fn provision(api: &Api) -> usize {
    let authority = &api.ledger.authority;
    let due = items::CONSUMERS.claim_due(authority.store(), 100, 60, authority.now()).await.unwrap();
    for consumer in &due {
        items::CONSUMERS.done(authority.store(), consumer.row.id, consumer.row.state).await.unwrap();
    }
    due.len()
}

/// Says that stream and bucket of the environment are there.
async fn environment_ready(api: &Api) {
    let view = api.get("/api/v1/orgs/acme").await.ok(200);
    super::resources::push(api, &view).await;
    let authority = &api.ledger.authority;
    for due in authority.store().claim_due_environments(100, 60, authority.now()).await.unwrap() {
        authority.store().environment_done(due.id, EnvState::Pending).await.unwrap();
    }
}

#[tokio::test]
async fn consumers_are_found_or_created() {
    let api = Api::start().await;
    api.onboard().await;
    let body = json!({"filterSubjects": ["ws.acme-prod.b", "ws.acme-prod.a.>"], "ackWait": "60s", "maxDeliver": 5});
    let view = put(&api, "orders", body.clone()).await.ok(201);
    let expected = json!({
        "name": "orders", "stream": "ws-acme-prod-events", "filterSubjects": ["ws.acme-prod.a.>", "ws.acme-prod.b"],
        "ackWait": "1m", "maxDeliver": 5, "maxAckPending": 1000, "deliverPolicy": "all", "state": "pending", "error": null,
    });
    assert_eq!(view, expected);
    assert_eq!(put(&api, "orders", body.clone()).await.ok(200), expected);
    // The same in other words, with the defaults spelled out.
    let same = json!({"filterSubjects": ["ws.acme-prod.a.>", "ws.acme-prod.b"], "ackWait": "1m", "maxDeliver": 5,
        "maxAckPending": 1000, "deliverPolicy": "all"});
    assert_eq!(put(&api, "orders", same).await.ok(200), expected);
    assert_eq!(put(&api, "orders", json!({})).await.problem(409).0, "consumer-exists");
    // Everything may be left out, the body too.
    let all = api.call("PUT", &format!("{CONSUMERS}/all")).await.ok(201);
    assert_eq!(
        (&all["filterSubjects"], &all["maxDeliver"], &all["ackWait"]),
        (&json!([]), &Value::Null, &json!("30s"))
    );
    let listed = api.get(CONSUMERS).await.ok(200);
    assert_eq!(listed["items"], json!([all, expected]));
    assert_eq!(api.get(&format!("{CONSUMERS}/orders")).await.ok(200), expected);
    let audit = api.get("/api/v1/audit?action=consumer.create").await.ok(200);
    assert_eq!(audit["items"].as_array().unwrap().len(), 2, "what was found or refused is no event");
    assert_eq!((&audit["items"][1]["target"], &audit["items"][1]["org"]), (&json!("acme-prod/orders"), &json!("acme")));
    assert_eq!(audit["items"][1]["detail"]["config"]["maxDeliver"], 5);
}

#[tokio::test]
async fn at_once_they_make_one_consumer() {
    let api = Api::start().await;
    api.onboard().await;
    let answers = futures::future::join_all((0..16).map(|_| put(&api, "orders", json!({})))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 15);
}

#[tokio::test]
async fn refused_consumers_name_the_field() {
    let api = Api::start().await;
    api.onboard().await;
    let own = "ws.acme-prod.a";
    for (body, code, pointer) in [
        (json!({"filterSubjects": ["ws.acme-dev.a"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": [own, "ws.acme-prod-dev.>"]}), "invalid-filter", "/filterSubjects/1"),
        (json!({"filterSubjects": ["ws.*.a"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": [">"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": ["ws.acme-prod"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": ["ws.acme-prod..a"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": ["ws.acme-prod.a b"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": ["ws.acme-prod.\u{0}"]}), "invalid-filter", "/filterSubjects/0"),
        (json!({"filterSubjects": [""]}), "invalid-filter", "/filterSubjects/0"),
        (
            json!({"filterSubjects": [format!("ws.acme-prod.{}", "x".repeat(300))]}),
            "invalid-filter",
            "/filterSubjects/0",
        ),
        (json!({"filterSubjects": [own, own]}), "invalid-filter", "/filterSubjects/1"),
        (json!({"filterSubjects": ["ws.acme-prod.>", own]}), "invalid-filter", "/filterSubjects/1"),
        (json!({"filterSubjects": vec![own; 33]}), "invalid-filter", "/filterSubjects"),
        (json!({"ackWait": "soon"}), "invalid-duration", "/ackWait"),
        (json!({"ackWait": "25h"}), "invalid-duration", "/ackWait"),
        (json!({"maxDeliver": 0}), "invalid-count", "/maxDeliver"),
        (json!({"maxDeliver": -1}), "invalid-count", "/maxDeliver"),
        (json!({"maxAckPending": 1_000_001}), "invalid-count", "/maxAckPending"),
        (json!({"deliverPolicy": "by-start-time"}), "invalid-body", "/deliverPolicy"),
        (json!({"deliverSubject": "ws.acme-prod.x"}), "unknown-field", "/deliverSubject"),
    ] {
        assert_eq!(put(&api, "x", body.clone()).await.problem(422), (code.to_owned(), pointer.to_owned()), "{body}");
    }
    for name in ["a.b", "*", "%3E", "a%20b", "-a"] {
        let refused = put(&api, name, json!({})).await.problem(422);
        assert_eq!(refused, ("invalid-name".to_owned(), "name".to_owned()), "{name}");
    }
    assert_eq!(api.get(CONSUMERS).await.ok(200)["items"], json!([]));
    assert_eq!(api.get(&format!("{CONSUMERS}/x")).await.problem(404).0, "no-consumer");
    assert_eq!(api.call("DELETE", &format!("{CONSUMERS}/x")).await.problem(404).0, "no-consumer");
    let dev = "/api/v1/orgs/acme/envs/dev/consumers";
    assert_eq!(api.call("PUT", &format!("{dev}/x")).await.problem(404).0, "no-environment");
    assert_eq!(api.get(dev).await.problem(404).0, "no-environment");
    assert_eq!(api.get("/api/v1/orgs/other/envs/dev/consumers").await.problem(404).0, "no-organization");
    api.call("POST", "/api/v1/orgs/acme/suspend").await.ok(200);
    assert_eq!(put(&api, "x", json!({})).await.problem(409).0, "organization-suspended");
}

#[tokio::test]
async fn consumers_wait_for_their_environment_and_go() {
    let api = Api::start().await;
    api.onboard().await;
    put(&api, "orders", json!({})).await.ok(201);
    assert_eq!(provision(&api).await, 0, "the environment has no stream yet");
    environment_ready(&api).await;
    assert_eq!(provision(&api).await, 1);
    let path = format!("{CONSUMERS}/orders");
    assert_eq!(api.get(&path).await.ok(200)["state"], "ready");
    assert_eq!(api.call("DELETE", &path).await.ok(202)["state"], "deleting");
    assert_eq!(api.call("DELETE", &path).await.ok(202)["state"], "deleting");
    assert_eq!(put(&api, "orders", json!({})).await.problem(409).0, "consumer-deleting");
    assert_eq!(provision(&api).await, 1);
    assert_eq!(api.get(&path).await.problem(404).0, "no-consumer");
    put(&api, "orders", json!({"maxDeliver": 1})).await.ok(201);
    let audit = api.get("/api/v1/audit?action=consumer.delete").await.ok(200);
    assert_eq!(audit["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_worked_on_is_what_is_done() {
    let api = Api::start().await;
    api.onboard().await;
    environment_ready(&api).await;
    put(&api, "orders", json!({})).await.ok(201);
    let authority = &api.ledger.authority;
    let store = authority.store();
    let claimed = items::CONSUMERS.claim_due(store, 10, 60, authority.now()).await.unwrap();
    assert!(items::CONSUMERS.claim_due(store, 10, 60, authority.now()).await.unwrap().is_empty(), "it is leased");
    let id = claimed[0].row.id;
    items::CONSUMERS.failed(store, id, ItemState::Pending, "no room", authority.now()).await.unwrap();
    let path = format!("{CONSUMERS}/orders");
    assert_eq!(api.get(&path).await.ok(200)["error"], "no room");
    // It is deleted while somebody makes it: what that one reports changes nothing.
    assert_eq!(api.call("DELETE", &path).await.ok(202)["error"], Value::Null);
    assert!(!items::CONSUMERS.done(store, id, ItemState::Pending).await.unwrap());
    let later = authority.now() + chrono::TimeDelta::hours(1);
    items::CONSUMERS.failed(store, id, ItemState::Pending, "no room", later).await.unwrap();
    let view = api.get(&path).await.ok(200);
    assert_eq!((&view["state"], &view["error"]), (&json!("deleting"), &Value::Null));
    assert_eq!(provision(&api).await, 1, "the removal is due");
}

#[tokio::test]
async fn an_environment_and_an_organization_take_theirs_along() {
    let api = Api::start().await;
    api.onboard().await;
    let dev = "/api/v1/orgs/acme/envs/dev";
    api.call("PUT", dev).await.ok(201);
    environment_ready(&api).await;
    api.call("PUT", &format!("{dev}/consumers/x")).await.ok(201);
    put(&api, "y", json!({})).await.ok(201);
    api.call("DELETE", dev).await.ok(202);
    assert_eq!(api.get(&format!("{dev}/consumers")).await.ok(200)["items"], json!([]));
    assert_eq!(api.call("PUT", &format!("{dev}/consumers/x")).await.problem(409).0, "environment-deleting");
    api.call("DELETE", "/api/v1/orgs/acme").await.ok(202);
    assert_eq!(provision(&api).await, 0, "there is nothing left to do");
    assert_eq!(api.get(CONSUMERS).await.problem(404).0, "no-environment");
}

#[tokio::test]
async fn consumers_and_streams_are_tried_without_a_change() {
    const STREAMS: &str = "/api/v1/orgs/acme/envs/prod/streams";
    let api = Api::start().await;
    api.onboard().await;
    for (path, kind, body, bad) in [
        (CONSUMERS, "consumer", json!({"maxDeliver": 5}), json!({"filterSubjects": ["ws.acme-dev.>"]})),
        (STREAMS, "stream", json!({"maxBytes": "1MiB"}), json!({"maxBytes": "1MiB", "filterSubjects": [">"]})),
    ] {
        let (name, tried) = (format!("{path}/x"), format!("{path}/x?dryRun=true"));
        let events = async || api.get("/api/v1/audit?limit=1000").await.ok(200)["items"].clone();
        let before = events().await;
        let preview = api.raw("PUT", &tried, body.to_string()).await.ok(200);
        assert_eq!(
            (&preview["org"], &preview["nextGeneration"]),
            (&json!("acme"), &preview["generation"]),
            "{preview}"
        );
        assert_eq!((&api.get(path).await.ok(200)["items"], events().await), (&json!([]), before));
        // Refused as the change itself is.
        assert_eq!(api.raw("PUT", &tried, bad.to_string()).await.problem(422).0, "invalid-filter");
        assert_eq!(api.call("DELETE", &tried).await.problem(404).0, format!("no-{kind}"));

        api.raw("PUT", &name, body.to_string()).await.ok(201);
        let before = (api.get(&name).await.ok(200), events().await);
        api.raw("PUT", &tried, body.to_string()).await.ok(200);
        assert_eq!(api.raw("PUT", &tried, bad.to_string()).await.problem(422).0, "invalid-filter");
        api.call("DELETE", &tried).await.ok(200);
        assert_eq!((api.get(&name).await.ok(200), events().await), before);
        // Under a condition.
        let request = |generation: &str| api.request("DELETE", &name).header("if-match", format!("\"{generation}\""));
        let answer = api.send(request("99").body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(answer.problem(412).0, "generation-changed");
        assert_eq!((api.get(&name).await.ok(200), events().await), before);
        let generation = preview["generation"].to_string();
        api.send(request(&generation).body(axum::body::Body::empty()).unwrap()).await.ok(202);
    }
}
