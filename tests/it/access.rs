//! Who may do what over the API: every operation of the document, by every role, everywhere, against
//! `policies/cases/`.

use std::collections::{BTreeMap, BTreeSet};

use nats_authority::{
    api,
    model::CallerRole,
    policy::{
        Policies,
        access::{Access, GRANT_REACH, Resource, Standing},
    },
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    operations: Vec<String>,
    on: String,
    #[serde(flatten)]
    roles: BTreeMap<String, Vec<String>>,
}

fn places(on: &str) -> &'static [&'static str] {
    match on {
        "deployment" => &["deployment"],
        "across" => &["deployment", "own", "foreign"],
        "organization" => &["own", "foreign"],
        "environment" => &["own/dev", "own/prod", "own/new", "foreign/dev", "foreign/prod"],
        other => panic!("'{other}' is no kind of place"),
    }
}

fn resource(place: &str) -> Resource {
    match place.split_once('/') {
        None if place == "deployment" => Resource::Deployment,
        None => Resource::Organization(place.to_owned()),
        Some((org, env_type)) => Resource::Environment(org.to_owned(), env_type.to_owned()),
    }
}

fn standing(role: CallerRole) -> Standing {
    let mut standing = Standing::default();
    standing.add(role, ["own".to_owned()]);
    standing
}

fn cases() -> Vec<Case> {
    let text = include_str!("../../policies/cases/api.toml");
    toml::from_str::<Cases>(text).unwrap().case
}

#[test]
fn every_role_can_do_what_the_cases_say_and_nothing_else() {
    let access = Policies::builtin().unwrap().access;
    let mut wrong = Vec::new();
    for case in cases() {
        let roles: BTreeSet<_> = case.roles.keys().map(String::as_str).collect();
        assert_eq!(roles, CallerRole::ALL.map(CallerRole::as_str).into(), "{:?}: every role", case.operations);
        for (role, allowed) in &case.roles {
            let standing = standing(role.parse().unwrap());
            assert!(allowed.iter().all(|place| places(&case.on).contains(&place.as_str())), "{allowed:?}");
            for operation in &case.operations {
                for place in places(&case.on) {
                    let verdict = access.decide("somebody", &standing, operation, &resource(place)).unwrap();
                    assert_eq!(verdict.allowed, !verdict.policies.is_empty(), "a permission names its policy");
                    if verdict.allowed != allowed.iter().any(|allowed| allowed == place) {
                        wrong.push(format!("{role}: {operation} on {place}: {verdict:?}"));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_operation_of_the_document_has_its_cases() {
    let document = serde_json::to_value(api::openapi()).unwrap();
    let items = document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
    let guarded = items.filter(|operation| operation.get("security").is_none());
    let described: BTreeSet<_> = guarded.map(|o| o["operationId"].as_str().unwrap().to_owned()).collect();
    assert!(described.len() >= 35, "{}", described.len());
    let mut listed = BTreeSet::new();
    for operation in cases().into_iter().flat_map(|case| case.operations) {
        assert!(listed.insert(operation.clone()), "{operation} stands twice");
    }
    assert!(listed.remove(GRANT_REACH));
    assert_eq!(
        listed, described,
        "\n\nThe left one has operations of policies/cases/api.toml, the right one those of the API. For a new \
         operation: add it there to a case, or write one, and say where each role is let in. See docs/DEVELOPING.md, \
         Add an endpoint."
    );
}

#[test]
fn a_folder_replaces_the_policies_and_a_bad_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let from = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    for folder in ["plans", "roles"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
        for file in std::fs::read_dir(from.join(folder)).unwrap().map(|file| file.unwrap()) {
            std::fs::copy(file.path(), dir.path().join(folder).join(file.file_name())).unwrap();
        }
    }
    let builtin = Policies::builtin().unwrap();
    assert_eq!(Policies::load(dir.path()).unwrap().access, builtin.access, "without a file of its own");
    let closed = "@id(\"nobody\") forbid (principal, action, resource);";
    std::fs::write(dir.path().join("api.cedar"), closed).unwrap();
    let access = Policies::load(dir.path()).unwrap().access;
    let admin = standing(CallerRole::SovereignAdmin);
    assert!(!access.decide("a", &admin, "list_plans", &Resource::Deployment).unwrap().allowed);
    std::fs::write(dir.path().join("api.cedar"), "permit (principal, action, resource);").unwrap();
    let error = Policies::load(dir.path()).unwrap_err();
    assert!(error.to_string().contains("api.cedar: a policy has no @id"), "{error}");
}

/// A decision reads no policy again: it takes a small part of what that takes, on the same machine at the same time. The
/// best of several rounds, since other tests run beside it.
#[test]
#[expect(clippy::print_stdout, reason = "a figure for who asks with --nocapture")]
fn a_decision_is_cheap() {
    const ROUNDS: u32 = 200;
    let best = |rounds: u32, of: &dyn Fn()| {
        let round = |_| {
            let began = std::time::Instant::now();
            (0..rounds).for_each(|_| of());
            began.elapsed() / rounds
        };
        (0..10).map(round).min().unwrap()
    };
    let text = include_str!("../../policies/api.cedar");
    let reading = best(1, &|| drop(Access::parse("api.cedar", text).unwrap()));
    let access = Policies::builtin().unwrap().access;
    let developer = standing(CallerRole::OrgDeveloper);
    let decision = best(ROUNDS, &|| decide(&access, &developer));
    println!("a decision: {decision:?}; reading the policies: {reading:?}");
    assert!(20 * decision < reading, "{decision:?}, {reading:?}");
}

fn decide(access: &Access, standing: &Standing) {
    let resource = Resource::Environment("own".to_owned(), "dev".to_owned());
    assert!(access.decide("somebody", standing, "issue_credential", &resource).unwrap().allowed);
}
