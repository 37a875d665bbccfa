//! With what tokens of issuers may be signed: each algorithm that the configuration can name is taken from an issuer for
//! which it is named, and is refused like every other attack where it is not.

use std::collections::BTreeMap;

use nats_authority::clock::{Clock, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    self,
    issuer::{Idp, SigningKey},
    lone::Lone,
    stack::eventually,
};

/// Every one that can be named; those that are taken when none is named.
const ALL: [&str; 9] = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];
const USUAL: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// What an answer shows, apart from what differs from request to request.
async fn shape(service: &Lone, token: &str) -> (u16, BTreeMap<String, String>, Value) {
    let answer = service.request(Method::GET, "/api/v1/orgs", token).send().await.unwrap();
    let status = answer.status().as_u16();
    let headers = answer.headers().iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    let mut body: Value = answer.json().await.unwrap();
    body.as_object_mut().unwrap().remove("requestId");
    (status, headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_algorithm_is_taken_where_it_is_named_and_nowhere_else() {
    let keys: Vec<_> = ALL.iter().map(|algorithm| SigningKey::of(algorithm, algorithm)).collect();
    let shown: Vec<_> = keys.iter().collect();
    let [all, usual] = [Idp::start(&shown), Idp::start(&shown)];
    let alone: Vec<_> = ALL.iter().map(|_| Idp::start(&shown)).collect();
    let issuer = |name: &str, idp: &Idp, algorithms: Option<&[&str]>| {
        let list = algorithms.map(|list| format!("algorithms = {list:?}\n")).unwrap_or_default();
        format!(
            "[[access.issuers]]\nname = '{name}'\nurl = '{}'\naudiences = ['us']\n{list}\
             [[access.issuers.grants]]\nclaim = '/groups'\nvalue = 'admins'\nrole = 'sovereign-admin'\n",
            idp.url
        )
    };
    let mut config = issuer("all", &all, Some(&ALL)) + &issuer("usual", &usual, None);
    for (algorithm, idp) in ALL.iter().zip(&alone) {
        config += &issuer(&algorithm.to_lowercase(), idp, Some(&[*algorithm]));
    }
    let service = Lone::start(support::temp_dir(), &config).await;
    let groups = json!({"groups": ["admins"]});
    let taken =
        async |idp: &Idp, key: &SigningKey| service.get("/api/v1/orgs", &key.sign(&idp.claims(&groups))).await.0 == 200;
    eventually("the keys are there", || async {
        let mut there = taken(&all, &keys[0]).await && taken(&usual, &keys[0]).await;
        for (key, idp) in keys.iter().zip(&alone) {
            there = there && taken(idp, key).await;
        }
        there
    })
    .await;

    let expired = keys[0].sign(&all.claims(&json!({"groups": ["admins"], "exp": SystemClock.unix() - 60})));
    let refused = shape(&service, &expired).await;
    assert_eq!((refused.0, &refused.2["code"]), (401, &json!("unauthenticated")));
    for key in &keys {
        let algorithm = key.algorithm();
        assert!(taken(&all, key).await, "{algorithm}");
        let mut issuers = vec![(&usual, USUAL.contains(&algorithm))];
        issuers.extend(alone.iter().zip(ALL).map(|(idp, only)| (idp, only == algorithm)));
        for (idp, named) in issuers {
            let shown = key.sign(&idp.claims(&groups));
            if named {
                assert!(taken(idp, key).await, "{algorithm}");
            } else {
                assert_eq!(shape(&service, &shown).await, refused, "{algorithm} at {}", idp.url);
            }
        }
        // A key is for the algorithm that its issuer says, whatever the token does.
        let text = all.claims(&groups).to_string();
        for other in
            ALL.iter().chain(&["ES512", "ES256K", "HS256", "HS512", "none"]).filter(|other| **other != algorithm)
        {
            let header = json!({"alg": other, "kid": key.kid, "typ": "JWT"}).to_string();
            assert_eq!(shape(&service, &key.sign_text(&header, &text)).await, refused, "{algorithm} as {other}");
        }
    }
}
