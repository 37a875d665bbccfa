//! Requests to the authority while its connection is replaced again and again: each is answered, by the old one or by
//! the new one.

#![expect(clippy::print_stdout, reason = "says how many there were")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::ConnectOptions;
use chrono::TimeDelta;
use futures::future::join_all;
use nats_authority::{
    clock::SystemClock,
    dev::nats::{Cluster, ClusterSpec},
    resolver::{ConnectionConfig, SystemConnection, responder},
};

use crate::{
    resolver::{Minter, system_account, trust, user},
    support::{self, stack::eventually},
};

const SUBJECT: &str = "test.requests";

/// Asks until told to stop: how many were answered, and what came instead of an answer.
async fn ask(url: String, stop: Arc<AtomicBool>) -> (usize, Vec<String>) {
    let user = user(system_account(), TimeDelta::hours(1));
    let key = Arc::new(user.key);
    let options = ConnectOptions::with_jwt(user.jwt, move |nonce| {
        let key = Arc::clone(&key);
        async move { Ok(key.sign(&nonce).to_vec()) }
    });
    let client = options.request_timeout(Some(Duration::from_secs(3))).connect(url).await.unwrap();
    eventually("the first answer", || async { client.request(SUBJECT, "".into()).await.is_ok() }).await;
    let (mut answered, mut others) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        match client.request(SUBJECT, "".into()).await {
            Ok(_) => answered += 1,
            Err(error) => others.push(error.to_string()),
        }
    }
    (answered, others)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_is_answered_while_the_connection_is_replaced() {
    let dir = support::temp_dir();
    let cluster = Cluster::start(ClusterSpec::new(dir.path(), "responder", trust())).await.unwrap();
    let minter = Arc::new(Minter { life: TimeDelta::seconds(5), minted: AtomicU64::new(0) });
    let connection = SystemConnection::start(ConnectionConfig::new(cluster.urls()), minter, Arc::new(SystemClock));
    let connection = Arc::new(connection.unwrap());
    connection.connected(Duration::from_secs(10)).await.unwrap();
    let mut state = connection.state();
    let mut requests = responder::requests(Arc::clone(&connection), SUBJECT.to_owned(), "test".to_owned());
    let answering = tokio::spawn(async move {
        while let Some(request) = std::future::poll_fn(|context| requests.poll_next(context)).await {
            request.answer("yes".to_owned()).await.unwrap();
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let urls = cluster.urls().into_iter().cycle().take(24);
    let asking = join_all(urls.map(|url| ask(url, Arc::clone(&stop))));
    let replacing = async {
        let replaced = state.wait_for(|state| state.generation >= 4);
        tokio::time::timeout(Duration::from_secs(30), replaced).await.unwrap().unwrap();
        stop.store(true, Ordering::Relaxed);
    };
    let (told, ()) = tokio::join!(asking, replacing);
    let answered: usize = told.iter().map(|(answered, _)| answered).sum();
    let others: Vec<_> = told.iter().flat_map(|(_, others)| others).collect();
    println!("{answered} requests answered over {} connections", state.borrow().generation);
    assert!(others.is_empty(), "{} of {answered} had no answer: {others:?}", others.len());
    answering.abort();
}
