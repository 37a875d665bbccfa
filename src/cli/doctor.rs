//! `doctor`: looks at everything that `serve` needs, one line each, and says what to do. Changes
//! nothing.

use std::{sync::Arc, time::Duration};

use super::{ConfigArgs, serve};
use crate::{
    authority::sealing::sealing_view,
    entropy::SystemEntropy,
    error::{Error, Result},
    identity::{issuers, settings::IssuerSettings},
    model::sealing::{SealingKeyView, SealingView},
    policy::Policies,
    service::{read_bundle, sealing_keys},
    signer::Signer,
    store::Store,
};

pub(super) async fn run(args: &ConfigArgs) -> Result<u8> {
    let mut examination = Examination { failed: false };
    let config = match serve::load(args) {
        Ok(config) => config,
        Err(error) => {
            examination.line("configuration", Err(error));
            return Ok(1);
        }
    };
    examination.line("configuration", Ok(String::new()));
    let policies = config.policies.as_deref().map_or_else(Policies::builtin, Policies::load);
    examination.line(
        "policies",
        policies.map(|policies| format!("{} plans, {} roles", policies.plans.len(), policies.roles.len())),
    );
    let signer = sealing_keys(&config).map(|keys| Arc::new(Signer::new(keys, Arc::new(SystemEntropy::new()))));
    examination.line("sealing keys", signer.as_ref().map(|_| config.sealing_key_files.len().to_string()).map_err(copy));
    let bundle = config.bundle.as_ref().zip(signer.as_ref().ok()).map(|(file, signer)| {
        read_bundle(file).and_then(|bundle| bundle.check_keys(signer)).map(|()| "its keys open".to_owned())
    });
    match Store::connect(&config.database_url, 2, Duration::from_secs(5)).await {
        Err(error) => {
            if let Some(bundle) = bundle {
                examination.line("bundle", bundle);
            }
            examination.line("database", Err(error));
        }
        Ok(store) => {
            let adopted = store.operator().await.is_ok_and(|operator| operator.is_some());
            if let Some(bundle) = bundle {
                examination.line("bundle", no_longer_needed(bundle, adopted));
            }
            examination.line("database", Ok(String::new()));
            let operator = match (store.operator().await, &signer) {
                (Ok(Some(operator)), Ok(signer)) => match store.operator_signing_key().await {
                    Ok(key) => signer
                        .check(&key)
                        .map(|()| format!("{} ({}), its signing key opens", operator.public_key, operator.name)),
                    Err(error) => Err(error),
                },
                (Ok(Some(operator)), Err(_)) => Ok(operator.public_key.to_string()),
                (Ok(None), _) => Ok("none adopted yet; `serve` adopts the bundle".to_owned()),
                (Err(error), _) => Err(error),
            };
            examination.line("operator", operator);
            if let Ok(signer) = &signer {
                examination.line("sealed rows", sealing_view(&store, signer).await.and_then(|view| sealed(&view)));
            }
        }
    }
    for url in &config.nats_urls {
        examination.line(&format!("server {url}"), reach(url).await);
    }
    for issuer in &config.issuers {
        examination.line(&format!("issuer {}", issuer.name), keys_of(issuer).await);
    }
    Ok(u8::from(examination.failed))
}

/// Asks an issuer for its keys, as the service does.
async fn keys_of(issuer: &IssuerSettings) -> Result<String> {
    let refused =
        |why: String| Error::unavailable("issuer-unreachable", format!("{why}; none of its tokens is believed"));
    match issuers::ask_once(issuer).await.map_err(refused)? {
        0 => Err(refused("it has no key with a kid that fits its algorithms".to_owned())),
        1 => Ok("1 key".to_owned()),
        keys => Ok(format!("{keys} keys")),
    }
}

/// The copies in a bundle stay sealed with the key of their day; once adopted, nobody opens them.
fn no_longer_needed(bundle: Result<String>, adopted: bool) -> Result<String> {
    match bundle {
        Err(error) if adopted && error.code() == "wrong-sealing-key" => {
            Ok("adopted long ago, sealed with a key that is no longer configured; nothing needs it".to_owned())
        }
        bundle => bundle,
    }
}

/// What the signing keys in the database are sealed with. Rows under an old key are no failure as long as it opens.
fn sealed(view: &SealingView) -> Result<String> {
    let of = |key: &SealingKeyView| format!("{} with {}", key.rows, key.id);
    let unknown: Vec<_> = view.keys.iter().filter(|key| !key.configured).map(of).collect();
    if !unknown.is_empty() {
        let detail = format!(
            "{} cannot be opened: the sealing key is not configured; add its file to sealing.key_files",
            unknown.join(", ")
        );
        return Err(Error::unavailable("wrong-sealing-key", detail));
    }
    let all: Vec<_> = view.keys.iter().map(of).collect();
    let next = match view.left {
        0 if view.keys.len() == 1 => String::new(),
        0 => "; none is left under the other keys, which can be dropped".to_owned(),
        left => format!("; {left} are not sealed with the first key: `nats-authority operator reseal`"),
    };
    Ok(format!("{}{next}", all.join(", ")))
}

/// The server answers with its greeting. Whether it trusts this operator is seen by `serve`, which
/// has the keys to ask.
async fn reach(url: &str) -> Result<String> {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let unreachable = |why: String| {
        Error::unavailable("server-unreachable", format!("{why}; check nats.urls and that the server runs"))
    };
    let address = url::Url::parse(url).map_err(|error| unreachable(error.to_string()))?;
    let (host, port) = (address.host_str().unwrap_or_default().to_owned(), address.port().unwrap_or(4222));
    let greeting = async {
        let stream = tokio::net::TcpStream::connect((host, port)).await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, std::io::Error>(line)
    };
    let line = tokio::time::timeout(Duration::from_secs(3), greeting)
        .await
        .map_err(|_| unreachable("no answer within 3 s".to_owned()))?
        .map_err(|error| unreachable(error.to_string()))?;
    let info: serde_json::Value = line
        .strip_prefix("INFO ")
        .and_then(|json| serde_json::from_str(json).ok())
        .ok_or_else(|| unreachable("it does not greet like a nats-server".to_owned()))?;
    let version = info["version"].as_str().unwrap_or("?");
    if info["auth_required"].as_bool() == Some(true) || info["nonce"].is_string() {
        Ok(format!("nats-server {version}, asks for credentials"))
    } else {
        Err(unreachable(format!("nats-server {version} lets everyone in: it does not run in operator mode")))
    }
}

struct Examination {
    failed: bool,
}

impl Examination {
    #[expect(clippy::print_stdout, reason = "the command's answer")]
    fn line(&mut self, what: &str, result: Result<String>) {
        match result {
            Ok(detail) => println!("ok      {what}{}{detail}", if detail.is_empty() { "" } else { ": " }),
            Err(error) => {
                self.failed = true;
                println!("FAILED  {what}: {error}");
            }
        }
    }
}

fn copy(error: &Error) -> Error {
    Error::new(error.kind(), error.code(), error.to_string())
}
