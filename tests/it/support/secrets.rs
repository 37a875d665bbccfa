//! Secrets, and the search for them in what must not hold any.
//!
//! Two ways, for each has gaps that the other one closes: what is *known* (a test made it, or saw it go over the
//! wire) is found in every form in which bytes are written down by mistake; what *looks* like a seed, a token or
//! a user's JWT is found though nobody knows it.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use data_encoding::{HEXLOWER, HEXUPPER};
use memchr::memmem;
use nats_authority::nkey::{Account, Operator, Seed, User};
use serde_json::Value;

/// So many bytes of a secret are looked for: enough to be no accident.
const LOOKED_FOR: usize = 16;

/// Before the random part of an API token.
const TOKEN: &str = "nauth_";

/// Characters of the random part of an API token.
const TOKEN_LENGTH: usize = 43;

/// Secrets by what they are.
#[derive(Clone, Default)]
pub struct Secrets(BTreeSet<(String, Vec<u8>)>);

impl Secrets {
    /// One that is a text.
    pub fn text(&mut self, what: &str, text: &str) {
        assert!(text.len() >= LOOKED_FOR, "too short to be no accident");
        self.0.insert((what.to_owned(), text.as_bytes().to_vec()));
    }

    /// One that is bytes, such as a key.
    pub fn bytes(&mut self, what: &str, bytes: &[u8]) {
        assert!(bytes.len() >= LOOKED_FOR, "too short to be no accident");
        self.0.insert((what.to_owned(), bytes.to_vec()));
    }

    /// Every seed, token, JWT of a user or bearer, and private key that stands in a text.
    pub fn learn(&mut self, text: &str) {
        let bytes = text.as_bytes();
        for seed in seeds(bytes) {
            if let Some(raw) = raw_seed(seed) {
                self.text("a seed", seed);
                self.bytes("a seed's bytes", &raw);
            }
        }
        for token in tokens(bytes) {
            self.text("an API token", token);
        }
        for jwt in jwts(text) {
            // An account's or the operator's is public.
            if let Some(what) = secret_jwt(jwt) {
                self.text(what, jwt.rsplit('.').next().unwrap_or_default());
            }
        }
        for (_, from) in text.match_indices("PRIVATE KEY-----").map(|(at, _)| (at, &text[at..])) {
            for line in from.lines().skip(1).take_while(|line| !line.starts_with("---")) {
                if line.len() >= 40 {
                    self.text("a private key", line);
                }
            }
        }
        for password in text.split("postgres://").skip(1).filter_map(|rest| rest.split('@').next()?.split_once(':')) {
            if password.1.len() >= LOOKED_FOR {
                self.text("the database's password", password.1);
            }
        }
    }

    /// Each with what it is.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(what, bytes)| (what.as_str(), bytes.as_slice()))
    }

    /// How many there are of each kind.
    pub fn kinds(&self) -> std::collections::BTreeMap<&str, usize> {
        let mut kinds = std::collections::BTreeMap::new();
        for (what, _) in &self.0 {
            *kinds.entry(what.as_str()).or_default() += 1;
        }
        kinds
    }

    /// The search for all of them.
    pub fn search(&self) -> Search {
        let (mut forms, mut names) = (Vec::new(), Vec::new());
        for (what, bytes) in &self.0 {
            for form in written(bytes) {
                forms.push(form);
                names.push(what.clone());
            }
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::Standard).build(&forms).unwrap();
        Search { finder, names }
    }
}

/// Finds secrets.
pub struct Search {
    finder: AhoCorasick,
    names: Vec<String>,
}

