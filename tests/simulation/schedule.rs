//! What may happen to a simulated cluster, and random sequences of it.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// How many accounts of ours there are.
pub const ACCOUNTS: usize = 4;

#[derive(Clone, Copy, Debug)]
pub enum Disk {
    Intact,
    Empty,
    Backup,
}

/// One thing that happens. Nodes and accounts are numbers; nodes as bits where several are meant.
#[derive(Clone, Debug)]
pub enum Event {
    Change(usize),
    Delete(usize),
    Push,
    Check,
    Crash(usize),
    Start(usize, Disk),
    Cut(usize),
    Heal(usize),
    Sync(usize, usize),
    Load(usize, usize),
    /// The same, while the server loads what the account imports.
    LoadInRace(usize, usize),
    /// The same, with so many events between what it reads and what it runs.
    LoadSlowly(usize, usize, u8),
    /// Somebody puts an earlier generation on servers.
    Replay(usize, usize, u8),
    /// Somebody puts what a stranger signed on servers.
    Foreign(usize, u8),
    /// Somebody has an account of their own.
    Stranger(u8),
    Wipe(usize),
    Backup(usize),
    Lossy(bool),
    RestartService,
}

pub fn schedule(seed: u64) -> (usize, Vec<Event>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = rng.random_range(1..=4);
    let length = rng.random_range(5..40);
    let mut events = Vec::with_capacity(length);
    for _ in 0..length {
        let (node, account) = (rng.random_range(0..nodes), rng.random_range(0..ACCOUNTS));
        let bits = rng.random_range(1..16);
        events.push(match rng.random_range(0..35) {
            0..7 => Event::Change(account),
            7 => Event::Delete(account),
            8..14 => Event::Push,
            14..17 => Event::Check,
            17 => Event::Crash(node),
            18..20 => {
                Event::Start(node, *[Disk::Intact, Disk::Intact, Disk::Empty, Disk::Backup].choose(&mut rng).unwrap())
            }
            20 => Event::Cut(node),
            21 => Event::Heal(node),
            22..24 => Event::Sync(node, rng.random_range(0..nodes)),
            24 => Event::Load(node, account),
            25 => Event::Replay(account, rng.random_range(1..3), bits),
            26 => Event::Foreign(account, bits),
            27 => Event::Stranger(bits),
            28 => Event::Wipe(node),
            29 => Event::Backup(node),
            30 => Event::Lossy(rng.random()),
            31 => Event::LoadInRace(node, account),
            32..34 => Event::LoadSlowly(node, account, rng.random_range(1..5)),
            _ => Event::RestartService,
        });
    }
    (nodes, events)
}
