//! What must hold for every token, not only for those that somebody thought of.

mod subjects;

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use nats_authority::{
    entropy::SeededEntropy,
    jwt::{
        self, Account, Claims, Common, JwtError, User,
        account::{ScopeTemplate, SigningKeys, UserScope},
        creds,
        inspect::{inspect, words},
        limits::{AccountLimits, JetStreamLimits, UserLimits},
        lint,
        permissions::{Permission, Permissions, ResponsePermission},
    },
    nkey::{self, AnyPublicKey, KeyPair, PublicKey, Seed},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::vectors::{sign, vectors};

fn account_pair() -> KeyPair<nkey::Account> {
    KeyPair::generate(&SeededEntropy::new(7))
}

fn public<R: nkey::Role>(number: u64) -> PublicKey<R> {
    KeyPair::generate(&SeededEntropy::new(number)).public()
}

/// The claims of a user that `account_pair` may sign.
fn user_json() -> Value {
    json!({
        "iat": 1_795_501_804, "iss": account_pair().public(), "sub": public::<nkey::User>(1),
        "nats": {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2},
    })
}

/// Everything that reads what a stranger may have written.
fn read(text: &str) -> bool {
    let report = inspect(text, 1_800_000_000);
    let _ = (words(&report), creds::parse(text).is_ok());
    let typed = jwt::decode::<User>(text).is_ok() || jwt::decode::<Account>(text).is_ok();
    let any = jwt::decode_any(text).is_ok();
    assert!(any || !(typed || report.valid));
    any
}

// ---------------------------------------------------------------------------- decoding

proptest! {
    #[test]
    fn arbitrary_text_is_refused_without_panic(text in "\\PC{0,300}") {
        prop_assert!(!read(&text));
    }

    #[test]
    fn arbitrary_bytes_in_token_shape_are_refused_without_panic(
        header in proptest::collection::vec(any::<u8>(), 0..60),
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        signature in proptest::collection::vec(any::<u8>(), 0..70),
    ) {
        let token = [header, payload, signature].map(|part| B64.encode(part)).join(".");
        prop_assert!(!read(&token));
    }

    #[test]
    fn arbitrary_json_under_a_good_signature_does_not_panic(nats in arbitrary_json(), top in arbitrary_json()) {
        let mut claims = user_json();
        claims["nats"] = nats;
        claims["name"] = top;
        for kind in ["user", "account", "operator", "activation"] {
            if let Some(nats) = claims["nats"].as_object_mut() {
                nats.insert("type".to_owned(), json!(kind));
                nats.insert("version".to_owned(), json!(2));
            }
            read(&sign(&claims.to_string(), &account_pair()));
        }
    }

    #[test]
    fn a_field_of_another_type_does_not_panic(which in any::<prop::sample::Index>(), field in any::<prop::sample::Index>(), value in arbitrary_json()) {
        let vectors = vectors();
        let mut claims = which.get(&vectors).claims.clone();
        claims["iss"] = json!(account_pair().public());
        let nats = claims["nats"].as_object_mut().unwrap();
        let name = field.get(&nats.keys().cloned().collect::<Vec<_>>()).clone();
        nats.insert(name, value);
        read(&sign(&claims.to_string(), &account_pair()));
    }

    #[test]
    fn a_changed_character_is_refused(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
        let vectors = vectors();
        let token = &which.get(&vectors).token;
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = with % 128;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assume!(&changed != token);
        prop_assert!(!read(&changed));
    }

    #[test]
    fn a_truncated_or_longer_token_is_refused(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), more in "[A-Za-z0-9_.-]{1,8}") {
        let vectors = vectors();
        let token = &which.get(&vectors).token;
        prop_assert!(!read(&token[..at.index(token.len())]));
        let longer = format!("{token}{more}");
        prop_assert!(!read(&longer));
    }

    #[test]
    fn a_token_of_another_signer_is_refused(number in 100_u64..200) {
        let stranger = KeyPair::<nkey::Account>::generate(&SeededEntropy::new(number));
        let token = sign(&user_json().to_string(), &stranger);
        prop_assert_eq!(jwt::decode::<User>(&token).map(drop), Err(JwtError::Signature));
    }
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!(public::<nkey::Account>(1))),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[test]
fn foreign_headers_are_refused_and_other_spellings_taken() {
    let pair = account_pair();
    let with = |header: &str| {
        let signed = format!("{}.{}", B64.encode(header), B64.encode(user_json().to_string()));
        jwt::decode::<User>(&format!("{signed}.{}", B64.encode(pair.sign(signed.as_bytes())))).map(drop)
    };
    for good in [
        r#"{"typ":"JWT","alg":"ed25519-nkey"}"#,
        r#"{"alg":"ed25519-nkey","typ":"jwt"}"#,
        r#"{ "typ": "JWT", "alg": "ed25519-nkey", "kid": 1 }"#,
    ] {
        assert_eq!(with(good), Ok(()), "{good}");
    }
    for bad in [
        r#"{"typ":"JWT","alg":"none"}"#,
        r#"{"typ":"JWT","alg":"ed25519"}"#,
        r#"{"typ":"JWT","alg":"HS256"}"#,
        r#"{"typ":"JWE","alg":"ed25519-nkey"}"#,
        r#"{"typ":"JWT","alg":"none","alg":"ed25519-nkey"}"#,
        r#"{"typ":"JWT","alg":["ed25519-nkey"]}"#,
        r#"{"typ":"JWT","alg":"ed25519-nkey"}x"#,
        r#"{"typ":"JWT"}"#,
        "",
    ] {
        assert_eq!(with(bad), Err(JwtError::Header), "{bad}");
    }
}

