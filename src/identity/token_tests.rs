//! What is believed of a token, as tables: signed with real keys, at times of our own.

use std::path::Path;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::DateTime;
use serde_json::{Value, json};

use super::{Unverified, is_name};
use crate::identity::{
    Doubt, Identity,
    keys::{self, Key},
    settings::{IssuerSettings, RawIssuer, check},
};

const ISSUER: &str = "https://id.example";
const NOW: i64 = 1_800_000_000;

struct Case {
    key: Ed25519KeyPair,
    keys: Vec<Key>,
    issuer: IssuerSettings,
}

impl Case {
    fn new(more: &str) -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": x}]});
        let text = format!("name = 'idp'\nurl = '{ISSUER}'\naudiences = ['us', 'we']\nleeway = '10s'\n{more}");
        let raw: RawIssuer = toml::from_str(&text).unwrap();
        let issuer = check(vec![raw], Path::new("")).unwrap().remove(0);
        let keys = keys::parse(set.to_string().as_bytes(), &issuer.algorithms).unwrap();
        Self { key, keys, issuer }
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn judge(&self, token: &str) -> Result<Identity, Doubt> {
        let now = DateTime::from_timestamp(NOW, 0).unwrap();
        Unverified::read(token)?.verify(&self.issuer, &self.keys, now)
    }

