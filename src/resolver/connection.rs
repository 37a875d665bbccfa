//! One live connection as a short-lived system user.
//!
//! A new connection is made before the old one breaks: servers close a connection when the JWT that it
//! was opened with ends, so at 80% of that JWT's life another is opened with a new user and swapped in.
//! Requests that began on the old one end there, it closes with the last of them. What lives here
//! knows no subjects.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use async_nats::{
    Auth, AuthError, Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, connection::State,
};
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use super::mux::Mux;
use crate::{
    clock::Clock,
    error::{Error, Result},
    nkey::{KeyPair, User},
};

/// What proves who connects.
#[derive(Debug)]
pub struct UserCredential {
    /// The user JWT.
    pub jwt: String,
    /// The user's key, which signs the server's nonce.
    pub key: KeyPair<User>,
    /// The JWT's `exp`.
    pub expires_at: DateTime<Utc>,
}

/// Mints system users.
pub trait Credentials: Send + Sync + 'static {
    /// A new user; asked at each connection attempt.
    fn fresh(&self) -> BoxFuture<'_, Result<UserCredential>>;
}

/// How the servers are reached.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// URLs, `nats://` or `tls://`; any one server of the cluster suffices.
    pub servers: Vec<String>,
    /// A file with the certificates (PEM) of the authorities that vouch for the servers; without it
    /// the machine's are asked.
    pub tls_ca: Option<PathBuf>,
    /// Refuses servers that do not offer TLS.
    pub tls_required: bool,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// The name under which the servers list the connection.
    pub name: String,
    /// Whose connection it is, in words for errors.
    pub who: &'static str,
}

impl ConnectionConfig {
    /// The given servers, 5 s an attempt, TLS as the URLs say.
    pub fn new(servers: Vec<String>) -> Self {
        Self {
            servers,
            tls_ca: None,
            tls_required: false,
            timeout: Duration::from_secs(5),
            name: "nats-authority".to_owned(),
            who: "our system user",
        }
    }

    fn addresses(&self) -> Result<Vec<ServerAddr>> {
        let parse = |url: &String| {
            url.parse::<ServerAddr>()
                .map_err(|error| Error::invalid("nats-url", format!("'{url}' is no NATS URL")).with_source(error))
        };
        self.servers.iter().map(parse).collect()
    }

    fn apply(&self, mut options: ConnectOptions) -> ConnectOptions {
        if let Some(file) = &self.tls_ca {
            options = options.add_root_certificates(file.clone());
        }
        options.require_tls(self.tls_required).connection_timeout(self.timeout).name(&self.name)
    }
}

/// How the connection is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionState {
    /// There is a connection now.
    pub connected: bool,
    /// What last went wrong, in words for whoever runs the servers; gone once connected again.
    pub last_error: Option<String>,
    /// When the present connection's user ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// Counts the connections, so that a rotation can be seen.
    pub generation: u64,
}

/// Until when a connection's user lives.
#[derive(Clone, Copy)]
struct Lease {
    renew: Instant,
    expires_at: DateTime<Utc>,
}

/// One connection with its inboxes.
pub struct Link {
    client: Client,
    mux: Mux,
    connects: watch::Receiver<u64>,
    lease: watch::Receiver<Option<Lease>>,
    generation: u64,
}

impl Link {
    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its inboxes.
    pub fn mux(&self) -> &Mux {
        &self.mux
    }

    /// Counts how often it was connected: requests sent before the last time may be lost.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// Which connection this is, counted from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// It is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

struct Shared {
    config: ConnectionConfig,
    credentials: Arc<dyn Credentials>,
    clock: Arc<dyn Clock>,
    current: ArcSwapOption<Link>,
    state: watch::Sender<ConnectionState>,
}

/// Keeps one live connection; see the module's documentation.
pub struct SystemConnection {
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl SystemConnection {
    /// Begins to connect, and goes on until dropped: servers may come later than we do. Fails only on
    /// URLs that are none.
    pub fn start(config: ConnectionConfig, credentials: Arc<dyn Credentials>, clock: Arc<dyn Clock>) -> Result<Self> {
        config.addresses()?;
        let shared = Arc::new(Shared {
            config,
            credentials,
            clock,
            current: ArcSwapOption::empty(),
            state: watch::Sender::new(ConnectionState::default()),
        });
        let task = tokio::spawn(keep(shared.clone()));
        Ok(Self { shared, _task: AbortOnDropHandle::new(task) })
    }

    /// The present connection. Fails when there has been none yet.
    pub fn link(&self) -> Result<Arc<Link>> {
        self.shared.current.load_full().ok_or_else(|| {
            let why = self.shared.state.borrow().last_error.clone();
            Error::unavailable("nats-not-connected", "there is no connection to the NATS servers")
                .with_internal(why.unwrap_or_default())
        })
    }

    /// How the connection is, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.subscribe()
    }