#[test]
fn claims_that_no_server_would_take_are_refused() {
    let pair = account_pair();
    let error = |change: &dyn Fn(&mut Value)| {
        let mut claims = user_json();
        change(&mut claims);
        jwt::decode::<User>(&sign(&claims.to_string(), &pair)).unwrap_err()
    };
    assert_eq!(error(&|claims| claims["nats"]["version"] = json!(1)), JwtError::Version(1));
    assert_eq!(error(&|claims| claims["nats"]["version"] = json!(3)), JwtError::Version(3));
    assert_eq!(error(&|claims| claims["nats"]["version"] = json!(1_000)), JwtError::Version(255));
    let without = |claims: &mut Value| drop(claims["nats"].as_object_mut().unwrap().remove("version"));
    assert_eq!(error(&without), JwtError::Version(1));
    let place = |error| match error {
        JwtError::KeyKind { place, kind } => (place, kind),
        other => panic!("{other:?}"),
    };
    let subject = json!(public::<nkey::Account>(1));
    assert_eq!(place(error(&|claims| claims["sub"] = subject.clone())), ("subject", nkey::Kind::Account));
    let issuer = json!(public::<nkey::User>(1));
    assert_eq!(place(error(&|claims| claims["iss"] = issuer.clone())), ("issuer", nkey::Kind::User));
    assert!(matches!(error(&|claims| claims["iss"] = json!("A")), JwtError::Claims(_)));
    assert!(matches!(error(&|claims| claims["exp"] = json!("soon")), JwtError::Claims(_)));
}

#[test]
fn doubled_and_trailing_data_is_refused_and_unknown_fields_are_not() {
    let pair = account_pair();
    let text = user_json().to_string();
    let decode = |text: &str| jwt::decode::<User>(&sign(text, &pair)).map(drop);
    assert_eq!(decode(&text), Ok(()));
    assert_eq!(decode(&text.replace("\"iat\"", "\"newer\":{\"a\":[1]},\"iat\"")), Ok(()));
    assert_eq!(decode(&text.replace("\"pub\"", "\"newer\":{\"a\":[1]},\"pub\"")), Ok(()));
    for bad in [
        text.replace("\"iat\"", "\"iat\":1,\"iat\""),
        text.replace("\"pub\"", "\"newer\":{\"a\":1,\"a\":2},\"pub\""),
        text.replace("\"subs\"", "\"subs\":5,\"subs\""),
        format!("{text}{text}"),
        format!("{text}\0"),
    ] {
        assert!(matches!(decode(&bad), Err(JwtError::Claims(_))), "{bad}");
    }
}