impl Search {
    /// What of the known ones, and what that looks like a secret, stands in these bytes.
    pub fn found(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let known = self.finder.find_overlapping_iter(bytes).map(|hit| self.names[hit.pattern().as_usize()].as_str());
        let mut found: BTreeSet<_> = known.collect();
        let unknown = [
            ("what looks like a seed", seeds(bytes).any(is_seed)),
            ("what looks like an API token", tokens(bytes).next().is_some()),
            ("what looks like a private key", memmem::find(bytes, b"PRIVATE KEY-----").is_some()),
        ];
        found.extend(unknown.iter().filter(|(_, is_there)| *is_there).map(|(what, _)| *what));
        let users = || jwts(&String::from_utf8_lossy(bytes)).any(|jwt| secret_jwt(jwt).is_some());
        if memmem::find(bytes, b"eyJ").is_some() && users() {
            found.insert("what looks like a user's JWT");
        }
        found
    }
}

/// A secret as it would stand in a file: as it is, in hexadecimal, in base64 wherever it begins, as a list of
/// numbers, with escapes, as in a URL.
fn written(secret: &[u8]) -> BTreeSet<Vec<u8>> {
    let bytes = &secret[..LOOKED_FOR];
    let list = |separator: &str| bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(separator);
    let each = |write: &dyn Fn(u8) -> String| bytes.iter().map(|byte| write(*byte)).collect::<String>();
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut texts = vec![
        HEXLOWER.encode(bytes),
        HEXUPPER.encode(bytes),
        list(", "),
        list(","),
        bytes.escape_ascii().to_string(),
        each(&|byte| format!("%{byte:02X}")),
        each(&|byte| format!("%{byte:02x}")),
        each(&|byte| if unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }),
        url::form_urlencoded::byte_serialize(bytes).collect(),
        each(&|byte| format!("\\u{byte:04x}")),
        each(&|byte| format!("\\{byte:03o}")),
    ];
    for offset in 0..3 {
        let shifted = [&[0; 2][..offset], bytes].concat();
        // Characters at both ends also depend on what stands beside.
        let (skip, odd) = (offset * 8_usize.div_ceil(6), usize::from(!shifted.len().is_multiple_of(3)));
        for base64 in [STANDARD_NO_PAD.encode(&shifted), URL_SAFE_NO_PAD.encode(&shifted)] {
            texts.push(base64[skip..base64.len() - odd].to_owned());
        }
    }
    texts.into_iter().map(String::into_bytes).chain([bytes.to_vec()]).collect()
}

/// `S[OAUNCX][A-Z2-7]{56}`
fn seeds(bytes: &[u8]) -> impl Iterator<Item = &str> {
    let base32 = |byte: &u8| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(byte);
    memchr::memchr_iter(b'S', bytes)
        .filter_map(move |at| bytes.get(at..at + 58))
        .filter(move |window| b"OAUNCX".contains(&window[1]) && window[2..].iter().all(base32))
        .filter_map(|window| std::str::from_utf8(window).ok())
}

/// Its checksum is right: in some gigabytes, a public key with the right letters behind it is no wonder.
fn is_seed(text: &str) -> bool {
    text.starts_with("SX") || nkeys::KeyPair::from_seed(text).is_ok()
}

fn raw_seed(text: &str) -> Option<Vec<u8>> {
    let user = Seed::<User>::parse(text).map(|seed| seed.expose_bytes().to_vec());
    let account = || Seed::<Account>::parse(text).map(|seed| seed.expose_bytes().to_vec());
    let operator = || Seed::<Operator>::parse(text).map(|seed| seed.expose_bytes().to_vec());
    user.or_else(|_| account()).or_else(|_| operator()).ok()
}

/// The random parts of `nauth_[A-Za-z0-9_-]{43}`.
fn tokens(bytes: &[u8]) -> impl Iterator<Item = &str> {
    memmem::find_iter(bytes, TOKEN)
        .filter_map(move |at| bytes.get(at + TOKEN.len()..at + TOKEN.len() + TOKEN_LENGTH))
        .filter(|random| random.iter().all(|byte| is_base64(*byte)))
        .filter_map(|random| std::str::from_utf8(random).ok())
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_".contains(&byte)
}

