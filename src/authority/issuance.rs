//! Recording credentials: requests that arrive together share one statement and one commit.
//!
//! A commit costs about as much for fifty rows as for one, so a recorder takes whatever waits when
//! the one before it has committed. Under load the batches grow by themselves; alone, a request
//! waits for nobody. When a batch is refused because of one of its rows, each is tried alone.

use tokio::sync::{mpsc, oneshot};

use crate::{
    error::{Error, Kind, Result},
    jwt::User,
    model::Credential,
    store::{Recorded, Store, credentials::NewCredential},
};

/// How many requests one statement may carry.
const MAX_SHARED: usize = 64;

/// How many recorders work at the same time: while one waits for its commit, the next one fills.
const RECORDERS: usize = 2;

type Answer = Result<Vec<(Credential, Recorded<User>)>>;

/// Which statement records.
#[derive(Clone, Copy)]
enum What {
    New,
    Renewed,
}

impl What {
    async fn write(
        self,
        store: &Store,
        new: Vec<NewCredential>,
    ) -> Result<Vec<(Credential, Recorded<User>)>, (Error, Vec<NewCredential>)> {
        match self {
            Self::New => store.record_credentials(new).await,
            Self::Renewed => store.record_renewals(new).await,
        }
    }
}

struct Waiting {
    new: Vec<NewCredential>,
    answer: oneshot::Sender<Answer>,
}

/// A handle to the recorders; they end with it.
pub(super) struct Issuance {
    queue: mpsc::Sender<Waiting>,
}

impl Issuance {
    /// Starts the recorders of what is newly issued.
    pub(super) fn start(store: &Store) -> Self {
        Self::start_for(store, What::New)
    }

    /// Starts the recorders of what takes the place of an older JWT of the same key.
    pub(super) fn start_renewals(store: &Store) -> Self {
        Self::start_for(store, What::Renewed)
    }

    fn start_for(store: &Store, what: What) -> Self {
        let (queue, waiting) = mpsc::channel(1024);
        let waiting = std::sync::Arc::new(tokio::sync::Mutex::new(waiting));
        for _ in 0..RECORDERS {
            let (store, waiting) = (store.clone(), std::sync::Arc::clone(&waiting));
            tokio::spawn(async move {
                loop {
                    let mut batch = Vec::with_capacity(MAX_SHARED);
                    if waiting.lock().await.recv_many(&mut batch, MAX_SHARED).await == 0 {
                        return;
                    }
                    record(&store, what, batch).await;
                }
            });
        }
        Self { queue }
    }

    /// Records credentials, all or none, and returns them released.
    pub(super) async fn record(&self, new: Vec<NewCredential>) -> Answer {
        let (answer, recorded) = oneshot::channel();
        let stopped = || Error::unavailable("stopping", "the service is stopping; try again");
        self.queue.send(Waiting { new, answer }).await.map_err(|_| stopped())?;
        recorded.await.map_err(|_| stopped())?
    }
}

async fn record(store: &Store, what: What, mut batch: Vec<Waiting>) {
    if batch.len() > 1 {
        let sizes: Vec<_> = batch.iter().map(|waiting| waiting.new.len()).collect();
        // What is refused for one is tried again alone, so the rows have to survive the attempt.
        let all: Vec<NewCredential> = batch.iter_mut().flat_map(|waiting| std::mem::take(&mut waiting.new)).collect();
        match what.write(store, all).await {
            Ok(recorded) => {
                let mut recorded = recorded.into_iter();
                for (waiting, size) in batch.into_iter().zip(sizes) {
                    // Whoever asked may be gone; the record stays and can be revoked.
                    let _ = waiting.answer.send(Ok(recorded.by_ref().take(size).collect()));
                }
                return;
            }
            Err((error, all)) => {
                let alone = error.kind() == Kind::Conflict;
                let mut all = all.into_iter();
                for (waiting, size) in batch.iter_mut().zip(sizes) {
                    waiting.new = all.by_ref().take(size).collect();
                }
                if !alone {
                    for waiting in batch {
                        let _ = waiting.answer.send(Err(Error::new(error.kind(), error.code(), error.to_string())
                            .with_internal(error.internal_report())));
                    }
                    return;
                }
            }
        }
    }
    for waiting in batch {
        let _ = waiting.answer.send(what.write(store, waiting.new).await.map_err(|(error, _)| error));
    }
}