    /// The judgement of a good token with these claims changed; null takes one out.
    fn with(&self, change: &Value) -> Result<Identity, Doubt> {
        let mut claims = json!({"iss": ISSUER, "aud": "us", "sub": "anna", "exp": NOW + 60});
        for (name, value) in change.as_object().unwrap() {
            match value {
                Value::Null => claims.as_object_mut().unwrap().remove(name),
                value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
            };
        }
        self.judge(&self.sign(r#"{"alg":"EdDSA","kid":"k"}"#, &claims.to_string()))
    }
}

#[test]
fn claims_are_checked_at_the_time_that_is_given() {
    let case = Case::new("[[require]]\nclaim = '/typ'\nvalue = 'Bearer'\n");
    let typed = |more: Value| {
        let mut claims = json!({"typ": "Bearer"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        case.with(&claims).map(|identity| identity.subject)
    };
    let anna = Ok("anna".to_owned());
    for (claims, expected) in [
        (json!({}), anna.clone()),
        // The leeway is 10 s on each side, and the end itself is over.
        (json!({"exp": NOW - 9}), anna.clone()),
        (json!({"exp": NOW - 10}), Err(Doubt::Expired)),
        (json!({"exp": 0}), Err(Doubt::Expired)),
        (json!({"exp": 1_799_999_991.5}), anna.clone()),
        (json!({"exp": 1_799_999_990.5}), Err(Doubt::Expired)),
        (json!({"nbf": NOW + 10}), anna.clone()),
        (json!({"nbf": NOW + 11}), Err(Doubt::Early)),
        (json!({"iat": NOW + 10}), anna.clone()),
        (json!({"iat": NOW + 11}), Err(Doubt::Early)),
        (json!({"nbf": "soon"}), Err(Doubt::Claims)),
        (json!({"iat": [1]}), Err(Doubt::Claims)),
        (json!({"exp": null}), Err(Doubt::Claims)),
        (json!({"exp": "1900000000"}), Err(Doubt::Claims)),
        (json!({"exp": -1}), Err(Doubt::Claims)),
        (json!({"exp": 1e300}), Err(Doubt::Claims)),
        (json!({"exp": u64::MAX}), Err(Doubt::Claims)),
        (json!({"aud": ["other", "we"]}), anna.clone()),
        (json!({"aud": []}), Err(Doubt::Audience)),
        (json!({"aud": "other"}), Err(Doubt::Audience)),
        (json!({"aud": "us "}), Err(Doubt::Audience)),
        (json!({"aud": {"us": true}}), Err(Doubt::Audience)),
        (json!({"aud": null}), Err(Doubt::Audience)),
        (json!({"iss": null}), Err(Doubt::Issuer)),
        (json!({"iss": [ISSUER]}), Err(Doubt::Issuer)),
        (json!({"iss": "https://id.example/"}), Err(Doubt::Issuer)),
        (json!({"iss": "HTTPS://ID.EXAMPLE"}), Err(Doubt::Issuer)),
        (json!({"typ": "ID"}), Err(Doubt::Claims)),
        (json!({"typ": null}), Err(Doubt::Claims)),
        (json!({"cnf": {"jkt": "x"}}), Err(Doubt::Claims)),
        (json!({"sub": null}), Err(Doubt::Claims)),
        (json!({"sub": ""}), Err(Doubt::Claims)),
        (json!({"sub": 7}), Err(Doubt::Claims)),
        (json!({"sub": "token:admin"}), Err(Doubt::Claims)),
        (json!({"sub": "task:push"}), Err(Doubt::Claims)),
        (json!({"sub": "a\nb"}), Err(Doubt::Claims)),
        (json!({"sub": "s".repeat(257)}), Err(Doubt::Claims)),
        (json!({"sub": "system:serviceaccount:shop:api"}), Ok("system:serviceaccount:shop:api".to_owned())),
    ] {
        assert_eq!(typed(claims.clone()), expected, "{claims}");
    }
    assert!(is_name("Zoë Müller") && !is_name(" anna") && !is_name("a\u{2028}b"));
}

#[test]
fn a_header_says_which_key_and_nothing_else() {
    let case = Case::new("");
    let claims = json!({"iss": ISSUER, "aud": "us", "sub": "anna", "exp": NOW + 60}).to_string();
    let judge = |header: &str| case.judge(&case.sign(header, &claims)).map(|identity| identity.issuer);
    for header in [
        r#"{"alg":"EdDSA","kid":"k"}"#,
        r#"{"alg":"EdDSA","kid":"k","typ":"JWT","x5t":"AA"}"#,
        r#"{"alg":"EdDSA","kid":"k","typ":"AT+jwt"}"#,
    ] {
        assert_eq!(judge(header), Ok(ISSUER.to_owned()), "{header}");
    }
    for (header, doubt) in [
        (r#"{"alg":"none","kid":"k"}"#, Doubt::Algorithm),
        (r#"{"alg":"None","kid":"k"}"#, Doubt::Algorithm),
        (r#"{"alg":"","kid":"k"}"#, Doubt::Algorithm),
        (r#"{"kid":"k"}"#, Doubt::Algorithm),
        (r#"{"alg":["EdDSA"],"kid":"k"}"#, Doubt::Header),
        (r#"{"alg":"HS256","kid":"k"}"#, Doubt::Algorithm),
        // Not allowed for the issuer; allowed, but not with this key.
        (r#"{"alg":"RS512","kid":"k"}"#, Doubt::Algorithm),
        (r#"{"alg":"RS256","kid":"k"}"#, Doubt::Key),
        (r#"{"alg":"EdDSA"}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":""}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":1}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"K"}"#, Doubt::Key),
        (r#"{"alg":"EdDSA","kid":"../k"}"#, Doubt::Key),
        (r#"{"alg":"EdDSA","kid":"k' OR '1'='1"}"#, Doubt::Key),
        (r#"{"alg":"EdDSA","kid":"k","kid":"k"}"#, Doubt::Malformed),
        (r#"{"alg":"EdDSA","kid":"k","jku":"https://evil.example/jwks"}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","x5u":"https://evil.example/x5u"}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","jwk":{"kty":"OKP"}}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","x5c":["AA"]}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","crit":["b64"],"b64":false}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","typ":"logout+jwt"}"#, Doubt::Header),
        (r#"{"alg":"EdDSA","kid":"k","typ":"dpop+jwt"}"#, Doubt::Header),
        ("[]", Doubt::Malformed),
    ] {
        assert_eq!(judge(header), Err(doubt), "{header}");
    }
}

#[test]
fn what_was_changed_or_is_no_token_is_not_believed() {
    let case = Case::new("");
    let header = r#"{"alg":"EdDSA","kid":"k"}"#;
    let claims = json!({"iss": ISSUER, "aud": "us", "sub": "anna", "exp": NOW + 60}).to_string();
    let good = case.sign(header, &claims);
    assert!(case.judge(&good).is_ok());
    let parts: Vec<_> = good.split('.').collect();
    let other = case.sign(header, &claims.replace("anna", "bert"));
    let others: Vec<_> = other.split('.').collect();
    let doubled = claims.replace(r#""sub":"anna""#, r#""sub":"anna","sub":"anna""#);
    let nested = claims.replace(r#""sub":"anna""#, r#""sub":"anna","x":{"y":1,"y":2}"#);
    for (token, doubt) in [
        (format!("{}.{}.{}", parts[0], others[1], parts[2]), Doubt::Signature),
        (format!("{}.{}.{}", parts[0], parts[1], others[2]), Doubt::Signature),
        (format!("{}.{}.", parts[0], parts[1]), Doubt::Signature),
        (format!("{good}="), Doubt::Signature),
        (format!("{}.{}", parts[0], parts[1]), Doubt::Malformed),
        (format!("{good}.{}", parts[2]), Doubt::Malformed),
        (format!("{}=.{}.{}", parts[0], parts[1], parts[2]), Doubt::Malformed),
        ("..".to_owned(), Doubt::Malformed),
        (case.sign(header, &doubled), Doubt::Malformed),
        (case.sign(header, &nested), Doubt::Malformed),
        (case.sign(header, "[]"), Doubt::Malformed),
        (case.sign(header, &claims.replace("anna", &"a".repeat(8000))), Doubt::TooLong),
        (case.sign(header, &claims.replace(ISSUER, "https://other.example")), Doubt::Issuer),
    ] {
        assert_eq!(case.judge(&token), Err(doubt), "{token}");
    }
    // The same claims, signed by somebody else who calls its key the same.
    let foreign = Case::new("");
    assert_eq!(case.judge(&foreign.sign(header, &claims)), Err(Doubt::Signature));
}