/// Everything of three parts in base64 of which the first one is an object.
fn jwts(text: &str) -> impl Iterator<Item = &str> {
    memmem::find_iter(text.as_bytes(), "eyJ").filter_map(|at| {
        let rest = &text[at..];
        let end = rest.bytes().position(|byte| !is_base64(byte) && byte != b'.').unwrap_or(rest.len());
        let parts: Vec<_> = rest[..end].split('.').collect();
        (parts.len() == 3 && parts[2].len() >= LOOKED_FOR).then_some(&rest[..end])
    })
}

/// Whether a JWT says who one is: a NATS user's, or the access token of an issuer.
fn secret_jwt(jwt: &str) -> Option<&'static str> {
    let payload = URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    match claims.pointer("/nats/type").and_then(Value::as_str) {
        Some("user") => Some("a user's JWT"),
        Some(_) => None,
        None => Some("a bearer's JWT"),
    }
}

#[test]
fn a_secret_is_found_in_every_form() {
    let seed = Seed::<User>::generate(&nats_authority::entropy::SystemEntropy::new());
    let (text, raw) = (seed.expose_text(), seed.expose_bytes());
    let mut secrets = Secrets::default();
    secrets.learn(&format!("-----BEGIN USER NKEY SEED-----\n{}\n", *text));
    assert_eq!(secrets.kinds(), [("a seed", 1), ("a seed's bytes", 1)].into());
    // What one or the other way of writing leaves as it is, or has a way of its own for.
    let special = *b"~*+ -._%\"\\\n\0\xffA0/";
    secrets.bytes("what is special", &special);
    let search = secrets.search();
    for secret in [text.as_bytes(), raw, &special] {
        let url: String = url::form_urlencoded::byte_serialize(secret).collect();
        let forms = [
            format!("{secret:?}"),
            format!("{secret:02x?}").replace([',', ' '], ""),
            serde_json::to_string(secret).unwrap(),
            format!("x\\x{}", HEXLOWER.encode(secret)),
            format!("{}", secret.escape_ascii()),
            url.replace('*', "%2A").replace('+', "%20").replace("%7E", "~"),
            url,
            STANDARD_NO_PAD.encode(secret),
            URL_SAFE_NO_PAD.encode([b"jwt\n", secret, b"\n---"].concat()),
            STANDARD_NO_PAD.encode([b"{\"x\":", secret].concat()),
            STANDARD_NO_PAD.encode([b"ab\"", secret, b"\""].concat()),
        ];
        for form in forms {
            assert!(!search.found(form.as_bytes()).is_empty(), "{form}");
        }
        assert!(!search.found(&[b"\0\x01", secret, b"\0"].concat()).is_empty(), "in binary");
    }
    let other = Seed::<User>::generate(&nats_authority::entropy::SystemEntropy::new());
    assert!(search.found(format!("{} {:?}", seed.key_pair().public(), other.expose_bytes()).as_bytes()).is_empty());
    assert_eq!(search.found(other.expose_text().as_bytes()), ["what looks like a seed"].into());
    let public = "ACSACINSKAGA4WO6FNBX7ZKRS3VGNBES6I7BB5MYARNU2LZGJKTNUCXDC6N7";
    assert!(search.found(public.as_bytes()).is_empty(), "an account's key and four letters behind it");
    let token = format!("token {TOKEN}{}.", "aZ09-_aZ09-_aZ09-_aZ09-_aZ09-_aZ09-_aZ09-_a");
    assert_eq!(search.found(token.as_bytes()), ["what looks like an API token"].into());
    let jwt = |claims: &str| format!("eyJhIjoxfQ.{}.{}", URL_SAFE_NO_PAD.encode(claims), "c2ln".repeat(10));
    let user = jwt(r#"{"nats":{"type":"user"}}"#);
    assert_eq!(search.found(user.as_bytes()), ["what looks like a user's JWT"].into());
    assert!(search.found(jwt(r#"{"nats":{"type":"account"}}"#).as_bytes()).is_empty());
    secrets.learn(&user);
    assert!(secrets.search().found("c2ln".repeat(10).as_bytes()).contains("a user's JWT"));
}
