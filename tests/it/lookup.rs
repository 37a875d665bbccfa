//! Servers that miss an account are answered by one of the replicas, whatever else is asked.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures::StreamExt;
use nats_authority::{
    dev::nats::ResolverKind,
    entropy::SystemEntropy,
    nkey::{Account, KeyPair, PublicKey},
};
use serde_json::{Value, json};

use crate::{
    support::stack::{Stack, arrived, eventually},
    topologies::{account, layout, system_client},
};

/// How many replicas listen to servers that look for accounts.
async fn listening(stack: &Stack, client: &Client) -> usize {
    let subject = "$SYS.REQ.ACCOUNT.*.CLAIMS.LOOKUP";
    let question = json!({"subscriptions": true, "account": stack.authority.operator().system_account});
    let answer = client.request("$SYS.REQ.SERVER.PING.SUBSZ", question.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    let list = answer["data"]["subscriptions_list"].as_array().unwrap();
    list.iter().filter(|one| one["subject"] == subject && one["qgroup"] == "nats-authority").count()
}

/// Makes the server load an account; how many JWTs came when it asked for it.
async fn load(client: &Client, spy: &mut Subscriber, account: PublicKey<Account>) -> usize {
    let subject = format!("$SYS.REQ.ACCOUNT.{account}.CONNZ");
    let answer = client.request(subject, "".into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["data"].is_object(), "it was loaded: {answer}");
    let (mut count, token) = (0, account.to_string());
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), spy.next()).await {
        let text = std::str::from_utf8(&message.payload).unwrap_or_default();
        let claims = nats_authority::jwt::envelope::read_unverified(text);
        count += usize::from(claims.is_ok_and(|token_| token_.claims["sub"] == token));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_answers_once_and_unknown_accounts_hold_up_nobody() {
    // It stores nothing and has nobody else to ask.
    let stack = layout(|spec, _| (spec.nodes, spec.resolver) = (1, ResolverKind::Cache)).await;
    let (_second, stop) = stack.replica().await;
    let client = system_client(&stack).await;
    eventually("both listen", || async { listening(&stack, &client).await == 2 }).await;
    let mut accounts = Vec::new();
    for slug in ["one", "two", "three"] {
        stack.onboard(slug, &[]).await;
        accounts.push(account(&stack, slug).await);
    }
    let mut spy = client.subscribe("$SYS._INBOX.>").await.unwrap();
    arrived(&client, "nobody").await;
    assert_eq!(load(&client, &mut spy, accounts[0]).await, 1, "one answer from two replicas");

    // One replica leaves.
    stop.cancel();
    eventually("one listens", || async { listening(&stack, &client).await == 1 }).await;
    assert_eq!(load(&client, &mut spy, accounts[1]).await, 1);

    // Many ask for what nobody knows, under the names of servers: none of these is answered, the one in between is.
    drop(spy);
    let mut spy = client.subscribe("$SYS._INBOX.>").await.unwrap();
    for number in 0..5000 {
        let unknown = KeyPair::<Account>::generate(&SystemEntropy::new()).public();
        let (subject, inbox) = (format!("$SYS.REQ.ACCOUNT.{unknown}.CLAIMS.LOOKUP"), format!("$SYS._INBOX.x.{number}"));
        client.publish_with_reply(subject, inbox, "".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    assert_eq!(load(&client, &mut spy, accounts[2]).await, 1);
}
