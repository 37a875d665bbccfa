//! A NATS cluster in operator mode on loopback, or several that gateways join.
//!
//! A directory holds everything: for each server `nN/` with its configuration, log, ports,
//! `JetStream` store and the resolver's JWTs. The same directory starts the same cluster again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
};

pub use super::process::Stop;
use super::{
    Deadline, io_error,
    ports::Port,
    process::{Process, Signal},
    random_hex, tools, write_private,
};
pub use crate::authority::server_config::{ResolverKind, Trust};
use crate::{
    authority::server_config::{ClusterConfig, GatewayConfig, NodeConfig, node_config, operator_section},
    error::{Error, Result},
};

/// How long a server may take to listen and to find the others.
const START: Duration = Duration::from_secs(30);
/// How long a graceful stop may take.
const STOP: Duration = Duration::from_secs(15);

/// The cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// The cluster's name.
    pub name: String,
    /// Whom the servers believe.
    pub trust: Trust,
    /// Where the servers get the accounts.
    pub resolver: ResolverKind,
    /// How many servers; `n1`, `n2`, …
    pub nodes: usize,
    /// How much `JetStream` may store on each server, bytes.
    pub jetstream_max_file: u64,
    /// More servers; their numbers go on.
    pub more: Vec<Group>,
    /// The ports at which other clusters find the gateways, a server each, where something stands between; else empty.
    pub gateway_doors: Vec<u16>,
}

/// Servers that are alike.
#[derive(Clone, Debug)]
pub struct Group {
    /// Their cluster. Another one than those before is joined to them by gateways.
    pub cluster: String,
    /// Where they get the accounts.
    pub resolver: ResolverKind,
    /// How many.
    pub nodes: usize,
}

impl ClusterSpec {
    /// Three servers with the full resolver and 1 GiB of storage each.
    pub fn new(dir: impl Into<PathBuf>, name: impl Into<String>, trust: Trust) -> Self {
        Self {
            dir: dir.into(),
            name: name.into(),
            trust,
            resolver: ResolverKind::Full,
            nodes: 3,
            jetstream_max_file: 1 << 30,
            more: Vec::new(),
            gateway_doors: Vec::new(),
        }
    }

    fn groups(&self) -> Vec<Group> {
        let first = Group { cluster: self.name.clone(), resolver: self.resolver.clone(), nodes: self.nodes };
        [first].into_iter().chain(self.more.iter().cloned()).collect()
    }
}

/// A running cluster; dropping it kills the servers.
#[derive(Debug)]
pub struct Cluster {
    binary: PathBuf,
    servers: Vec<Server>,
}

/// One server of a cluster, running or stopped.
#[derive(Debug)]
pub struct Server {
    name: String,
    dir: PathBuf,
    cluster: String,
    resolver: ResolverKind,
    client: Port,
    route: Port,
    gateway: Option<Port>,
    door: Option<u16>,
    process: Option<Process>,
}

/// Which ports a server had, so that it has them again.
#[derive(Default, Deserialize, Serialize)]
struct PortNumbers {
    client: Option<u16>,
    route: Option<u16>,
    #[serde(default)]
    gateway: Option<u16>,
}

/// What we read of the line with which a server greets.
#[derive(Deserialize)]
struct Info {
    server_name: String,
    #[serde(default)]
    connect_urls: Vec<String>,
}

impl Cluster {
    /// Starts all servers and waits until each listens and has found the others. `JetStream` may
    /// still be electing its leader then.
    pub async fn start(spec: ClusterSpec) -> Result<Self> {
        let binary = tools::nats_server()?;
        let dir = std::path::absolute(&spec.dir).map_err(|error| io_error("find", &spec.dir, error))?;
        let mut servers = Vec::with_capacity(spec.nodes);
        let gateways = spec.more.iter().any(|group| group.cluster != spec.name);
        for group in spec.groups() {
            for _ in 0..group.nodes {
                servers.push(Server::prepare(&dir, servers.len() + 1, &group, gateways)?);
            }
        }
        for (server, door) in servers.iter_mut().zip(&spec.gateway_doors) {
            server.door = Some(*door);
        }
        let mut cluster = Self { binary, servers };
        cluster.configure(spec.jetstream_max_file)?;
        cluster.set_trust(&spec.trust)?;
        for server in &mut cluster.servers {
            server.spawn(&cluster.binary)?;
        }
        for index in 0..cluster.servers.len() {
            cluster.ready(index).await?;
        }
        Ok(cluster)
    }

