//! The proof that a caller holds the private key of the public key that it wants a credential for:
//! a signature over a text that names what it is for, so that it is good for nothing else.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};

use crate::{
    error::{Error, Result},
    model::Environment,
    nkey::{KeyPair, PublicKey, User},
};

/// The text to sign.
pub fn challenge(environment: &Environment, role: &str, user: PublicKey<User>) -> String {
    format!("nats-authority issue v1\n{}\n{role}\n{user}", environment.name())
}

/// Makes the proof, base64url without padding.
pub fn prove(environment: &Environment, role: &str, key: &KeyPair<User>) -> String {
    B64.encode(key.sign(challenge(environment, role, key.public()).as_bytes()))
}

/// Checks a proof.
pub fn verify(environment: &Environment, role: &str, user: PublicKey<User>, proof: &str) -> Result<()> {
    let holds =
        B64.decode(proof).is_ok_and(|signature| user.verify(challenge(environment, role, user).as_bytes(), &signature));
    if holds {
        return Ok(());
    }
    Err(Error::field(
        "wrong-proof",
        "/proof",
        "the proof is not the public key's signature (base64url without padding) over 'nats-authority issue v1\\n{org}-{envType}\\n{role}\\n{publicKey}'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    #[test]
    fn a_proof_is_good_for_one_thing() {
        let entropy = SeededEntropy::new(1);
        let key = KeyPair::<User>::generate(&entropy);
        let other = KeyPair::<User>::generate(&entropy).public();
        let env = |org: &str, kind: &str| Environment::new(org.parse().unwrap(), kind.parse().unwrap());
        let proof = prove(&env("acme", "prod"), "viewer", &key);
        verify(&env("acme", "prod"), "viewer", key.public(), &proof).unwrap();
        for refused in [
            verify(&env("acme", "dev"), "viewer", key.public(), &proof),
            verify(&env("acme-prod", "prod"), "viewer", key.public(), &proof),
            verify(&env("acme", "prod"), "publisher", key.public(), &proof),
            verify(&env("acme", "prod"), "viewer", other, &proof),
            verify(&env("acme", "prod"), "viewer", key.public(), &proof[1..]),
            verify(&env("acme", "prod"), "viewer", key.public(), ""),
        ] {
            assert_eq!(refused.unwrap_err().fields()[0].pointer, "/proof");
        }
    }
}
