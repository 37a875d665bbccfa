//! Rules for operators and for generic claims.

use std::collections::BTreeSet;

use url::Url;

use super::{Problems, Rules};
use crate::{
    jwt::{Claims, Generic, Operator, generic::COMMON},
    nkey::{Account, AnyPublicKey, Kind, PublicKey},
};

impl Rules for Operator {
    fn examine(claims: &Claims<Self>, problems: &mut Problems) {
        let operator = &claims.nats;
        let signs = |key: &PublicKey<_>| key.any() == claims.issuer;
        if claims.issuer != claims.subject && !operator.signing_keys.iter().any(signs) {
            problems.add("/iss", "must be the operator's own key or one of its signing keys");
        }
        let mut seen = BTreeSet::new();
        for (index, key) in operator.signing_keys.iter().enumerate() {
            problems.add_unless(seen.insert(key), &format!("/nats/signing_keys/{index}"), "stands there twice");
        }
        if operator.strict_signing_key_usage && operator.signing_keys.is_empty() {
            problems.add("/nats/strict_signing_key_usage", "no account could be signed: there is no signing key");
        }
        if let Some(text) = &operator.account_server_url {
            let holds = Url::parse(text).is_ok();
            problems.add_unless(holds, "/nats/account_server_url", "not a URL with a scheme");
        }
        for (index, text) in operator.operator_service_urls.iter().enumerate() {
            if let Err(detail) = check_service_url(text) {
                problems.add(format!("/nats/operator_service_urls/{index}"), detail);
            }
        }
        if let Some(version) = &operator.assert_server_version {
            let detail = "not a version of the form major.minor.patch";
            problems.add_unless(is_version(version), "/nats/assert_server_version", detail);
        }
    }
}

fn check_service_url(text: &str) -> Result<(), &'static str> {
    let url = Url::parse(text).map_err(|_| "not a URL")?;
    if !["nats", "tls", "ws", "wss"].contains(&url.scheme()) {
        return Err("the scheme must be nats, tls, ws or wss");
    }
    if !url.has_host() {
        return Err("the host is missing");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password");
    }
    // A WebSocket URL without a path gets one when it is parsed.
    if !matches!(url.path(), "" | "/") || text.ends_with('/') {
        return Err("must not have a path");
    }
    Ok(())
}

fn is_version(text: &str) -> bool {
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u32>().is_ok();
    text.split('.').count() == 3 && text.split('.').all(number)
}

impl Rules for Generic {
    fn examine(claims: &Claims<Self>, problems: &mut Problems) {
        let data = &claims.nats.data;
        for name in COMMON {
            // They would stand in the JSON twice.
            problems.add_unless(
                !data.contains_key(name),
                &format!("/nats/{name}"),
                "belongs beside the data, not into it",
            );
        }
        let Some(accounts) = data.get("accounts") else { return };
        let keys = |list: &Vec<serde_json::Value>| {
            list.iter().all(|key| key.as_str().is_some_and(|key| key.parse::<PublicKey<Account>>().is_ok()))
        };
        let holds = accounts.as_array().is_some_and(keys);
        problems.add_unless(holds, "/nats/accounts", "must be a list of account keys");
        check_delete(claims.issuer, claims.subject, problems);
    }
}

/// Resolvers take a request to delete accounts only about the operator key that signed it.
fn check_delete(issuer: AnyPublicKey, subject: AnyPublicKey, problems: &mut Problems) {
    let detail = "a request to delete accounts needs an operator key that is both issuer and subject";
    problems.add_unless(issuer == subject && issuer.kind() == Kind::Operator, "/sub", detail);
}
