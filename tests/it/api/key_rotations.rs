//! Rotations of signing keys over HTTP. What they do is shown in `key_rotation.rs`.

use serde_json::json;

use super::Api;

#[tokio::test]
async fn asked_for_shown_refused_and_cancelled() {
    let api = Api::start().await;
    api.onboard().await;
    let path = "/api/v1/orgs/acme/keys/rotate";
    let proposed = api.post(path, json!({"envType": "prod", "role": "viewer", "grace": "2h"})).await.ok(202);
    let rotation = &proposed["items"][0];
    assert_eq!(
        (&rotation["state"], &rotation["grace"], &rotation["newKey"]),
        (&json!("proposed"), &json!("2h"), &json!(null))
    );
    let id = rotation["id"].as_str().unwrap();
    let keys = api.get("/api/v1/orgs/acme/keys").await.ok(200);
    let key = keys["items"].as_array().unwrap().iter().find(|key| key["publicKey"] == rotation["oldKey"]).unwrap();
    assert_eq!((&key["rotation"], &key["state"], &key["credentials"]), (&json!(id), &json!("active"), &json!(0)));
    assert_eq!(key["waitsFor"], rotation["waitsFor"]);
    assert!(key["rotateBy"].is_string());

    // An administrator is no security officer, and a dry run is refused as the change is.
    for query in ["", "?dryRun=true"] {
        let answer = api.call("POST", &format!("/api/v1/key-rotations/{id}/approve{query}")).await;
        assert_eq!(answer.problem(403).0, "approval-needs-security-officer");
    }
    let hasten = api.call("POST", &format!("/api/v1/key-rotations/{id}/hasten")).await;
    assert_eq!(hasten.problem(403).0, "approval-needs-security-officer");
    let key = json!({"publicKey": rotation["oldKey"]});
    assert_eq!(api.post(path, key).await.problem(409).0, "key-rotation-open");
    assert_eq!(api.post(path, json!({"role": "nobody"})).await.problem(422), ("no-key".to_owned(), "/role".to_owned()));
    let too_long = api.post(path, json!({"grace": "400d"})).await.problem(422);
    assert_eq!(too_long, ("invalid-duration".to_owned(), "/grace".to_owned()));

    let list = api.get("/api/v1/key-rotations?org=acme&state=proposed").await.ok(200);
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["id"]), (1, &json!(id)));
    let cancel = format!("/api/v1/key-rotations/{id}/cancel");
    let cancelled = api.post(&cancel, json!({"reason": "not now"})).await.ok(200);
    assert_eq!(
        (&cancelled["state"], &cancelled["endedBecause"]),
        (&json!("cancelled"), &json!("token:admin: not now"))
    );
    assert_eq!(api.get(&format!("/api/v1/key-rotations/{id}")).await.ok(200), cancelled);
    assert_eq!(api.post(&cancel, json!({})).await.problem(409).0, "key-rotation-state");
    for unknown in ["x", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(api.get(&format!("/api/v1/key-rotations/{unknown}")).await.problem(404).0, "no-key-rotation");
    }
}
