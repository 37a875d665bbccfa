//! Callers whom issuers vouch for, against the real service: what their claims make them, and that they stay
//! callers while keys rotate and issuers are down.

use std::{fs, process::Command, sync::Arc};

use axum::{body::Body, http::Request};
use chrono::Duration;
use nats_authority::{
    api::{self, ApiState},
    clock::Clock,
    identity::{Issuers, settings},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    ledger::ledger,
    support::{
        self,
        deployment::PROGRAM,
        issuer::{Idp, SigningKey, claims},
        lone::{Lone, answer},
        stack::eventually,
    },
};

const GRANTS: &str = "
    [[access.issuers.grants]]
    claim = '/groups'
    value = 'admins'
    role = 'sovereign-admin'
    [[access.issuers.grants]]
    claim = '/realm_access/roles'
    value = 'developer'
    role = 'org-developer'
    organizations_claim = '/orgs'
";

fn issuer(idp: &Idp) -> String {
    format!("[[access.issuers]]\nname = 'idp'\nurl = '{}'\naudiences = ['us', 'them']\n{GRANTS}", idp.url)
}

fn doctor(service: &Lone) -> String {
    let config = service.dir.path().join("operator/authority.toml");
    let output = Command::new(PROGRAM).args(["doctor", "--config"]).arg(config).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_of_an_issuer_through_rotation_and_outage() {
    let keys = [SigningKey::rsa("r1"), SigningKey::ec("e1"), SigningKey::ed("d1")];
    let idp = Idp::start(&keys.each_ref());
    let service = Lone::start(support::temp_dir(), &issuer(&idp)).await;
    let admin = |key: &SigningKey| key.sign(&idp.claims(&json!({"groups": ["admins", "others"]})));
    for key in &keys {
        let token = admin(key);
        eventually(key.algorithm(), || async { service.get("/api/v1/orgs", &token).await.0 == 200 }).await;
    }

    // The audit log knows who it was, who vouches for it, and where it came from.
    let body = json!({"name": "ci", "role": "security-officer"});
    let request = service.request(Method::POST, "/api/v1/tokens", &admin(&keys[1])).json(&body);
    let (status, made) = answer(request).await;
    assert_eq!((status, &made["token"]["createdBy"]), (201, &json!(format!("anna@{}", idp.url))));
    let (_, events) = service.get("/api/v1/audit?action=token.create", &service.admin).await;
    let event = &events["items"][0];
    assert_eq!(
        (&event["actor"], &event["issuer"], &event["address"]),
        (&json!("anna"), &json!(idp.url), &json!("127.0.0.1")),
        "{event}"
    );
    assert_eq!(event["detail"]["access"]["policies"], json!(["sovereign-admin-does-everything"]));

    // Believed is not permitted: a role in one organization, none at all.
    let developer = idp.claims(&json!({"realm_access": {"roles": ["developer"]}, "orgs": ["acme"], "sub": "dev"}));
    let developer = keys[2].sign(&developer);
    for (path, status) in [("/api/v1/orgs/acme", 404), ("/api/v1/orgs/globex", 403), ("/api/v1/tokens", 403)] {
        assert_eq!(service.get(path, &developer).await.0, status, "{path}");
    }
    let nobody = keys[2].sign(&idp.claims(&json!({"groups": ["admin"], "aud": ["them", "more"]})));
    assert_eq!(service.get("/api/v1/plans", &nobody).await.0, 200);
    let (status, refused) = service.get("/api/v1/tokens", &nobody).await;
    assert_eq!((status, &refused["code"]), (403, &json!("forbidden")));

    // New keys are found when somebody comes with one; those that are gone open nothing any more.
    let new = SigningKey::ec("e2");
    idp.rotate(&[&new, &keys[2]]);
    // The first request waits for them, for a second.
    let token = admin(&new);
    eventually("new keys are found", || async { service.get("/api/v1/orgs", &token).await.0 == 200 }).await;
    assert_eq!(service.get("/api/v1/orgs", &admin(&keys[2])).await.0, 200);
    assert_eq!(service.get("/api/v1/orgs", &admin(&keys[0])).await.0, 401);

    // Who sets it up sees that it answers, and later that it does not.
    assert!(doctor(&service).contains("issuer idp: 2 keys"), "{}", doctor(&service));

    // Its callers do not notice that it is down.
    idp.go_down();
    eventually("the issuer is down", || async { reqwest::get(&idp.url).await.is_err() }).await;
    assert!(doctor(&service).contains("FAILED  issuer idp"), "{}", doctor(&service));
    for _ in 0..20 {
        assert_eq!(service.get("/api/v1/orgs", &admin(&new)).await.0, 200);
    }
    let metric = async |series: &str| service.metric(series).await;
    let fetched = metric("nats_authority_issuer_key_fetches_total{issuer=\"idp\",result=\"fetched\"}").await;
    assert!(fetched >= Some(2.0), "{fetched:?}");
    let at = metric("nats_authority_issuer_keys_timestamp_seconds{issuer=\"idp\"}").await.unwrap();
    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    let now = nats_authority::clock::SystemClock.unix() as f64;
    assert!((now - 120.0..=now).contains(&at), "{at}");
    assert!(metric("nats_authority_callers_refused_total{reason=\"key\"}").await >= Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_come_with_their_service_account() {
    let key = SigningKey::rsa("OAjVVaejWFc0Yt9ykr0");
    let dir = support::temp_dir();
    let ca = dir.path().join("ca.crt");
    let reviewer = "eyJ.of-our-own-service-account.x";
    fs::write(dir.path().join("token"), format!("{reviewer}\n")).unwrap();
    let cluster = Idp::kubernetes(&[&key], reviewer, &ca).await;
    let issuer = "https://kubernetes.default.svc.cluster.local";
    let config = format!(
        "[[access.issuers]]\nname = 'cluster'\nurl = '{issuer}'\naudiences = ['us']\n\
         jwks_url = '{}/openid/v1/jwks'\nca_file = '../ca.crt'\ntoken_file = '../token'\nalgorithms = ['RS256']\n\
         [[access.issuers.grants]]\nclaim = '/kubernetes.io/namespace'\nvalue = 'org-{{org}}'\nrole = 'org-admin'\n\
         [[access.issuers.grants]]\nclaim = '/sub'\nvalue = 'system:serviceaccount:platform:onboarding'\n\
         role = 'sovereign-admin'\n",
        cluster.url
    );
    let service = Lone::start(dir, &config).await;
    let pod = |namespace: &str, account: &str| {
        key.sign(&claims(
            issuer,
            &json!({
                "aud": ["us"],
                "sub": format!("system:serviceaccount:{namespace}:{account}"),
                "kubernetes.io": {
                    "namespace": namespace,
                    "pod": {"name": "api-7d9", "uid": "5d3ff6e6-0b1a-4a5e-9a43-8d8d53f0a1ce"},
                    "serviceaccount": {"name": account, "uid": "9a8b1c0e-6a0d-41ce-8ad1-3a5b6c7d8e9f"},
                    "warnafter": 1_900_000_000,
                },
            }),
        ))
    };
    let platform = pod("platform", "onboarding");
    eventually("the cluster's keys are there", || async { service.get("/api/v1/orgs", &platform).await.0 == 200 })
        .await;
    let own = pod("org-acme", "api");
    // There is no such organization yet, which its admin may know; of others it learns nothing.
    assert_eq!(service.get("/api/v1/orgs/acme", &own).await.0, 404);
    assert_eq!(service.get("/api/v1/orgs/globex", &own).await.0, 403);
    assert_eq!(service.get("/api/v1/tokens", &pod("platform", "other")).await.0, 403);
    // A token that the pod has for the API server is not for us.
    let theirs = key.sign(&claims(issuer, &json!({"aud": [issuer], "kubernetes.io": {"namespace": "org-acme"}})));
    assert_eq!(service.get("/api/v1/orgs/acme", &theirs).await.0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_not_confirmed_for_too_long_open_nothing() {
    let key = SigningKey::ed("k");
    let idp = Idp::start(&[&key]);
    let ledger = ledger().await;
    let text = format!("{}\nkeep_keys = '2h'", issuer(&idp).split_once("    [[").unwrap().0);
    let raw: Value = serde_json::to_value(toml::from_str::<toml::Value>(&text).unwrap()).unwrap();
    let raw: settings::RawIssuer = serde_json::from_value(raw["access"]["issuers"][0].clone()).unwrap();
    let checked = settings::check(vec![raw], std::path::Path::new("")).unwrap();
    let clock: Arc<dyn Clock> = ledger.clock.clone();
    let issuers = Arc::new(Issuers::new(checked, clock));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&issuers).run(stop.clone()));
    let router = api::router(ApiState::new(ledger.authority.clone()).believing(issuers));
    let far = ledger.clock.now() + Duration::days(1);
    let early = json!({"exp": far.timestamp(), "iat": null, "nbf": null});
    let token = key.sign(&idp.claims(&early));
    let status = async || {
        let request = Request::get("/api/v1/plans").header("authorization", format!("Bearer {token}"));
        router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    };
    eventually("the keys are there", || async { status().await == 200 }).await;
    idp.go_down();
    eventually("the issuer is down", || async { reqwest::get(&idp.url).await.is_err() }).await;
    ledger.clock.advance(2 * 3600 - 1);
    assert_eq!(status().await, 200);
    ledger.clock.advance(1);
    assert_eq!(status().await, 401);
    stop.cancel();
    running.await.unwrap();
}
