//! Rules that the compiler does not know: which module may use which, and who may do what. They are
//! read off the source.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The table of `lib.rs`, from top to bottom: a module may use what stands below it. Those of the last
/// line may use each other.
const LAYERS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["dev"],
    &["service"],
    &["api"],
    &["tasks"],
    &["authority"],
    &["resolver"],
    &["store"],
    &["signer"],
    &["identity"],
    &["policy"],
    &["jwt"],
    &["model"],
    &["nkey", "error", "clock", "entropy", "config", "telemetry"],
];

/// What stands above and is used all the same, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("config", "authority", "a checked configuration is made of the settings that it configures"),
    ("config", "api", "and of the limits and TLS files of the API"),
    ("config", "identity", "and of the issuers whose tokens are believed"),
    ("config", "model", "names and sizes are checked when they are read"),
];

/// Source files by path below `src/`, tests left out.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = BTreeMap::new();
    let mut dirs = vec![root.clone()];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    assert!(files.len() > 80, "{}", files.len());
    files
}

/// The code of a file: no comments, and nothing from its tests on, which stand at the end.
fn code(text: &str) -> String {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs")
}

fn module(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The modules that a text names after `crate::`, also inside `use crate::{…}`.
fn named(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut add = |text: &str| {
        let name: String = text.trim_start().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
        if !name.is_empty() {
            names.insert(name);
        }
    };
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            add(rest);
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                ',' if depth == 0 => {
                    add(&list[start..at]);
                    start = at + 1;
                }
                '}' if depth == 0 => {
                    add(&list[start..at]);
                    break;
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    names
}

#[test]
fn names_are_found_in_every_form() {
    let text = "use crate::{\n    a::{b, c::{d}},\n    e,\n    f_g::H,\n};\nfn x(i: crate::i::J) {}\n";
    assert_eq!(named(text).into_iter().collect::<Vec<_>>(), ["a", "e", "f_g", "i"]);
}

#[test]
fn a_module_uses_only_what_stands_below_it() {
    let layer = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let modules: BTreeSet<&str> = LAYERS.iter().flat_map(|layer| layer.iter().copied()).collect();
    let (mut wrong, mut needed) = (Vec::new(), BTreeSet::new());
    for (file, text) in sources() {
        let from = module(&file);
        if from == "lib" || is_test(&file) {
            continue;
        }
        let Some(stands) = layer(from) else { panic!("{file}: its module is not in the table") };
        // Names of macros and the like are no modules.
        for to in named(&code(&text)).iter().filter(|name| modules.contains(name.as_str())) {
            if to == from || layer(to) > Some(stands) || stands == LAYERS.len() - 1 && layer(to) == Some(stands) {
                continue;
            }
            match EXCEPTIONS.iter().find(|(a, b, _)| *a == from && b == to) {
                Some(exception) => _ = needed.insert(*exception),
                None => wrong.push(format!("{file} uses crate::{to}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(needed.len(), EXCEPTIONS.len(), "an exception is no longer needed: {needed:?}");
}

/// Files whose code holds one of `words`, unless one of `allowed` is a beginning of their path.
fn strays(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let sources = sources();
    let found = sources.iter().filter(|(file, _)| !is_test(file)).filter(|(_, text)| {
        let code = code(text);
        words.iter().any(|word| code.contains(word))
    });
    let found: Vec<&String> = found.map(|(file, _)| file).collect();
    for beginning in allowed {
        assert!(found.iter().any(|file| file.starts_with(beginning)), "{beginning} needs no exception for {words:?}");
    }
    let stray = |file: &&String| !allowed.iter().any(|beginning| file.starts_with(beginning));
    found.into_iter().filter(stray).cloned().collect()
}

#[test]
fn everything_has_its_only_place() {
    let none: Vec<String> = Vec::new();
    // The private Postgres makes databases; what is in them is the store's.
    assert_eq!(strays(&["sqlx"], &["store/", "dev/postgres.rs"]), none, "SQL");
    // The bundle makes the system account, which exports some of its subjects.
    let subjects = ["resolver/", "authority/bundle.rs"];
    assert_eq!(strays(&["$SYS", "$JS.API.ACCOUNT"], &subjects), none, "the system account's subjects");
    assert_eq!(strays(&["linted.sign(", "Linted::sign"], &["signer/"]), none, "signing");
    // Beside that: what signing is made of, a server's nonce, a caller's proof of its own key.
    let keys = ["nkey/", "jwt/envelope.rs", "signer/", "resolver/connection.rs", "authority/proof.rs"];
    assert_eq!(strays(&[".sign("], &keys), none, "signatures");
    let now = ["Utc::now", "Local::now", "SystemTime::now", "now_v7"];
    assert_eq!(strays(&now, &["clock.rs"]), none, "time");
    assert_eq!(strays(&["rand::", "OsRng", "thread_rng", "SystemRandom"], &["entropy.rs"]), none, "randomness");
    // Sealing a seed, a creds file, the identity seed that is taken offline.
    let seeds = ["nkey/", "signer/", "jwt/creds.rs", "authority/bundle.rs"];
    assert_eq!(strays(&["expose_bytes", "expose_text"], &seeds), none, "seeds");
}

#[test]
fn files_can_be_read_in_one_go() {
    let long: Vec<_> =
        sources().into_iter().filter(|(_, text)| text.lines().count() >= 450).map(|(file, _)| file).collect();
    assert_eq!(long, Vec::<String>::new());
}
