//! One case for each rule: sound claims, one change, the pointer that is found.

use serde_json::{Value, json};

use super::*;
use crate::{
    entropy::SeededEntropy,
    jwt::{Account, Activation, Generic, Operator, User, decode, decode_any},
    nkey::{self, KeyPair},
};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/it/vectors.json")).unwrap()
}

fn claims(name: &str) -> Value {
    let vectors = vectors();
    vectors["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap()["claims"].clone()
}

fn key(name: &str) -> String {
    vectors()["keys"][name]["public"].as_str().unwrap().to_owned()
}

/// The pointers of the problems of the vector `name` after `change`.
fn pointers<T: Payload>(name: &str, change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut json = claims(name);
    change(&mut json);
    let claims: Claims<T> = serde_json::from_value(json).unwrap();
    match check(claims) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.pointer).collect(),
    }
}

/// Sets `field` of the `nats` object to `value` and expects a problem at `pointer` within it.
fn refuses<T: Payload>(name: &str, field: &str, value: Value, pointer: &str) {
    let shown = value.to_string();
    let found = pointers::<T>(name, |json| json["nats"][field] = value);
    assert_eq!(found, [format!("/nats/{pointer}")], "{field}: {shown}");
}

fn takes<T: Payload>(name: &str, field: &str, value: Value) {
    let shown = value.to_string();
    let found = pointers::<T>(name, |json| json["nats"][field] = value);
    assert_eq!(found, Vec::<String>::new(), "{field}: {shown}");
}

#[test]
fn every_kind_of_claims_has_times_kinds_and_type() {
    let found = |field: &'static str, value: Value| pointers::<User>("user full", move |json| json[field] = value);
    assert_eq!(found("iat", Value::Null), ["/iat"]);
    assert_eq!(found("iat", json!(0)), ["/iat"]);
    assert_eq!(found("exp", json!(1_795_501_804)), ["/exp"]);
    assert_eq!(found("nbf", json!(5_000_000_000_i64)), ["/exp"]);
    assert_eq!(found("nbf", json!(-5)), ["/nbf"]);
    assert_eq!(found("iss", json!(key("operator"))), ["/iss"]);
    assert_eq!(found("sub", json!(key("account"))), ["/sub"]);
    refuses::<User>("user full", "version", json!(1), "version");
    refuses::<User>("user full", "type", json!("account"), "type");
    refuses::<User>("user full", "tags", json!(["a", " b"]), "tags/1");
}

#[test]
fn the_id_is_a_hash_of_everything() {
    let checked = |change: fn(&mut Value)| {
        let mut json = claims("account default");
        change(&mut json);
        check::<Account>(serde_json::from_value(json).unwrap()).unwrap()
    };
    let plain = checked(|_| ());
    let id = plain.claims().id.clone().unwrap();
    assert_eq!(id.len(), 52);
    assert_eq!(checked(|json| json["jti"] = json!("other")).claims().id.as_ref(), Some(&id));
    assert_ne!(checked(|json| json["nats"]["description"] = json!("x")).claims().id.as_ref(), Some(&id));
    assert_ne!(checked(|json| json["iat"] = json!(1_795_501_805)).claims().id.as_ref(), Some(&id));
}

#[test]
fn what_is_signed_is_what_was_checked() {
    let pair = KeyPair::<nkey::Operator>::generate(&SeededEntropy::new(1));
    let mut claims: Claims<Account> = serde_json::from_value(claims("account signing keys")).unwrap();
    claims.issuer = pair.public().into();
    let signed = check(claims).unwrap().sign(&pair);
    let decoded = decode::<Account>(signed.token()).unwrap();
    assert_eq!(&decoded.claims, signed.claims());
    assert!(signed.token().starts_with("eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ."));
    assert!(decode_any(signed.token()).is_ok());
}

