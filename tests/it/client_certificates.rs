//! Callers with client certificates, against the real service over TLS: whom a certificate names, and which ones
//! do not come through.

use std::{fs, path::Path, process::Output};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use reqwest::{Certificate, Client, Identity, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::support::{self, deployment::PROGRAM, lone::Lone, stack::eventually};

type Authority = CertifiedIssuer<'static, KeyPair>;

const ADMIN: &str = "spiffe://prod.example/ns/platform/sa/onboarding";

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key, PEM, of a client with these URIs.
fn client(authority: &Authority, uris: &[&str], last_year: i32) -> String {
    let mut params = CertificateParams::new(vec!["pod.example".to_owned()]).unwrap();
    params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    let key = KeyPair::generate().unwrap();
    format!("{}{}", params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// The service with TLS, and what its clients need to trust it.
struct Tls {
    service: Lone,
    trust: Certificate,
}

impl Tls {
    async fn start(dir: TempDir, authority: &Authority) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        fs::write(dir.path().join("tls.pem"), made.cert.pem()).unwrap();
        fs::write(dir.path().join("tls.key"), made.signing_key.serialize_pem()).unwrap();
        trust_clients_of(dir.path(), authority);
        let config = format!(
            "tls_certificate = '../tls.pem'\ntls_key = '../tls.key'\ntls_client_ca = '../clients.pem'\n\
             [[access.certificates]]\nspiffe = '{ADMIN}'\nrole = 'sovereign-admin'\n\
             [[access.certificates]]\nspiffe = 'spiffe://prod.example/ns/org-{{org}}/sa/*'\nrole = 'org-viewer'\n"
        );
        let service = Lone::start(dir, &config).await;
        Self { service, trust: Certificate::from_pem(made.cert.pem().as_bytes()).unwrap() }
    }

    /// A client that shows this certificate, and shakes hands anew for each request.
    fn client(&self, pem: Option<&str>) -> Client {
        let builder = Client::builder().tls_certs_only([self.trust.clone()]).pool_max_idle_per_host(0);
        let identity = pem.map(|pem| Identity::from_pem(pem.as_bytes()).unwrap());
        identity.into_iter().fold(builder, reqwest::ClientBuilder::identity).build().unwrap()
    }

    /// The status and the body of an answer; none: the handshake failed.
    async fn get(&self, pem: Option<&str>, token: Option<&str>, path: &str) -> Option<(u16, Value)> {
        let request = self.client(pem).get(format!("{}{path}", self.service.url));
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.json().await.unwrap_or_default()))
    }

    async fn status(&self, pem: Option<&str>, token: Option<&str>, path: &str) -> Option<u16> {
        Some(self.get(pem, token, path).await?.0)
    }
}

