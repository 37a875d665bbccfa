//! Configuration: a TOML file, then environment variables (`NATS_AUTHORITY__HTTP__LISTEN`), then
//! flags; the later wins. What is read ([`Raw`]) and what is usable ([`Config`]) are different types:
//! a `Config` has been checked. Unknown keys are refused.
//!
//! Secrets come as paths of files, so that they stand in no environment variable and can be replaced
//! under a running process.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::SecretString;
use serde::Deserialize;

use crate::{
    api::{LimitSettings, server::TlsFiles},
    authority::{FOLD_ABOVE, Settings, WARN_BEFORE},
    error::{Error, Result},
    identity::{
        self,
        certificate::{Certificates, RawCertificateGrant},
        settings::{IssuerSettings, RawIssuer},
    },
    model::{
        NameRules,
        size::{parse_duration, parse_grace, parse_size},
    },
};

/// The configuration as it is written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// The operator's bundle, adopted when the database has no operator.
    pub bundle: Option<PathBuf>,
    /// Plans and roles; built-in ones when absent.
    pub policies: Option<PathBuf>,
    /// The plan of organizations that name none.
    pub default_plan: Option<String>,
    /// HTTP.
    pub http: RawHttp,
    /// Callers.
    pub access: RawAccess,
    /// Postgres.
    pub database: RawDatabase,
    /// nats-servers.
    pub nats: RawNats,
    /// Sealing keys.
    pub sealing: RawSealing,
    /// JetStream.
    pub jetstream: RawJetStream,
    /// Limits.
    pub limits: RawLimits,
    /// Names.
    pub names: RawNames,
    /// Credentials.
    pub credentials: RawCredentials,
    /// Logs.
    pub log: RawLog,
}

/// HTTP.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawHttp {
    /// Address and port of the API; port 0 takes a free one.
    pub listen: Option<String>,
    /// Address and port of `/metrics`, and of the probes once more, where no number of callers can keep them from
    /// being answered; absent: no metrics.
    pub metrics_listen: Option<String>,
    /// File that gets the API's URL once it listens.
    pub url_file: Option<PathBuf>,
    /// Certificate chain, PEM. With `tls_key`: HTTPS.
    pub tls_certificate: Option<PathBuf>,
    /// Private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities of clients, PEM. With it clients may show a certificate.
    pub tls_client_ca: Option<PathBuf>,
}

/// Callers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAccess {
    /// The token that `init` made opens the API; true when absent.
    pub break_glass: Option<bool>,
    /// Whose tokens are believed, beside our own.
    pub issuers: Vec<RawIssuer>,
    /// What client certificates make their bearers.
    pub certificates: Vec<RawCertificateGrant>,
}

/// Postgres.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawDatabase {
    /// File that holds the `postgres://` URL.
    pub url_file: Option<PathBuf>,
    /// Most connections for requests and tasks; four more are for pushing and for probes. All are opened at start and kept.
    pub max_connections: Option<u32>,
}

/// nats-servers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNats {
    /// URLs of servers; one is enough to find the others.
    pub urls: Vec<String>,
    /// Certificate authorities to trust, PEM; the system's when absent.
    pub tls_ca: Option<PathBuf>,
    /// How long a server may take to answer a push, such as `2s`.
    pub answer_timeout: Option<String>,
}

/// Sealing keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSealing {
    /// Files of 64 hexadecimal characters; the first seals, any opens.
    pub key_files: Vec<PathBuf>,
}

/// JetStream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawJetStream {
    /// How much may be promised, as a multiple of what the cluster has; 1.0 when absent.
    pub overcommit: Option<f64>,
    /// Replicas of streams and buckets, 1 to 5; when absent 3 where three servers have JetStream, else 1.
    pub replicas: Option<usize>,
}

/// Limits of the API.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    /// Requests a second of one caller, and as many at once; 2000 when absent, 0: no limit.
    pub caller_rate: Option<u32>,
    /// Requests a second about one organization, and as many at once; 1000 when absent, 0: no limit.
    pub organization_rate: Option<u32>,
    /// How many requests are worked on at a time, 8 to 10000; a large one counts as several; 256 when absent.
    pub concurrent_requests: Option<usize>,
    /// How many connections there may be, 16 to 100000; 8192 when absent.
    pub connections: Option<usize>,
}

/// Names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawNames {
    /// Slugs that no organization may have.
    pub reserved: Option<Vec<String>>,
    /// Beginnings of slugs that no organization may have.
    pub reserved_prefixes: Option<Vec<String>>,
    /// Environment types.
    pub env_types: Option<Vec<String>>,
}

/// Credentials.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCredentials {
    /// Size of an account's JWT above which its revocations are folded, such as `48KiB`; 8KiB to 512KiB.
    pub fold_above: Option<String>,
    /// How long before its end a credential is warned of, such as `7d`; `0s` for never.
    pub warn_before: Option<String>,
}

/// Logs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    /// Filter such as `info` or `nats_authority=debug`.
    pub filter: Option<String>,
    /// `json` or `text`.
    pub format: Option<String>,
}

