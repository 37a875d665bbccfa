//! The seal on `Payload`: what each kind of claims has to say about itself before it is signed.

use super::Problem;
use crate::jwt::{Claims, envelope};

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    pub(super) fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.0.push(Problem { pointer: pointer.into(), detail: detail.into() });
    }

    pub(super) fn add_unless(&mut self, holds: bool, pointer: &str, detail: &str) {
        if !holds {
            self.add(pointer, detail);
        }
    }
}

/// What holds for one kind of claims. Out of reach for other crates, so that `Payload` is sealed.
pub trait Rules: Sized {
    /// The largest token, bytes.
    const MAX_TOKEN: usize = envelope::MAX_TOKEN;

    /// Adds what is wrong with the `nats` object and what it says about the claims around it.
    fn examine(claims: &Claims<Self>, problems: &mut Problems);
}
