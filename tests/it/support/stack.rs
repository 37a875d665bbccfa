//! A whole deployment without HTTP: a database, three servers, the authority and its tasks.

use std::{cell::RefCell, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions};
use nats_authority::{
    api,
    authority::{
        Actor, Authority, Issued, Parts, Settings, bundle,
        requests::{NewCredential, NewOrganization},
    },
    clock::{Clock, SystemClock},
    dev::nats::{Cluster, ClusterSpec, Trust},
    entropy::{Entropy, SystemEntropy},
    model::{
        CallerRole, EnvState, EnvType, OrgSlug,
        view::{Convergence, OrganizationView},
    },
    policy::Policies,
    resolver::SystemResolver,
    signer::{SealingKey, SealingKeys, Signer},
    store::Store,
    tasks,
};
use secrecy::SecretString;
use tempfile::TempDir;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{TestDatabase, http::Http, run};

pub struct Stack {
    pub cluster: Cluster,
    pub authority: Arc<Authority>,
    pub resolver: Arc<SystemResolver>,
    pub actor: Actor,
    pub database: TestDatabase,
    pub trust: Trust,
    pub admin_token: String,
    stop: CancellationToken,
    signer: Arc<Signer>,
    setup: tasks::Setup,
    _dir: TempDir,
}

impl Stack {
    pub async fn start(nodes: usize) -> Self {
        Self::start_with(nodes, Policies::builtin().unwrap()).await
    }

    pub async fn start_with(nodes: usize, policies: Policies) -> Self {
        Self::with_layout(policies, |spec, _| spec.nodes = nodes).await
    }

    /// The same with another layout of servers, which may ask for accounts at the URL that `layout` is given.
    pub async fn with_layout(policies: Policies, layout: impl FnOnce(&mut ClusterSpec, &str)) -> Self {
        Self::with_clock(policies, Settings::default(), Arc::new(SystemClock), layout).await
    }

    /// The same with other settings and another clock of the authority; that of the servers is the machine's.
    pub async fn with_clock(
        policies: Policies,
        settings: Settings,
        clock: Arc<dyn Clock>,
        layout: impl FnOnce(&mut ClusterSpec, &str),
    ) -> Self {
        Self::build(policies, settings, clock, Duration::from_secs(1), layout).await
    }

    /// One server, which is compared with the ledger as seldom as by the service itself.
    pub async fn seldom_compared() -> Self {
        let (policies, clock) = (Policies::builtin().unwrap(), Arc::new(SystemClock));
        Self::build(policies, Settings::default(), clock, tasks::RECONCILE_TICK, |spec, _| spec.nodes = 1).await
    }

    async fn build(
        policies: Policies,
        settings: Settings,
        clock: Arc<dyn Clock>,
        reconcile_tick: Duration,
        layout: impl FnOnce(&mut ClusterSpec, &str),
    ) -> Self {
        let database = super::migrated_database().await;
        let dir = super::temp_dir();
        let store =
            Store::connect(&SecretString::from(database.url().to_owned()), 8, Duration::from_secs(10)).await.unwrap();
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
        let key = SealingKey::generate(entropy.as_ref());
        run::saw_sealing_key(&key);
        let sealing = SealingKeys::new(vec![SealingKey::parse(&key).unwrap()]).unwrap();
        let signer = Arc::new(Signer::new(sealing, Arc::clone(&entropy)));
        let new = bundle::create("test", &signer, clock.as_ref(), entropy.as_ref()).unwrap();
        run::saw(&new.identity_seed);
        new.bundle.adopt(&store, &signer, clock.as_ref(), entropy.as_ref()).await.unwrap();
        let trust = new.bundle.trust().unwrap();
        let mut spec = ClusterSpec::new(dir.path(), "test", trust.clone());
        // Nothing is set aside for it: enough that hundreds of organizations are admitted.
        spec.jetstream_max_file = 100 << 30;
        let parts = Parts { store, signer: Arc::clone(&signer), policies, settings, clock, entropy };
        let authority = Authority::open(parts).await.unwrap();
        let stop = CancellationToken::new();
        let url = listen(&authority, &stop).await;
        layout(&mut spec, &format!("{url}/jwt/v1/accounts/"));
        // A whole cluster that is away has no neighbours that would say so: it takes the whole of it.
        let gateways = spec.more.iter().any(|group| group.cluster != spec.name);
        let patience = Duration::from_secs(if gateways { 3 } else { 10 });
        let cluster = Cluster::start(spec).await.unwrap();
        let setup = tasks::Setup {
            nats_urls: cluster.urls(),
            tls_ca: None,
            answer_timeout: Duration::from_secs(2),
            reconcile_tick,
            patience,
            replicas: None,
        };
        let resolver = tasks::start(&authority, &setup, &TaskTracker::new(), &stop).unwrap();
        let actor = Actor::caller("test", [CallerRole::SovereignAdmin]);
        let admin_token = new.admin_token.to_string();
        let stack =
            Self { cluster, authority, resolver, actor, database, trust, admin_token, stop, signer, setup, _dir: dir };
        stack.servers_live(stack.cluster.servers().len()).await;
        stack
    }