#[test]
fn other_encodings_of_the_same_bytes_are_refused() {
    let token = sign(&user_json().to_string(), &account_pair());
    assert!(jwt::decode::<User>(&token).is_ok());
    let last = token.chars().next_back().unwrap();
    // 64 bytes leave four unused bits in the last character of a signature.
    let next = char::from(u8::try_from(last).unwrap() + 1);
    let loose = format!("{}{next}", &token[..token.len() - 1]);
    for other in [loose, format!("{token}=="), format!(" {token}"), format!("{token}\n"), token.replace('.', "..")] {
        assert_eq!(jwt::decode::<User>(&other).map(drop), Err(JwtError::Shape), "{other}");
    }
}

#[test]
fn two_mebibytes_are_refused_before_any_work() {
    let mut claims = user_json();
    claims["name"] = json!("x".repeat(2 << 20));
    let token = sign(&claims.to_string(), &account_pair());
    assert_eq!(jwt::decode::<User>(&token).map(drop), Err(JwtError::TooLong));
    assert_eq!(jwt::decode_any(&".".repeat(2 << 20)).map(drop), Err(JwtError::TooLong));
    assert!(!read(&token) && !read(&"-".repeat(2 << 20)));
    // Deep nesting must not reach the stack's end.
    let deep = user_json().to_string().replace("\"iat\"", &format!("\"x\":{}, \"iat\"", "[".repeat(400_000)));
    assert!(!read(&sign(&deep, &account_pair())));
}

// ---------------------------------------------------------------------------- encoding

fn subjects() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z$_]{1,6}(\\.[a-zA-Z0-9<&_-]{1,8}){0,3}(\\.>)?", 0..4)
}

fn permissions() -> impl Strategy<Value = Permissions> {
    let permission = || (subjects(), subjects()).prop_map(|(allow, deny)| Permission { allow, deny });
    let response = (any::<i64>(), any::<i64>()).prop_map(|(max, ttl)| ResponsePermission { max, ttl });
    (permission(), permission(), proptest::option::of(response))
        .prop_map(|(publish, subscribe, response)| Permissions { publish, subscribe, response })
}

fn user_limits() -> impl Strategy<Value = UserLimits> {
    (any::<i64>(), any::<i64>(), any::<i64>(), any::<bool>()).prop_map(|(subs, data, payload, bearer_token)| {
        UserLimits {
            subs: Some(subs),
            data: Some(data),
            payload: Some(payload),
            bearer_token,
            src: if bearer_token { vec!["10.0.0.0/8".to_owned()] } else { Vec::new() },
            ..UserLimits::default()
        }
    })
}

fn jetstream() -> impl Strategy<Value = JetStreamLimits> {
    (any::<i64>(), any::<i64>(), any::<i64>(), any::<bool>()).prop_map(
        |(disk_storage, streams, consumer, max_bytes_required)| JetStreamLimits {
            disk_storage,
            streams,
            consumer,
            max_bytes_required,
            ..JetStreamLimits::default()
        },
    )
}

