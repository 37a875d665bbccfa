//! Requests to the service: one connection, the token, and answers as they came.

use std::{path::Path, time::Duration};

use reqwest::{
    Identity, Method, RequestBuilder, StatusCode,
    header::{AUTHORIZATION, HeaderMap, HeaderValue},
    redirect::Policy,
};
use serde::{Serialize, de::DeserializeOwned};
use url::Url;
use zeroize::Zeroizing;

use super::{
    Failure, GlobalOptions, Outcome,
    context::{self, Place},
};
use crate::{
    api::problem::Problem,
    cli::output::{OutputFormat, Progress, note, print},
    error::{Error, Result},
    model::view::{Convergence, ResolverView},
};

/// How long the service may take to answer, beyond what it is asked to wait.
const PATIENCE: Duration = Duration::from_secs(35);

/// How long a download may take.
const DOWNLOAD: Duration = Duration::from_hours(1);

/// A service that can be asked.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    /// None: the client certificate says who calls.
    token: Option<HeaderValue>,
    wait: Option<u64>,
    /// How answers are printed.
    pub(super) format: OutputFormat,
}

/// An answer as it came. It may hold a secret.
pub(super) struct Answer(Zeroizing<String>);

impl Answer {
    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }

    /// The answer as what it should be.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.0).map_err(|error| {
            Error::unavailable(
                "unexpected-answer",
                "the answer is not what this version expects; check that client and service have the same version",
            )
            .with_source(error)
        })
    }
}

impl Client {
    /// A client for the service that the options name. Nothing is sent yet.
    pub(super) fn connect(options: &GlobalOptions) -> Result<Self> {
        let place = context::place(options)?;
        let token = place.shown.token_file.as_deref().map(bearer).transpose()?;
        let identity = identity(&place)?;
        let unusable = |error: reqwest::Error| match &place.shown.client_cert {
            Some(path) => unusable(path).with_source(error),
            None => Error::internal("no HTTP client").with_source(error),
        };
        let builder = identity.into_iter().fold(reqwest::Client::builder(), reqwest::ClientBuilder::identity);
        let http = builder
            .user_agent(concat!("nats-authority/", env!("CARGO_PKG_VERSION")))
            .timeout(PATIENCE + Duration::from_secs(options.wait.unwrap_or_default()))
            // A token goes where it was meant to go and nowhere else.
            .redirect(Policy::none())
            .build()
            .map_err(unusable)?;
        Ok(Self { http, base: place.url, token, wait: options.wait, format: options.output })
    }