#[test]
fn subjects_and_queues_of_users() {
    let refuses = |field: &str, value, pointer: &str| refuses::<User>("user full", field, value, pointer);
    refuses("pub", json!({"allow": ["a", "a..b"]}), "pub/allow/1");
    refuses("pub", json!({"deny": ["a.>.b"]}), "pub/deny/0");
    refuses("pub", json!({"allow": ["a queue"]}), "pub/allow/0");
    refuses("sub", json!({"allow": ["a queue more"]}), "sub/allow/0");
    refuses("sub", json!({"allow": ["a "]}), "sub/allow/0");
    refuses("sub", json!({"allow": ["a\tb"]}), "sub/allow/0");
    refuses("sub", json!({"allow": ["_INBOX.{{subject()}}.>"]}), "sub/allow/0");
    takes::<User>("user full", "sub", json!({"allow": ["a.* queue.*"], "deny": ["b.>"]}));
}

#[test]
fn limits_of_users() {
    let refuses = |field: &str, value, pointer: &str| refuses::<User>("user full", field, value, pointer);
    refuses("src", json!(["10.0.0.0/8", "10.0.0.1"]), "src/1");
    refuses("src", json!(["10.0.0.0/33"]), "src/0");
    for time in ["", "8:00:00", "24:00:00", "08:60:00", "08:00", "08:00:00:00", "+8:00:00"] {
        refuses("times", json!([{"start": time, "end": "18:00:00"}]), "times/0/start");
    }
    refuses("times_location", json!("Europe/Atlantis"), "times_location");
    refuses("allowed_connection_types", json!(["STANDARD", "standard"]), "allowed_connection_types/1");
    refuses("subs", Value::Null, "subs");
    takes::<User>("user full", "src", json!(["10.0.0.1/8", "2001:db8::/32"]));
    takes::<User>("user full", "allowed_connection_types", json!(CONNECTION_TYPES));
}

const CONNECTION_TYPES: [&str; 7] =
    ["STANDARD", "WEBSOCKET", "LEAFNODE", "LEAFNODE_WS", "MQTT", "MQTT_WS", "IN_PROCESS"];

#[test]
fn users_under_scoped_and_unscoped_keys() {
    // With one limit it is no longer the bare form, and the other two are missing.
    let found = pointers::<User>("user scoped", |json| json["nats"]["subs"] = json!(-1));
    assert_eq!(found, ["/nats/data", "/nats/payload"]);
    // The account's own key has no scope.
    let found = pointers::<User>("user scoped", |json| {
        json["nats"].as_object_mut().unwrap().remove("issuer_account");
    });
    assert_eq!(found, ["/nats/subs", "/nats/data", "/nats/payload"]);
}

#[test]
fn a_user_has_to_fit_into_connect() {
    let many: Vec<_> = (0..100).map(|number| format!("ws.acme-prod.some.subject.{number}")).collect();
    assert_eq!(pointers::<User>("user full", |json| json["nats"]["pub"]["allow"] = json!(many)), [""]);
    let mut json = claims("user full");
    // The largest that passes is at most the limit, and one more group of characters is too much.
    let fits = |json: &Value| check::<User>(serde_json::from_value(json.clone()).unwrap()).is_ok();
    let mut length = 0;
    while {
        json["name"] = json!("x".repeat(length + 1));
        fits(&json)
    } {
        length += 1;
    }
    json["name"] = json!("x".repeat(length));
    let linted = check::<User>(serde_json::from_value(json).unwrap()).unwrap();
    let whole = linted.into_parts().1.len() + 1 + 86;
    assert!((MAX_USER_TOKEN - 3..=MAX_USER_TOKEN).contains(&whole), "{whole}");
}

#[test]
fn an_account_has_to_fit_into_a_message() {
    let entropy = SeededEntropy::new(1);
    let revoked = |count: usize| {
        let keys = (0..count).map(|_| KeyPair::<nkey::User>::generate(&entropy).public().to_string());
        json!(keys.map(|key| (key, json!(1_700_000_000))).collect::<serde_json::Map<_, _>>())
    };
    takes::<Account>("account default", "revocations", revoked(8_000));
    let found = pointers::<Account>("account default", |json| json["nats"]["revocations"] = revoked(12_000));
    assert_eq!(found, [""]);
}