fn trust_clients_of(dir: &Path, authority: &Authority) {
    fs::write(dir.join("clients.new"), authority.pem()).unwrap();
    fs::rename(dir.join("clients.new"), dir.join("clients.pem")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_says_who_calls() {
    let (ours, foreign) = (authority(), authority());
    let tls = Tls::start(support::temp_dir(), &ours).await;
    let orgs = "/api/v1/orgs";
    let admin = client(&ours, &[ADMIN], 2100);
    assert_eq!(tls.status(Some(&admin), None, orgs).await, Some(200));

    // Who it was stands in the audit log.
    let request = tls.client(Some(&admin)).request(Method::POST, format!("{}/api/v1/tokens", tls.service.url));
    let made =
        request.json(&json!({"name": "ci", "role": "org-viewer", "organizations": ["acme"]})).send().await.unwrap();
    assert_eq!(made.status(), 422, "there is no such organization");
    let request = tls.client(Some(&admin)).request(Method::POST, format!("{}/api/v1/tokens", tls.service.url));
    let made = request.json(&json!({"name": "ci", "role": "security-officer"})).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    let officer = made["secret"].as_str().unwrap();
    let (_, events) = tls.get(Some(&admin), None, "/api/v1/audit?action=token.create").await.unwrap();
    let event = &events["items"][0];
    let expected = (&json!(ADMIN), &json!("spiffe://prod.example"), &json!("127.0.0.1"));
    assert_eq!((&event["actor"], &event["issuer"], &event["address"]), expected);

    // What it may follows from its path.
    let viewer = client(&ours, &["spiffe://prod.example/ns/org-acme/sa/api"], 2100);
    for (path, status) in [("/api/v1/orgs/acme", 404), ("/api/v1/orgs/globex", 403), ("/api/v1/tokens", 403)] {
        assert_eq!(tls.status(Some(&viewer), None, path).await, Some(status), "{path}");
    }

    // Who comes with a token is its bearer, for better and for worse.
    assert_eq!(tls.status(Some(&admin), Some(officer), "/api/v1/audit").await, Some(200));
    let (status, refused) = tls.get(Some(&admin), Some(officer), "/api/v1/orgs/acme/suspend").await.unwrap();
    assert_eq!(status, 405, "{refused}");
    let suspend = format!("{}/api/v1/orgs/acme/suspend", tls.service.url);
    let refused = tls.client(Some(&admin)).post(&suspend).bearer_auth(officer).json(&json!({})).send().await.unwrap();
    assert_eq!(refused.status(), 403, "the officer's token may not, the certificate's bearer may");
    let (status, refused) = tls.get(Some(&admin), Some("nauth_wrong"), orgs).await.unwrap();
    assert_eq!((status, &refused["code"]), (401, &json!("unauthenticated")));
    assert_eq!(tls.status(None, Some(&tls.service.admin), orgs).await, Some(200));
    assert_eq!(tls.status(None, None, orgs).await, Some(401));
    assert_eq!(tls.status(None, None, "/healthz").await, Some(200));

    // Signed by ours, and naming nobody that is known.
    for uris in [
        &[][..],
        &["https://prod.example/x"],
        &[ADMIN, ADMIN],
        &[ADMIN, "spiffe://other.example/x"],
        &["spiffe://other.example/ns/platform/sa/onboarding"],
    ] {
        let (status, refused) = tls.get(Some(&client(&ours, uris, 2100)), None, orgs).await.unwrap();
        assert_eq!((status, &refused["code"]), (401, &json!("unauthenticated")), "{uris:?}");
        assert!(refused["detail"].as_str().unwrap().contains("client certificate"), "{refused}");
    }
    // These do not even come to ask, with a token neither.
    for pem in [client(&foreign, &[ADMIN], 2100), client(&ours, &[ADMIN], 2021)] {
        for token in [None, Some(tls.service.admin.as_str())] {
            assert_eq!(tls.status(Some(&pem), token, "/healthz").await, None);
        }
    }

    // The authority is replaced under the running service.
    trust_clients_of(tls.service.dir.path(), &foreign);
    let new = client(&foreign, &[ADMIN], 2100);
    eventually("the new authority is believed", || async { tls.status(Some(&new), None, orgs).await == Some(200) })
        .await;
    assert_eq!(tls.status(Some(&admin), None, "/healthz").await, None, "the old one is not");
}

/// The command line as somebody uses it who trusts the service's certificate and has nothing else.
struct Shell<'a> {
    tls: &'a Tls,
    variables: Vec<(&'static str, String)>,
}

impl Shell<'_> {
    /// `DIR` stands for the folder of the service.
    async fn run(&self, line: &str) -> Output {
        let dir = self.tls.service.dir.path();
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("XDG_CONFIG_HOME", dir.join("config")).env("SSL_CERT_FILE", dir.join("tls.pem"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(line.replace("URL", &self.tls.service.url).replace("DIR", dir.to_str().unwrap()).split(' '));
        command.output().await.unwrap()
    }

    /// What it prints when all is well.
    async fn done(&self, line: &str) -> String {
        let output = self.run(line).await;
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The code of the error and its words when it is not.
    async fn failed(&self, line: &str) -> (String, String) {
        let output = self.run(line).await;
        let words = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {words}");
        (words.split(['[', ']']).nth(1).unwrap_or_default().to_owned(), words)
    }
}

/// Who called last, by the audit log.
async fn caller(tls: &Tls) -> Value {
    let request = tls.service.request(Method::GET, "/api/v1/audit?action=token.create", &tls.service.admin);
    let request = request.build().unwrap();
    let events: Value = tls.client(None).execute(request).await.unwrap().json().await.unwrap();
    events["items"][0]["actor"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_a_certificate() {
    let ours = authority();
    let tls = Tls::start(support::temp_dir(), &ours).await;
    let dir = tls.service.dir.path();
    let both = client(&ours, &[ADMIN], 2100);
    let key_at = both.find("-----BEGIN PRIVATE KEY").unwrap();
    let viewer = client(&ours, &["spiffe://prod.example/ns/org-acme/sa/api"], 2100);
    let another = KeyPair::generate().unwrap().serialize_pem();
    for (name, text) in [
        ("both.identity", both.as_str()),
        ("cert.pem", &both[..key_at]),
        ("key.identity", &both[key_at..]),
        ("viewer.identity", &viewer),
        ("another.identity", &another),
        ("no.pem", "no certificate"),
        ("token", &tls.service.admin),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    let plain = Shell { tls: &tls, variables: Vec::new() };
    let make = |name: &str| format!("token create {name} --role security-officer --out DIR/{name}.token");

    // On the command line, in one file or in two; from the environment; from a context.
    plain.done(&format!("{} --url URL --client-cert DIR/both.identity", make("a"))).await;
    assert_eq!(caller(&tls).await, ADMIN);
    plain.done("token list --url URL --client-cert DIR/cert.pem --client-key DIR/key.identity").await;
    let file = |name: &str| dir.join(name).display().to_string();
    let variables = vec![
        ("NATS_AUTHORITY_URL", tls.service.url.clone()),
        ("NATS_AUTHORITY_CLIENT_CERT", file("cert.pem")),
        ("NATS_AUTHORITY_CLIENT_KEY", file("key.identity")),
    ];
    let environment = Shell { tls: &tls, variables };
    environment.done("token list").await;
    plain.done("context add cert --url URL --client-cert DIR/cert.pem --client-key DIR/key.identity --select").await;
    plain.done(&make("b")).await;
    assert_eq!(caller(&tls).await, ADMIN);
    plain.done("audit export --context cert").await;
    let shown = plain.done("context show").await + &plain.done("context list").await;
    assert!(shown.contains(&file("cert.pem")) && shown.contains(&file("key.identity")), "{shown}");

    // A token says who calls, unless only the certificate was named here.
    plain.done(&format!("{} --token-file DIR/token", make("c"))).await;
    assert_eq!(caller(&tls).await, "token:admin");
    plain.done("context add token --url URL --token-file DIR/token --select").await;
    plain.done(&make("d")).await;
    assert_eq!(caller(&tls).await, "token:admin");
    plain.done(&format!("{} --client-cert DIR/both.identity", make("e"))).await;
    assert_eq!(caller(&tls).await, ADMIN);
    assert_eq!(plain.failed("token list --client-cert DIR/viewer.identity").await.0, "forbidden");

    // What cannot be shown is not: nothing is asked without it.
    for (line, what) in [
        ("token list --url URL --client-cert DIR/cert.pem", "private key"),
        ("token list --url URL --client-cert DIR/cert.pem --client-key DIR/another.identity", "private key"),
        ("token list --url URL --client-cert DIR/no.pem", "no.pem is no certificate"),
        ("token list --url URL --client-cert DIR/none.pem", "cannot read"),
        ("token list --url http://127.0.0.1:1 --client-cert DIR/both.identity", "not https"),
        ("token list --url URL --client-key DIR/key.identity", "--client-cert"),
    ] {
        let (code, words) = plain.failed(line).await;
        assert!(code == "client-cert" && words.contains(what), "{line}: {words}");
    }
    let (code, words) = plain.failed("context add x --url URL").await;
    assert!(code == "no-service" && words.contains("--client-cert"), "{words}");
    // One of another authority gets nowhere.
    fs::write(dir.join("foreign.identity"), client(&authority(), &[ADMIN], 2100)).unwrap();
    assert_eq!(plain.failed("token list --url URL --client-cert DIR/foreign.identity").await.0, "service-unreachable");
}
