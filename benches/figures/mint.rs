//! Minting one user credential on one thread: key, JWT, creds text.

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::Result;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use nats_authority::{
    entropy::{Entropy, SystemEntropy},
    jwt::{self, Claims, creds},
    nkey::{Account, Seed, User},
    signer::{SealingKey, SealingKeys, Signer, lint},
};

use crate::report::{Report, percentile};

const ROUNDS: usize = 15;
const EACH: u32 = 2_000;

pub fn run(report: &mut Report) -> Result<()> {
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy::new());
    let sealing = SealingKeys::new(vec![SealingKey::parse(&SealingKey::generate(entropy.as_ref()))?])?;
    let signer = Signer::new(sealing, Arc::clone(&entropy));
    let issuer = signer.generate::<Account>()?;
    let message = vec![7_u8; 500];
    let (mut times, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for number in 0..EACH {
            let seed = Seed::<User>::generate(entropy.as_ref());
            let claims = Claims {
                audience: None,
                expires: Some(1_900_000_000),
                id: None,
                issued_at: Some(1_800_000_000 + i64::from(number)),
                issuer: issuer.public.into(),
                name: Some("projector-1".to_owned()),
                not_before: None,
                subject: seed.key_pair().public().into(),
                nats: jwt::User::scoped(issuer.public),
            };
            let token = signer.sign_as_account(&issuer, lint(claims)?)?;
            // A signed token cannot be read before it is recorded: the text is as long as the token.
            black_box(creds::write(&"x".repeat(token.token_len()), &seed));
        }
        times.push(started.elapsed().as_secs_f64() / f64::from(EACH) * 1e6);
        let started = Instant::now();
        for _ in 0..EACH {
            let mut seed = [0_u8; 32];
            entropy.fill(&mut seed);
            let pair = Ed25519KeyPair::from_seed_unchecked(&seed)?;
            black_box(pair.public_key());
            black_box(pair.sign(&message));
        }
        floor.push(started.elapsed().as_secs_f64() / f64::from(EACH) * 1e6);
    }
    times.sort_by(f64::total_cmp);
    floor.sort_by(f64::total_cmp);
    let (ours, limit) = (percentile(&times, 0.5), percentile(&floor, 0.5));
    let ratio = ours / limit;
    report.row(
        "mint one user credential",
        format!("{ours:.1} us"),
        format!("{limit:.1} us"),
        Some(ratio),
        "<= 1.3x",
        ratio <= 1.3,
    );
    Ok(())
}