#[test]
fn accounts() {
    let refuses = |field: &str, value, pointer: &str| refuses::<Account>("account default", field, value, pointer);
    let takes = |field, value| takes::<Account>("account default", field, value);
    refuses("description", json!("x".repeat(8 * 1024 + 1)), "description");
    takes("description", json!("x".repeat(8 * 1024)));
    refuses("info_url", json!("example.org"), "info_url");
    refuses("info_url", json!("mailto:a@example.org"), "info_url");
    refuses("cluster_traffic", json!("both"), "cluster_traffic");
    takes("cluster_traffic", json!("system"));
    refuses("trace", json!({"dest": "a.*"}), "trace/dest");
    refuses("trace", json!({"sampling": 5}), "trace/dest");
    refuses("trace", json!({"dest": "a", "sampling": 101}), "trace/sampling");
    refuses("revocations", json!({"*": 1, "X/Y": 1}), "revocations/X~1Y");
    refuses("revocations", json!({key("account"): 1}), &format!("revocations/{}", key("account")));
    refuses("revocations", json!({"*": -1}), "revocations/*");
    refuses("default_permissions", json!({"pub": {"allow": ["a b"]}, "sub": {}}), "default_permissions/pub/allow/0");
    refuses("mappings", json!({"a..b": []}), "mappings/a..b");
    refuses("mappings", json!({"a": [{"subject": "b."}]}), "mappings/a/0/subject");
    refuses("mappings", json!({"a": [{"subject": "b", "weight": 60}, {"subject": "c", "weight": 41}]}), "mappings/a");
    refuses("mappings", json!({"a": [{"subject": "b"}, {"subject": "c"}]}), "mappings/a");
    let clusters = json!({"a": [
        {"subject": "b", "weight": 100}, {"subject": "c", "weight": 100, "cluster": "west"},
        {"subject": "d", "weight": 100, "cluster": "east"},
    ]});
    takes("mappings", clusters);
    refuses("authorization", json!({"allowed_accounts": ["*"]}), "authorization/allowed_accounts");
    let users = [key("user")];
    let both = json!({"auth_users": users, "allowed_accounts": ["*", key("account")]});
    refuses("authorization", both, "authorization/allowed_accounts/0");
    let wrong = json!({"auth_users": users, "allowed_accounts": [key("user")]});
    refuses("authorization", wrong, "authorization/allowed_accounts/0");
}

#[test]
fn limits_of_accounts() {
    let limits = |change: Value| {
        let mut limits = claims("account default")["nats"]["limits"].clone();
        limits.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        limits
    };
    let refuses = |change, pointer| {
        let pointer = format!("limits/{pointer}");
        refuses::<Account>("account default", "limits", limits(change), &pointer);
    };
    refuses(json!({"disk_storage": 1, "tiered_limits": {"R1": {"disk_storage": 1}}}), "tiered_limits");
    refuses(json!({"tiered_limits": {"": {"disk_storage": 1}}}), "tiered_limits/");
    refuses(json!({"tiered_limits": {"gold": {"disk_storage": 1}}}), "tiered_limits/gold");
    let counted = |change: Value| {
        let limits = limits(change);
        pointers::<Account>("account exports imports", |json| json["nats"]["limits"] = limits)
    };
    assert_eq!(counted(json!({"imports": 1})), ["/nats/imports"]);
    assert_eq!(counted(json!({"exports": 1})), ["/nats/exports"]);
    assert_eq!(counted(json!({"imports": 2, "exports": 2})), Vec::<String>::new());
    let found = counted(json!({"exports": 2, "wildcards": false}));
    assert_eq!(found, ["/nats/exports/0/subject", "/nats/exports/1/subject"]);
}

