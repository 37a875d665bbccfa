//! An issuer of tokens on loopback, as real as its callers can tell: discovery, keys that rotate, tokens signed
//! with them; and the ways in which one may be down, slow, wrong or hostile.

use std::{
    convert::Infallible,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding,
    },
};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nats_authority::clock::{Clock, SystemClock};
use serde_json::{Value, json};

use super::run;

/// Base64url, for tests that put tokens together by hand.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Pair {
    Rsa(Box<rsa::KeyPair>, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A key that signs tokens.
pub struct SigningKey {
    pub kid: String,
    algorithm: &'static str,
    pair: Pair,
}

impl SigningKey {
    /// One that signs with this algorithm, as tokens name it.
    pub fn of(algorithm: &'static str, kid: &str) -> Self {
        let rsa = |encoding| Pair::Rsa(Box::new(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap()), encoding);
        let pair = match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            "ES384" => Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            other => panic!("no key signs with {other}"),
        };
        Self { kid: kid.to_owned(), algorithm, pair }
    }

    pub fn rsa(kid: &str) -> Self {
        Self::of("RS256", kid)
    }

    pub fn ec(kid: &str) -> Self {
        Self::of("ES256", kid)
    }

    pub fn ed(kid: &str) -> Self {
        Self::of("EdDSA", kid)
    }

    pub fn algorithm(&self) -> &'static str {
        self.algorithm
    }

    /// The public part, as sets of keys have it.
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Rsa(pair, _) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                let text = |part: rsa::PublicKeyComponents<&[u8]>| (encode(part.n), encode(part.e));
                let (n, e) = text(rsa::PublicKeyComponents {
                    n: n.big_endian_without_leading_zero(),
                    e: e.big_endian_without_leading_zero(),
                });
                json!({"kty": "RSA", "n": n, "e": e})
            }
            Pair::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at((point.len() - 1) / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key())}),
        };
        jwk["kid"] = self.kid.clone().into();
        jwk["alg"] = self.algorithm().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The public part in DER, which a careless verifier takes for a shared secret.
    pub fn public_bytes(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Rsa(pair, _) => pair.public_key().as_ref().to_vec(),
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Ed(pair) => pair.public_key().as_ref().to_vec(),
        }
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// A token of exactly these texts.
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let token = format!("{message}.{}", encode(self.signature(message.as_bytes())));
        run::saw(&token);
        token
    }

    /// A token of these claims under the key's own name.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_text(
            &json!({"alg": self.algorithm(), "kid": self.kid, "typ": "JWT"}).to_string(),
            &claims.to_string(),
        )
    }
}

/// How the issuer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Well,
    /// It takes connections and says nothing.
    Hanging,
    /// 10 MB of keys; it says so first, or not.
    Huge { told: bool },
    /// It sends everybody elsewhere, where the right keys are.
    Redirecting,
    /// Its discovery document is another one's.
    Foreign,
}

struct Shared {
    url: String,
    mood: Mutex<Mood>,
    keys: Mutex<Vec<Value>>,
    fetched: AtomicUsize,
    /// Whoever asks for keys has to show it.
    bearer: Option<String>,
}

/// See the module's documentation. Dropping it ends it.
pub struct Idp {
    pub url: String,
    shared: Arc<Shared>,
    handle: Handle<std::net::SocketAddr>,
}

impl Idp {
    /// Starts one over plain HTTP.
    pub fn start(keys: &[&SigningKey]) -> Self {
        let listener = listener();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (idp, router) = Self::new(url, keys, None);
        let server = axum_server::from_tcp(listener).unwrap().handle(idp.handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        idp
    }

    /// The same for keys at `/openid/v1/jwks` over HTTPS, as a Kubernetes API server has them: only for who shows
    /// `bearer`. Writes the certificate of its authority into `ca`.
    pub async fn kubernetes(keys: &[&SigningKey], bearer: &str, ca: &Path) -> Self {
        let listener = listener();
        let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (idp, router) = Self::new(url, keys, Some(bearer.to_owned()));
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(ca, made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem().into_bytes();
        let config = RustlsConfig::from_pem(made.cert.pem().into_bytes(), key).await.unwrap();
        let server = axum_server::from_tcp_rustls(listener, config).unwrap().handle(idp.handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        idp
    }

    fn new(url: String, keys: &[&SigningKey], bearer: Option<String>) -> (Self, Router) {
        let shared = Arc::new(Shared {
            url: url.clone(),
            mood: Mutex::new(Mood::Well),
            keys: Mutex::new(keys.iter().map(|key| key.jwk()).collect()),
            fetched: AtomicUsize::new(0),
            bearer,
        });
        let router = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(jwks))
            .route("/openid/v1/jwks", get(jwks))
            .route("/elsewhere", get(|State(shared): State<Arc<Shared>>| async move { set(&shared) }))
            .with_state(Arc::clone(&shared));
        (Self { url, shared, handle: Handle::new() }, router)
    }

    /// Changes how it behaves.
    pub fn mood(self, mood: Mood) -> Self {
        *self.shared.mood.lock().unwrap() = mood;
        self
    }

    /// Replaces its keys.
    pub fn rotate(&self, keys: &[&SigningKey]) {
        *self.shared.keys.lock().unwrap() = keys.iter().map(|key| key.jwk()).collect();
    }

    /// How often its keys were asked for.
    pub fn fetched(&self) -> usize {
        self.shared.fetched.load(Relaxed)
    }

    /// Takes it away: nobody listens any more.
    pub fn go_down(&self) {
        self.handle.shutdown();
    }

    /// Claims of a token for `us` that ends in five minutes.
    pub fn claims(&self, more: &Value) -> Value {
        claims(&self.url, more)
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        self.handle.shutdown();
    }
}

/// Claims of a token for `us` that ends in five minutes; null takes one out.
pub fn claims(issuer: &str, more: &Value) -> Value {
    let now = SystemClock.unix();
    let mut claims = json!({"iss": issuer, "aud": "us", "sub": "anna", "iat": now, "nbf": now, "exp": now + 300});
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn listener() -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    let mood = *shared.mood.lock().unwrap();
    let issuer = if mood == Mood::Foreign { "https://another.example" } else { &shared.url };
    json_answer(&json!({"issuer": issuer, "jwks_uri": format!("{}/keys", shared.url)}))
}

async fn jwks(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    shared.fetched.fetch_add(1, Relaxed);
    let shown = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    if shared.bearer.is_some() && shown != shared.bearer.as_ref().map(|bearer| format!("Bearer {bearer}")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mood = *shared.mood.lock().unwrap();
    match mood {
        Mood::Well | Mood::Foreign => set(&shared),
        Mood::Hanging => std::future::pending().await,
        Mood::Redirecting => Redirect::temporary("/elsewhere").into_response(),
        Mood::Huge { told } => {
            // The right keys, and so much beside that only its size is wrong.
            let mut set = json!({"keys": *shared.keys.lock().unwrap(), "more": "x".repeat(10_000_000)}).to_string();
            set.push('\n');
            if told {
                return ([(header::CONTENT_TYPE, "application/json")], set).into_response();
            }
            let chunks: Vec<_> = set.as_bytes().chunks(64 << 10).map(Bytes::copy_from_slice).collect();
            let chunks = chunks.into_iter().map(Ok::<_, Infallible>);
            Response::new(Body::from_stream(futures::stream::iter(chunks)))
        }
    }
}

fn set(shared: &Shared) -> Response {
    json_answer(&json!({"keys": *shared.keys.lock().unwrap()}))
}

fn json_answer(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}
