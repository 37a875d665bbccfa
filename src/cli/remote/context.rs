//! Contexts: services by name, as natscli users know them. A file each in
//! `$XDG_CONFIG_HOME/nats-authority/context/`, and `context.txt` with the name of the selected one.
//! They name the files of token, certificate and key, never what is in them.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use clap::Subcommand;
use serde::{Deserialize, Serialize};
use url::Url;

use super::GlobalOptions;
use crate::{
    cli::{
        files::io_error,
        output::{OutputFormat, fields, print, table},
    },
    error::{Error, Result},
    model::ItemName,
};

/// What can be done with contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// Write a context from --url and --token-file or --client-cert, or both; an existing one is replaced.
    Add {
        /// Its name.
        name: String,
        /// Select it as well.
        #[arg(long)]
        select: bool,
    },
    /// List the contexts.
    List,
    /// Select the context that is used where none is named.
    Select {
        /// Its name.
        name: String,
    },
    /// Show a context, the selected one if none is named.
    Show {
        /// Its name.
        name: Option<String>,
    },
}

/// A context's file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Context {
    url: Url,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key: Option<PathBuf>,
}

/// The files of what a caller shows.
pub(super) struct Shown {
    pub(super) token_file: Option<PathBuf>,
    pub(super) client_cert: Option<PathBuf>,
    /// None: it is in the same file as the certificate.
    pub(super) client_key: Option<PathBuf>,
}

impl Shown {
    /// What the options name; a key goes with its certificate.
    fn given(options: &GlobalOptions) -> Result<Self> {
        if options.client_key.is_some() && options.client_cert.is_none() {
            return Err(Error::invalid("client-cert", "--client-key is the key of a --client-cert, and none is given"));
        }
        Ok(Self {
            token_file: options.token_file.clone(),
            client_cert: options.client_cert.clone(),
            client_key: options.client_key.clone(),
        })
    }

    /// With what is missing from a context. A token says who calls whatever the certificate says: so one that nobody
    /// named here does not come along with a certificate that somebody did.
    fn or(mut self, context: &Context) -> Self {
        if self.client_cert.is_none() {
            self.token_file = self.token_file.or_else(|| context.token_file.clone());
            (self.client_cert, self.client_key) = (context.client_cert.clone(), context.client_key.clone());
        }
        self
    }

    fn is_nothing(&self) -> bool {
        self.token_file.is_none() && self.client_cert.is_none()
    }
}

/// Where the service is, and what it is shown.
pub(super) struct Place {
    pub(super) url: Url,
    pub(super) shown: Shown,
}

/// Where the options say that the service is: flags, then environment, then the context.
pub(super) fn place(options: &GlobalOptions) -> Result<Place> {
    let given = Shown::given(options)?;
    let context = match &options.context {
        Some(name) => Some(Contexts::of(options)?.read(name)?),
        None if options.url.is_some() && !given.is_nothing() => None,
        None => match Contexts::of(options) {
            Ok(contexts) => contexts.selected()?.map(|name| contexts.read(&name)).transpose()?,
            Err(_) => None,
        },
    };
    let missing = |what: &str, flag: &str, variable: &str| {
        let detail = format!(
            "no {what} is known; give {flag}, set {variable} or select a context with `nats-authority context add`"
        );
        Error::invalid("no-service", detail)
    };
    let url = match &options.url {
        Some(text) => parse_url(text)?,
        None => {
            context.as_ref().map(|c| c.url.clone()).ok_or_else(|| missing("service", "--url", "NATS_AUTHORITY_URL"))?
        }
    };
    let shown = match &context {
        Some(context) => given.or(context),
        None => given,
    };
    if shown.is_nothing() {
        return Err(missing("token", "--token-file (or --client-cert)", "NATS_AUTHORITY_TOKEN_FILE"));
    }
    Ok(Place { url, shown })
}

fn parse_url(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| Error::invalid("url", format!("'{text}' is no URL such as https://nats-authority.example.com")))
}

