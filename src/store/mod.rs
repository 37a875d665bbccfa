//! The only place that speaks SQL. Functions here take and give the types of `model`; they decide
//! nothing. What must hold whatever the code does stands as constraints in `migrations/`.
//!
//! A request's changes and their audit events are one transaction ([`Store::begin`]); no transaction
//! is open while anything waits for NATS.

pub mod accounts;
pub mod audit;
pub mod audit_chain;
pub mod clients;
pub mod credentials;
mod due;
pub mod environments;
pub mod expiry;
pub mod figures;
pub mod idempotency;
pub mod items;
pub mod key_rotations;
pub mod keys;
pub mod listing;
pub mod made;
mod migrations;
pub mod operator;
pub mod operator_rotations;
pub mod organizations;
pub mod page;
pub mod platform;
pub mod policies;
pub mod pushes;
pub mod reconcile;
mod recorded;
pub mod renewals;
pub mod revocations;
pub mod sealing;
pub mod servers;
pub mod tokens;
pub mod valid;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection as _, PgPool, Postgres, Transaction, postgres::PgPoolOptions};

pub use recorded::Recorded;

use crate::error::{Error, Kind, Result};

/// How long a connection may rest before it is tried again.
const RESTED: Duration = Duration::from_millis(500);

/// Connections for pushing: one claims while another records, and a third compares what was heard.
const PUSHES: u32 = 3;

/// How long a transaction may do nothing. None of ours waits for anything but the database, so one that
/// does belongs to a process that hangs, and its locks would hold up everybody else.
const IDLE: &str = "SET idle_in_transaction_session_timeout = '5s'";

/// What is prepared once is planned once: plans that fit the values of each execution take a fifth of the time of what
/// pushing asks for, and are the same each time, for it finds all by index.
const PLANNED_ONCE: &str = "SET plan_cache_mode = 'force_generic_plan'";

/// How long a probe tries to connect; a fifth of it is the longest pause between two tries.
const PROBE: Duration = Duration::from_secs(2);

/// A transaction of the ledger.
pub type Tx = Transaction<'static, Postgres>;

/// Rows in somebody's transaction: whoever has it can read and write, but neither commit nor roll back.
pub type Connection = sqlx::PgConnection;

/// The ledger.
#[derive(Clone, Debug)]
pub struct Store {
    pool: PgPool,
    /// One connection for the question whether the database answers: requests that wait for one of the others
    /// say nothing about the database.
    probe: PgPool,
    /// For what is done again and again with each push: it finds its statements prepared, and neither waits for
    /// requests nor keeps them waiting.
    pushes: PgPool,
}

impl Store {
    /// Connects, with up to `max_connections` for requests and four more; fails when the database does not answer
    /// within `timeout`.
    pub async fn connect(url: &SecretString, max_connections: u32, timeout: Duration) -> Result<Self> {
        let pool = options(max_connections, timeout, &[IDLE]).connect(url.expose_secret()).await.map_err(|error| {
            Error::unavailable(
                "database-unreachable",
                "the database cannot be reached; check database.url_file and that Postgres is running",
            )
            .with_source(error)
        })?;
        let pushes = options(PUSHES, timeout, &[IDLE, PLANNED_ONCE]).connect_lazy(url.expose_secret())?;
        // Not kept open by the pool (`min_connections`): that would try again at intervals that grow with the outage, and
        // nobody else may open it meanwhile.
        let probe = options(1, timeout.min(PROBE), &[]).connect_lazy(url.expose_secret())?;
        Ok(Self { pool, probe, pushes })
    }

    /// Opens all connections that there may be, in the background: to open one takes many steps, and each of them long under
    /// load, in which a request would wait in vain for the one that it has to open.
    pub fn open_all(&self) {
        for pool in [&self.pool, &self.pushes, &self.probe].map(PgPool::clone) {
            tokio::spawn(async move {
                let all = (0..pool.options().get_max_connections()).map(|_| pool.acquire());
                // Together, or the first one would be taken again.
                futures::future::join_all(all).await;
            });
        }
    }

    /// Applies the migrations that are missing.
    pub async fn migrate(&self) -> Result<()> {
        migrations::migrator().run(&self.pool).await.map_err(|error| {
            Error::unavailable("migration-failed", "the database could not be migrated").with_source(error)
        })
    }

    /// The database answers, on a connection such as requests get; while these are all at work, on one of its own.
    pub async fn ping(&self) -> Result<()> {
        match self.pool.try_acquire() {
            Some(mut connection) => sqlx::query("SELECT 1").execute(&mut *connection).await?,
            None => sqlx::query("SELECT 1").execute(&self.probe).await?,
        };
        Ok(())
    }

    /// Begins a transaction.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(self.pool.begin().await?)
    }

    /// Waits for open connections to finish and closes them.
    pub async fn close(&self) {
        self.pool.close().await;
        self.pushes.close().await;
        self.probe.close().await;
    }

    pub(self) fn pool(&self) -> &PgPool {
        &self.pool
    }

    pub(self) fn pushes(&self) -> &PgPool {
        &self.pushes
    }
}

fn options(max_connections: u32, timeout: Duration, settings: &'static [&'static str]) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(timeout)
        // What is open stays so: see `open_all`.
        .idle_timeout(None)
        .max_lifetime(None)
        // One round trip less for each request under load; a connection that has rested may be
        // one to a Postgres that was restarted meanwhile.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                for &setting in settings {
                    sqlx::query(setting).execute(&mut *connection).await?;
                }
                Ok(())
            })
        })
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for < RESTED {
                    return Ok(true);
                }
                Ok(connection.ping().await.is_ok())
            })
        })
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let unreachable = match &error {
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => true,
            // 57P0x: shutting down or starting up; 53300: too many connections; 40001, 40P01: to be tried again; 55P03: a lock that was not had in time;
            // 25P03: this process hung in a transaction.
            sqlx::Error::Database(database) => database.code().is_some_and(|code| {
                code.starts_with("57P") || matches!(&*code, "53300" | "40001" | "40P01" | "25P03" | "55P03")
            }),
            _ => false,
        };
        if unreachable {
            Self::new(Kind::Unavailable, "database-unavailable", "the database does not answer now; try again")
                .with_source(error)
        } else {
            Self::internal("query failed").with_source(error)
        }
    }
}

/// The error is a violation of the unique index or constraint `name`.
pub(crate) fn violates(error: &sqlx::Error, name: &str) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.constraint() == Some(name))
}

/// A text that we wrote ourselves and read back: anything else than a value is a defect.
fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::internal(format!("the database holds an unreadable {}", std::any::type_name::<T>())))
}

fn digest(bytes: &[u8]) -> Result<[u8; 32]> {
    bytes.try_into().map_err(|_| Error::internal("the database holds a digest of another length"))
}
