//! The only requests to an issuer: its discovery document and its keys. Whoever answers may be slow, wrong or
//! huge; each answer has a time, a size and a place that it has to come from.

use std::{fmt::Write, time::Duration};

use jsonwebtoken::Algorithm;
use reqwest::{Certificate, Client, header, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use url::Url;

use super::{
    keys::{self, Key},
    settings::{IssuerSettings, KeySource, is_loopback, is_safe},
};

/// How long one answer may take, its body included.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer that is read, bytes.
const MAX_BODY: usize = 256 << 10;

/// Fetches the keys of one issuer.
pub(super) struct Fetcher {
    issuer: String,
    algorithms: Vec<Algorithm>,
    source: KeySource,
    /// Where the keys were at the last discovery.
    found: Option<Url>,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Fetcher {
    pub(super) fn new(settings: &IssuerSettings) -> Self {
        let source = settings.source.clone();
        let found = source.keys.clone();
        Self { issuer: settings.issuer.clone(), algorithms: settings.algorithms.clone(), source, found }
    }

    /// The keys as they are published now. `quickly`: where they were before, without discovery.
    pub(super) async fn keys(&mut self, quickly: bool) -> Result<Vec<Key>, String> {
        let client = self.client().await?;
        let known = self.found.take().filter(|_| quickly || self.source.discovery.is_none());
        let url = match (known, &self.source.discovery) {
            (Some(url), _) => url,
            (None, Some(discovery)) => self.discover(&client, discovery).await?,
            (None, None) => return Err("it is not known where its keys are".to_owned()),
        };
        let keys = keys::parse(&self.get(&client, &url).await?, &self.algorithms);
        // Where that failed the next attempt discovers again.
        self.found = keys.is_ok().then_some(url).or_else(|| self.source.keys.clone());
        keys
    }

    async fn discover(&self, client: &Client, url: &Url) -> Result<Url, String> {
        let body = self.get(client, url).await?;
        let document: Discovery =
            serde_json::from_slice(&body).map_err(|error| format!("{url} is no discovery document: {error}"))?;
        if document.issuer != self.issuer {
            return Err(format!("{url} is of another issuer, {:?}", document.issuer));
        }
        let keys = Url::parse(&document.jwks_uri).ok();
        let safe = |keys: &Url| is_safe(keys) && (!is_loopback(keys) || is_loopback(url));
        keys.filter(safe).ok_or_else(|| format!("{url}: its jwks_uri is no https:// URL, {:?}", document.jwks_uri))
    }

    async fn get(&self, client: &Client, url: &Url) -> Result<Vec<u8>, String> {
        let mut request = client.get(url.clone()).header(header::ACCEPT, "application/json");
        if let Some(token) = self.token(url).await? {
            request = request.bearer_auth(token.expose_secret());
        }
        let failed = |error: reqwest::Error| format!("{url}: {}", causes(&error));
        let mut answer = request.send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("{url} answers {}", answer.status()));
        }
        let too_large = || Err(format!("{url} answers with more than {MAX_BODY} bytes"));
        if answer.content_length().is_some_and(|length| length > MAX_BODY as u64) {
            return too_large();
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BODY {
                return too_large();
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// The bearer token, only for the place that the deployer has named.
    async fn token(&self, url: &Url) -> Result<Option<SecretString>, String> {
        let Some(file) = &self.source.token_file else { return Ok(None) };
        let named = self.source.keys.as_ref().or(self.source.discovery.as_ref());
        if named.is_none_or(|named| named.origin() != url.origin()) {
            return Ok(None);
        }
        let text = tokio::fs::read_to_string(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Some(SecretString::from(text.trim().to_owned())))
    }

    /// Made anew each time: the file of the authorities may have been replaced.
    async fn client(&self) -> Result<Client, String> {
        let mut builder =
            Client::builder().timeout(TIMEOUT).redirect(redirect::Policy::none()).pool_max_idle_per_host(0);
        if let Some(file) = &self.source.ca_file {
            let pem = tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()))?;
            let certificates = Certificate::from_pem_bundle(&pem)
                .map_err(|error| format!("{}: {}", file.display(), causes(&error)))?;
            builder = builder.tls_certs_only(certificates);
        }
        let named = self.source.keys.as_ref().or(self.source.discovery.as_ref());
        if named.is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        builder.build().map_err(|error| causes(&error))
    }
}

/// The error with its causes, which alone say what happened.
fn causes(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "no answer".to_owned() };
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        // Writing into a string does not fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bearer_token_goes_where_the_deployer_said_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "secret\n").unwrap();
        let shown = async |named: [Option<&str>; 2], asked: &str| {
            let [discovery, keys] = named.map(|url| url.map(|url| Url::parse(url).unwrap()));
            let source = KeySource { discovery, keys, ca_file: None, token_file: Some(file.clone()) };
            let fetcher = Fetcher { issuer: String::new(), algorithms: Vec::new(), source, found: None };
            let token = fetcher.token(&Url::parse(asked).unwrap()).await.unwrap();
            token.map(|token| token.expose_secret().to_owned())
        };
        let keys = [None, Some("https://api.example/keys")];
        let discovery = [Some("https://api.example/x/.well-known/openid-configuration"), None];
        for named in [keys, discovery] {
            assert_eq!(shown(named, "https://api.example/other").await.as_deref(), Some("secret"));
            for elsewhere in ["https://evil.example/", "https://api.example:6443/", "http://api.example/"] {
                assert_eq!(shown(named, elsewhere).await, None, "{elsewhere}");
            }
        }
        // It may be replaced or removed at any time.
        std::fs::remove_file(&file).unwrap();
        let source = KeySource {
            discovery: None,
            keys: keys[1].map(|url| Url::parse(url).unwrap()),
            ca_file: None,
            token_file: Some(file.clone()),
        };
        let fetcher = Fetcher { issuer: String::new(), algorithms: Vec::new(), source, found: None };
        assert!(fetcher.token(&Url::parse("https://api.example/keys").unwrap()).await.is_err());
    }
}
