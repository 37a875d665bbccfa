//! Plans and roles as files, and what no strict role may ever reach.

use std::{fs, path::Path, sync::LazyLock};

use nats_authority::{
    entropy::SeededEntropy,
    jwt::{Permissions, subject::overlap},
    model::{Environment, Reach},
    nkey::{KeyPair, PublicKey, User},
    policy::{Direction, Policies, Role, explain, strictness_problems},
};
use proptest::prelude::*;

/// Read once: each property looks at them hundreds of times.
static BUILTIN: LazyLock<Policies> = LazyLock::new(|| Policies::builtin().expect("the built-in policies are good"));

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn env(org: &str, env_type: &str) -> Environment {
    Environment::new(org.parse().unwrap(), env_type.parse().unwrap())
}

fn user(seed: u64) -> PublicKey<User> {
    KeyPair::<User>::generate(&SeededEntropy::new(seed)).public()
}

fn strict_roles(policies: &Policies) -> impl Iterator<Item = &Role> {
    policies.roles.values().filter(|role| role.reach == Reach::Environment)
}

/// Everything of an environment and one of its users that somebody could publish to and gain by.
fn publish_targets(env: &Environment) -> Vec<String> {
    let (stream, bucket) = (env.stream(), env.bucket());
    let mut targets = vec![env.subjects(), format!("$KV.{bucket}.>")];
    for stream in [stream, format!("KV_{bucket}")] {
        targets.extend([
            format!("$JS.API.STREAM.*.{stream}"),
            format!("$JS.API.STREAM.*.*.{stream}"),
            format!("$JS.API.CONSUMER.*.{stream}"),
            format!("$JS.API.CONSUMER.*.{stream}.>"),
            format!("$JS.API.CONSUMER.*.*.{stream}.>"),
            format!("$JS.API.DIRECT.GET.{stream}"),
            format!("$JS.API.DIRECT.GET.{stream}.>"),
            // What consumers listen on: the older and the newer form.
            format!("$JS.ACK.{stream}.*.*.*.*.*.*"),
            format!("$JS.ACK.*.*.{stream}.*.*.*.*.*.*"),
            format!("$JS.ACK.*.*.{stream}.*.*.*.*.*.*.>"),
            format!("$JS.FC.{stream}.*.*"),
            format!("$JS.FC.*.*.{stream}.*.*"),
        ]);
    }
    targets
}

fn subscribe_targets(env: &Environment, user: PublicKey<User>) -> Vec<String> {
    let mut targets = publish_targets(env);
    targets.push(format!("_INBOX.{user}.>"));
    targets.push("$JS.EVENT.>".to_owned());
    targets
}

fn assert_apart(role: &str, permissions: &Permissions, other: &Environment, other_user: PublicKey<User>) {
    for (allow, targets) in [
        (&permissions.publish.allow, publish_targets(other)),
        (&permissions.subscribe.allow, subscribe_targets(other, other_user)),
    ] {
        assert!(!allow.is_empty(), "{role} allows everything");
        for rule in allow {
            for target in &targets {
                assert!(!overlap(rule, target), "{role}: '{rule}' reaches '{target}'");
            }
        }
    }
}

/// Names that a comparison of prefixes or a split at the wrong hyphen would mix up.
fn org() -> impl Strategy<Value = String> {
    let tricky = [
        "acme",
        "acme-prod",
        "acme-prod-dev",
        "acme-dev",
        "acm",
        "acmee",
        "ws-acme",
        "acme-events",
        "acme-state",
        "kv-x",
    ];
    prop_oneof![prop::sample::select(tricky.to_vec()).prop_map(str::to_owned), "[a-z][a-z0-9-]{2,31}"]
}

fn env_type() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["prod", "stg", "uat", "dev", "poc", "events", "state"]).prop_map(str::to_owned),
        "[a-z][a-z0-9]{1,15}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_strict_role_never_reaches_another_environment(
        org_a in org(), type_a in env_type(), org_b in org(), type_b in env_type(), seed in 0_u64..100,
    ) {
        let (a, b) = (env(&org_a, &type_a), env(&org_b, &type_b));
        prop_assume!(a != b);
        let (user_a, user_b) = (user(seed), user(seed + 1_000));
        for role in strict_roles(&BUILTIN) {
            assert_apart(&role.name, &role.permissions_for(&a, user_a), &b, user_b);
            prop_assert!(strictness_problems(&role.scope(&a).template.permissions, &a).is_empty());
            prop_assert!(!strictness_problems(&role.scope(&a).template.permissions, &b).is_empty());
        }
    }

    #[test]
    fn a_user_never_reaches_the_inbox_of_another_one(a in 0_u64..1_000, b in 1_000_u64..2_000) {
        let here = env("acme", "prod");
        for role in BUILTIN.roles.values() {
            let permissions = role.permissions_for(&here, user(a));
            let own = explain(&permissions, Direction::Subscribe, &format!("_INBOX.{}.>", user(a)));
            prop_assert!(own.allowed);
            for foreign in [format!("_INBOX.{}.>", user(b)), "_INBOX.>".to_owned(), "_INBOX.*.*".to_owned()] {
                prop_assert!(!explain(&permissions, Direction::Subscribe, &foreign).allowed, "{}", foreign);
            }
        }
    }
}

