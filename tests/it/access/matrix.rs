//! Every method of the contract, times every kind of caller, times every kind of place. A new method without a line here fails.

use bytes::Bytes;
use keepbest_proto::v1;
use prost::Message;
use tonic::Code;
use tonic::Status;

use crate::support::calls;
use crate::support::calls::Names;
use crate::support::raw;
use crate::support::requests::reason;
use crate::support::teams;
use crate::support::teams::Guarded;

/// What a method does, written out once more: the server's own table is what is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Identify,
    Read,
    Train,
    Maintain,
    AdministerTeam,
    AdministerService,
}

fn does(method: &str) -> Does {
    match method.rsplit('/').next().unwrap() {
        "WhoAmI" => Does::Identify,
        "GetRun" | "ListRuns" | "ListEvents" | "ListDecisions" | "GetCheckpoint" | "GetBestVersion"
        | "GetVersion" | "ListVersions" | "GetArtifact" | "ListArtifacts" | "ListFiles" | "ListAliases"
        | "ReadFile" | "WatchVersions" | "ListProjects" => Does::Read,
        "StartRun" | "ReportEvents" | "StreamEvents" | "FinishRun" | "AwaitDecision" | "Heartbeat"
        | "PrepareFile" | "WriteFile" | "WriteSmallFiles" | "FindMissingChunks" | "CommitCheckpoint"
        | "AbandonCheckpoint" => Does::Train,
        "DeleteRun" | "SetAlias" | "DeleteAlias" | "DeleteVersion" | "DeleteVersions" | "DeleteArtifact"
        | "DeleteProject" => Does::Maintain,
        "CreateToken" | "ListTokens" | "RevokeToken" | "SetMember" | "ListMembers" | "DeleteMember"
        | "ListAuditEntries" => Does::AdministerTeam,
        "CreateTeam" | "ListTeams" => Does::AdministerService,
        other => panic!("{other} is a new method: say what it does, and who may do that"),
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    Reader,
    Trainer,
    Maintainer,
    TeamAdmin,
    /// A maintainer of the project p alone.
    OfProject,
    ServiceAdmin,
    /// A maintainer of the team b.
    Stranger,
    Revoked,
}

const ALL: [Who; 9] = [
    Who::Nobody,
    Who::Reader,
    Who::Trainer,
    Who::Maintainer,
    Who::TeamAdmin,
    Who::OfProject,
    Who::ServiceAdmin,
    Who::Stranger,
    Who::Revoked,
];

/// What is asked for, seen from the team a.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Own,
    /// In the project p, and not there.
    Missing,
    OtherProject,
    Foreign,
    /// In a team that nobody made.
    NoTeam,
}

const PLACES: [Place; 5] = [Place::Own, Place::Missing, Place::OtherProject, Place::Foreign, Place::NoTeam];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// What the method itself says.
    LetIn,
    Unauthenticated,
    Denied,
    NotFound,
}

fn expected(who: Who, does: Does, place: Place, is_of_team: bool) -> Answer {
    let is_foreign = matches!(place, Place::Foreign | Place::NoTeam);
    let by_role = |roles: &[Does]| if roles.contains(&does) { Answer::LetIn } else { Answer::Denied };
    let service = does == Does::AdministerService;
    match who {
        Who::Nobody | Who::Revoked => Answer::Unauthenticated,
        _ if does == Does::Identify => Answer::LetIn,
        Who::ServiceAdmin => by_role(&[Does::AdministerTeam, Does::AdministerService]),
        _ if service => Answer::Denied,
        Who::Stranger if place == Place::Foreign => by_role(&[Does::Read, Does::Train, Does::Maintain]),
        Who::Stranger => Answer::NotFound,
        _ if is_foreign => Answer::NotFound,
        Who::Reader => by_role(&[Does::Read]),
        Who::Trainer => by_role(&[Does::Read, Does::Train]),
        Who::Maintainer => by_role(&[Does::Read, Does::Train, Does::Maintain]),
        Who::TeamAdmin => by_role(&[Does::Read, Does::Train, Does::Maintain, Does::AdministerTeam]),
        Who::OfProject if is_of_team || place == Place::OtherProject => Answer::Denied,
        Who::OfProject => by_role(&[Does::Read, Does::Train, Does::Maintain]),
    }
}

fn of_status(status: &Status) -> Answer {
    match status.code() {
        Code::Unauthenticated => Answer::Unauthenticated,
        Code::PermissionDenied => Answer::Denied,
        Code::NotFound => Answer::NotFound,
        _ => Answer::LetIn,
    }
}

/// The names of what was saved.
struct Saved {
    /// Of the team a in p and in q, and of the team b.
    pending: [String; 3],
}

impl Saved {
    fn name(&self, kind: Names, place: Place) -> String {
        let (project, index) = match place {
            Place::Own | Place::Missing => ("teams/a/projects/p", 0),
            Place::OtherProject => ("teams/a/projects/q", 1),
            Place::Foreign => ("teams/b/projects/p", 2),
            Place::NoTeam => ("teams/c/projects/p", 0),
        };
        let id = if place == Place::Missing { "missing" } else { "first" };
        let uid = self.pending[index].rsplit('/').next().unwrap();
        match kind {
            Names::Team => project.split_once("/projects").unwrap().0.to_owned(),
            Names::Project if place == Place::Missing => "teams/a/projects/p".to_owned(),
            Names::Project => project.to_owned(),
            Names::Run => format!("{project}/runs/{id}"),
            Names::Checkpoint => format!("{project}/runs/{id}/checkpoints/{uid}"),
            Names::Artifact => format!("{project}/artifacts/run-{id}-model"),
            Names::Version => format!("{project}/artifacts/run-{id}-model/versions/v0"),
        }
    }
}

