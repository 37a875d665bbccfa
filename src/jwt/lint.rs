//! What must hold before anything is signed: the official library's `Validate()` and the sizes
//! that servers enforce.

use super::claims::{Claims, Payload};

/// One thing that is wrong with claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer into the claims.
    pub pointer: String,
    /// What is wrong and what to do.
    pub detail: String,
}

/// Claims that passed every check, with the bytes to sign. Only [`check`] makes one.
pub struct Linted<T> {
    claims: Claims<T>,
    signing_input: String,
}

impl<T: Payload> Linted<T> {
    /// What was checked.
    pub fn claims(&self) -> &Claims<T> {
        &self.claims
    }

    pub(super) fn into_parts(self) -> (Claims<T>, String) {
        (self.claims, self.signing_input)
    }
}

/// Sets the id (a hash of the whole payload) and checks the claims.
pub fn check<T: Payload>(_claims: Claims<T>) -> Result<Linted<T>, Vec<Problem>> {
    let _ = super::envelope::HEADER;
    Err(Vec::new())
}