fn accounts() -> impl Strategy<Value = Account> {
    let scope = (permissions(), user_limits(), "[a-z]{0,8}", "\\PC{0,20}").prop_map(
        |(permissions, limits, role, description)| UserScope {
            role,
            template: ScopeTemplate { permissions, limits },
            description,
        },
    );
    let keys = proptest::collection::btree_map(0_u64..50, proptest::option::of(scope), 0..4);
    let revocations = proptest::collection::btree_map(0_u64..50, 0_i64..i64::MAX, 0..5);
    let tiers = proptest::collection::btree_map("R[135]", jetstream(), 0..3);
    (keys, revocations, tiers, jetstream(), permissions(), "\\PC{0,20}").prop_map(
        |(keys, revocations, tiered_limits, jetstream, default_permissions, description)| {
            let flat = if tiered_limits.is_empty() { jetstream } else { JetStreamLimits::default() };
            let limits = AccountLimits { jetstream: flat, tiered_limits, ..AccountLimits::unlimited() };
            let mut account = Account::new(limits);
            account.signing_keys =
                SigningKeys(keys.into_iter().map(|(number, scope)| (public(number), scope)).collect());
            account.revocations = revocations
                .into_iter()
                .map(|(number, time)| (public::<nkey::User>(number).to_string(), time))
                .collect::<BTreeMap<_, _>>();
            account.default_permissions = default_permissions;
            account.description = Some(description).filter(|text| !text.is_empty());
            account
        },
    )
}

fn claims<T>(issuer: AnyPublicKey, subject: AnyPublicKey, name: String, expires: Option<i64>, nats: T) -> Claims<T> {
    let name = Some(name).filter(|name| !name.is_empty());
    Claims {
        audience: None,
        expires,
        id: None,
        issued_at: Some(1_795_501_804),
        issuer,
        name,
        not_before: None,
        subject,
        nats,
    }
}

proptest! {
    #[test]
    fn accounts_survive_encoding(account in accounts(), name in "\\PC{0,20}", expires in proptest::option::of(1_800_000_000_i64..5_000_000_000)) {
        let pair = KeyPair::<nkey::Operator>::generate(&SeededEntropy::new(3));
        let claims = claims(pair.public().any(), public::<nkey::Account>(4).any(), name, expires, account);
        let linted = lint::check(claims.clone()).unwrap_or_else(|problems| panic!("{problems:?}"));
        prop_assert!(linted.claims().id.is_some());
        prop_assert_eq!(&Claims { id: None, ..linted.claims().clone() }, &claims);
        let token = sign(&serde_json::to_string(linted.claims()).unwrap(), &pair);
        prop_assert_eq!(&jwt::decode::<Account>(&token).unwrap().claims, linted.claims());
        let report = inspect(&token, 1_795_501_804);
        prop_assert!(report.valid, "{:?}", report.problems);
        prop_assert!(words(&report).len() > 3);
    }

    #[test]
    fn users_survive_encoding(permissions in permissions(), limits in user_limits(), name in "\\PC{0,20}", scoped in any::<bool>()) {
        let account = public(4);
        let user = if scoped { User::scoped(account) } else { User::unscoped(account, permissions, limits) };
        let subject = public::<nkey::User>(5).any();
        let claims = claims(account_pair().public().any(), subject, name, None, user);
        let linted = lint::check(claims).unwrap_or_else(|problems| panic!("{problems:?}"));
        let text = serde_json::to_string(linted.claims()).unwrap();
        let token = sign(&text, &account_pair());
        prop_assert_eq!(&jwt::decode::<User>(&token).unwrap().claims, linted.claims());
        if scoped {
            // A single field more, even an empty list, and servers refuse the user.
            let nats = json!({"pub": {}, "sub": {}, "issuer_account": account, "type": "user", "version": 2});
            prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap()["nats"], &nats);
        }
    }

    #[test]
    fn creds_files_survive(number in any::<u64>(), token in "[A-Za-z0-9_-]{1,20}\\.[A-Za-z0-9_-]{1,40}\\.[A-Za-z0-9_-]{1,20}") {
        let seed = Seed::<nkey::User>::generate(&SeededEntropy::new(number));
        let (read, again) = creds::parse(&creds::write(&token, &seed)).unwrap();
        prop_assert_eq!(read, token);
        prop_assert_eq!(again.expose_bytes(), seed.expose_bytes());
    }
}

#[test]
fn the_end_of_each_kind_says_its_type() {
    assert_eq!(serde_json::to_value(Common::of::<User>()).unwrap(), json!({"type": "user", "version": 2}));
    assert_eq!(serde_json::to_value(Common::of::<jwt::Generic>()).unwrap(), json!({"version": 2}));
}
