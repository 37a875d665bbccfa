//! Keys against those of the official library, and everything that is no key.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use serde_json::Value;

use super::*;
use crate::entropy::SeededEntropy;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/it/vectors.json")).unwrap()
}

/// The public key, the seed and the signature of `nats-authority` of one vector.
fn vector<R: Role>(name: &str) -> (String, Seed<R>, Vec<u8>) {
    let keys = &vectors()["keys"][name];
    let text = |field: &str| keys[field].as_str().unwrap_or_default().to_owned();
    let signature = B64.decode(text("signature_of_nats_authority_base64url")).unwrap();
    (text("public"), Seed::parse(&text("seed")).unwrap(), signature)
}

fn agrees<R: Role>(name: &str) {
    let (public, seed, signature) = vector::<R>(name);
    let pair = seed.key_pair();
    assert_eq!(pair.public().to_string(), public);
    assert_eq!(public.parse::<PublicKey<R>>().unwrap(), pair.public());
    assert_eq!(public.parse::<AnyPublicKey>().unwrap().kind(), R::KIND);
    assert!(public.starts_with(R::KIND.letter()));
    assert_eq!(Seed::<R>::parse(&seed.expose_text()).unwrap().expose_bytes(), seed.expose_bytes());
    assert_eq!(pair.sign(b"nats-authority").as_slice(), signature);
    assert!(pair.public().verify(b"nats-authority", &signature));
    assert!(!pair.public().verify(b"nats-authoritz", &signature));
    let mut wrong = signature;
    wrong[63] ^= 0x80;
    assert!(!pair.public().verify(b"nats-authority", &wrong));
    assert!(!pair.public().verify(b"nats-authority", &wrong[..63]));
}

#[test]
fn keys_and_signatures_of_the_official_library() {
    agrees::<Operator>("operator");
    agrees::<Operator>("operator_signing");
    agrees::<Account>("account");
    agrees::<Account>("account_signing");
    agrees::<User>("user");
    agrees::<Server>("server");
    agrees::<Cluster>("cluster");
}

#[test]
fn curve_keys_parse_and_verify_nothing() {
    let text = vectors()["keys"]["curve"]["public"].as_str().unwrap().to_owned();
    let key: PublicKey<Curve> = text.parse().unwrap();
    assert_eq!(key.to_string(), text);
    let (_, _, signature) = vector::<User>("user");
    assert!(!key.verify(b"nats-authority", &signature));
}

#[test]
fn a_changed_character_is_found() {
    let (public, seed, _) = vector::<Account>("account");
    let other = |text: &str, at: usize| {
        let mut bytes = text.as_bytes().to_vec();
        bytes[at] = if bytes[at] == b'B' { b'C' } else { b'B' };
        String::from_utf8(bytes).unwrap()
    };
    for at in 1..56 {
        assert_eq!(other(&public, at).parse::<AnyPublicKey>(), Err(KeyError::Checksum), "{at}");
    }
    let text = seed.expose_text();
    for at in 2..57 {
        assert_eq!(Seed::<Account>::parse(&other(&text, at)).err(), Some(KeyError::Checksum), "{at}");
    }
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let (public, seed, _) = vector::<User>("user");
    let wrong = KeyError::WrongKind { wanted: Kind::Account, found: Kind::User };
    assert_eq!(public.parse::<PublicKey<Account>>(), Err(wrong));
    assert_eq!(Seed::<Account>::parse(&seed.expose_text()).err(), Some(wrong));
    assert_eq!(Seed::<User>::parse(&public).err(), Some(KeyError::Format(58)));
}

#[test]
fn a_seed_where_a_public_key_is_needed_is_called_a_seed() {
    let (_, seed, _) = vector::<User>("user");
    let error = seed.expose_text().parse::<PublicKey<User>>().unwrap_err();
    assert_eq!(error, KeyError::Seed);
    assert!(!error.to_string().contains(&*seed.expose_text()));
}

#[test]
fn other_texts_are_no_keys() {
    let (public, _, _) = vector::<User>("user");
    let lower = public.to_lowercase();
    let long = format!("{public}A");
    let padded = format!(" {}", &public[1..]);
    for text in ["", "U", &lower, &long, &public[..55], &padded, "é".repeat(28).as_str()] {
        assert_eq!(text.parse::<AnyPublicKey>(), Err(KeyError::Format(56)), "{text}");
        assert!(Seed::<User>::parse(text).is_err());
    }
}

#[test]
fn a_prefix_of_no_kind_is_refused() {
    let mut raw = [0_u8; 35];
    raw[0] = 1 << 3;
    let crc = codec::crc16(&raw[..33]);
    raw[33..].copy_from_slice(&crc.to_le_bytes());
    let text = data_encoding::BASE32_NOPAD.encode(&raw);
    assert_eq!(text.parse::<AnyPublicKey>(), Err(KeyError::UnknownKind));
}

#[test]
fn small_order_keys_verify_nothing() {
    // The neutral element as key and as R with S = 0: valid for every message unless refused.
    let mut neutral = [0_u8; 32];
    neutral[0] = 1;
    let mut signature = [0_u8; 64];
    signature[0] = 1;
    assert!(!PublicKey::<User>::from_raw(neutral).verify(b"anything", &signature));
}

#[test]
fn private_halves_are_never_printed() {
    let seed = Seed::<User>::generate(&SeededEntropy::new(1));
    assert_eq!(format!("{seed:?}"), "Seed<user>(…)");
    let pair = seed.key_pair();
    assert_eq!(format!("{pair:?}"), format!("KeyPair({})", pair.public()));
}

#[test]
fn keys_sort_as_their_texts_do() {
    let entropy = SeededEntropy::new(2);
    let mut keys: Vec<_> = (0..50).map(|_| KeyPair::<Account>::generate(&entropy).public()).collect();
    keys.sort_unstable();
    assert!(keys.iter().map(ToString::to_string).is_sorted());
}

#[test]
fn keys_in_json_are_their_texts() {
    let (public, _, _) = vector::<Account>("account");
    let key: PublicKey<Account> = serde_json::from_value(Value::from(public.clone())).unwrap();
    assert_eq!(serde_json::to_value(key).unwrap(), Value::from(public));
    assert!(serde_json::from_value::<PublicKey<Account>>(Value::from(1)).is_err());
}
