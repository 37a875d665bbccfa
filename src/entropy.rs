//! Randomness as an argument. Keys come from the operating system through aws-lc-rs; tests that
//! must repeat bring their own source.

use std::sync::Mutex;

use aws_lc_rs::rand::SecureRandom;
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// A source of random bytes.
pub trait Entropy: Send + Sync {
    /// Fills `out` with random bytes.
    fn fill(&self, out: &mut [u8]);
}

/// The operating system's randomness.
#[derive(Debug, Default)]
pub struct SystemEntropy(aws_lc_rs::rand::SystemRandom);

impl SystemEntropy {
    /// A handle to the operating system's randomness.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) {
        #[expect(clippy::expect_used, reason = "without randomness no key may be made: stop at once")]
        self.0.fill(out).expect("the operating system gives no randomness");
    }
}

/// Repeatable bytes from a number; for tests, never for keys that matter.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<StdRng>);

impl SeededEntropy {
    /// The stream of bytes that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).fill_bytes(out);
    }
}