/// The configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// The operator's bundle.
    pub bundle: Option<PathBuf>,
    /// Plans and roles.
    pub policies: Option<PathBuf>,
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where metrics are.
    pub metrics_listen: Option<SocketAddr>,
    /// File that gets the API's URL.
    pub url_file: Option<PathBuf>,
    /// Certificate chain and key.
    pub tls: Option<TlsFiles>,
    /// What callers may take.
    pub limits: LimitSettings,
    /// How many connections there may be.
    pub connections: usize,
    /// The token that `init` made opens the API.
    pub break_glass: bool,
    /// Whose tokens are believed.
    pub issuers: Vec<IssuerSettings>,
    /// What client certificates make their bearers.
    pub certificates: Certificates,
    /// Postgres.
    pub database_url: SecretString,
    /// Most connections to Postgres for requests and tasks.
    pub max_connections: u32,
    /// nats-servers.
    pub nats_urls: Vec<String>,
    /// Certificate authorities of nats-servers.
    pub nats_tls_ca: Option<PathBuf>,
    /// How long a server may take to answer.
    pub answer_timeout: Duration,
    /// Files of sealing keys.
    pub sealing_key_files: Vec<PathBuf>,
    /// Replicas of streams.
    pub replicas: Option<usize>,
    /// What the deployer decides.
    pub settings: Settings,
}

/// The prefix of environment variables; `__` separates levels.
pub const ENV_PREFIX: &str = "NATS_AUTHORITY";

impl Raw {
    /// Reads the file, if one is named, and the environment.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let mut builder = config::Config::builder();
        if let Some(file) = file {
            builder = builder.add_source(config::File::from(file).format(config::FileFormat::Toml));
        }
        builder
            .add_source(
                config::Environment::with_prefix(ENV_PREFIX)
                    .prefix_separator("__")
                    .separator("__")
                    .try_parsing(true)
                    .list_separator(",")
                    .with_list_parse_key("nats.urls")
                    .with_list_parse_key("sealing.key_files"),
            )
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| invalid(&one_line(&error.to_string())))
    }

    /// Checks the configuration; relative paths are taken from `base`, the file's folder.
    pub fn check(self, base: &Path) -> Result<Config> {
        let path = |path: PathBuf| base.join(path);
        let url_file = self
            .database
            .url_file
            .map(path)
            .ok_or_else(|| invalid("database.url_file is missing: name a file that holds the postgres:// URL"))?;
        let client_ca = self.http.tls_client_ca.map(path);
        let certificates = Certificates::check(&self.access.certificates)?;
        if client_ca.is_none() && !certificates.is_empty() {
            return Err(invalid("access.certificates needs http.tls_client_ca: who signs them"));
        }
        let tls = match (self.http.tls_certificate, self.http.tls_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: path(certificate), key: path(key), client_ca })
            }
            (None, None) if client_ca.is_none() => None,
            _ => return Err(invalid("http.tls_certificate and http.tls_key go together, tls_client_ca with both")),
        };
        if self.nats.urls.is_empty() {
            return Err(invalid("nats.urls is missing: name at least one server, such as nats://127.0.0.1:4222"));
        }
        let overcommit = self.jetstream.overcommit.unwrap_or(1.0);
        if !(overcommit > 0.0 && overcommit <= 1000.0) {
            return Err(invalid("jetstream.overcommit has to be above 0 and at most 1000"));
        }
        if self.jetstream.replicas.is_some_and(|replicas| !(1..=5).contains(&replicas)) {
            return Err(invalid("jetstream.replicas has to be 1 to 5"));
        }
        let fold_above = match self.credentials.fold_above.as_deref().map(parse_size) {
            None => FOLD_ABOVE,
            Some(size) => size
                .filter(|size| (8 << 10..=512 << 10).contains(size))
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(|| invalid("credentials.fold_above has to be 8KiB to 512KiB"))?,
        };
        let warn_before = match self.credentials.warn_before.as_deref() {
            None => WARN_BEFORE,
            Some(text) => parse_grace("credentials.warn_before", text)?,
        };
        let answer_timeout = match self.nats.answer_timeout {
            None => Duration::from_secs(2),
            Some(text) => Duration::from_secs(parse_duration("nats.answer_timeout", &text)?.unsigned_abs()),
        };
        let connections = within("limits.connections", self.limits.connections.unwrap_or(8192), 16, 100_000)?;
        Ok(Config {
            bundle: self.bundle.map(path),
            policies: self.policies.map(path),
            listen: address("http.listen", self.http.listen.as_deref().unwrap_or("127.0.0.1:8080"))?,
            metrics_listen: self.http.metrics_listen.map(|text| address("http.metrics_listen", &text)).transpose()?,
            url_file: self.http.url_file.map(path),
            tls,
            limits: limits(&self.limits)?,
            connections,
            break_glass: self.access.break_glass.unwrap_or(true),
            issuers: identity::settings::check(self.access.issuers, base)?,
            certificates,
            database_url: SecretString::from(read_secret(&url_file)?),
            max_connections: self.database.max_connections.unwrap_or(16).max(2),
            nats_urls: self.nats.urls,
            nats_tls_ca: self.nats.tls_ca.map(path),
            answer_timeout,
            sealing_key_files: self.sealing.key_files.into_iter().map(path).collect(),
            replicas: self.jetstream.replicas,
            settings: Settings {
                names: names(self.names)?,
                default_plan: self.default_plan.unwrap_or_else(|| "s".to_owned()),
                overcommit,
                fold_above,
                warn_before,
            },
        })
    }
}

