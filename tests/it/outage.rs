//! The question whether the database answers, after a time in which it did not.

use std::time::Duration;

use nats_authority::store::Store;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support;

/// Passes on what comes to the listener, to a port of this machine, while it is `open`. When it is aborted everything is cut.
async fn relay(listener: TcpListener, port: u16, open: watch::Receiver<bool>) {
    let mut passing = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        passing.spawn(pass(from_near, to_far, open.clone()));
        passing.spawn(pass(from_far, to_near, open.clone()));
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut bytes = [0; 8192];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
}

async fn answers(store: &Store) -> bool {
    timeout(Duration::from_millis(500), store.ping()).await.is_ok_and(|outcome| outcome.is_ok())
}

/// Whoever tries to connect at intervals that grow would be as late as the outage was long.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_seen_to_be_back_at_once_however_long_it_was_away() {
    let database = support::migrated_database().await;
    let mut url = url::Url::parse(database.url()).unwrap();
    let port = url.port().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    url.set_port(Some(address.port())).unwrap();
    let (open, is_open) = watch::channel(true);
    let way = tokio::spawn(relay(listener, port, is_open.clone()));
    let store = Store::connect(&url.to_string().into(), 1, Duration::from_secs(10)).await.unwrap();
    // Requests are at work on all connections that they have.
    let _busy = store.begin().await.unwrap();
    assert!(answers(&store).await);

    // It goes away in the middle of the question.
    open.send_replace(false);
    assert!(!answers(&store).await);
    way.abort();
    assert!(way.await.is_err());
    let end = Instant::now() + Duration::from_secs(6);
    while Instant::now() < end {
        assert!(!answers(&store).await);
    }
    open.send_replace(true);
    tokio::spawn(relay(TcpListener::bind(address).await.unwrap(), port, is_open));
    let back = Instant::now();
    while !answers(&store).await {}
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
}