    /// All servers, running or not.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Where clients connect: one URL for each server.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Server::url).collect()
    }

    /// Stops one server and waits for its end.
    pub async fn stop_server(&mut self, index: usize, how: Stop) -> Result<()> {
        self.server(index)?.stop(how).await
    }

    /// Starts a stopped server on its old ports and waits until it has found all that run. A server
    /// that a signal has paused counts as running and cannot be found: continue it before.
    pub async fn start_server(&mut self, index: usize) -> Result<()> {
        let binary = self.binary.clone();
        let server = self.server(index)?;
        if !server.is_running()? {
            server.spawn(&binary)?;
        }
        self.ready(index).await
    }

    /// The indexes of the servers that ended though nobody stopped them.
    pub fn fallen(&mut self) -> Result<Vec<usize>> {
        let mut fallen = Vec::new();
        for (index, server) in self.servers.iter_mut().enumerate() {
            if server.process.is_some() && !server.is_running()? {
                fallen.push(index);
            }
        }
        Ok(fallen)
    }

    /// Sends a signal, such as STOP and CONT, to one server.
    pub fn signal_server(&mut self, index: usize, signal: Signal) -> Result<()> {
        match &mut self.server(index)?.process {
            Some(process) => process.signal(signal),
            None => Ok(()),
        }
    }

    /// Writes whom the servers believe. Each server takes it up at its next start.
    pub fn set_trust(&self, trust: &Trust) -> Result<()> {
        for server in &self.servers {
            let section = operator_section(trust, &server.resolver, &server.dir.join("jwt"));
            write_private(&server.dir.join("operator.conf"), &section)?;
        }
        Ok(())
    }

    /// Stops all servers and waits for their end.
    pub async fn stop(mut self) -> Result<()> {
        let stops = self.servers.iter_mut().map(|server| server.stop(Stop::Graceful));
        futures::future::try_join_all(stops).await.map(|_| ())
    }

    fn server(&mut self, index: usize) -> Result<&mut Server> {
        self.servers.get_mut(index).ok_or_else(|| Error::internal(format!("the cluster has no server {index}")))
    }

    /// Writes the servers' configuration, with a new password for their routes.
    fn configure(&self, jetstream_max_file: u64) -> Result<()> {
        let password = random_hex::<16>();
        let mut clusters: Vec<(String, Vec<u16>)> = Vec::new();
        for (server, port) in self.servers.iter().filter_map(|s| Some((s, s.door.or(s.gateway_port())?))) {
            match clusters.iter_mut().find(|(name, _)| *name == server.cluster) {
                Some((_, ports)) => ports.push(port),
                None => clusters.push((server.cluster.clone(), vec![port])),
            }
        }
        for server in &self.servers {
            let together = self.servers.iter().filter(|other| other.cluster == server.cluster);
            let peers: Vec<u16> = together.map(|other| other.route.number()).collect();
            let gateway = server.gateway.as_ref().map(|port| GatewayConfig {
                port: port.number(),
                advertise: server.door,
                clusters: clusters.clone(),
                password: password.clone(),
            });
            let config = node_config(&NodeConfig {
                name: server.name.clone(),
                port: server.client.number(),
                store_dir: server.dir.join("jetstream").to_string_lossy().into_owned(),
                jetstream_max_file,
                operator_file: "operator.conf".to_owned(),
                cluster: (peers.len() > 1 || gateway.is_some()).then(|| ClusterConfig {
                    name: server.cluster.clone(),
                    port: server.route.number(),
                    peers: peers.clone(),
                    password: password.clone(),
                }),
                gateway,
            });
            write_private(&server.config(), &config)?;
        }
        Ok(())
    }

    /// Waits until a server greets and names every other running server of its cluster, which it does once the
    /// routes are formed.
    async fn ready(&mut self, index: usize) -> Result<()> {
        let mut expected = 0;
        let cluster = self.server(index)?.cluster.clone();
        for server in self.servers.iter_mut().filter(|server| server.cluster == cluster) {
            expected += usize::from(server.is_running()?);
        }
        let server = self.server(index)?;
        let deadline = Deadline::new(START);
        loop {
            if let Some(process) = &mut server.process {
                process.expect_running()?;
            }
            let info = tokio::time::timeout(Duration::from_secs(2), greeting(server.client.number())).await;
            if let Ok(Some(info)) = info {
                if info.server_name != server.name {
                    return Err(Error::unavailable(
                        "dev-port-taken",
                        format!("another server, {}, answers at the port of {}", info.server_name, server.name),
                    ));
                }
                if expected == 1 || info.connect_urls.len() >= expected {
                    return Ok(());
                }
            }
            deadline.pause(&format!("{} listens and has its routes", server.name)).await?;
        }
    }
}

impl Server {
    /// Its name, as it calls itself in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cluster.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client.number())
    }

    /// Where its gateway listens; none where there is one cluster.
    pub fn gateway_port(&self) -> Option<u16> {
        self.gateway.as_ref().map(Port::number)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.join("nats-server.conf")
    }

    /// Its log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("nats-server.log")
    }

    /// The directory of its resolver's JWTs.
    pub fn resolver_dir(&self) -> PathBuf {
        self.dir.join("jwt")
    }

    /// Its process id, unless it was stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    fn prepare(all: &Path, number: usize, group: &Group, gateways: bool) -> Result<Self> {
        let name = format!("n{number}");
        let dir = all.join(&name);
        fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
        let file = dir.join("ports.json");
        let before: PortNumbers =
            fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let (client, route) = (Port::claim(before.client)?, Port::claim(before.route)?);
        let gateway = gateways.then(|| Port::claim(before.gateway)).transpose()?;
        let now = PortNumbers {
            client: Some(client.number()),
            route: Some(route.number()),
            gateway: gateway.as_ref().map(Port::number),
        };
        write_private(&file, &serde_json::json!(now).to_string())?;
        let (cluster, resolver) = (group.cluster.clone(), group.resolver.clone());
        Ok(Self { name, dir, cluster, resolver, client, route, gateway, door: None, process: None })
    }

    fn spawn(&mut self, binary: &Path) -> Result<()> {
        let mut command = Command::new(binary);
        command.arg("--config").arg(self.config()).current_dir(&self.dir);
        self.process = Some(Process::spawn(&self.name, command, &self.log(), Signal::KILL)?);
        Ok(())
    }

    fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.process {
            Some(process) => process.exited()?.is_none(),
            None => false,
        })
    }

    async fn stop(&mut self, how: Stop) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let signal = match how {
                Stop::Graceful => Signal::TERM,
                Stop::Kill => Signal::KILL,
            };
            process.stop(signal, STOP).await?;
        }
        Ok(())
    }
}

/// The first line a server says, if one listens and says it.
async fn greeting(port: u16) -> Option<Info> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.ok()?;
    serde_json::from_str(line.strip_prefix("INFO ")?).ok()
}