    /// Waits until connected; after `limit` fails with what went wrong.
    pub async fn connected(&self, limit: Duration) -> Result<Arc<Link>> {
        let mut state = self.state();
        if let Ok(Ok(_)) = tokio::time::timeout(limit, state.wait_for(|state| state.connected)).await {
            return self.link();
        }
        let why = self.shared.state.borrow().last_error.clone();
        let why = why.unwrap_or_else(|| "there is no connection to the NATS servers yet".to_owned());
        Err(Error::unavailable("nats-not-connected", why))
    }

    /// Opens a connection as any user, such as one of an organization's account, to the same servers.
    /// The inbox prefix is `_INBOX.<user key>`, to which restricted users may subscribe. It lives as
    /// long as the client that is returned, or as its JWT.
    pub async fn connect_as(&self, credential: UserCredential) -> Result<Client> {
        connect_with(&self.shared.config, credential).await
    }
}

/// Opens a connection as a user, with its own inbox prefix.
pub async fn connect_with(config: &ConnectionConfig, credential: UserCredential) -> Result<Client> {
    let inbox = format!("_INBOX.{}", credential.key.public());
    let credential = Arc::new(credential);
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        let credential = credential.clone();
        async move { Ok(prove(&credential, &nonce)) }
    });
    let options = config.apply(options).custom_inbox_prefix(inbox);
    options
        .connect(config.addresses()?)
        .await
        .map_err(|error| Error::unavailable("nats-connect", describe(&error, "this user")).with_source(error))
}

fn prove(credential: &UserCredential, nonce: &[u8]) -> Auth {
    let mut auth = Auth::new();
    auth.jwt = Some(credential.jwt.clone());
    // The client encodes it: base64url without padding.
    auth.signature = Some(credential.key.sign(nonce).to_vec());
    auth
}

/// The pause after a failed attempt.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How long the event of a new connection may lag behind it.
const EVENT: Duration = Duration::from_secs(1);

