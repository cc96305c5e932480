//! The table of who may do what, written out: roles by actions, scopes by resources.

use super::*;

fn id(text: &str) -> Id {
    Id::parse("test", text).unwrap()
}

fn project(team: &str, project: &str) -> ProjectName {
    ProjectName { team: id(team), project: id(project) }
}

fn run(team: &str, in_project: &str, run: &str) -> RunName {
    RunName { project: project(team, in_project), run: id(run) }
}

fn with(role: Role, scope: Scope) -> Principal {
    Principal::new("tokens/t".to_owned(), vec![Grant { role, scope }])
}

/// `+` may, `-` is forbidden; in the order of `Action::ALL`.
const IN_ITS_TEAM: [(Role, &str); 4] = [
    //                   Identify Read Train Maintain AdministerTeam AdministerService
    (Role::Reader, "++----"),
    (Role::Trainer, "+++---"),
    (Role::Maintainer, "++++--"),
    (Role::TeamAdmin, "+++++-"),
];

fn signs(principal: &Principal, resource: &Resource) -> String {
    let sign = |action| match allows(principal, action, resource) {
        Permission::Granted => '+',
        Permission::Forbidden(_) => '-',
        Permission::Hidden => '0',
    };
    Action::ALL.into_iter().map(sign).collect()
}

#[test]
fn a_role_in_a_team_holds_for_all_in_it() {
    for (role, expected) in IN_ITS_TEAM {
        let principal = with(role, Scope::Team(id("a")));
        let within = [
            Resource::Team(id("a")),
            Resource::Project(project("a", "p")),
            Resource::Run(run("a", "p", "r"), None),
            Resource::Run(run("a", "p", "r"), Some(3)),
        ];
        for resource in &within {
            assert_eq!(signs(&principal, resource), expected, "{role} {resource:?}");
        }
        let foreign = [
            Resource::Team(id("b")),
            Resource::Project(project("b", "p")),
            Resource::Run(run("b", "p", "r"), None),
        ];
        for resource in &foreign {
            assert_eq!(signs(&principal, resource), "+00000", "{role} {resource:?}");
        }
        assert_eq!(signs(&principal, &Resource::Service), "+-----", "{role}");
    }
}

#[test]
fn a_role_in_a_project_holds_there_alone() {
    for (role, expected) in IN_ITS_TEAM {
        let principal = with(role, Scope::Project(project("a", "p")));
        assert_eq!(signs(&principal, &Resource::Project(project("a", "p"))), expected, "{role}");
        assert_eq!(signs(&principal, &Resource::Run(run("a", "p", "r"), Some(1))), expected, "{role}");
        for resource in [
            Resource::Team(id("a")),
            Resource::Project(project("a", "q")),
            Resource::Run(run("a", "q", "r"), None),
        ] {
            assert_eq!(signs(&principal, &resource), "+-----", "{role} {resource:?}");
        }
        assert_eq!(signs(&principal, &Resource::Project(project("b", "p"))), "+00000", "{role}");
    }
}

#[test]
fn an_admin_of_the_service_administers_and_reads_nothing() {
    let principal = with(Role::ServiceAdmin, Scope::Service);
    assert_eq!(signs(&principal, &Resource::Service), "+---++");
    assert_eq!(signs(&principal, &Resource::Team(id("a"))), "+---++");
    assert_eq!(signs(&principal, &Resource::Project(project("a", "p"))), "+---++");
}

#[test]
fn a_worker_acts_for_its_attempt_alone() {
    let principal = with(Role::Trainer, Scope::Attempt(run("a", "p", "r"), 2));
    assert_eq!(signs(&principal, &Resource::Run(run("a", "p", "r"), Some(2))), "+++---");
    assert_eq!(signs(&principal, &Resource::Run(run("a", "p", "r"), None)), "+++---");
    for resource in [
        Resource::Run(run("a", "p", "r"), Some(1)),
        Resource::Run(run("a", "p", "r"), Some(3)),
        Resource::Run(run("a", "p", "s"), Some(2)),
        Resource::Project(project("a", "p")),
        Resource::Team(id("a")),
        Resource::Service,
    ] {
        assert_eq!(signs(&principal, &resource), "+-----", "{resource:?}");
    }
    assert_eq!(signs(&principal, &Resource::Run(run("b", "p", "r"), Some(2))), "+00000");
}

#[test]
fn several_grants_are_what_each_of_them_is() {
    let mut principal = with(Role::Reader, Scope::Team(id("a")));
    principal.grants.push(Grant { role: Role::Trainer, scope: Scope::Project(project("b", "p")) });
    assert_eq!(signs(&principal, &Resource::Project(project("a", "p"))), "++----");
    assert_eq!(signs(&principal, &Resource::Project(project("b", "p"))), "+++---");
    assert_eq!(signs(&principal, &Resource::Project(project("c", "p"))), "+00000");
}

#[test]
fn without_a_grant_nothing_is_there() {
    let principal = Principal::new("users/u".to_owned(), Vec::new());
    assert_eq!(signs(&principal, &Resource::Team(id("a"))), "+00000");
    assert_eq!(signs(&principal, &Resource::Service), "+-----");
    assert_eq!(signs(&Principal::anybody(), &Resource::Service), "++++++");
}

#[test]
fn only_who_reads_all_of_a_team_may_speak_of_its_chunks() {
    assert!(with(Role::Reader, Scope::Team(id("a"))).reads_all_of(&id("a")));
    assert!(!with(Role::TeamAdmin, Scope::Project(project("a", "p"))).reads_all_of(&id("a")));
    assert!(!with(Role::Trainer, Scope::Attempt(run("a", "p", "r"), 1)).reads_all_of(&id("a")));
    assert!(!with(Role::ServiceAdmin, Scope::Service).reads_all_of(&id("a")));
}

#[test]
fn each_role_has_a_word_of_its_own() {
    for role in Role::ALL {
        assert_eq!(Role::parse(role.as_str()), Some(role));
    }
    assert_eq!(Role::parse("admin"), None);
}
