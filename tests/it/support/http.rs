//! A client of the REST API that knows nothing of our types.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::Value;

use super::run;

/// The body as JSON, null when it is none; what is secret in it is noted.
pub fn read(body: &[u8]) -> Value {
    let value = serde_json::from_slice(body).unwrap_or_default();
    run::saw(&as_text(&value));
    value
}

/// JSON with real line ends.
pub fn as_text(value: &Value) -> String {
    value.to_string().replace("\\n", "\n")
}

/// The API at one URL, as one caller.
pub struct Http {
    pub url: String,
    client: Client,
    token: String,
}

impl Http {
    pub fn new(url: &str, token: &str) -> Self {
        run::saw(token);
        if token.trim().len() >= 16 {
            run::saw_text("a bearer token", token.trim());
        }
        Self { url: url.trim_end_matches('/').to_owned(), client: Client::new(), token: token.trim().to_owned() }
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(Method::POST, path, Some(body)).await
    }

    /// The status and the body; null when it is no JSON.
    pub async fn send(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.answer(self.client.request(method, format!("{}{path}", self.url)), body).await
    }

    /// As [`Self::send`], where whoever answers may die before the whole answer is here.
    pub async fn try_send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<(u16, Value)> {
        let mut request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        Ok((status, read(&answer.bytes().await?)))
    }

    /// As [`Self::send`], with more headers.
    pub async fn send_with(
        &self,
        headers: &[(&str, &str)],
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self.client.request(method, format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.answer(request, body).await
    }

    /// As [`Self::send`], with the wish to get the answer when it is done, at most after 30 s.
    pub async fn send_and_wait(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        self.answer(request.header("prefer", "wait=30"), body).await
    }

    /// As [`Self::send`], only if the account is at this generation.
    pub async fn send_if(&self, generation: &Value, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.url));
        self.answer(request.header("if-match", format!("\"{generation}\"")), body).await
    }

    async fn answer(&self, request: RequestBuilder, body: Option<Value>) -> (u16, Value) {
        let mut request = request.bearer_auth(&self.token);
        if let Some(body) = body {
            run::saw(&as_text(&body));
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.bytes().await.map(|body| read(&body)).unwrap_or_default())
    }

    /// Onboards and waits until every server runs the account and the environments are ready.
    pub async fn onboard(&self, slug: &str, environments: &[&str]) -> Value {
        let body = serde_json::json!({"slug": slug, "environments": environments});
        let (status, view) = self.post("/api/v1/orgs", body).await;
        assert_eq!(status, 201, "{view}");
        self.converged(slug).await
    }

    pub async fn converged(&self, slug: &str) -> Value {
        let path = format!("/api/v1/orgs/{slug}");
        super::stack::eventually("the organization is converged and its environments are ready", || async {
            let (_, view) = self.get(&path).await;
            let ready = view["environments"].as_array().is_some_and(|envs| envs.iter().all(|e| e["state"] == "ready"));
            ready && view["resolver"]["state"] == "converged"
        })
        .await;
        self.get(&path).await.1
    }

    /// Issues a credential; the whole answer.
    pub async fn issue(&self, org: &str, env: &str, body: Value) -> Value {
        let (status, issued) = self.post(&format!("/api/v1/orgs/{org}/envs/{env}/credentials"), body).await;
        assert_eq!(status, 201, "{issued}");
        issued
    }
}
