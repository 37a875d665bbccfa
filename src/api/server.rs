//! The listener of the API: TLS whose certificate is replaced under it, and bounds on what a connection
//! may take before it has asked for anything. What a request may take stands in `limits`.

use std::{
    future::{Ready, ready},
    io,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::Router;
use axum_server::{
    Handle, Server,
    accept::Accept,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::error::{Error, Result};

/// How long a connection may take for the head of a request; one that rests so long is closed.
const HEAD: Duration = Duration::from_secs(30);

/// How long the first request may take to be there, and the handshake before it.
const FIRST: Duration = Duration::from_secs(10);

/// How long a client may leave an answer unread before its connection is closed.
const UNREAD: Duration = Duration::from_secs(30);

/// The longest head of a request, bytes: tokens have at most 8 KiB.
const MAX_HEAD: usize = 32 << 10;

/// How many headers a request may have.
const MAX_HEADERS: usize = 64;

/// How many requests a connection may have open at a time (HTTP/2).
const MAX_STREAMS: u32 = 64;

/// How often the files of the certificate are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// Certificate chain and key, and whose certificates clients may show, PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
    /// Certificate authorities of clients; none: no certificate is asked for.
    pub client_ca: Option<PathBuf>,
}

/// How a listener serves.
pub struct Setup {
    /// HTTPS with these files; none: HTTP.
    pub tls: Option<TlsFiles>,
    /// How many connections there may be.
    pub connections: usize,
    /// Ends it, and knows how many connections there are.
    pub handle: Handle<SocketAddr>,
    /// The service is about to end.
    pub stop: CancellationToken,
}

/// Serves `router` on `listener` until the handle ends it.
pub fn serve(tracker: &TaskTracker, listener: TcpListener, router: Router, setup: Setup) -> Result<()> {
    let Setup { tls, connections, handle, stop } = setup;
    let failed = |error: io::Error| Error::internal("HTTP server").with_source(error);
    let bounded = Bounded { connections, handle: handle.clone() };
    let server = bounds(axum_server::from_tcp(listener).map_err(failed)?.handle(handle));
    let make = router.into_make_service_with_connect_info::<SocketAddr>();
    let Some(files) = tls else {
        let server = server.acceptor(bounded);
        tracker.spawn(async move { log_end(server.serve(make).await) });
        return Ok(());
    };
    let config = load(&files).map_err(|why| {
        let detail = format!("http.tls_certificate, tls_key or tls_client_ca cannot be used: {why}");
        Error::invalid("invalid-tls", detail)
    })?;
    let config = RustlsConfig::from_config(config);
    tracker.spawn(follow(config.clone(), files, stop));
    let server = server.acceptor(RustlsAcceptor::new(config).handshake_timeout(FIRST).acceptor(bounded));
    tracker.spawn(async move { log_end(server.serve(make).await) });
    Ok(())
}

fn bounds(mut server: Server<SocketAddr>) -> Server<SocketAddr> {
    let builder = server.http_builder();
    builder.http1().header_read_timeout(HEAD).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let head = u32::try_from(MAX_HEAD).unwrap_or(u32::MAX);
    builder.http2().max_header_list_size(head).max_concurrent_streams(MAX_STREAMS).keep_alive_interval(HEAD);
    let failed = |peer: Option<&SocketAddr>, error: &io::Error| tracing::debug!(?peer, %error, "no connection");
    server.first_request_timeout(FIRST).accept_error_handler(failed)
}

fn log_end(result: io::Result<()>) {
    if let Err(error) = result {
        tracing::error!(%error, "the HTTP server ended");
    }
}

/// Takes so many connections and no more; the others are closed at once.
#[derive(Clone)]
struct Bounded {
    connections: usize,
    handle: Handle<SocketAddr>,
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = TcpStream;
    type Service = S;
    type Future = Ready<io::Result<(TcpStream, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        // The one that is being accepted is counted.
        if self.handle.connection_count() > self.connections {
            metrics::counter!("nats_authority_http_connections_refused_total").increment(1);
            return ready(Err(io::Error::other("there are too many connections")));
        }
        let socket = SockRef::from(&stream);
        // Without it the kernel keeps answers for clients that never read them as long as they answer probes.
        let set = socket.set_tcp_user_timeout(Some(UNREAD)).and_then(|()| stream.set_nodelay(true));
        ready(set.map(|()| (stream, service)))
    }
}

/// Takes over a certificate that was replaced. Files that do not fit together, as in the middle of being
/// written, are left until they change again; what was there before stays in use.
async fn follow(config: RustlsConfig, files: TlsFiles, stop: CancellationToken) {
    let mut seen = state(&files);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = state(&files);
        if now == seen {
            continue;
        }
        seen = now;
        match load(&files) {
            // Nor does it know the sessions of the old one: whoever comes back shows its certificate again.
            Ok(new) => {
                config.reload_from_config(new);
                tracing::info!(certificate = %files.certificate.display(), "took over the new certificate");
            }
            Err(error) => tracing::warn!(%error, "the new certificate cannot be used; the old one stays"),
        }
    }
}

/// Reads the files. Clients need no certificate; one that they show has to be signed by a configured authority.
fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| format!("{}: {error}", files.key.display()))?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).map_err(|error| format!("{}: {error}", file.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(|error| format!("{}: {error}", file.display()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: pem::Error| format!("{}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)?;
    if all.is_empty() {
        return Err(format!("{}: there is no certificate in it", file.display()));
    }
    Ok(all)
}

/// What changes when a file is replaced.
fn state(files: &TlsFiles) -> [Option<(u64, SystemTime)>; 3] {
    [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()].map(|file| {
        let data = std::fs::metadata(file?).ok()?;
        Some((data.len(), data.modified().ok()?))
    })
}
