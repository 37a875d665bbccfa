//! Printing steps with their times.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub struct Steps {
    count: usize,
    chapters: usize,
    started: Instant,
}

impl Steps {
    pub fn new() -> Self {
        Self { count: 0, chapters: 0, started: Instant::now() }
    }

    pub fn chapter(&mut self, title: &str) {
        self.chapters += 1;
        println!("\n{}. {title}", self.chapters);
    }

    /// Runs a step and prints how long it took; its error names it.
    pub async fn run<T>(&mut self, what: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        let result = step.await.with_context(|| what.to_owned())?;
        self.count += 1;
        println!("  ok {:>9.1} ms  {what}", started.elapsed().as_secs_f64() * 1000.0);
        Ok(result)
    }

    /// A step without a time of its own.
    pub fn done(&mut self, what: &str) {
        self.count += 1;
        println!("  ok               {what}");
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
