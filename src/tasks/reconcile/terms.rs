//! What a comparison is told, remembers and finds. Nothing here asks anybody.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ledger::{Hash, Key};
use crate::authority::reconcile::Repair;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug)]
pub struct Thoroughness {
    /// How often, for each server, the constant-cost question is put at a tick.
    pub asks: usize,
    /// A server that is new or came back is overlooked with probability 10^-this.
    pub nines: u32,
    /// How many accounts the sample has.
    pub sample: usize,
    /// How many it has while there are servers across a gateway, for which it is all there is.
    pub far_sample: usize,
    /// How often a server may say that it differs and then send exactly what it should store, before the
    /// comparison is given up: each time it sends everything.
    pub odd: usize,
}

impl Default for Thoroughness {
    fn default() -> Self {
        Self { asks: 3, nines: 6, sample: 32, far_sample: 256, odd: 2 }
    }
}

/// What one comparison leaves for the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// What servers store that the ledger does not know: part of the hash that we expect.
    pub(super) unknown: BTreeMap<Key, Hash>,
    /// The live servers that were found right since they appeared, by name with their [`crate::resolver::Known::stamp`].
    pub(super) confirmed: HashMap<String, String>,
    /// What the last comparison had pushed: if it is wrong again the servers need a rewrite.
    pub(super) repaired: HashSet<Key>,
    /// Where the sample goes on.
    pub(super) cursor: Option<Key>,
    /// How often a server did not seem to be a full resolver.
    pub(super) unsure: u32,
}

/// How a comparison ended.
#[derive(Debug, Default)]
pub struct Findings {
    /// Every server that was asked stores exactly what it should; nothing was sent.
    pub agreed: bool,
    /// How often the constant-cost question was put.
    pub asked: usize,
    /// The accounts that are pushed now.
    pub repairs: Vec<Repair>,
    /// The accounts that were deleted again.
    pub deleted: Vec<Key>,
    /// The accounts that nobody here knows.
    pub unknown: Vec<Key>,
    /// A look soon is worth it.
    pub again: bool,
}
