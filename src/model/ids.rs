//! Identifiers: UUID version 7, made from the clock and the entropy that are given.

use uuid::Uuid;

use crate::{clock::Clock, entropy::Entropy};

/// A new identifier; later ones sort behind earlier ones (to the millisecond).
pub fn new_id(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(clock.now().timestamp_millis()).unwrap_or_default();
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
