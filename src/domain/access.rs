//! Who may do what: one pure function of who calls, what is to be done, and to what.

use std::fmt;

use crate::domain::ids::Id;
use crate::domain::ids::ProjectName;
use crate::domain::ids::RunName;
use crate::domain::refusal::Refusal;

/// What a principal may do within a scope. Each of the first four may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Reader,
    Trainer,
    Maintainer,
    TeamAdmin,
    /// Administers teams, and sees none of their data.
    ServiceAdmin,
}

impl Role {
    pub const ALL: [Role; 5] =
        [Role::Reader, Role::Trainer, Role::Maintainer, Role::TeamAdmin, Role::ServiceAdmin];

    /// As it is stored and typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Trainer => "trainer",
            Role::Maintainer => "maintainer",
            Role::TeamAdmin => "team-admin",
            Role::ServiceAdmin => "service-admin",
        }
    }

    pub fn parse(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.as_str() == text)
    }

    fn may(self, action: Action) -> bool {
        match action {
            Action::Read => self <= Role::TeamAdmin,
            Action::Train => (Role::Trainer..=Role::TeamAdmin).contains(&self),
            Action::Maintain => (Role::Maintainer..=Role::TeamAdmin).contains(&self),
            Action::AdministerTeam => self >= Role::TeamAdmin,
            Action::AdministerService => self == Role::ServiceAdmin,
            Action::Identify => true,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a method does, as far as access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask who one is: whoever has proved it may.
    Identify,
    /// See runs, versions and their bytes.
    Read,
    /// Start runs, report, upload, commit.
    Train,
    /// Move aliases and delete.
    Maintain,
    /// Tokens and the audit log of a team.
    AdministerTeam,
    /// Teams, and tokens of the service.
    AdministerService,
}

impl Action {
    pub const ALL: [Action; 6] = [
        Action::Identify,
        Action::Read,
        Action::Train,
        Action::Maintain,
        Action::AdministerTeam,
        Action::AdministerService,
    ];

    /// The least role that may do it, where one is needed.
    fn needs(self) -> Role {
        match self {
            Action::Identify | Action::Read => Role::Reader,
            Action::Train => Role::Trainer,
            Action::Maintain => Role::Maintainer,
            Action::AdministerTeam => Role::TeamAdmin,
            Action::AdministerService => Role::ServiceAdmin,
        }
    }
}

/// Where a role holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The service itself, and the administration of each team.
    Service,
    Team(Id),
    Project(ProjectName),
    /// One attempt of one run: what a worker needs.
    Attempt(RunName, i64),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Service => f.write_str("the service"),
            Scope::Team(team) => write!(f, "teams/{team}"),
            Scope::Project(project) => write!(f, "{project}"),
            Scope::Attempt(run, attempt) => write!(f, "attempt {attempt} of {run}"),
        }
    }
}

/// What an action is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Service,
    Team(Id),
    Project(ProjectName),
    /// A run or what belongs to it; the attempt that the caller acts for, if it acts for one.
    Run(RunName, Option<i64>),
}

impl Resource {
    pub fn team(&self) -> Option<&Id> {
        match self {
            Resource::Service => None,
            Resource::Team(team) => Some(team),
            Resource::Project(project) => Some(&project.team),
            Resource::Run(run, _) => Some(&run.project.team),
        }
    }

    fn project(&self) -> Option<&ProjectName> {
        match self {
            Resource::Service | Resource::Team(_) => None,
            Resource::Project(project) => Some(project),
            Resource::Run(run, _) => Some(&run.project),
        }
    }
}

/// A role and where it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub role: Role,
    pub scope: Scope,
}

impl Grant {
    /// Whether the resource lies within the scope.
    fn covers(&self, action: Action, resource: &Resource) -> bool {
        match &self.scope {
            Scope::Service => matches!(action, Action::AdministerService | Action::AdministerTeam),
            Scope::Team(team) => resource.team() == Some(team),
            Scope::Project(project) => resource.project() == Some(project),
            Scope::Attempt(run, attempt) => match resource {
                Resource::Run(name, None) => name == run,
                Resource::Run(name, Some(of)) => name == run && of == attempt,
                Resource::Service | Resource::Team(_) | Resource::Project(_) => false,
            },
        }
    }

    fn team(&self) -> Option<&Id> {
        match &self.scope {
            Scope::Service => None,
            Scope::Team(team) => Some(team),
            Scope::Project(project) => Some(&project.team),
            Scope::Attempt(run, _) => Some(&run.project.team),
        }
    }
}

/// Who calls, once that is settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// For people and the audit log, as `tokens/0Dq2u7MBn1xc`.
    pub name: String,
    pub grants: Vec<Grant>,
    /// Of a server that does not ask who calls.
    is_anybody: bool,
}

impl Principal {
    pub fn new(name: String, grants: Vec<Grant>) -> Principal {
        Principal { name, grants, is_anybody: false }
    }

    /// Whoever reaches a server that does not ask who calls: there all is allowed to all.
    pub fn anybody() -> Principal {
        Principal { name: "anybody".to_owned(), grants: Vec::new(), is_anybody: true }
    }

    pub fn is_anybody(&self) -> bool {
        self.is_anybody
    }

    /// Whether all of the team's data may be read, so that knowing a chunk's digest tells nothing new.
    pub fn reads_all_of(&self, team: &Id) -> bool {
        allows(self, Action::Read, &Resource::Team(team.clone())) == Permission::Granted
    }
}

/// What the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permission {
    Granted,
    /// The caller may know that there is such a place, and needs this role there.
    Forbidden(Role),
    /// To this caller there is no such team: it hears what it would hear of one that nobody made.
    Hidden,
}

/// Whether a principal may do something to a resource.
pub fn allows(principal: &Principal, action: Action, resource: &Resource) -> Permission {
    if principal.is_anybody || action == Action::Identify {
        return Permission::Granted;
    }
    if principal.grants.iter().any(|it| it.role.may(action) && it.covers(action, resource)) {
        return Permission::Granted;
    }
    let knows =
        |team: &Id| principal.grants.iter().any(|it| it.scope == Scope::Service || it.team() == Some(team));
    match resource.team() {
        Some(team) if !knows(team) => Permission::Hidden,
        Some(_) | None => Permission::Forbidden(action.needs()),
    }
}

/// The refusal of a caller that is known in the team and may not do this there.
pub fn forbidden(principal: &Principal, needs: Role, name: &str) -> Refusal {
    let has: Vec<String> =
        principal.grants.iter().map(|grant| format!("{} in {}", grant.role, grant.scope)).collect();
    let (who, has) = (&principal.name, has.join(" and "));
    // Enough of a role, in another place.
    let message = match principal.grants.iter().any(|grant| grant.role >= needs) {
        true => format!("`{who}` may not do this to `{name}`: it is {has}, and that does not reach so far"),
        false => {
            format!("`{who}` may not do this to `{name}`: it is {has}, and the role {needs} is needed there")
        }
    };
    Refusal::denied("ROLE_MISSING", message).with("role", needs)
}

#[cfg(test)]
mod tests;