    /// Another replica of the service, without the API; it ends with the token.
    pub async fn replica(&self) -> (Arc<Authority>, CancellationToken) {
        let url = SecretString::from(self.database.url().to_owned());
        let parts = Parts {
            store: Store::connect(&url, 8, Duration::from_secs(10)).await.unwrap(),
            signer: Arc::clone(&self.signer),
            policies: Policies::clone(&self.authority.policies()),
            settings: self.authority.settings().clone(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy::new()),
        };
        let authority = Authority::open(parts).await.unwrap();
        let stop = self.stop.child_token();
        tasks::start(&authority, &self.setup, &TaskTracker::new(), &stop).unwrap();
        (authority, stop)
    }

    /// Serves the API; returns a client for it.
    pub async fn serve(&self) -> Http {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router =
            api::router(api::ApiState::new(Arc::clone(&self.authority)).asking(Arc::clone(&self.resolver) as _));
        let stopped = self.stop.clone().cancelled_owned();
        tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
        Http::new(&url, &self.admin_token)
    }

    /// Waits until so many servers are live and have told their capacity.
    pub async fn servers_live(&self, nodes: usize) {
        eventually("servers live", || async {
            let standing = self.authority.standing();
            standing.live().filter(|server| server.trusts_us == Some(true)).count() == nodes
        })
        .await;
    }

    pub async fn onboard(&self, slug: &str, environments: &[&str]) -> OrganizationView {
        let request = NewOrganization {
            slug: slug.to_owned(),
            environments: environments.iter().map(|text| (*text).to_owned()).collect(),
            ..NewOrganization::default()
        };
        self.authority.onboard(&self.actor, request).await.unwrap().0
    }

    /// Waits until every live server runs the organization's account and its environments are ready.
    pub async fn converged(&self, slug: &str) -> OrganizationView {
        let ready = |view: &OrganizationView| {
            view.resolver.state == Convergence::Converged
                && view.environments.iter().all(|e| e.state == EnvState::Ready)
        };
        self.seen(slug, "converged", ready).await
    }

    /// Waits until every live server runs the organization's account. Its environments take as long as JetStream needs to
    /// agree on a leader, which after servers were killed can be half a minute.
    pub async fn account_converged(&self, slug: &str) -> OrganizationView {
        self.seen(slug, "account converged", |view| view.resolver.state == Convergence::Converged).await
    }

    async fn seen(&self, slug: &str, what: &str, holds: impl Fn(&OrganizationView) -> bool) -> OrganizationView {
        let slug: OrgSlug = slug.parse().unwrap();
        let last = RefCell::new(None);
        let unlike = || format!("{what}: {:#?}", last.borrow());
        eventually_or(&unlike, || async {
            let view = self.authority.organization(&slug).await.unwrap();
            last.replace(Some(view));
            last.borrow().as_ref().is_some_and(&holds)
        })
        .await;
        last.into_inner().unwrap()
    }

    pub async fn issue(&self, slug: &str, env: &str, role: &str) -> Issued {
        let request = NewCredential { name: format!("{role}-1"), role: role.to_owned(), ..NewCredential::default() };
        let (slug, env): (OrgSlug, EnvType) = (slug.parse().unwrap(), env.parse().unwrap());
        let issued = self.authority.issue(&self.actor, &slug, &env, request).await.unwrap();
        run::saw(issued.creds.as_deref().map_or(&issued.jwt, |creds| creds));
        issued
    }

    /// A client with issued creds, connected to server `index`.
    pub async fn connect(&self, issued: &Issued, index: usize) -> Result<Client, async_nats::ConnectError> {
        let creds = issued.creds.as_ref().unwrap();
        ConnectOptions::with_credentials(creds)
            .unwrap()
            .custom_inbox_prefix(issued.credential.inbox_prefix.clone())
            .connect(self.cluster.servers()[index].url())
            .await
    }
}

/// Serves the API, without a way to the servers, before there are any; returns where.
async fn listen(authority: &Arc<Authority>, stop: &CancellationToken) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = api::router(api::ApiState::new(Arc::clone(authority)));
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stopped).await });
    url
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until the server has taken all that `client` asked for so far: `flush` says only that it was sent. Nobody has to
/// listen on `subject`, to which it may publish; the server says so.
pub async fn arrived(client: &Client, subject: &'static str) {
    use async_nats::client::RequestErrorKind::NoResponders;
    let answer = client.request(subject, "".into()).await;
    assert!(answer.as_ref().err().is_none_or(|error| error.kind() == NoResponders), "{answer:?}");
}

/// Asks until it holds; fails the test after half a minute.
pub async fn eventually<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    eventually_or(&|| what.to_owned(), holds).await;
}

/// The same; `unlike` says what did not hold, and how it was.
async fn eventually_or<F: Future<Output = bool>>(unlike: &dyn Fn() -> String, holds: impl Fn() -> F) {
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "not within 30 s: {}", unlike());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
