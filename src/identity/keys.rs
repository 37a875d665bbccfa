//! A set of public keys as issuers publish it (RFC 7517). What is not for signatures, or fits no allowed
//! algorithm, is left out; so are shared secrets, whatever the set says of them.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// How many keys a set may have.
const MAX_KEYS: usize = 64;

/// The longest `kid`, bytes.
pub const MAX_KID: usize = 256;

/// A public key of an issuer.
#[derive(Clone)]
pub struct Key {
    /// What tokens call it.
    pub kid: String,
    /// What it may have signed with.
    pub algorithms: Vec<Algorithm>,
    /// The key itself.
    pub key: DecodingKey,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// Reads a set; refused are one that is none and one with too many keys. One without a key for us is one: what an
/// issuer has taken back is taken back.
pub fn parse(body: &[u8], allowed: &[Algorithm]) -> Result<Vec<Key>, String> {
    let set: Set = serde_json::from_slice(body).map_err(|error| format!("it is no set of keys: {error}"))?;
    if set.keys.len() > MAX_KEYS {
        return Err(format!("it has {} keys, more than {MAX_KEYS}", set.keys.len()));
    }
    let mut keys: Vec<Key> = Vec::new();
    for key in set.keys.into_iter().filter_map(|value| usable(value, allowed)) {
        // The first of a name stays: a set that names two of a kind the same is wrong anyway.
        let taken = |other: &Key| other.kid == key.kid && other.algorithms == key.algorithms;
        if !keys.iter().any(taken) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn usable(value: Value, allowed: &[Algorithm]) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let common = &jwk.common;
    let kid = common.key_id.clone().filter(|kid| (1..=MAX_KID).contains(&kid.len()))?;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|use_| *use_ == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    if !for_signatures {
        return None;
    }
    let fits: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => &[Algorithm::ES256],
            EllipticCurve::P384 => &[Algorithm::ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => {
            &[Algorithm::EdDSA]
        }
        _ => &[],
    };
    let named = common.key_algorithm.map(|algorithm| algorithm.to_string());
    let fits = fits.iter().filter(|algorithm| allowed.contains(algorithm));
    let fits = fits.filter(|algorithm| named.as_ref().is_none_or(|named| *named == format!("{algorithm:?}")));
    let algorithms: Vec<_> = fits.copied().collect();
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then_some(Key { kid, algorithms, key })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ALL: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

    fn kids(set: &Value) -> Vec<String> {
        let keys = parse(set.to_string().as_bytes(), &ALL).unwrap_or_default();
        keys.into_iter().map(|key| format!("{}:{:?}", key.kid, key.algorithms)).collect()
    }

    #[test]
    fn only_public_keys_for_allowed_signatures_are_taken() {
        let ed = |more: Value| {
            let mut key =
                json!({"kty": "OKP", "crv": "Ed25519", "kid": "e", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let none: [&str; 0] = [];
        for (key, expected) in [
            (ed(json!({})), &["e:[EdDSA]"][..]),
            (ed(json!({"use": "sig", "alg": "EdDSA", "key_ops": ["verify"]})), &["e:[EdDSA]"]),
            (ed(json!({"use": "enc"})), &none),
            (ed(json!({"alg": "RS256"})), &none),
            (ed(json!({"alg": "HS256"})), &none),
            (ed(json!({"alg": "later"})), &none),
            (ed(json!({"key_ops": ["sign"]})), &none),
            (ed(json!({"crv": "X25519"})), &none),
            (ed(json!({"kid": ""})), &none),
            (ed(json!({"kid": "k".repeat(257)})), &none),
            (json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}), &none),
            (json!({"kty": "oct", "kid": "o", "k": "c2VjcmV0", "alg": "HS256"}), &none),
            (json!({"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}), &["r:[RS256]"]),
            (json!({"kty": "EC", "kid": "c", "crv": "P-256", "x": "AQ", "y": "AQ"}), &["c:[ES256]"]),
            (json!({"kty": "EC", "kid": "c", "crv": "P-384", "x": "AQ", "y": "AQ"}), &none),
            (json!({"kty": "EC", "kid": "c", "crv": "P-521", "x": "AQ", "y": "AQ"}), &none),
            (json!("no key"), &none),
        ] {
            assert_eq!(kids(&json!({"keys": [key]})), expected, "{key}");
            // What is not understood spoils nothing.
            let both = kids(&json!({"keys": [key, ed(json!({"kid": "good"}))]}));
            assert_eq!(both.last().map(String::as_str), Some("good:[EdDSA]"), "{key}");
        }
        let twice = json!({"keys": [ed(json!({})), ed(json!({}))]});
        assert_eq!(kids(&twice), ["e:[EdDSA]"]);
        let many: Vec<_> = (0..65).map(|number| ed(json!({"kid": number.to_string()}))).collect();
        assert!(parse(json!({"keys": many}).to_string().as_bytes(), &ALL).is_err_and(|why| why.contains("65 keys")));
        assert_eq!(kids(&json!({"keys": many[..64]})).len(), 64);
        assert!(parse(br#"{"keys": []}"#, &ALL).is_ok_and(|keys| keys.is_empty()));
        for bad in ["", "[]", "{}", "<html>", r#"{"keys": 1}"#] {
            assert!(parse(bad.as_bytes(), &ALL).is_err(), "{bad}");
        }
    }
}
