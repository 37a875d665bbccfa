//! The matrix as data: what stands in `matrix.toml`, the cells that follow from it, and the document.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// The roles that come with the program, in the order of the document.
pub const ROLES: [&str; 5] = ["publisher", "consumer", "projector", "viewer", "env-admin"];

/// What an environment is to the one that the credential was issued for.
pub const TARGETS: [&str; 3] = ["own", "sibling", "other"];

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    group: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    title: String,
    text: Option<String>,
    #[serde(default)]
    operation: Vec<Operation>,
}

/// One row: what is tried, and for which roles it works where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    what: String,
    does: String,
    #[serde(default)]
    subject: String,
    #[serde(default)]
    body: String,
    #[serde(default)]
    reply: String,
    before: Option<Message>,
    /// It worked if a message of this subject is in the stream of the environment that was reached for.
    pub stores: Option<String>,
    /// … if that stream lacks this consumer, which was there.
    pub deletes: Option<String>,
    /// … if that stream has this consumer.
    pub makes: Option<String>,
    /// It is about the account: there is one cell only.
    #[serde(default)]
    once: bool,
    #[serde(default)]
    own: Vec<String>,
    #[serde(default)]
    sibling: Vec<String>,
    #[serde(default)]
    other: Vec<String>,
}

/// A request that comes before.
#[derive(Clone, Deserialize, Serialize)]
pub struct Message {
    pub subject: String,
    pub body: String,
}

/// One cell as a runner gets it, with everything filled in.
#[derive(Clone, Default, Serialize)]
pub struct Cell {
    pub id: String,
    pub does: String,
    pub env: String,
    pub stream: String,
    pub bucket: String,
    pub run: String,
    pub subject: String,
    pub body: String,
    pub reply: String,
    pub before: Option<Message>,
    #[serde(skip)]
    pub stores: Option<String>,
    #[serde(skip)]
    pub deletes: Option<String>,
    #[serde(skip)]
    pub makes: Option<String>,
    /// What has to come out.
    #[serde(skip)]
    pub expected: bool,
    #[serde(skip)]
    pub target: usize,
}

impl Matrix {
    pub fn read() -> Self {
        toml::from_str(include_str!("matrix.toml")).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The cells of one role and one client; `environments` are those of [`TARGETS`].
    pub fn cells(&self, client: &str, role: &str, environments: &[&str; 3], stranger: &str) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (row, operation) in self.group.iter().flat_map(|group| &group.operation).enumerate() {
            for (target, env) in environments.iter().enumerate().take(if operation.once { 1 } else { 3 }) {
                let run = format!("{client}-{role}-{}", TARGETS[target]);
                let fill = |text: &str| {
                    text.replace("{env}", env)
                        .replace("{stream}", &format!("ws-{env}-events"))
                        .replace("{bucket}", &format!("ws-{env}-state"))
                        .replace("{own-env}", environments[0])
                        .replace("{own-stream}", &format!("ws-{}-events", environments[0]))
                        .replace("{own-bucket}", &format!("ws-{}-state", environments[0]))
                        .replace("{sibling-env}", environments[1])
                        .replace("{stranger}", stranger)
                        .replace("{run}", &run)
                };
                cells.push(Cell {
                    id: format!("{row} {} ({})", operation.what, TARGETS[target]),
                    does: operation.does.clone(),
                    env: (*env).to_owned(),
                    stream: fill("{stream}"),
                    bucket: fill("{bucket}"),
                    subject: fill(&operation.subject),
                    body: fill(&operation.body),
                    reply: fill(&operation.reply),
                    before: operation
                        .before
                        .as_ref()
                        .map(|before| Message { subject: fill(&before.subject), body: fill(&before.body) }),
                    stores: operation.stores.as_deref().map(fill),
                    deletes: operation.deletes.as_deref().map(fill),
                    makes: operation.makes.as_deref().map(fill),
                    expected: operation.roles(target).iter().any(|name| name == role),
                    target,
                    run,
                });
            }
        }
        cells
    }

    /// Every role that is named is one, and nothing is expected to reach where nothing may: another
    /// organization never, a sibling only by the reply subjects that servers do not check.
    pub fn check(&self) {
        for operation in self.group.iter().flat_map(|group| &group.operation) {
            let mut named = (0..3).flat_map(|target| operation.roles(target));
            assert!(named.all(|name| ROLES.contains(&name.as_str())), "{}", operation.what);
            assert!(operation.other.is_empty(), "{}", operation.what);
            assert!(operation.sibling.is_empty() || !operation.reply.is_empty(), "{}", operation.what);
        }
    }

    /// `docs/ROLES.md`.
    pub fn document(&self) -> String {
        let mut text = String::from(HEAD);
        for group in &self.group {
            writeln!(text, "\n## {}\n", group.title).unwrap();
            if let Some(words) = &group.text {
                writeln!(text, "{}\n", words.trim()).unwrap();
            }
            writeln!(text, "| | {} |", ROLES.map(|role| format!("`{role}`")).join(" | ")).unwrap();
            writeln!(text, "|---|{}", "---|".repeat(ROLES.len())).unwrap();
            for operation in &group.operation {
                let cells = ROLES.map(|role| operation.cell(role));
                writeln!(text, "| {} | {} |", operation.shown(), cells.join(" | ")).unwrap();
            }
        }
        text
    }
}

impl Operation {
    fn roles(&self, target: usize) -> &[String] {
        [&self.own, &self.sibling, &self.other][target]
    }

    fn cell(&self, role: &str) -> String {
        let works = (0..3).filter(|target| self.roles(*target).iter().any(|name| name == role));
        works
            .map(|target| if target == 0 { "own".to_owned() } else { format!("**{}**", TARGETS[target]) })
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The row's words, with what is sent where no library has a call for it.
    fn shown(&self) -> String {
        let sent = match self.does.as_str() {
            "request" | "publish" => format!(": `{}`", self.subject),
            _ => String::new(),
        };
        let reply = if self.reply.is_empty() { String::new() } else { format!(", reply `{}`", self.reply) };
        let words = self.what.replace("{env}", "<env>").replace("{bucket}", "<bucket>");
        format!("{words}{sent}{reply}").replace("{run}", "<name>").replace('{', "<").replace('}', ">")
    }
}

const HEAD: &str = "\
# Roles

What a credential of each role can do, and where: in its **own** environment, in a **sibling** environment of the same
organization, and in an **other** organization. Where a cell does not name an environment, the server refused it there.
`tests/it/roles` tries every cell on a running nats-server with three clients, async-nats (Rust), nats-py and the official
JavaScript client. It fails when one of them sees something else than `tests/it/roles/matrix.toml` says, and when this page is
not what follows from that file (`UPDATE_ROLES=1 cargo test --test it roles::the_document` writes it anew).

What the roles are for and how to write one: [policies/README.md](../policies/README.md). Clients set their inbox prefix to
`_INBOX.<user public key>`.
";