#[test]
fn scopes_of_signing_keys() {
    let scope = |template: Value| json!([{"kind": "user_scope", "key": key("account_signing"), "template": template}]);
    let refuses = |template, pointer| {
        let pointer = format!("signing_keys/0/template/{pointer}");
        refuses::<Account>("account default", "signing_keys", scope(template), &pointer);
    };
    refuses(json!({"pub": {"allow": ["a.{{subject()}.b"]}}), "pub/allow/0");
    refuses(json!({"pub": {"allow": ["a.{{user()}}"]}}), "pub/allow/0");
    refuses(json!({"pub": {"allow": ["a.{{tag()}}"]}}), "pub/allow/0");
    refuses(json!({"pub": {"allow": ["a.{{name()}} q"]}}), "pub/allow/0");
    refuses(json!({"src": ["x"]}), "src/0");
    let all = "a.{{name()}}.{{ subject() }}.{{account-name()}}.{{account-subject()}}.{{tag(x)}}.b{{account-tag(y)}}.>";
    takes::<Account>(
        "account default",
        "signing_keys",
        scope(json!({"pub": {"allow": [all]}, "sub": {"deny": [all]}})),
    );
}

#[test]
fn exports() {
    let refuses = |export: Value, pointer: &str| {
        let pointer = format!("exports/0/{pointer}");
        refuses::<Account>("account default", "exports", json!([export]), &pointer);
    };
    refuses(json!({"subject": "a", "type": "queue"}), "type");
    refuses(json!({"subject": "", "type": "stream"}), "subject");
    refuses(json!({"subject": "a", "type": "stream", "response_type": "Stream"}), "response_type");
    refuses(json!({"subject": "a", "type": "service", "response_type": "stream"}), "response_type");
    refuses(json!({"subject": "a", "type": "stream", "response_threshold": 1}), "response_threshold");
    refuses(json!({"subject": "a", "type": "service", "response_threshold": -1}), "response_threshold");
    refuses(json!({"subject": "a", "type": "stream", "allow_trace": true}), "allow_trace");
    let latency = |sampling: Value, results: &str| json!({"subject": "a", "type": "service", "service_latency": {"sampling": sampling, "results": results}});
    for sampling in [json!(0), json!(101), json!(-1), json!("header"), json!(null)] {
        refuses(latency(sampling, "r"), "service_latency/sampling");
    }
    refuses(latency(json!(1), "r.*"), "service_latency/results");
    takes::<Account>("account default", "exports", json!([latency(json!("headers"), "r")]));
    for (subject, position) in [("a.*", 1), ("a.*", 3), ("a.b", 2), ("a.>", 2)] {
        let export = json!({"subject": subject, "type": "stream", "account_token_position": position});
        refuses(export, "account_token_position");
    }
    refuses(
        json!({"subject": "a", "type": "stream", "revocations": {key("user"): 1}}),
        &format!("revocations/{}", key("user")),
    );
    refuses(json!({"subject": "a", "type": "stream", "info_url": "x"}), "info_url");
}

#[test]
fn exports_that_overlap() {
    let export = |subject: &str, kind: &str| json!({"subject": subject, "type": kind});
    for (left, right) in [("a.>", "a.b"), ("a.b", "a.>"), ("a", "a"), ("a.*", "a.b")] {
        let both = json!([export(left, "stream"), export(right, "stream")]);
        refuses::<Account>("account default", "exports", both, "exports/1/subject");
        takes::<Account>("account default", "exports", json!([export(left, "stream"), export(right, "service")]));
    }
}

#[test]
fn imports() {
    let exporter = claims("account exports imports")["nats"]["imports"][0]["account"].clone();
    let import = |change: Value| {
        let mut import = json!({"subject": "a.*.b.*", "type": "service", "account": exporter});
        import.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        json!([import])
    };
    let refuses = |change, pointer: &str| {
        refuses::<Account>("account default", "imports", import(change), &format!("imports/0/{pointer}"));
    };
    refuses(json!({"type": "queue"}), "type");
    refuses(json!({"subject": "a."}), "subject");
    refuses(json!({"account": null}), "account");
    refuses(json!({"share": true, "type": "stream"}), "share");
    refuses(json!({"allow_trace": true}), "allow_trace");
    for local in ["x..y", "x.>", "x", "x.*", "x.$1.$3", "x.$1.*.*", "x.$1.$1", "x.$0.$1"] {
        refuses(json!({"local_subject": local}), "local_subject");
    }
    refuses(json!({"local_subject": "x.$1.*", "to": "y"}), "local_subject");
    for local in ["x.$2.$1", "x.*.*", "$SYS.$1.*"] {
        takes::<Account>("account default", "imports", import(json!({"local_subject": local})));
    }
}

