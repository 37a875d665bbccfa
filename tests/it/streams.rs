//! Further streams on real servers: they copy from the event stream, keep that in their own way, and go with
//! their environment. Whoever works on them has permissions that name them.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{
    self, Context,
    consumer::{PullConsumer, pull},
    stream::RetentionPolicy,
};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    deployment,
    http::Http,
    stack::{Stack, eventually},
};

const JOBS: &str = "ws-acme-prod-jobs";

async fn put(http: &Http, path: &str, body: Value) -> (u16, Value) {
    http.send_and_wait(Method::PUT, &format!("/api/v1/orgs/acme/envs/prod/{path}"), Some(body)).await
}

async fn delete(http: &Http, path: &str) -> (u16, Value) {
    http.send_and_wait(Method::DELETE, &format!("/api/v1/orgs/acme/envs/prod/{path}"), None).await
}

async fn context(stack: &Stack, issued: &Value) -> Context {
    jetstream::new(deployment::connect(&stack.cluster.urls()[0], issued).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_work_queue_of_some_events() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod"]).await;
    let admin = context(&stack, &http.issue("acme", "prod", json!({"name": "a", "role": "env-admin"})).await).await;
    let publish = async |subject: String| {
        admin.publish(subject, "x".into()).await.unwrap().await.unwrap();
    };
    publish("ws.acme-prod.jobs.before".to_owned()).await;

    let jobs = json!({"filterSubjects": ["ws.acme-prod.jobs.>", "ws.acme-prod.tasks.*"], "maxBytes": "1MiB",
        "retention": "work-queue", "maxAge": "1d"});
    let (status, view) = put(&http, "streams/jobs", jobs.clone()).await;
    assert_eq!((status, &view["state"], &view["stream"]), (201, &json!("ready"), &json!(JOBS)), "{view}");
    assert_eq!(put(&http, "streams/jobs", jobs).await.0, 200);
    let (status, view) = put(&http, "consumers/worker", json!({"stream": "jobs"})).await;
    assert_eq!((status, &view["state"], &view["stream"]), (201, &json!("ready"), &json!(JOBS)), "{view}");
    for n in 0..9 {
        for kind in ["jobs", "tasks", "other"] {
            publish(format!("ws.acme-prod.{kind}.{n}")).await;
        }
    }

    // Whoever works on it names it, and reaches nothing else.
    let permissions = json!({"publish": {"allow": [
        format!("$JS.API.CONSUMER.INFO.{JOBS}.worker"), format!("$JS.API.CONSUMER.MSG.NEXT.{JOBS}.worker"),
        format!("$JS.ACK.{JOBS}.worker.*.*.*.*.*"),
    ]}});
    let worker = json!({"name": "w", "role": "custom", "permissions": permissions});
    let worker = context(&stack, &http.issue("acme", "prod", worker).await).await;
    let stream = worker.get_stream_no_info(JOBS).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer("worker").await.unwrap();
    let mut got = BTreeSet::new();
    let mut messages = consumer.messages().await.unwrap();
    while got.len() < 19 {
        let message = messages.next().await.unwrap().unwrap();
        message.double_ack().await.unwrap();
        assert!(got.insert(message.subject.to_string()), "{} came twice", message.subject);
    }
    assert!(got.contains("ws.acme-prod.jobs.before") && got.contains("ws.acme-prod.tasks.8"), "{got:?}");
    assert!(!got.iter().any(|subject| subject.contains("other")), "{got:?}");

    // The queue is empty, the events are all there: so says the server, to a system user's account.
    let info = consumer.get_info().await.unwrap();
    assert_eq!((info.num_pending, info.num_ack_pending), (0, 0));
    let events = admin.get_stream("ws-acme-prod-events").await.unwrap();
    assert_eq!(events.cached_info().state.messages, 28);
    assert!(admin.get_stream_no_info(JOBS).await.unwrap().get_consumer::<pull::Config>("worker").await.is_err());

    let (status, problem) = delete(&http, "streams/jobs").await;
    assert_eq!((status, &problem["code"]), (409, &json!("stream-in-use")), "{problem}");
    assert_eq!(delete(&http, "consumers/worker").await.1["state"], "deleted");
    assert_eq!(delete(&http, "streams/jobs").await.1["state"], "deleted");
    assert_eq!(http.get("/api/v1/orgs/acme/envs/prod/streams").await.1["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn further_streams_go_with_their_environment_and_leave_what_is_not_ours() {
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod"]).await;
    let pool = sqlx::PgPool::connect(stack.database.url()).await.unwrap();
    let owner = owner(&stack).await;
    let small = json!({"maxBytes": "64KiB"});
    for name in ["kept", "gone"] {
        assert_eq!(put(&http, &format!("streams/{name}"), small.clone()).await.1["state"], "ready");
    }
    let config = owner.get_stream("ws-acme-prod-kept").await.unwrap().cached_info().config.clone();
    assert_eq!((config.retention, config.max_bytes, config.subjects.len()), (RetentionPolicy::Limits, 65_536, 0));
    // It was made, but the process ended before it could say so: it is found, and it is ours to remove.
    sqlx::query("UPDATE streams SET state = 'pending', made = false, due_at = now()").execute(&pool).await.unwrap();
    eventually("it is found", || async { put(&http, "streams/gone", small.clone()).await.1["state"] == "ready" }).await;
    sqlx::query("UPDATE streams SET made = false").execute(&pool).await.unwrap();
    assert_eq!(delete(&http, "streams/gone").await.1["state"], "deleted");
    assert!(owner.get_stream("ws-acme-prod-gone").await.is_err());

    // Somebody else's of this name is reported and stays.
    let theirs = jetstream::stream::Config {
        name: "ws-acme-prod-theirs".to_owned(),
        subjects: vec!["elsewhere".to_owned()],
        max_bytes: 1024,
        ..jetstream::stream::Config::default()
    };
    owner.create_stream(theirs).await.unwrap();
    let path = "/api/v1/orgs/acme/envs/prod/streams/theirs";
    assert_eq!(http.send(Method::PUT, path, Some(small.clone())).await.0, 201);
    eventually("the server's words", || async {
        http.get(path).await.1["error"].as_str().is_some_and(|words| words.contains("already in use"))
    })
    .await;
    assert_eq!(delete(&http, "streams/theirs").await.1["state"], "deleted");
    owner.get_stream("ws-acme-prod-theirs").await.unwrap();

    let env = "/api/v1/orgs/acme/envs/prod";
    assert_eq!(http.send_and_wait(Method::DELETE, env, None).await.1["state"], "deleted");
    let names: Vec<_> = owner.stream_names().map(Result::unwrap).collect().await;
    assert_eq!(names, ["ws-acme-prod-theirs"]);
    assert_eq!(http.send_and_wait(Method::PUT, env, None).await.1["state"], "ready");
    assert_eq!(http.get(&format!("{env}/streams")).await.1["items"], json!([]));

    let long = "x".repeat(300);
    for (name, body, code, pointer) in [
        ("events", json!({"maxBytes": "1MiB"}), "reserved-name", "name"),
        ("a.b", json!({"maxBytes": "1MiB"}), "invalid-name", "name"),
        ("x", json!({}), "invalid-body", ""),
        ("x", json!({"maxBytes": "12"}), "invalid-size", "/maxBytes"),
        ("x", json!({"maxBytes": "1MiB", "maxAge": "soon"}), "invalid-duration", "/maxAge"),
        ("x", json!({"maxBytes": "1MiB", "subjects": ["a"]}), "unknown-field", "/subjects"),
        ("x", json!({"maxBytes": "1MiB", "filterSubjects": ["ws.acme-dev.>"]}), "invalid-filter", "/filterSubjects/0"),
        ("x", json!({"maxBytes": "1MiB", "filterSubjects": [long]}), "invalid-filter", "/filterSubjects/0"),
        ("x", json!({"maxBytes": "1MiB", "maxMessagesPerSubject": 0}), "invalid-count", "/maxMessagesPerSubject"),
    ] {
        let (status, problem) = http.send(Method::PUT, &format!("{env}/streams/{name}"), Some(body)).await;
        let at = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert_eq!((status, problem["code"].as_str(), at), (422, Some(code), pointer), "{problem}");
    }
    let (status, problem) = put(&http, "consumers/x", json!({"stream": "none"})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("no-stream")), "{problem}");
}

/// Somebody who may do everything in the account, as nobody may who was issued a credential here.
async fn owner(stack: &Stack) -> Context {
    let account = stack.authority.organization(&"acme".parse().unwrap()).await.unwrap().account_id.parse().unwrap();
    let user = stack.authority.item_provisioner(&"acme".parse().unwrap(), account, vec![">".to_owned()]).await.unwrap();
    let inbox = format!("_INBOX.{}", user.key.public());
    let key = std::sync::Arc::new(user.key);
    let options = async_nats::ConnectOptions::with_jwt(user.jwt, move |nonce| {
        let key = std::sync::Arc::clone(&key);
        async move { Ok(key.sign(&nonce).to_vec()) }
    });
    let client = options.custom_inbox_prefix(inbox).connect(&stack.cluster.urls()[0]).await.unwrap();
    let mut context = jetstream::new(client);
    context.set_timeout(Duration::from_secs(5));
    context
}