#[test]
fn environments_that_look_alike_stay_apart() {
    let policies = &*BUILTIN;
    for (a, b) in [
        (env("acme-prod", "dev"), env("acme", "prod")),
        (env("acme", "dev"), env("acme", "prod")),
        (env("acme", "events"), env("acme-events", "dev")),
    ] {
        for role in strict_roles(policies) {
            assert_apart(&role.name, &role.permissions_for(&a, user(1)), &b, user(2));
            assert_apart(&role.name, &role.permissions_for(&b, user(2)), &a, user(1));
        }
    }
}

#[test]
fn what_roles_can_do() {
    let policies = &*BUILTIN;
    let (pull, event, key) = (
        "$JS.API.CONSUMER.MSG.NEXT.ws-acme-prod-events.worker",
        "ws.acme-prod.order.created",
        "$KV.ws-acme-prod-state.order/1",
    );
    let ack = "$JS.ACK.ws-acme-prod-events.worker.1.2.3.1700000000000000000.0";
    let new_ack = "$JS.ACK._.AbCdEf.ws-acme-prod-events.worker.1.2.3.1700000000000000000.0";
    let newest_ack = "$JS.ACK._.AbCdEf.ws-acme-prod-events.worker.1.2.3.1700000000000000000.0.r4nd";
    let get = "$JS.API.DIRECT.GET.KV_ws-acme-prod-state.$KV.ws-acme-prod-state.order/1";
    let create = "$JS.API.CONSUMER.CREATE.ws-acme-prod-events.c.ws.acme-prod.a";
    let watch = "$JS.API.CONSUMER.CREATE.KV_ws-acme-prod-state.w.$KV.ws-acme-prod-state.>";
    let all = [pull, event, key, ack, new_ack, newest_ack, get, create, watch];
    let reading = [pull, ack, new_ack, newest_ack, get];
    for (role, allowed) in [
        ("publisher", vec![event]),
        ("consumer", reading.to_vec()),
        ("projector", [&reading[..], &[key]].concat()),
        ("viewer", vec![get]),
        ("env-admin", all.to_vec()),
    ] {
        let permissions = policies.role(role).unwrap().permissions_for(&env("acme", "prod"), user(1));
        for subject in all {
            let verdict = explain(&permissions, Direction::Publish, subject);
            assert_eq!(verdict.allowed, allowed.contains(&subject), "{role} {subject}: {}", verdict.rule);
        }
        for never in [
            "$JS.API.STREAM.CREATE.ws-acme-prod-events",
            "$JS.API.STREAM.UPDATE.ws-acme-prod-events",
            "$JS.API.STREAM.PURGE.ws-acme-prod-events",
            "$JS.API.STREAM.DELETE.ws-acme-prod-events",
            "$JS.API.STREAM.MSG.DELETE.ws-acme-prod-events",
            "$JS.API.CONSUMER.MSG.NEXT.ws-acme-dev-events.worker",
            "$JS.ACK.ws-acme-dev-events.worker.ws-acme-prod-events.1.1.1.0",
            "$JS.ACK.ws-acme-prod-events.x.ws-acme-dev-events.worker.1.1.1.1.0",
            "$SYS.REQ.USER.INFO",
            "_INBOX.x",
        ] {
            assert!(!explain(&permissions, Direction::Publish, never).allowed, "{role} {never}");
        }
    }
}

#[test]
fn the_scope_leaves_only_the_user_open() {
    let policies = &*BUILTIN;
    let here = env("acme", "prod");
    for role in policies.roles.values() {
        let scope = serde_json::to_string(&role.scope(&here)).unwrap();
        let users =
            ["\"_INBOX.{{subject()}}.>\"", "\"authority.renew.{{subject()}}\""].map(|own| scope.matches(own).count());
        assert_eq!((scope.matches("{{").count(), users), (2, [1, 1]), "{scope}");
        let shown = serde_json::to_string(&role.permissions_for(&here, user(1))).unwrap();
        assert!(!shown.contains("{{"), "{shown}");
        assert_eq!(role.scope(&here).role, role.name);
    }
}

#[test]
fn lifetimes_and_places_of_a_role() {
    let mut role = Policies::builtin().unwrap().roles["env-admin"].clone();
    assert_eq!(role.ttl(None).unwrap(), 90 * 86_400);
    assert_eq!(role.ttl(Some(60)).unwrap(), 60);
    for refused in [0, -1, 90 * 86_400 + 1] {
        assert_eq!(role.ttl(Some(refused)).unwrap_err().fields()[0].pointer, "/ttl");
    }
    role.check_env_type(&"prod".parse().unwrap()).unwrap();
    role.env_types = Some(vec!["dev".parse().unwrap()]);
    role.check_env_type(&"dev".parse().unwrap()).unwrap();
    assert_eq!(role.check_env_type(&"prod".parse().unwrap()).unwrap_err().code(), "role-not-allowed");
}

