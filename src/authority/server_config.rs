//! What nats-server reads: pure functions from facts to configuration text.
//!
//! The operator's part stands in a file of its own, `operator.conf`, which a server's configuration
//! includes: it is the part that belongs to the authority, and the same for every server.

use std::{fmt::Write, path::Path};

/// Whom the servers believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The operator's JWT. Any change of it reaches a server only by a restart.
    pub operator_jwt: String,
    /// The public key of the system account.
    pub system_account: String,
    /// The JWT of the system account, which a server needs before it can look up any other.
    pub system_account_jwt: String,
}

/// Where the servers get the accounts' JWTs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolverKind {
    /// Every server stores every account and syncs with the others.
    Full,
    /// Servers keep what they looked up at full ones.
    Cache,
    /// Servers ask this URL, which ends in a slash.
    Url(String),
}

/// The cluster that a server joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The name that all its servers share.
    pub name: String,
    /// Where the other servers reach this one.
    pub port: u16,
    /// The route ports of all servers.
    pub peers: Vec<u16>,
    /// The password that servers show each other: other users of the machine are not to join.
    pub password: String,
}

/// The gateways that join several clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where the servers of other clusters reach this one.
    pub port: u16,
    /// Where they find this one when it is another port.
    pub advertise: Option<u16>,
    /// The clusters, this one included, with the gateway ports of their servers.
    pub clusters: Vec<(String, Vec<u16>)>,
    /// The password that servers show each other.
    pub password: String,
}

/// One server on 127.0.0.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The server's name.
    pub name: String,
    /// Where clients connect.
    pub port: u16,
    /// Where JetStream stores.
    pub store_dir: String,
    /// How much JetStream may store, bytes.
    pub jetstream_max_file: u64,
    /// The operator's part, relative to the configuration file.
    pub operator_file: String,
    /// Nothing for a server on its own.
    pub cluster: Option<ClusterConfig>,
    /// Nothing where there is one cluster.
    pub gateway: Option<GatewayConfig>,
}

/// The operator and resolver part, the same for every server. `resolver_dir` is where a server
/// stores the JWTs; when relative, to the server's working directory.
pub fn operator_section(trust: &Trust, kind: &ResolverKind, resolver_dir: &Path) -> String {
    let dir = quoted(&resolver_dir.to_string_lossy());
    let resolver = match kind {
        ResolverKind::Full => format!(
            "resolver {{\n  type: full\n  dir: {dir}\n  # Deleting an organization needs it; only a request that the operator signed deletes.\n  \
             allow_delete: true\n  interval: \"2m\"\n  timeout: \"1.9s\"\n}}\n"
        ),
        ResolverKind::Cache => {
            format!(
                "resolver {{\n  type: cache\n  dir: {dir}\n  limit: 10000\n  ttl: \"2m\"\n  timeout: \"1.9s\"\n}}\n"
            )
        }
        ResolverKind::Url(url) => format!("resolver: URL({})\n", quoted(url)),
    };
    // A server with a URL has nowhere to put it, refuses to start with it, and asks for it instead.
    let preload = match kind {
        ResolverKind::Full | ResolverKind::Cache => {
            format!("resolver_preload {{\n  {}: {}\n}}\n", trust.system_account, quoted(&trust.system_account_jwt))
        }
        ResolverKind::Url(_) => String::new(),
    };
    format!(
        "# Written by nats-authority: include it into the configuration of every server.\n\
         # A change of the operator's JWT needs a restart of the server; a reload refuses it.\n\
         operator: {}\n\
         system_account: {}\n\
         {resolver}{preload}",
        quoted(&trust.operator_jwt),
        trust.system_account,
    )
}