    /// Asks for something. Absent parameters are left out.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, Option<String>)]) -> Outcome<Answer> {
        self.send(Method::GET, path, query, None::<&()>, HeaderMap::new()).await
    }

    /// Changes something; with `--wait` the answer comes when the servers have it.
    pub(super) async fn change(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, Option<String>)],
        body: Option<&impl Serialize>,
    ) -> Outcome<Answer> {
        self.change_if(method, path, query, body, HeaderMap::new()).await
    }

    /// The same with headers that say under which condition.
    pub(super) async fn change_if(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, Option<String>)],
        body: Option<&impl Serialize>,
        headers: HeaderMap,
    ) -> Outcome<Answer> {
        let _progress = self.wait.map(|_| Progress::start("waiting for the servers".to_owned()));
        self.send(method, path, query, body, headers).await
    }

    /// The same client, which waits so long unless it was told otherwise.
    pub(super) fn waiting(&self, seconds: u64) -> Self {
        Self { wait: self.wait.or(Some(seconds)), ..self.clone() }
    }

    /// The same client, which does not wait.
    pub(super) fn not_waiting(&self) -> Self {
        Self { wait: None, ..self.clone() }
    }

    /// How long the caller wants to wait, seconds.
    pub(super) fn wait(&self) -> Option<u64> {
        self.wait
    }

    /// The caller wants to wait until the servers have its changes.
    pub(super) fn waits(&self) -> bool {
        self.wait.is_some()
    }

    /// Posts something that no server has to get.
    pub(super) async fn post(&self, path: &[&str], body: &impl Serialize) -> Outcome<Answer> {
        self.send(Method::POST, path, &[], Some(body), HeaderMap::new()).await
    }

    /// Writes an answer of any length as it comes.
    pub(super) async fn download(
        &self,
        path: &[&str],
        query: &[(&str, Option<String>)],
        out: &mut impl std::io::Write,
    ) -> Outcome<()> {
        let request = self.signed(self.http.get(self.url(path, query)?));
        let mut answer = request.timeout(DOWNLOAD).send().await.map_err(|error| self.unreachable(error))?;
        if !answer.status().is_success() {
            let status = answer.status();
            let text = answer.text().await.map_err(|error| self.unreachable(error))?;
            return Err(self.refused(status, &text));
        }
        while let Some(part) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            out.write_all(&part).map_err(|error| Error::invalid("output", format!("cannot write: {error}")))?;
        }
        Ok(())
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, Option<String>)],
        body: Option<&impl Serialize>,
        headers: HeaderMap,
    ) -> Outcome<Answer> {
        let url = self.url(path, query)?;
        let mut request = self.signed(self.http.request(method, url).headers(headers));
        if let Some(seconds) = self.wait {
            request = request.header("prefer", format!("wait={seconds}"));
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let text = answer.text().await.map(Zeroizing::new).map_err(|error| self.unreachable(error))?;
        if status.is_success() {
            return Ok(Answer(text));
        }
        Err(self.refused(status, &text))
    }

    fn signed(&self, request: RequestBuilder) -> RequestBuilder {
        self.token.iter().fold(request, |request, token| request.header(AUTHORIZATION, token.clone()))
    }

    fn url(&self, path: &[&str], query: &[(&str, Option<String>)]) -> Result<Url> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| Error::invalid("url", "the URL of the service cannot have a path"))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        let given: Vec<_> = query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        if !given.is_empty() {
            url.query_pairs_mut().extend_pairs(given);
        }
        Ok(url)
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let what = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
        let detail = format!("{} {what}; check the URL and that the service runs", self.base);
        Error::unavailable("service-unreachable", detail).with_source(error.without_url())
    }

    fn refused(&self, status: StatusCode, text: &str) -> Failure {
        match serde_json::from_str::<Problem>(text) {
            Ok(problem) => Failure::Refused(Box::new(problem)),
            Err(_) => Error::unavailable(
                "unexpected-answer",
                format!("{} answers {status} and does not say why; check that the URL is nats-authority's", self.base),
            )
            .into(),
        }
    }

    /// Prints an answer: as it came, or as `table` shows it.
    pub(super) fn print<T: DeserializeOwned>(&self, answer: &Answer, table: impl FnOnce(&T) -> String) -> Result<()> {
        match self.format {
            OutputFormat::Json => print(answer.text()),
            OutputFormat::Table => print(&table(&answer.read()?)),
        }
    }

    /// After the answer was printed: fails when it was to be waited for and the servers do not all
    /// have it.
    pub(super) fn require(&self, settled: bool, resolver: &ResolverView, look: &str) -> Outcome<()> {
        let lacking: Vec<_> = resolver
            .servers
            .iter()
            .filter(|s| s.stored < resolver.generation || s.effective.is_some_and(|runs| runs < resolver.generation))
            .map(|s| s.name.as_str())
            .collect();
        let why = match (resolver.state, lacking.is_empty()) {
            (Convergence::Unreachable, _) => "no server can be reached".to_owned(),
            (_, false) => format!("not every server has it: {}", lacking.join(", ")),
            (_, true) => "it is not finished".to_owned(),
        };
        self.require_done(settled, &why, look)
    }

    /// As [`Self::require`], for what is made in the cluster; `why` is said when it is not done.
    pub(super) fn require_done(&self, done: bool, why: &str, look: &str) -> Outcome<()> {
        let Some(seconds) = self.wait.filter(|_| !done) else { return Ok(()) };
        Err(Failure::NotConverged(format!(
            "the change is recorded, but after {seconds} s {why}; it goes on; look with `{look}`"
        )))
    }
}

/// The header of whoever shows the token in a file.
fn bearer(file: &Path) -> Result<HeaderValue> {
    let token = std::fs::read_to_string(file).map(Zeroizing::new).map_err(|error| {
        Error::invalid("token-file", format!("cannot read the token file {}: {error}", file.display()))
    })?;
    let token = Zeroizing::new(format!("Bearer {}", token.trim()));
    let mut token = HeaderValue::from_str(&token)
        .map_err(|_| Error::invalid("token-file", "the token file does not hold one token and nothing else"))?;
    token.set_sensitive(true);
    Ok(token)
}

/// The certificate and its key that are shown, if any.
fn identity(place: &Place) -> Result<Option<Identity>> {
    let Some(certificate) = &place.shown.client_cert else { return Ok(None) };
    if place.url.scheme() != "https" {
        let detail = format!("{} is not https, where no certificate can be shown", place.url);
        return Err(Error::invalid("client-cert", detail));
    }
    let mut pem = Zeroizing::new(Vec::new());
    for file in [Some(certificate), place.shown.client_key.as_ref()].into_iter().flatten() {
        let text = std::fs::read(file).map(Zeroizing::new);
        let text =
            text.map_err(|error| Error::invalid("client-cert", format!("cannot read {}: {error}", file.display())))?;
        pem.extend_from_slice(&text);
        pem.push(b'\n');
    }
    Identity::from_pem(&pem).map(Some).map_err(|error| unusable(certificate).with_source(error))
}

fn unusable(certificate: &Path) -> Error {
    let path = certificate.display();
    let detail =
        format!("{path} is no certificate in PEM with its private key behind it or in the file of --client-key");
    Error::invalid("client-cert", detail)
}

/// Says how to see the next page.
pub(super) fn note_more(next_cursor: Option<&str>) {
    if let Some(cursor) = next_cursor {
        note(&format!("there are more: --cursor {cursor}"));
    }
}
