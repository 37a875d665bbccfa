//! In what form an issued credential is written: as the creds file itself, with a context for natscli
//! beside it, or inside a manifest for Kubernetes. Where it goes is decided elsewhere.

use std::path::Path;

use clap::{Args, ValueEnum};
use data_encoding::BASE64;
use serde_json::json;
use zeroize::Zeroizing;

use super::secret_file::Place;
use crate::{
    cli::{files::io_error, output::note},
    error::{Error, Result},
    model::view::CredentialView,
};

/// The form of an issued credential.
#[derive(Clone, Debug, Default, Args)]
pub struct FormatArgs {
    /// In what form it is written.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// With --format natscli: where the servers are, such as `nats://n1:4222,nats://n2:4222`.
    #[arg(long, value_name = "URLS")]
    nats_url: Option<String>,
    /// With --format k8s-secret: the namespace of the Secret.
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

/// See [`FormatArgs`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The creds file.
    #[default]
    Creds,
    /// The creds file, and beside it a context for natscli that names it.
    Natscli,
    /// A manifest of a Kubernetes Secret with the creds file in it.
    K8sSecret,
}

impl FormatArgs {
    /// Refuses what does not fit together, before anything is issued. `holds_key` says that what is written
    /// will have the private key in it.
    pub(super) fn check(&self, out: Option<&Path>, holds_key: bool) -> Result<()> {
        let refuse = |detail: &str| Err(Error::invalid("invalid-format", detail));
        match self.format {
            Format::Natscli if out == Some(Path::new("-")) => {
                refuse("a context names the creds file: with --format natscli, --out is a file")
            }
            Format::Natscli | Format::K8sSecret if !holds_key => {
                refuse("with --public-key there is no creds file to write; use --seed-file, or --format creds")
            }
            Format::Creds | Format::K8sSecret if self.nats_url.is_some() => {
                refuse("--nats-url goes with --format natscli")
            }
            Format::Creds | Format::Natscli if self.namespace.is_some() => {
                refuse("--namespace goes with --format k8s-secret")
            }
            _ => Ok(()),
        }
    }

    /// What the file's name ends in, when nothing else was asked for; `kind` is that of the plain file.
    pub(super) fn extension<'k>(&self, kind: &'k str) -> &'k str {
        if self.format == Format::K8sSecret { "yaml" } else { kind }
    }

    /// The secret in its form.
    pub(super) fn wrap(&self, secret: Zeroizing<String>, credential: &CredentialView) -> Zeroizing<String> {
        match self.format {
            Format::Creds | Format::Natscli => secret,
            Format::K8sSecret => manifest(&secret, credential, self.namespace.as_deref()),
        }
    }

    /// Takes the place of what goes beside the creds file `out`, before anything is issued.
    pub(super) fn reserve_beside(&self, out: &Path, force: bool) -> Result<Option<Place>> {
        (self.format == Format::Natscli).then(|| Place::reserve(&out.with_extension("json"), force)).transpose()
    }

    /// Writes what goes beside the creds file `path`, and says so.
    pub(super) fn accompany(&self, beside: Option<Place>, path: &Path, credential: &CredentialView) -> Result<()> {
        let Some(beside) = beside else { return Ok(()) };
        let creds = std::path::absolute(path).map_err(|error| io_error("find", path, error))?;
        let context = json!({
            "description": format!("{} in {}-{}", credential.name, credential.org, credential.env_type),
            "url": self.nats_url.clone().unwrap_or_default(),
            "creds": creds,
            "inbox_prefix": credential.inbox_prefix,
        });
        if let Some(file) = beside.write(&format!("{context:#}\n"))? {
            note(&format!("wrote {}; natscli looks for contexts in ~/.config/nats/context/", file.display()));
        }
        Ok(())
    }
}

/// A Secret with the creds file and the inbox prefix. YAML that is also what `kubectl` writes.
fn manifest(creds: &str, credential: &CredentialView, namespace: Option<&str>) -> Zeroizing<String> {
    let CredentialView { org, env_type, name, role, .. } = credential;
    let namespace = namespace.map(|name| format!("\n  namespace: {name}")).unwrap_or_default();
    let head = format!(
        "apiVersion: v1
kind: Secret
metadata:
  name: {}{namespace}
  annotations:
    nats-authority/credential: {}
    nats-authority/role: {role}
    nats-authority/expires: \"{}\"
type: Opaque
data:
  inbox-prefix: {}
  nats.creds: ",
        dns_label(&format!("{org}-{env_type}-{name}")),
        credential.id,
        credential.expires_at.to_rfc3339(),
        BASE64.encode(credential.inbox_prefix.as_bytes()),
    );
    // Large enough from the start: growing would leave a copy of the secret in freed memory.
    let encoded = Zeroizing::new(BASE64.encode(creds.as_bytes()));
    let mut text = Zeroizing::new(String::with_capacity(head.len() + encoded.len() + 1));
    for part in [&head, encoded.as_str(), "\n"] {
        text.push_str(part);
    }
    text
}

/// A name that Kubernetes takes: lower case, digits and hyphens, neither at an end. What is put together of
/// an organization, an environment and a name is at most 113 of the 253 characters that it may have.
fn dns_label(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-").trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_kubernetes() {
        assert_eq!(dns_label("acme-prod-Orders_api_"), "acme-prod-orders-api");
    }
}