/// A whole server configuration for 127.0.0.1.
pub fn node_config(node: &NodeConfig) -> String {
    let mut text = format!(
        "server_name: {}\nlisten: \"127.0.0.1:{}\"\n\njetstream {{\n  store_dir: {}\n  max_file_store: {}\n}}\n",
        quoted(&node.name),
        node.port,
        quoted(&node.store_dir),
        node.jetstream_max_file,
    );
    if let Some(cluster) = &node.cluster {
        let routes: Vec<String> = cluster
            .peers
            .iter()
            .filter(|peer| **peer != cluster.port)
            .map(|peer| format!("    \"nats-route://route:{}@127.0.0.1:{peer}\"\n", cluster.password))
            .collect();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\ncluster {{\n  name: {}\n  listen: \"127.0.0.1:{}\"\n  authorization {{\n    user: route\n    password: {}\n  }}\n  \
             routes: [\n{}  ]\n}}\n",
            quoted(&cluster.name),
            cluster.port,
            quoted(&cluster.password),
            routes.concat(),
        );
    }
    if let (Some(cluster), Some(gateway)) = (&node.cluster, &node.gateway) {
        text.push_str(&gateway_section(&cluster.name, gateway));
    }
    let _ = write!(text, "\ninclude {}\n", quoted(&node.operator_file));
    text
}

fn gateway_section(cluster: &str, gateway: &GatewayConfig) -> String {
    let remote = |(name, ports): &(String, Vec<u16>)| {
        let url = |port: &u16| quoted(&format!("nats://gateway:{}@127.0.0.1:{port}", gateway.password));
        let urls: Vec<_> = ports.iter().map(url).collect();
        format!("    {{name: {}, urls: [{}]}}\n", quoted(name), urls.join(", "))
    };
    let remotes: String = gateway.clusters.iter().map(remote).collect();
    // Servers tell each other of gateways; without it they would find the way around what stands between.
    let advertise = gateway.advertise.map(|port| format!("  advertise: \"127.0.0.1:{port}\"\n")).unwrap_or_default();
    format!(
        "\ngateway {{\n  name: {}\n  listen: \"127.0.0.1:{}\"\n{advertise}  authorization {{\n    user: gateway\n    password: {}\n  }}\n  \
         gateways: [\n{remotes}  ]\n}}\n",
        quoted(cluster),
        gateway.port,
        quoted(&gateway.password),
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

/// A string as the configuration language reads it.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_section_names_the_resolver() {
        let trust =
            Trust { operator_jwt: "OP".into(), system_account: "ASYS".into(), system_account_jwt: "SYSJWT".into() };
        let full = operator_section(&trust, &ResolverKind::Full, Path::new("jwt \"x\""));
        assert!(full.contains("operator: \"OP\"\nsystem_account: ASYS\n"), "{full}");
        assert!(full.contains("type: full\n  dir: \"jwt \\\"x\\\"\"\n"), "{full}");
        assert!(full.contains("resolver_preload {\n  ASYS: \"SYSJWT\"\n}"), "{full}");
        let url = operator_section(&trust, &ResolverKind::Url("http://127.0.0.1:1/".into()), Path::new("jwt"));
        assert!(url.ends_with("resolver: URL(\"http://127.0.0.1:1/\")\n"), "{url}");
    }

    #[test]
    fn a_node_routes_to_the_others_only() {
        let mut node = NodeConfig {
            name: "n1".into(),
            port: 4222,
            store_dir: "js".into(),
            jetstream_max_file: 1024,
            operator_file: "operator.conf".into(),
            cluster: Some(ClusterConfig {
                name: "c".into(),
                port: 6222,
                peers: vec![6222, 6223],
                password: "pw".into(),
            }),
            gateway: None,
        };
        let text = node_config(&node);
        assert!(text.contains("nats-route://route:pw@127.0.0.1:6223"), "{text}");
        assert!(!text.contains("@127.0.0.1:6222"), "{text}");
        assert!(!text.contains("gateway"), "{text}");
        let clusters = vec![("c".to_owned(), vec![7222]), ("d".to_owned(), vec![7223, 7224])];
        node.gateway = Some(GatewayConfig { port: 7222, advertise: None, clusters, password: "gw".into() });
        let text = node_config(&node);
        assert!(text.contains("gateway {\n  name: \"c\"\n  listen: \"127.0.0.1:7222\""), "{text}");
        let urls = "[\"nats://gateway:gw@127.0.0.1:7223\", \"nats://gateway:gw@127.0.0.1:7224\"]";
        assert!(text.contains(&format!("{{name: \"d\", urls: {urls}}}")), "{text}");
        node.cluster = None;
        assert!(!node_config(&node).contains("cluster"));
    }
}
