//! The operator and resolver part of a nats-server configuration: pure text.

use crate::nkey::{Account, PublicKey};

/// What every server has to trust.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The operator JWT.
    pub operator_jwt: String,
    /// The system account.
    pub system_account: PublicKey<Account>,
    /// The system account's JWT, preloaded so that servers can start without us.
    pub system_account_jwt: String,
}

/// The part that is the same on every server; `store_dir` is where it keeps account JWTs.
///
/// `interval` is how often servers compare their stores with each other; `allow_delete` is needed to
/// remove accounts (source: nats-server's account resolver options).
pub fn operator_section(trust: &Trust, store_dir: &str) -> String {
    format!(
        r#"# Written by nats-authority. The operator that signs accounts, and where servers keep them.
# A changed operator JWT takes effect after a restart, not after a reload.
operator: "{operator}"
system_account: "{system}"
resolver: {{
  type: full
  dir: "{store_dir}"
  allow_delete: true
  interval: "2m"
  timeout: "1.9s"
}}
resolver_preload: {{
  {system}: "{jwt}"
}}
"#,
        operator = trust.operator_jwt,
        system = trust.system_account,
        jwt = trust.system_account_jwt,
    )
}

/// An example configuration of one server of a cluster; includes `operator.conf`.
pub fn example_node(name: &str, cluster: &str, routes: &[String]) -> String {
    let routes: Vec<_> = routes.iter().map(|route| format!("    \"{route}\"")).collect();
    format!(
        r#"# An example: adapt addresses, paths and TLS to your machines.
server_name: "{name}"
listen: "0.0.0.0:4222"
jetstream: {{
  store_dir: "/var/lib/nats/jetstream"
  max_file_store: 10GiB
}}
cluster: {{
  name: "{cluster}"
  listen: "0.0.0.0:6222"
  routes: [
{}
  ]
}}
include "./operator.conf"
"#,
        routes.join("\n")
    )
}