#[test]
fn imports_that_overlap() {
    let import = |account: String, subject: &str| json!({"subject": subject, "type": "service", "account": account});
    let (one, other) = (key("account_signing"), key("system_account"));
    let both = json!([import(one.clone(), "a.*"), import(one.clone(), "a.b")]);
    refuses::<Account>("account default", "imports", both, "imports/1");
    takes::<Account>("account default", "imports", json!([import(one, "a.*"), import(other, "a.b")]));
}

#[test]
fn activations_belong_to_their_import() {
    let refuses = |field: &'static str, value: Value| {
        let found = pointers::<Account>("account exports imports", |json| json["nats"]["imports"][1][field] = value);
        assert_eq!(found, ["/nats/imports/1/token"], "{field}");
    };
    refuses("token", json!("x.y.z"));
    refuses("account", json!(key("system_account")));
    refuses("subject", json!("other.>"));
    let found = pointers::<Account>("account exports imports", |json| json["sub"] = json!(key("system_account")));
    assert_eq!(found, ["/nats/imports/1/token"]);
    let found = pointers::<Account>("account exports imports", |json| {
        json["nats"]["imports"][1]["type"] = json!("service");
        json["nats"]["imports"][1]["allow_trace"] = json!(false);
    });
    assert_eq!(found, ["/nats/imports/1/token"]);
    super::tests::refuses::<Activation>("activation", "kind", json!("queue"), "kind");
    super::tests::refuses::<Activation>("activation", "subject", json!("a b"), "subject");
}

#[test]
fn operators() {
    let refuses = |field: &str, value, pointer: &str| refuses::<Operator>("operator full", field, value, pointer);
    for version in ["2.10", "v2.10.0", "2.10.0-beta", "2..0", "2.10.0.1", "2.-1.0"] {
        refuses("assert_server_version", json!(version), "assert_server_version");
    }
    refuses("account_server_url", json!("127.0.0.1"), "account_server_url");
    for url in ["http://a", "nats://u:p@a", "nats://a/b", "wss://a/", "nats:///", "a:4222"] {
        refuses("operator_service_urls", json!([url]), "operator_service_urls/0");
    }
    takes::<Operator>("operator full", "operator_service_urls", json!(["ws://a:80", "wss://b", "tls://c", "nats://d"]));
    let signing = key("operator_signing");
    refuses("signing_keys", json!([signing, signing]), "signing_keys/1");
    refuses("signing_keys", json!([]), "strict_signing_key_usage");
    let found = |issuer: &'static str| pointers::<Operator>("operator full", |json| json["iss"] = json!(key(issuer)));
    assert_eq!(found("operator_signing"), Vec::<String>::new());
    let stranger = KeyPair::<nkey::Operator>::generate(&SeededEntropy::new(1)).public().to_string();
    assert_eq!(pointers::<Operator>("operator full", |json| json["iss"] = json!(stranger)), ["/iss"]);
}

#[test]
fn generic_claims() {
    refuses::<Generic>("generic delete request", "accounts", json!([key("user")]), "accounts");
    let found = pointers::<Generic>("generic delete request", |json| json["sub"] = json!(key("operator")));
    assert_eq!(found, ["/sub"]);
    let mut claims: Claims<Generic> = serde_json::from_value(claims("generic delete request")).unwrap();
    claims.nats.data.insert("version".to_owned(), json!(2));
    assert_eq!(check(claims).unwrap_err()[0].pointer, "/nats/version");
}
