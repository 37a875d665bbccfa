//! Creds files: a user's token and seed in the form that NATS clients read. Whether the two belong
//! together, and whether the token is any good, is not decided here.

use zeroize::Zeroizing;

use super::envelope::MAX_TOKEN;
use crate::nkey::{KeyError, Seed, User};

// The dashes are asymmetric: five around BEGIN, six around END.
const HEAD: &str = "-----BEGIN NATS USER JWT-----\n";
const MIDDLE: &str = "\n------END NATS USER JWT------

************************* IMPORTANT *************************
NKEY Seed printed below can be used to sign and prove identity.
NKEYs are sensitive and should be treated as secrets.

-----BEGIN USER NKEY SEED-----
";
const TAIL: &str = "\n------END USER NKEY SEED------

*************************************************************
";

/// Why a text is no creds file. Never holds the text: there may be a seed in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredsError {
    /// Longer than any creds file that a server would accept.
    #[error("the text is too long for a creds file")]
    TooLong,
    /// No block with a token.
    #[error("no block '-----BEGIN NATS USER JWT-----' with a token in it")]
    NoToken,
    /// No block with a seed.
    #[error("no block '-----BEGIN USER NKEY SEED-----' with a seed in it")]
    NoSeed,
    /// What stands in the second block is no seed of a user.
    #[error("the seed cannot be read: {0}")]
    Seed(#[from] KeyError),
}

/// The creds file of `token` and `seed`, byte for byte as the official library writes it.
pub fn write(token: &str, seed: &Seed<User>) -> Zeroizing<String> {
    let seed = seed.expose_text();
    // Large enough from the start: growing would leave a copy of the seed in freed memory.
    let length = HEAD.len() + token.len() + MIDDLE.len() + seed.len() + TAIL.len();
    let mut file = Zeroizing::new(String::with_capacity(length));
    for part in [HEAD, token, MIDDLE, &seed, TAIL] {
        file.push_str(part);
    }
    file
}

/// The token and the seed of a creds file. As tolerant as NATS clients are: the blocks are known by
/// lines that begin and end with three dashes, whatever they say; line ends may be CRLF.
pub fn parse(text: &str) -> Result<(String, Seed<User>), CredsError> {
    let mut blocks = blocks(text)?;
    let token = blocks.next().ok_or(CredsError::NoToken)?;
    let seed = blocks.find(|block| block.starts_with('S')).ok_or(CredsError::NoSeed)?;
    Ok((token.to_owned(), Seed::parse(seed)?))
}

/// The token alone, for showing it: the seed is not even looked at.
pub(super) fn token_of(text: &str) -> Result<&str, CredsError> {
    blocks(text)?.next().ok_or(CredsError::NoToken)
}

/// Looks like a creds file rather than like a token.
pub(super) fn is_creds(text: &str) -> bool {
    text.lines().any(|line| is_fence(line.trim()))
}

/// The single lines that stand between two fences.
fn blocks(text: &str) -> Result<impl Iterator<Item = &str>, CredsError> {
    if text.len() > MAX_TOKEN + 4096 {
        return Err(CredsError::TooLong);
    }
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut in_block = false;
    Ok(std::iter::from_fn(move || {
        for line in lines.by_ref() {
            if is_fence(line) {
                in_block = !in_block;
            } else if in_block {
                return Some(line);
            }
        }
        None
    }))
}

fn is_fence(line: &str) -> bool {
    line.len() > 6 && line.starts_with("---") && line.ends_with("---")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::SeededEntropy;

    fn file() -> (Seed<User>, Zeroizing<String>) {
        let seed = Seed::<User>::generate(&SeededEntropy::new(1));
        let file = write("a.b.c", &seed);
        (seed, file)
    }

    #[test]
    fn what_is_written_is_read() {
        let (seed, file) = file();
        assert_eq!(file.capacity(), file.len());
        for text in [
            file.to_string(),
            file.replace('\n', "\r\n"),
            file.replace("------", "---"),
            format!("\n\n  {}", file.trim_end()),
            file.replace("USER NKEY SEED", "WHATEVER"),
        ] {
            let (token, read) = parse(&text).unwrap();
            assert_eq!(token, "a.b.c");
            assert_eq!(read.expose_bytes(), seed.expose_bytes());
        }
    }

    #[test]
    fn errors_name_what_is_missing() {
        let (_, file) = file();
        let error = |text: &str| parse(text).err();
        assert_eq!(error(""), Some(CredsError::NoToken));
        assert_eq!(error("a.b.c"), Some(CredsError::NoToken));
        assert_eq!(error(file.split("****").next().unwrap()), Some(CredsError::NoSeed));
        assert_eq!(error(&"x".repeat(2 << 20)), Some(CredsError::TooLong));
        let wrong = file.replace("\nSU", "\nSA");
        assert!(matches!(error(&wrong), Some(CredsError::Seed(KeyError::Checksum | KeyError::WrongKind { .. }))));
    }
}