#[test]
fn a_small_cluster_holds_a_hundred_small_organizations() {
    let policies = &*BUILTIN;
    assert_eq!(policies.plans.keys().map(String::as_str).collect::<Vec<_>>(), ["flexi", "l", "m", "s", "xl"]);
    assert!(policies.plan("s").unwrap().promise().disk * 100 <= 3 * (10 << 30));
    assert_eq!(policies.plan("flexi").unwrap().promise().disk, 4 << 30);
    assert_eq!(policies.plan("huge").unwrap_err().fields()[0].pointer, "/plan");
    assert_eq!(policies.role("root").unwrap_err().fields()[0].pointer, "/role");
}

fn repository_policies() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/policies"))
}

#[test]
fn the_folder_of_the_repository_is_what_is_built_in() {
    assert_eq!(Policies::load(repository_policies()).unwrap(), Policies::builtin().unwrap());
}

#[test]
fn a_bad_role_names_file_line_and_field() {
    let original = fs::read_to_string(repository_policies().join("roles/viewer.toml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for folder in ["plans", "roles"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
    }
    fs::copy(repository_policies().join("plans/s.toml"), dir.path().join("plans/s.toml")).unwrap();
    let file = dir.path().join("roles/viewer.toml");
    let line = |needle: &str| original.lines().position(|line| line.contains(needle)).unwrap() + 1;
    let publish = line("STREAM.INFO.{{stream}}");
    for (from, to, line, expected) in [
        ("{{stream}}", "{{account}}", publish, "permissions.publish.allow: unknown placeholder '{{account}}'"),
        ("{{stream}}", "{{subject()}}", publish, "permissions.publish.allow: unknown placeholder"),
        ("{{stream}}", "{{stream}", publish, "permissions.publish.allow: '$JS.API.STREAM.INFO.{{stream}' has a brace"),
        (
            "STREAM.INFO",
            "STREAM.PURGE",
            publish,
            "permissions.publish.allow: '$JS.API.STREAM.PURGE.ws-first-org-prod-events' is outside",
        ),
        (
            "{{stream}}",
            "ws-second-dev-events",
            publish,
            "permissions.publish.allow: '$JS.API.STREAM.INFO.ws-second-dev-events' is outside",
        ),
        (
            "STREAM.INFO",
            "STREAM..INFO",
            publish,
            "permissions.publish.allow: '$JS.API.STREAM..INFO.ws-first-org-prod-events' is no well-formed",
        ),
        ("{{inbox}}.>", "_INBOX.>", line("{{inbox}}"), "permissions.subscribe.allow: '_INBOX.>' is outside"),
        ("\"viewer\"", "\"watcher\"", line("name = "), "name: 'watcher' must be the file's name"),
        ("\"viewer\"", "\"org-admin\"", line("name = "), "name: 'org-admin' is reserved"),
        ("\"90d\"", "\"soon\"", line("default_ttl"), "default_ttl: 'soon' is no duration"),
        ("\"90d\"", "\"900d\"", line("default_ttl"), "default_ttl: is longer than max_ttl"),
        ("\"environment\"", "\"galaxy\"", line("reach = "), "reach: unknown variant `galaxy`"),
        ("bearer_allowed", "bearer", line("bearer_allowed"), "bearer: unknown field `bearer`"),
        ("bearer_allowed = false", "env_types = []", line("bearer_allowed"), "env_types: allows no environment"),
        (
            "bearer_allowed = false",
            "env_types = [\"a-b\"]",
            line("bearer_allowed"),
            "env_types: an environment type has",
        ),
        (
            "\"WEBSOCKET\"",
            "\"CARRIER\"",
            line("connection_types"),
            "limits.connection_types: 'CARRIER' is no connection type",
        ),
        ("max_ttl = \"365d\"\n", "", 1, "max_ttl: is missing"),
    ] {
        fs::write(&file, original.replacen(from, to, 1)).unwrap();
        let error = Policies::load(dir.path()).unwrap_err();
        let expected = format!("{}:{line}: {expected}", file.display());
        assert!(error.to_string().starts_with(&expected), "{expected}\n{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    fs::write(&file, format!("{original}subscriptions = 0\n")).unwrap();
    assert!(Policies::load(dir.path()).unwrap_err().to_string().contains("limits.subscriptions: 0 would lock"));
    let none = original.replacen("allow = [", "deny = [\">\"]\nallow = []\nignored = [", 1);
    fs::write(&file, none).unwrap();
    assert!(Policies::load(dir.path()).unwrap_err().to_string().contains("permissions.publish.ignored: unknown field"));
    let grown =
        original.replacen("allow = [", &format!("allow = [{}", "\"$JS.API.STREAM.INFO.{{stream}}\",".repeat(60)), 1);
    fs::write(&file, grown).unwrap();
    assert!(Policies::load(dir.path()).unwrap_err().to_string().contains("permissions.publish: the scope grows to"));
}

#[test]
fn folders_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Policies::load(dir.path()).unwrap_err().to_string().contains("plans: "));
    fs::create_dir(dir.path().join("plans")).unwrap();
    assert!(Policies::load(dir.path()).unwrap_err().to_string().ends_with("plans: holds no .toml file"));
}
