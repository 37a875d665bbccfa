//! Renews the credential in a creds file over NATS. Arguments: server URL, creds file.

use std::{fs, os::unix::fs::PermissionsExt};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, path] = &arguments[..] else { bail!("give the server's URL and the creds file") };
    renew(url, path).await
}

/// Asks once and replaces the file.
pub async fn renew(url: &str, path: &str) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let old = text.lines().find(|line| line.starts_with("eyJ")).context("no JWT in the file")?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(old.split('.').nth(1).context("no payload")?)?;
    let claims: serde_json::Value = serde_json::from_slice(&payload)?;
    let user = claims["sub"].as_str().context("no user key")?;
    let options = async_nats::ConnectOptions::with_credentials(&text)?.custom_inbox_prefix(format!("_INBOX.{user}"));
    let answer = options.connect(url).await?.request(format!("authority.renew.{user}"), "".into()).await?;
    let new = std::str::from_utf8(&answer.payload)?;
    if answer.headers.is_some_and(|headers| headers.get("Nats-Service-Error-Code").is_some()) {
        bail!("{new}");
    }
    let draft = format!("{path}.new");
    fs::write(&draft, "")?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    fs::write(&draft, text.replace(old, new))?;
    fs::File::open(&draft)?.sync_all()?;
    Ok(fs::rename(&draft, path)?)
}
