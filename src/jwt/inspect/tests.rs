use serde_json::json;

use super::*;

const NOW: i64 = 1_800_000_000;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/it/vectors.json")).unwrap()
}

fn token(name: &str) -> String {
    let vectors = vectors();
    let vector = vectors["vectors"].as_array().unwrap().iter().find(|vector| vector["name"] == name).unwrap();
    vector["token"].as_str().unwrap().to_owned()
}

fn creds() -> (String, String) {
    let vectors = vectors();
    let text = |name: &str| vectors["creds"][name].as_str().unwrap().to_owned();
    (text("file"), text("seed"))
}

#[test]
fn a_sound_token_is_valid_and_shown() {
    let report = inspect(&format!("  {}\n", token("user full")), NOW);
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.valid);
    assert_eq!(report.header, json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    assert_eq!(report.claims["nats"]["payload"], 4096);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["valid"], true);
    assert_eq!(json.as_object().unwrap().len(), 4);
}

#[test]
fn every_vector_has_words() {
    for vector in vectors()["vectors"].as_array().unwrap() {
        let report = inspect(vector["token"].as_str().unwrap(), NOW);
        assert_eq!(report.problems, Vec::<String>::new(), "{}", vector["name"]);
        assert!(words(&report).len() > 3, "{}", vector["name"]);
    }
}

#[test]
fn words_say_what_a_user_may_do() {
    let words = words(&inspect(&token("user full"), NOW));
    for sentence in [
        "Publishes ws.acme-prod.>.",
        "Subscribes ws.acme-prod.>, _INBOX.>, but never ws.acme-prod.k8s.secrets.>.",
        "Answers each request up to 5 times within 1m 30s.",
        "At most 10 subscriptions, 4096 bytes a message.",
        "Connects only from 10.0.0.0/8, 192.168.1.0/24.",
        "Connects only from 08:00:00 to 18:00:00 (Europe/Berlin).",
    ] {
        assert!(words.iter().any(|word| word == sentence), "{sentence} not in {words:#?}");
    }
}

#[test]
fn words_say_who_may_sign_and_who_is_revoked() {
    let words = |name| super::words(&inspect(&token(name), NOW)).join("\n");
    let keys = words("account signing keys");
    assert!(keys.contains("of the role \"projector\" only; each of them:\nPublishes ws.acme-prod.>"), "{keys}");
    assert!(keys.contains("may sign users with any permissions."), "{keys}");
    let revoked = words("account revocations");
    assert!(revoked.contains("Every user issued until 2020-09-13 12:26:40 UTC is revoked."), "{revoked}");
    assert!(revoked.contains("is revoked if issued until 2023-11-14"), "{revoked}");
}

#[test]
fn seeds_never_come_out() {
    let (file, seed) = creds();
    let report = inspect(&file, NOW);
    assert!(report.valid, "{:?}", report.problems);
    assert_eq!(report.claims["name"], "scoped");
    // A creds file whose token is broken, a seed in the place of a token, a seed alone.
    let broken = file.replacen("eyJ0", "eyJ1", 1);
    let swapped = format!("-----BEGIN NATS USER JWT-----\n{seed}\n------END NATS USER JWT------\n");
    for text in [&file, &broken, &swapped, &seed] {
        let report = inspect(text, NOW);
        assert!(!format!("{report:?}{:?}", words(&report)).contains(&seed));
        assert_eq!(report.valid, text == &file);
    }
    assert_eq!(inspect(&seed, NOW).problems, [KeyError::Seed.to_string()]);
}

#[test]
fn a_seed_of_somebody_else_is_a_problem() {
    let (file, seed) = creds();
    let other = vectors()["keys"]["user"]["seed"].as_str().unwrap().to_owned();
    let report = inspect(&file.replace(&seed, &other), NOW);
    assert_eq!(report.problems.len(), 1);
    assert!(report.problems[0].contains("not of the token's subject"), "{:?}", report.problems);
}

#[test]
fn times_are_looked_at() {
    let report = inspect(&token("account revocations"), 4_102_444_800);
    assert_eq!(report.problems, ["expired on 2100-01-01 00:00:00 UTC"]);
    let report = inspect(&token("account revocations"), 1);
    assert_eq!(report.problems, ["not valid before 2017-07-14 02:40:00 UTC"]);
}

#[test]
fn a_wrong_signature_still_shows_the_claims() {
    let other = token("user default");
    let (signed, _) = other.rsplit_once('.').unwrap();
    let full = token("user full");
    let (_, signature) = full.rsplit_once('.').unwrap();
    let report = inspect(&format!("{signed}.{signature}"), NOW);
    assert_eq!(report.problems, ["the signature does not match the issuer's key"]);
    assert_eq!(report.claims["name"], "u");
}

#[test]
fn nonsense_is_said_to_be_nonsense() {
    for text in ["", "x", "a.b.c", "..", "---BEGIN---"] {
        let report = inspect(text, NOW);
        assert!(!report.valid && !report.problems.is_empty(), "{text}");
        assert_eq!(report.claims, Value::Null);
        assert_eq!(words(&report), Vec::<String>::new());
    }
}

#[test]
fn terminals_are_left_alone() {
    assert_eq!(printable("a\u{1b}[2Jb\u{202e}c"), "a\\u{1b}[2Jb\\u{202e}c");
}
