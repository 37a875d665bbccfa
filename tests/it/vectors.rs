//! The vectors that the official Go library made: what it wrote we read, what we write is the same
//! claims, and every signature is the same bytes.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use nats_authority::{
    jwt::{
        self, Account, Activation, AnyDecoded, Claims, Generic, JwtError, Operator, Payload, User, creds,
        envelope::HEADER, lint,
    },
    nkey::{self, AnyPublicKey, KeyPair, Role, Seed},
};
use serde_json::Value;

/// One token of the official library.
pub struct Vector {
    pub name: String,
    pub kind: String,
    pub signer: String,
    pub token: String,
    pub claims: Value,
}

pub fn file() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

pub fn vectors() -> Vec<Vector> {
    let text = |vector: &Value, field: &str| vector[field].as_str().unwrap().to_owned();
    let vectors = file()["vectors"].as_array().unwrap().clone();
    vectors
        .into_iter()
        .map(|vector| Vector {
            name: text(&vector, "name"),
            kind: text(&vector, "kind"),
            signer: text(&vector, "signer_seed"),
            token: text(&vector, "token"),
            claims: vector["claims"].clone(),
        })
        .collect()
}

/// Signs by hand, for inside the crate only what was checked can be signed.
pub fn sign<R: Role>(payload: &str, pair: &KeyPair<R>) -> String {
    let signed = format!("{}.{}", B64.encode(HEADER), B64.encode(payload));
    format!("{signed}.{}", B64.encode(pair.sign(signed.as_bytes())))
}

/// Signs with a seed of whichever kind issues tokens.
fn sign_with_seed(payload: &str, seed: &str) -> String {
    match &seed[..2] {
        "SO" => sign(payload, &Seed::<nkey::Operator>::parse(seed).unwrap().key_pair()),
        "SA" => sign(payload, &Seed::<nkey::Account>::parse(seed).unwrap().key_pair()),
        other => panic!("no vector is signed by {other}"),
    }
}

fn check_vector<T: Payload>(vector: &Vector) {
    let name = &vector.name;
    let claims = jwt::decode::<T>(&vector.token).unwrap_or_else(|error| panic!("{name}: {error}")).claims;
    assert_eq!(serde_json::to_value(&claims).unwrap(), vector.claims, "{name}");
    let text = serde_json::to_string(&claims).unwrap();
    // Equal as values could still hide a name that is written twice.
    let again: Claims<T> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
    assert_eq!(again, claims, "{name}");

    let linted = lint::check(claims.clone()).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    let mut expected = claims;
    expected.id.clone_from(&linted.claims().id);
    assert_eq!(linted.claims(), &expected, "{name}: only the id changes");
    let token = sign_with_seed(&serde_json::to_string(linted.claims()).unwrap(), &vector.signer);
    assert_eq!(&jwt::decode::<T>(&token).unwrap().claims, linted.claims(), "{name}");
}

#[test]
fn every_vector_is_read_verified_written_and_passes_lint() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 15);
    for vector in &vectors {
        match vector.kind.as_str() {
            "operator" => check_vector::<Operator>(vector),
            "account" => check_vector::<Account>(vector),
            "user" => check_vector::<User>(vector),
            "activation" => check_vector::<Activation>(vector),
            "generic" => check_vector::<Generic>(vector),
            other => panic!("a vector of kind {other}"),
        }
        let kind = match jwt::decode_any(&vector.token).unwrap() {
            AnyDecoded::Operator(_) => "operator",
            AnyDecoded::Account(_) => "account",
            AnyDecoded::User(_) => "user",
            AnyDecoded::Activation(_) => "activation",
            AnyDecoded::Generic(_) => "generic",
        };
        assert_eq!(kind, vector.kind, "{}", vector.name);
    }
}

#[test]
fn signatures_are_the_same_bytes() {
    for vector in vectors() {
        let (signed, signature) = vector.token.rsplit_once('.').unwrap();
        let payload = String::from_utf8(B64.decode(signed.split('.').nth(1).unwrap()).unwrap()).unwrap();
        let ours = sign_with_seed(&payload, &vector.signer);
        assert_eq!(ours.rsplit_once('.').unwrap(), (signed, signature), "{}", vector.name);
    }
}

#[test]
fn a_token_of_another_kind_is_refused() {
    for vector in vectors() {
        let refused = |result: Result<(), JwtError>| matches!(result, Err(JwtError::WrongType { .. }));
        if vector.kind != "user" {
            assert!(refused(jwt::decode::<User>(&vector.token).map(drop)), "{}", vector.name);
        }
        if vector.kind != "account" {
            assert!(refused(jwt::decode::<Account>(&vector.token).map(drop)), "{}", vector.name);
        }
        if vector.kind != "generic" {
            assert!(refused(jwt::decode::<Generic>(&vector.token).map(drop)), "{}", vector.name);
        }
    }
}

#[test]
fn public_keys_of_every_kind() {
    for (name, key) in file()["keys"].as_object().unwrap() {
        let text = key["public"].as_str().unwrap();
        let key: AnyPublicKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        let kind = name.split('_').next_back().filter(|part| *part == "account").or(name.split('_').next());
        assert_eq!(Some(key.kind().to_string().as_str()), kind, "{name}");
    }
}

#[test]
fn the_creds_file_is_the_same_bytes() {
    let file = file();
    let text = |field: &str| file["creds"][field].as_str().unwrap();
    let seed = Seed::<nkey::User>::parse(text("seed")).unwrap();
    assert_eq!(creds::write(text("token"), &seed).as_str(), text("file"));
    let (token, read) = creds::parse(text("file")).unwrap();
    assert_eq!(token, text("token"));
    assert_eq!(read.expose_text().as_str(), text("seed"));
    assert_eq!(jwt::decode::<User>(&token).unwrap().claims.subject, read.key_pair().public().any());
}