/// Runs a command.
pub(super) fn run(command: &ContextCommand, options: &GlobalOptions) -> Result<u8> {
    let contexts = Contexts::of(options)?;
    match command {
        ContextCommand::Add { name, select } => {
            let shown = Shown::given(options)?;
            let Some(url) = options.url.as_ref().filter(|_| !shown.is_nothing()) else {
                return Err(Error::invalid("no-service", "a context needs --url, and --token-file or --client-cert"));
            };
            // A relative path would mean another file from another folder.
            let absolute = |path: Option<PathBuf>| {
                path.map(|path| std::path::absolute(&path).map_err(|error| io_error("find", &path, error))).transpose()
            };
            let context = Context {
                url: parse_url(url)?,
                token_file: absolute(shown.token_file)?,
                client_cert: absolute(shown.client_cert)?,
                client_key: absolute(shown.client_key)?,
            };
            contexts.write(name, &context)?;
            if *select {
                contexts.select(name)?;
            }
        }
        ContextCommand::List => {
            let selected = contexts.selected()?;
            let all = contexts.all()?;
            match options.output {
                OutputFormat::Json => print(&json(&all.iter().map(|(name, _)| name).collect::<Vec<_>>())?)?,
                OutputFormat::Table => print(&table(
                    ["", "NAME", "URL", "TOKEN FILE", "CERTIFICATE"],
                    all.iter().map(|(name, context)| {
                        let mark = if selected.as_ref() == Some(name) { "*" } else { "" };
                        [
                            mark.to_owned(),
                            name.clone(),
                            context.url.to_string(),
                            path(context.token_file.as_ref()),
                            path(context.client_cert.as_ref()),
                        ]
                    }),
                ))?,
            }
        }
        ContextCommand::Select { name } => {
            contexts.read(name)?;
            contexts.select(name)?;
        }
        ContextCommand::Show { name } => {
            let name = match name {
                Some(name) => name.clone(),
                None => contexts.selected()?.ok_or_else(|| Error::invalid("no-context", "no context is selected"))?,
            };
            let context = contexts.read(&name)?;
            match options.output {
                OutputFormat::Json => print(&json(&context)?)?,
                OutputFormat::Table => print(&fields(&[
                    ("name", name),
                    ("url", context.url.to_string()),
                    ("token file", path(context.token_file.as_ref())),
                    ("certificate", path(context.client_cert.as_ref())),
                    ("its key", path(context.client_key.as_ref())),
                ]))?,
            }
        }
    }
    Ok(0)
}

fn path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::internal("context").with_source(error))
}

/// The folder of contexts.
struct Contexts(PathBuf);

impl Contexts {
    fn of(options: &GlobalOptions) -> Result<Self> {
        let config = options.config_home.clone().filter(|path| path.is_absolute());
        let config = config.or_else(|| Some(options.home.as_ref()?.join(".config")));
        config.map(|config| Self(config.join("nats-authority"))).ok_or_else(|| {
            Error::invalid("no-home", "there is no home folder for contexts; set HOME or XDG_CONFIG_HOME")
        })
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        // A name is part of a path.
        let name: ItemName = name.parse()?;
        Ok(self.0.join("context").join(format!("{name}.json")))
    }

    fn read(&self, name: &str) -> Result<Context> {
        let path = self.file(name)?;
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .map_err(|error| Error::invalid("context", format!("{} cannot be used: {error}", path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::invalid(
                "no-context",
                format!("there is no context '{name}'; `nats-authority context list` lists them"),
            )),
            Err(error) => Err(io_error("read", &path, error)),
        }
    }

    fn write(&self, name: &str, context: &Context) -> Result<()> {
        let path = self.file(name)?;
        save(&path, &json(context)?).map_err(|error| io_error("write", &path, error))
    }

    fn select(&self, name: &str) -> Result<()> {
        let path = self.0.join("context.txt");
        save(&path, name).map_err(|error| io_error("write", &path, error))
    }

    fn selected(&self) -> Result<Option<String>> {
        let path = self.0.join("context.txt");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &path, error)),
        }
    }

    fn all(&self) -> Result<Vec<(String, Context)>> {
        let dir = self.0.join("context");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &dir, error)),
        };
        let mut names: Vec<_> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort_unstable();
        names.into_iter().map(|name| self.read(&name).map(|context| (name, context))).collect()
    }
}

fn save(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, format!("{text}\n"))
}
