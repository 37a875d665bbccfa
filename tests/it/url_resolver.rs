//! A server that asks for accounts by URL instead of storing them.

use nats_authority::{
    authority::requests::Reason,
    dev::nats::{Cluster, ClusterSpec, ResolverKind, Stop},
};
use serde_json::json;

use crate::support::{
    self,
    deployment::connect,
    stack::{Stack, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_by_url_lets_in_whom_the_ledger_lets_in() {
    let stack = Stack::start(1).await;
    let http = stack.serve().await;
    let dir = support::temp_dir();
    let mut spec = ClusterSpec::new(dir.path(), "edge", stack.trust.clone());
    spec.nodes = 1;
    spec.resolver = ResolverKind::Url(format!("{}/jwt/v1/accounts/", http.url));
    // It refuses to start when nobody answers there.
    let mut edge = Cluster::start(spec).await.unwrap();
    let url = edge.urls().remove(0);

    // Onboarded after it started: it asks when the first user comes.
    http.onboard("acme", &["prod"]).await;
    let issued = http.issue("acme", "prod", json!({"name": "v", "role": "viewer"})).await;
    let client = connect(&url, &issued).await.unwrap();
    client.subscribe("ws.acme-prod.>").await.unwrap();
    client.flush().await.unwrap();
    let revoked = http.issue("acme", "prod", json!({"name": "r", "role": "viewer"})).await;

    // Suspended before the server has asked for it.
    http.onboard("globex", &["prod"]).await;
    let late = http.issue("globex", "prod", json!({"name": "v", "role": "viewer"})).await;
    stack.authority.suspend(&stack.actor, &"globex".parse().unwrap(), Reason::default()).await.unwrap();
    assert!(connect(&url, &late).await.is_err(), "suspended");

    // Once a server has loaded an account it does not ask again, and nobody pushes to one that stands alone: what is
    // suspended or revoked afterwards it learns when it restarts.
    let id = revoked["credential"]["id"].as_str().unwrap().parse().unwrap();
    stack.authority.revoke(&stack.actor, id, Reason::default()).await.unwrap();
    restart(&mut edge).await;
    // While the server asks for the account that this one imports from, it does not know of the revocation:
    // whoever comes in that moment is let in and closed when the account is complete.
    eventually("revoked", || async { connect(&url, &revoked).await.is_err() }).await;
    connect(&url, &issued).await.unwrap();
    stack.authority.suspend(&stack.actor, &"acme".parse().unwrap(), Reason::default()).await.unwrap();
    restart(&mut edge).await;
    assert!(connect(&url, &issued).await.is_err(), "suspended");
    stack.authority.resume(&stack.actor, &"acme".parse().unwrap(), Reason::default()).await.unwrap();
    restart(&mut edge).await;
    connect(&url, &issued).await.unwrap();
}

async fn restart(cluster: &mut Cluster) {
    cluster.stop_server(0, Stop::Graceful).await.unwrap();
    cluster.start_server(0).await.unwrap();
}
