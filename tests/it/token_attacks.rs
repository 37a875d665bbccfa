//! Tokens of issuers that are forged, foreign, over or malformed, against the real service: all get one answer,
//! and how long it takes does not show why.

#![expect(clippy::print_stdout, reason = "shows the times that were measured")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use aws_lc_rs::hmac;
use nats_authority::clock::{Clock, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    self,
    issuer::{Idp, Mood, SigningKey, claims, encode},
    lone::Lone,
    stack::eventually,
};

/// How often each attack is tried, all in turn, so that what else the machine does meets them alike.
const ROUNDS: usize = 11;

/// An issuer's settings, whose callers with the group `admins` are everything.
fn settings(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[access.issuers]]\nname = '{name}'\nurl = '{url}'\naudiences = ['us']\n{more}\n\
         [[access.issuers.grants]]\nclaim = '/groups'\nvalue = 'admins'\nrole = 'sovereign-admin'\n"
    )
}

fn hs256(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

/// Every attack by its name. `key` is the issuer's `rsa`, `evil` another one.
fn attacks(idp: &Idp, others: &[(&str, &Idp)], key: &SigningKey, evil: &SigningKey) -> BTreeMap<String, String> {
    let now = SystemClock.unix();
    let good = idp.claims(&json!({"groups": ["admins"]}));
    let with = |more: Value| {
        let mut all = json!({"groups": ["admins"]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key.sign(&idp.claims(&all))
    };
    let head = |more: Value| {
        let mut header = json!({"alg": "RS256", "kid": "rsa", "typ": "JWT"});
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        header.to_string()
    };
    let text = good.to_string();
    let unsigned = |header: &str| format!("{}.{}.", encode(header), encode(&text));
    let jwk = key.jwk().to_string();
    let own = json!({"jwk": evil.jwk()});
    let twice = text.replacen('{', r#"{"groups":["nobody"],"#, 1);
    let mut attacks: BTreeMap<String, String> = [
        ("alg none", unsigned(&head(json!({"alg": "none"})))),
        ("alg NoNe", unsigned(&head(json!({"alg": "NoNe"})))),
        ("no alg", unsigned(r#"{"kid":"rsa"}"#)),
        ("HS256 with the public key", hs256(&head(json!({"alg": "HS256"})), &text, &key.public_bytes())),
        ("HS256 with the public key's text", hs256(&head(json!({"alg": "HS256"})), &text, jwk.as_bytes())),
        ("RS256 by somebody else", evil.sign_text(&head(json!({})), &text)),
        ("foreign issuer", evil.sign(&claims("https://evil.example", &json!({"groups": ["admins"]})))),
        ("no issuer", with(json!({"iss": null}))),
        ("wrong audience", with(json!({"aud": "them"}))),
        ("no audience", with(json!({"aud": null}))),
        ("expired", with(json!({"exp": now - 60}))),
        ("no end", with(json!({"exp": null}))),
        ("not yet valid", with(json!({"nbf": now + 120}))),
        ("made in the future", with(json!({"iat": now + 120}))),
        ("no subject", with(json!({"sub": null}))),
        ("unknown kid", evil.sign_text(&head(json!({"kid": "new"})), &text)),
        ("no kid", key.sign_text(r#"{"alg":"RS256"}"#, &text)),
        ("kid with a path", evil.sign_text(&head(json!({"kid": "../../../../dev/null"})), &text)),
        ("kid with SQL", evil.sign_text(&head(json!({"kid": "x' UNION SELECT 'k' --"})), &text)),
        ("kid with a line", evil.sign_text(&head(json!({"kid": "rsa\r\nx: y"})), &text)),
        ("jku", evil.sign_text(&head(json!({"jku": format!("{}/keys", idp.url)})), &text)),
        ("x5u", evil.sign_text(&head(json!({"x5u": format!("{}/keys", idp.url)})), &text)),
        ("jwk", evil.sign_text(&head(own.clone()), &text)),
        ("jwk without kid", evil.sign_text(&head(json!({"jwk": own["jwk"], "kid": null})), &text)),
        ("jku, well signed", key.sign_text(&head(json!({"jku": "https://evil.example/keys"})), &text)),
        ("crit", key.sign_text(&head(json!({"crit": ["b64"], "b64": false})), &text)),
        ("oversized", with(json!({"more": "x".repeat(12_000)}))),
        ("duplicate claims", key.sign_text(&head(json!({})), &twice)),
        ("duplicate headers", key.sign_text(&head(json!({})).replacen('{', r#"{"alg":"none","#, 1), &text)),
        ("no signature", unsigned(&head(json!({})))),
        ("two parts", format!("{}.{}", encode(head(json!({}))), encode(&text))),
        ("no JSON", key.sign_text("x", "y")),
        ("points", "...".to_owned()),
        ("no token of ours", format!("nauth_{}", "A".repeat(43))),
    ]
    .map(|(name, token)| (name.to_owned(), token))
    .into();
    // Signed well, by issuers whose keys cannot be had.
    let others = others
        .iter()
        .map(|(name, other)| ((*name).to_owned(), key.sign(&other.claims(&json!({"groups": ["admins"]})))));
    attacks.extend(others);
    attacks
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_gets_the_same_answer_in_the_same_time() {
    let (key, evil) = (SigningKey::rsa("rsa"), SigningKey::rsa("rsa"));
    let idp = Idp::start(&[&key, &SigningKey::ed("ed")]);
    let others = [
        ("issuer that hangs", Idp::start(&[&key]).mood(Mood::Hanging)),
        ("10 MB of keys", Idp::start(&[&key]).mood(Mood::Huge { told: true })),
        ("10 MB of keys, not told", Idp::start(&[&key]).mood(Mood::Huge { told: false })),
        ("issuer that redirects", Idp::start(&[&key]).mood(Mood::Redirecting)),
        ("discovery of another", Idp::start(&[&key]).mood(Mood::Foreign)),
    ];
    let mut config = settings("idp", &idp.url, "");
    for (number, (_, other)) in others.iter().enumerate() {
        config += &settings(&format!("other-{number}"), &other.url, "");
    }
    let service = Lone::start(support::temp_dir(), &config).await;
    let good = key.sign(&idp.claims(&json!({"groups": ["admins"]})));
    eventually("the issuer's keys are there", || async { service.get("/api/v1/orgs", &good).await.0 == 200 }).await;
    eventually("those that answer wrongly were asked", || async {
        others[1..4].iter().all(|(_, other)| other.fetched() > 0)
    })
    .await;

    let began = Instant::now();
    let others: Vec<_> = others.iter().map(|(name, other)| (*name, other)).collect();
    let attacks = attacks(&idp, &others, &key, &evil);
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut shape: Option<(u16, BTreeMap<String, String>, Value)> = None;
    for _ in 0..ROUNDS {
        for (name, token) in &attacks {
            let began = Instant::now();
            let answer = service.request(Method::GET, "/api/v1/orgs", token).send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            let mut body: Value = answer.json().await.unwrap();
            times.entry(name).or_default().push(began.elapsed());
            let id = body.as_object_mut().unwrap().remove("requestId").unwrap();
            assert_eq!(headers["x-request-id"].to_str().unwrap(), id, "{name}");
            let headers = headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&name.as_str()));
            let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
            let this = (status, headers.collect(), body);
            assert_eq!(shape.get_or_insert_with(|| this.clone()), &this, "{name}");
        }
    }
    let (status, headers, body) = shape.unwrap();
    assert_eq!((status, &body["code"]), (401, &json!("unauthenticated")));
    assert_eq!(headers["www-authenticate"], r#"Bearer realm="nats-authority", error="invalid_token""#);

    for (name, times) in &mut times {
        times.sort_unstable();
        // None is answered before its time.
        assert!(times[0] >= Duration::from_millis(10), "{name}: {:?}", times[0]);
    }
    let bounds = |nth: usize| {
        let times = times.values().map(|times| times[nth]);
        (times.clone().min().unwrap(), times.max().unwrap())
    };
    // What the machine does beside makes some of them late, the shortest the least.
    let ((least, most), (low, high)) = (bounds(ROUNDS / 2), bounds(0));
    println!("{} attacks: medians {least:?} to {most:?}, shortest {low:?} to {high:?}", times.len());
    assert!(high < low * 3 / 2 + Duration::from_millis(10), "{times:#?}");
    assert!(most < least * 3 + Duration::from_millis(50), "{times:#?}");

    // The right one still works, and of all those unknown keys the issuer has seen little.
    assert_eq!(service.get("/api/v1/orgs", &good).await.0, 200);
    let most = 3 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!(idp.fetched() <= most, "{} fetches, not {most}", idp.fetched());
    let log = service.log();
    assert!(log.contains("answers with more than 262144 bytes") && log.contains("is of another issuer"), "{log}");
    for token in attacks.values() {
        let secret = token.rsplit('.').next().unwrap();
        assert!(secret.len() < 40 || !log.contains(secret), "a token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_keys_cost_the_issuer_nothing() {
    let (key, evil) = (SigningKey::ed("k"), SigningKey::ed("k"));
    let idp = Idp::start(&[&key]);
    let service = Lone::start(support::temp_dir(), &settings("idp", &idp.url, "")).await;
    let good = key.sign(&idp.claims(&json!({"groups": ["admins"]})));
    eventually("the issuer's keys are there", || async { service.get("/api/v1/orgs", &good).await.0 == 200 }).await;
    let before = idp.fetched();
    let began = Instant::now();
    let text = idp.claims(&json!({})).to_string();
    let tries = (0..200).map(|number| {
        let token = evil.sign_text(&json!({"alg": "EdDSA", "kid": format!("k{number}")}).to_string(), &text);
        let request = service.request(Method::GET, "/api/v1/orgs", &token);
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let all = futures::future::join_all(tries).await;
    assert!(all.iter().all(|status| *status == 401), "{all:?}");
    // One at once, and one more for each ten seconds that it took.
    let most = 1 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    assert!(idp.fetched() - before <= most, "{} fetches for 200 tokens", idp.fetched() - before);
    assert_eq!(service.get("/api/v1/orgs", &good).await.0, 200);
}