/// Reads a file that holds one secret.
pub fn read_secret(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| invalid(&format!("{} cannot be read: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

fn limits(raw: &RawLimits) -> Result<LimitSettings> {
    let default = LimitSettings::default();
    let rate = |raw: Option<u32>, default| raw.map_or(default, NonZeroU32::new);
    let concurrent = raw.concurrent_requests.unwrap_or(default.concurrent);
    Ok(LimitSettings {
        caller_rate: rate(raw.caller_rate, default.caller_rate),
        organization_rate: rate(raw.organization_rate, default.organization_rate),
        concurrent: within("limits.concurrent_requests", concurrent, 8, 10_000)?,
    })
}

fn within(key: &str, value: usize, least: usize, most: usize) -> Result<usize> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(invalid(&format!("{key} has to be {least} to {most}")))
}

fn names(raw: RawNames) -> Result<NameRules> {
    let default = NameRules::default();
    let env_types = match raw.env_types {
        None => default.env_types().to_vec(),
        Some(texts) => texts
            .iter()
            .map(|text| text.parse().map_err(|error: Error| invalid(&format!("names.env_types: '{text}': {error}"))))
            .collect::<Result<_>>()?,
    };
    let (reserved, prefixes) = default.reserved();
    Ok(NameRules::new(
        raw.reserved.unwrap_or_else(|| reserved.to_vec()),
        raw.reserved_prefixes.unwrap_or_else(|| prefixes.to_vec()),
        env_types,
    ))
}

fn address(key: &str, text: &str) -> Result<SocketAddr> {
    text.parse().map_err(|_| invalid(&format!("{key}: '{text}' is no address and port such as 127.0.0.1:8080")))
}

/// The parser shows the place in lines of their own, with a gutter; it names it in words as well.
fn one_line(message: &str) -> String {
    let gutter = |line: &&str| !line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    message.lines().filter(gutter).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn invalid(why: &str) -> Error {
    Error::invalid("invalid-configuration", format!("configuration: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("authority.toml");
        std::fs::write(dir.path().join("db"), "postgres://u@127.0.0.1/x\n").unwrap();
        std::fs::write(&file, text).unwrap();
        Raw::load(Some(&file))?.check(dir.path())
    }

    #[test]
    fn the_examples_of_callers_are_configurations() {
        let good = "nats.urls = ['nats://127.0.0.1:4222']\ndatabase.url_file = 'db'\n";
        let config = load(&format!("{good}{}", include_str!("../deploy/access/issuers.toml.example"))).unwrap();
        let grants: Vec<_> = config.issuers.iter().map(|issuer| (issuer.name.as_str(), issuer.grants.len())).collect();
        assert_eq!(grants, [("keycloak", 4), ("kubernetes", 2)]);
        let config = load(&format!("{good}{}", include_str!("../deploy/access/certificates.toml.example"))).unwrap();
        assert!(!config.certificates.is_empty() && config.tls.is_some_and(|tls| tls.client_ca.is_some()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = "nats.urls = ['nats://127.0.0.1:4222']\ndatabase.url_file = 'db'\n";
        load(good).unwrap();
        for (text, word) in [
            ("x = 1", "x"),
            ("nonsense", "line 3"),
            ("[http]\nlisten_on = 'a'", "listen_on"),
            ("[http]\nlisten = 'nowhere'", "http.listen"),
            ("[http]\ntls_key = 'k'", "go together"),
            ("[http]\ntls_client_ca = 'k'", "go together"),
            ("[[access.certificates]]\nspiffe = 'spiffe://x/y'\nrole = 'sovereign-admin'", "http.tls_client_ca"),
            ("[jetstream]\novercommit = 0", "overcommit"),
            ("[limits]\nconcurrent_requests = 0", "limits.concurrent_requests"),
            ("[limits]\nconnections = 1", "limits.connections"),
            ("[names]\nenv_types = ['a-b']", "a-b"),
            ("[[access.issuers]]\nname = 'a'\nurl = 'http://x'", "access.issuers.a.url"),
            ("[[access.issuers]]\nname = 'a'\nuri = 'http://x'", "uri"),
        ] {
            let error = load(&format!("{good}{text}")).unwrap_err().to_string();
            assert!(error.contains(word) && error.lines().count() == 1, "{text}: {error}");
        }
        assert!(load("").unwrap_err().to_string().contains("database.url_file"));
    }
}