async fn keep(shared: Arc<Shared>) {
    let mut generation = 0;
    loop {
        match open(&shared, generation + 1).await {
            Ok(link) => {
                generation += 1;
                let mut lease = link.lease.clone();
                shared.current.store(Some(Arc::new(link)));
                shared.state.send_modify(|state| {
                    let expires_at = lease.borrow().map(|lease| lease.expires_at);
                    *state = ConnectionState { connected: true, last_error: None, expires_at, generation };
                });
                renewal(&mut lease).await;
            }
            Err(error) => {
                let words = error.to_string();
                shared.state.send_if_modified(|state| {
                    let news = state.last_error.as_deref() != Some(&words);
                    if news {
                        tracing::warn!(cause = error.internal_report(), "no NATS connection: {words}");
                    }
                    state.last_error = Some(words);
                    news
                });
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Waits until the connection is to be replaced. A reconnect brings a new user and so moves the time.
async fn renewal(lease: &mut watch::Receiver<Option<Lease>>) {
    loop {
        let renew = lease.borrow_and_update().map(|lease| lease.renew);
        let sleep = async {
            match renew {
                Some(renew) => tokio::time::sleep_until(renew).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => return,
            changed = lease.changed() => if changed.is_err() { return },
        }
    }
}

async fn open(shared: &Arc<Shared>, generation: u64) -> Result<Link> {
    let (lease_sender, lease) = watch::channel(None);
    let (connects_sender, mut connects) = watch::channel(0_u64);
    let lease_sender = Arc::new(lease_sender);
    let (minter, events) = (shared.clone(), shared.clone());
    let options = ConnectOptions::with_auth_callback(move |nonce| {
        // Its own task, because the client wants a future that is `Sync`.
        let minting = tokio::spawn(mint(minter.clone(), generation, lease_sender.clone(), nonce));
        async move { minting.await.map_err(AuthError::new)? }
    })
    .event_callback(move |event| {
        on_event(&events, generation, &event);
        if event == Event::Connected {
            connects_sender.send_modify(|count| *count += 1);
        }
        std::future::ready(())
    });
    let options = shared.config.apply(options);
    let client = options
        .connect(shared.config.addresses()?)
        .await
        .map_err(|error| Error::unavailable("nats-connect", describe(&error, shared.config.who)).with_source(error))?;
    let mux = Mux::new(&client).await?;
    // The subscription goes before the first request, over the same connection. That it was written says that there is one.
    let flushed = tokio::time::timeout(shared.config.timeout, client.flush()).await;
    if !matches!(flushed, Ok(Ok(()))) {
        return Err(Error::unavailable("nats-connect", "the NATS connection ended as soon as it was opened"));
    }
    // Later events are reconnects, after which requests are repeated.
    let _ = tokio::time::timeout(EVENT, connects.wait_for(|count| *count > 0)).await;
    Ok(Link { client, mux, connects, lease, generation })
}

async fn mint(
    shared: Arc<Shared>,
    generation: u64,
    lease: Arc<watch::Sender<Option<Lease>>>,
    nonce: Vec<u8>,
) -> std::result::Result<Auth, AuthError> {
    let credential = shared.credentials.fresh().await.map_err(AuthError::new)?;
    let life = (credential.expires_at - shared.clock.now()).to_std().unwrap_or_default();
    let renew = Instant::now() + life.mul_f64(0.8).max(Duration::from_millis(100));
    lease.send_replace(Some(Lease { renew, expires_at: credential.expires_at }));
    shared.state.send_if_modified(|state| {
        let reconnects = state.generation == generation;
        if reconnects {
            state.expires_at = Some(credential.expires_at);
        }
        reconnects
    });
    Ok(prove(&credential, &nonce))
}

/// Notes what happens to the present connection; the ends of older ones are nobody's concern.
fn on_event(shared: &Shared, generation: u64, event: &Event) {
    shared.state.send_if_modified(|state| {
        if state.generation != generation {
            return false;
        }
        let before = state.clone();
        match event {
            Event::Connected => {
                state.connected = true;
                state.last_error = None;
            }
            Event::Disconnected | Event::Closed => {
                state.connected = false;
                state.last_error.get_or_insert_with(|| "the NATS servers closed the connection".to_owned());
            }
            Event::ServerError(error) => state.last_error = Some(words(&error.to_string(), shared.config.who)),
            Event::ClientError(error) => state.last_error = Some(words(&error.to_string(), shared.config.who)),
            _ => {}
        }
        *state != before
    });
}

/// Why a connection failed, in words for whoever runs the servers. `who` is the user that was to connect.
fn describe(error: &ConnectError, who: &str) -> String {
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => words("authorization violation", who),
        ConnectErrorKind::Authentication => format!("{who} cannot be minted: the signer or the store is not available"),
        ConnectErrorKind::Dns => "the names of the NATS servers cannot be resolved".to_owned(),
        ConnectErrorKind::Tls => "the NATS servers' certificates are not accepted: check the CA file".to_owned(),
        ConnectErrorKind::TimedOut => "the NATS servers do not answer in time".to_owned(),
        ConnectErrorKind::ServerParse => "the URLs of the NATS servers cannot be read".to_owned(),
        _ => "the NATS servers cannot be reached".to_owned(),
    }
}

fn words(message: &str, who: &str) -> String {
    let lower = message.to_ascii_lowercase();
    if lower.contains("authorization violation") {
        format!("the servers refuse {who}: they trust another operator or lack the account's JWT (preload)")
    } else if lower.contains("authentication expired") {
        format!("the JWT of {who} has ended: clocks differ, or no new one could be minted")
    } else if lower.contains("authentication revoked") {
        format!("the account has revoked {who}")
    } else {
        message.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_look_at() {
        let refused = describe(&ConnectError::new(ConnectErrorKind::AuthorizationViolation), "our system user");
        assert!(refused.starts_with("the servers refuse our system user: they trust another operator"), "{refused}");
        assert!(words("nats: authorization violation", "x").contains("preload"));
        assert_eq!(words("Slow", "x"), "Slow");
    }
}
