//! A door in front of a server's gateway that can be shut: what is a network between two sites, in a test.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// See the module's documentation.
pub struct Door {
    /// The port of the door.
    pub port: u16,
    is_open: Arc<watch::Sender<bool>>,
    passed: Arc<AtomicUsize>,
}

impl Door {
    /// An open door to the gateway of the server whose ports this file tells.
    pub fn new(ports: PathBuf) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_open, passed) = (Arc::new(watch::channel(true).0), Arc::new(AtomicUsize::new(0)));
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(serve(listener, ports, Arc::clone(&is_open), Arc::clone(&passed)));
        Self { port, is_open, passed }
    }

    /// Opens it.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Shuts it: what goes through it is cut, and nothing comes through.
    pub fn shut(&self) {
        self.is_open.send_replace(false);
    }

    /// How many connections went through it so far.
    pub fn passed(&self) -> usize {
        self.passed.load(Relaxed)
    }
}

async fn serve(listener: TcpListener, ports: PathBuf, is_open: Arc<watch::Sender<bool>>, passed: Arc<AtomicUsize>) {
    while let Ok((mut near, _)) = listener.accept().await {
        let (mut is_open, ports, passed) = (is_open.subscribe(), ports.clone(), Arc::clone(&passed));
        tokio::spawn(async move {
            let text = std::fs::read(ports).unwrap();
            let ports: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let to = u16::try_from(ports["gateway"].as_u64().unwrap()).unwrap();
            if !*is_open.borrow_and_update() {
                return;
            }
            let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
            passed.fetch_add(1, Relaxed);
            tokio::select! {
                _ = is_open.wait_for(|is_open| !is_open) => {}
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            }
        });
    }
}