/// The request of a method about a place.
fn request(method: &str, saved: &Saved, place: Place) -> Bytes {
    let parent = saved.name(Names::Team, place);
    let bytes = match method.rsplit('/').next().unwrap() {
        "WhoAmI" => v1::WhoAmIRequest {}.encode_to_vec(),
        // Of a name that is taken, so that nobody makes one.
        "CreateTeam" => v1::CreateTeamRequest { team_id: "a".to_owned() }.encode_to_vec(),
        "ListTeams" => v1::ListTeamsRequest::default().encode_to_vec(),
        "CreateToken" => {
            let role = "reader".to_owned();
            v1::CreateTokenRequest { scope: parent, role, ..Default::default() }.encode_to_vec()
        }
        "ListTokens" => v1::ListTokensRequest { parent, ..Default::default() }.encode_to_vec(),
        "RevokeToken" => v1::RevokeTokenRequest { name: format!("{parent}/tokens/nobodys") }.encode_to_vec(),
        "SetMember" => {
            let (identity, role) = ("certificate:dns:a.example".to_owned(), "reader".to_owned());
            v1::SetMemberRequest { scope: parent, identity, role }.encode_to_vec()
        }
        "ListMembers" => v1::ListMembersRequest { parent, ..Default::default() }.encode_to_vec(),
        "DeleteMember" => {
            let identity = "certificate:dns:a.example".to_owned();
            v1::DeleteMemberRequest { scope: parent, identity }.encode_to_vec()
        }
        "ListAuditEntries" => v1::ListAuditEntriesRequest { parent, ..Default::default() }.encode_to_vec(),
        _ => return calls::request(method, &saved.name(calls::names(method), place), 1),
    };
    bytes.into()
}

/// Whether what is asked for lies in the team and in no project.
fn is_of_team(method: &str) -> bool {
    does(method) == Does::AdministerTeam || method.ends_with("/ListProjects")
}

/// What all runs and versions are.
async fn stored(guarded: &Guarded, token: &str) -> Vec<Bytes> {
    let mut stored = Vec::new();
    for (method, project) in
        [("ListRuns", "p"), ("ListRuns", "q"), ("ListArtifacts", "p"), ("ListArtifacts", "q")]
    {
        let path = raw::methods().into_iter().find(|it| it.ends_with(&format!("/{method}"))).unwrap();
        let request = calls::request(&path, &format!("teams/a/projects/{project}"), 1);
        stored.push(guarded.send(Some(token), &path, request).await.unwrap());
    }
    stored
}

#[tokio::test]
async fn every_method_lets_in_whom_it_should_and_nobody_else() {
    let guarded = teams::start().await;
    let pending =
        [guarded.saved("a", "p").await, guarded.saved("a", "q").await, guarded.saved("b", "p").await];
    let saved = Saved { pending };
    let revoked = guarded.token_of("a", "maintainer").await;
    guarded.revoke(&revoked.token.unwrap().name).await;
    let tokens = [
        (Who::Reader, guarded.token("a", "reader").await),
        (Who::Trainer, guarded.token("a", "trainer").await),
        (Who::Maintainer, guarded.token("a", "maintainer").await),
        (Who::TeamAdmin, guarded.token("a", "team-admin").await),
        (Who::OfProject, guarded.token("a/p", "maintainer").await),
        (Who::ServiceAdmin, guarded.admin.clone()),
        (Who::Stranger, guarded.token("b", "maintainer").await),
        (Who::Revoked, revoked.text),
    ];
    let token = |who| tokens.iter().find(|(it, _)| *it == who).map(|(_, token)| token.as_str());
    let before = stored(&guarded, token(Who::Reader).unwrap()).await;
    let mut wrong = Vec::new();
    let mut asked = 0;
    // Whoever is let in changes things, so those who are not come first.
    for lets_in in [false, true] {
        for method in raw::methods() {
            let does = does(&method);
            for (who, place) in ALL.into_iter().flat_map(|who| PLACES.map(|place| (who, place))) {
                let expected = expected(who, does, place, is_of_team(&method));
                if lets_in != (expected == Answer::LetIn) {
                    continue;
                }
                // What is there would be gone for those who come after.
                if does == Does::Maintain && lets_in && place != Place::Missing {
                    continue;
                }
                if method.ends_with("/DeleteProject") && lets_in {
                    continue;
                }
                let answer = guarded.send(token(who), &method, request(&method, &saved, place)).await;
                let found = answer.as_ref().map_or_else(of_status, |_| Answer::LetIn);
                // A method that was let in says of what is not there that it is not.
                let is_right = found == expected || (lets_in && found == Answer::NotFound);
                if !is_right {
                    wrong
                        .push(format!("{method} {who:?} {place:?}: {found:?}, not {expected:?}: {answer:?}"));
                }
                if let (Err(status), Answer::Denied) = (&answer, found) {
                    assert_eq!(reason(status), "ROLE_MISSING", "{method} {who:?} {place:?}");
                }
                asked += 1;
            }
        }
        if !lets_in {
            assert_eq!(before, stored(&guarded, token(Who::Reader).unwrap()).await);
        }
    }
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{asked} pairs of caller and place");
}
