//! Consumers on real servers: the authority makes them, a strict role reads from them and cannot make
//! any itself.

use std::time::Duration;

use async_nats::jetstream::{
    self, Context, Message,
    consumer::{PullConsumer, pull},
};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    http::Http,
    stack::{Stack, eventually},
};

const PROD: &str = "ws-acme-prod-events";
const DEV: &str = "ws-acme-dev-events";

async fn context(stack: &Stack, env: &str, role: &str) -> Context {
    let issued = stack.issue("acme", env, role).await;
    let mut context = jetstream::new(stack.connect(&issued, 1).await.unwrap());
    // What is refused is never answered.
    context.set_timeout(Duration::from_secs(2));
    context
}

async fn put(http: &Http, env: &str, name: &str, body: Value) -> (u16, Value) {
    http.send_and_wait(Method::PUT, &format!("/api/v1/orgs/acme/envs/{env}/consumers/{name}"), Some(body)).await
}

async fn fetch(consumer: &PullConsumer) -> Vec<Message> {
    let batch = consumer.fetch().max_messages(10).expires(Duration::from_secs(1)).messages().await.unwrap();
    batch.map(|message| message.unwrap()).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_role_pulls_from_what_the_authority_made() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod", "dev"]).await;
    let orders = json!({"filterSubjects": ["ws.acme-prod.orders.>"], "maxDeliver": 5, "ackWait": "20s"});
    let (status, view) = put(&http, "prod", "orders", orders.clone()).await;
    assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");
    let (status, view) = put(&http, "dev", "theirs", json!({})).await;
    assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");
    let two = json!({"filterSubjects": ["ws.acme-prod.a", "ws.acme-prod.b.*"], "deliverPolicy": "new"});
    let (status, view) = put(&http, "prod", "two", two).await;
    assert_eq!((status, &view["state"]), (201, &json!("ready")), "{view}");

    let publisher = context(&stack, "prod", "publisher").await;
    for subject in ["orders.1", "other", "b.1"] {
        publisher.publish(format!("ws.acme-prod.{subject}"), "x".into()).await.unwrap().await.unwrap();
    }
    let client = context(&stack, "prod", "consumer").await;
    for (name, subject) in [("orders", "ws.acme-prod.orders.1"), ("two", "ws.acme-prod.b.1")] {
        let mut consumer: PullConsumer = client.get_consumer_from_stream(name, PROD).await.unwrap();
        assert_eq!(consumer.cached_info().config.deliver_subject, None);
        let got = fetch(&consumer).await;
        assert_eq!(got.iter().map(|message| message.subject.as_str()).collect::<Vec<_>>(), [subject]);
        got[0].double_ack().await.unwrap();
        let info = consumer.info().await.unwrap();
        assert_eq!((info.num_ack_pending, info.num_pending, info.ack_floor.consumer_sequence), (0, 0, 1));
    }
    let info = client.get_consumer_from_stream::<pull::Config, _, _>("orders", PROD).await.unwrap();
    let config = &info.cached_info().config;
    assert_eq!((config.max_deliver, config.ack_wait, config.max_ack_pending), (5, Duration::from_secs(20), 1000));

    // The role makes none, and does not reach the sibling's.
    let own = pull::Config { durable_name: Some("own".to_owned()), ..pull::Config::default() };
    assert!(client.create_consumer_on_stream(own, PROD).await.is_err());
    assert!(client.delete_consumer_from_stream("orders", PROD).await.is_err());
    assert!(client.get_consumer_from_stream::<pull::Config, _, _>("theirs", DEV).await.is_err());
    let dev_publisher = context(&stack, "dev", "publisher").await;
    dev_publisher.publish("ws.acme-dev.a", "x".into()).await.unwrap().await.unwrap();
    let plain = client.client();
    let next = plain.request(format!("$JS.API.CONSUMER.MSG.NEXT.{DEV}.theirs"), "1".into());
    assert!(tokio::time::timeout(Duration::from_secs(2), next).await.map_or(true, |answer| answer.is_err()));
    let sibling = context(&stack, "dev", "consumer").await;
    let theirs: PullConsumer = sibling.get_consumer_from_stream("theirs", DEV).await.unwrap();
    assert_eq!((theirs.cached_info().num_waiting, theirs.cached_info().delivered.consumer_sequence), (0, 0));
    assert_eq!(fetch(&theirs).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_are_made_again_reported_and_removed() {
    let stack = Stack::start(3).await;
    let http = stack.serve().await;
    http.onboard("acme", &["prod", "dev"]).await;
    let path = "/api/v1/orgs/acme/envs/prod/consumers/orders";
    let body = json!({"filterSubjects": ["ws.acme-prod.orders.>"], "maxDeliver": 5});
    assert_eq!(put(&http, "prod", "orders", body.clone()).await.1["state"], "ready");

    // It was made, but the process ended before it could say so.
    let pool = sqlx::PgPool::connect(stack.database.url()).await.unwrap();
    sqlx::query("UPDATE consumers SET state = 'pending', due_at = now()").execute(&pool).await.unwrap();
    assert_eq!(put(&http, "prod", "orders", body).await.1["state"], "ready");

    // Somebody else has made one of this name: it stays as it is, and the server's words are there.
    let admin = context(&stack, "prod", "env-admin").await;
    let own = pull::Config { durable_name: Some("own".to_owned()), max_deliver: 3, ..pull::Config::default() };
    admin.create_consumer_on_stream(own, PROD).await.unwrap();
    let own = "/api/v1/orgs/acme/envs/prod/consumers/own";
    assert_eq!(http.send(Method::PUT, own, None).await.0, 201);
    eventually("the server's words", || async {
        http.get(own).await.1["error"].as_str().is_some_and(|words| words.contains("consumer already exists"))
    })
    .await;
    assert_eq!(http.get(own).await.1["state"], "pending");
    let kept: PullConsumer = admin.get_consumer_from_stream("own", PROD).await.unwrap();
    assert_eq!(kept.cached_info().config.max_deliver, 3);
    // Nor does it go with what was asked for and never made.
    let (status, view) = http.send_and_wait(Method::DELETE, own, None).await;
    assert_eq!((status, &view["state"]), (202, &json!("deleted")), "{view}");
    admin.get_consumer_from_stream::<pull::Config, _, _>("own", PROD).await.unwrap();
    // What was made goes, also when the process ended before it could say so.
    let made = "/api/v1/orgs/acme/envs/prod/consumers/made";
    assert_eq!(put(&http, "prod", "made", json!({})).await.1["state"], "ready");
    sqlx::query("UPDATE consumers SET made = false WHERE name = 'made'").execute(&pool).await.unwrap();
    assert_eq!(http.send_and_wait(Method::DELETE, made, None).await.1["state"], "deleted");
    assert!(admin.get_consumer_from_stream::<pull::Config, _, _>("made", PROD).await.is_err());

    let (status, view) = http.send_and_wait(Method::DELETE, path, None).await;
    assert_eq!((status, &view["state"]), (202, &json!("deleted")), "{view}");
    assert!(admin.get_consumer_from_stream::<pull::Config, _, _>("orders", PROD).await.is_err());
    assert_eq!(http.get(path).await.0, 404);

    // With the environment they go, and its successor has none.
    assert_eq!(put(&http, "dev", "x", json!({})).await.1["state"], "ready");
    let dev = "/api/v1/orgs/acme/envs/dev";
    assert_eq!(http.send_and_wait(Method::DELETE, dev, None).await.1["state"], "deleted");
    assert_eq!(http.send_and_wait(Method::PUT, dev, None).await.1["state"], "ready");
    assert_eq!(http.get(&format!("{dev}/consumers")).await.1["items"], json!([]));
    let admin = context(&stack, "dev", "env-admin").await;
    assert!(admin.get_consumer_from_stream::<pull::Config, _, _>("x", DEV).await.is_err());
}
