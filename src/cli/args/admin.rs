//! The arguments of `keepbest admin` and `keepbest whoami`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Listing, Settings};

/// Show who you are to the server, and what you may do
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  KEEPBEST_TOKEN=kb_... keepbest whoami")]
pub(in crate::cli) struct WhoAmI {}

/// Administer teams, API tokens and the audit log
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin init --data /var/lib/keepbest       on the server: the first token of the service
  keepbest admin create-team vision
  keepbest admin create-token vision --role trainer  print a token; nothing shows it again
  keepbest admin audit vision")]
pub(in crate::cli) struct Admin {
    #[command(subcommand)]
    pub(in crate::cli) action: AdminAction,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AdminAction {
    Init(Init),
    CreateTeam(CreateTeam),
    Teams(Teams),
    CreateToken(CreateToken),
    Tokens(Tokens),
    RevokeToken(RevokeToken),
    SetMember(SetMember),
    Members(Members),
    RemoveMember(RemoveMember),
    Audit(Audit),
}

/// Make a token of the service itself, on the machine of the server
///
/// It opens the database itself, whether the server runs or not, so it needs no other token: whoever may read the database may do
/// everything anyway. Only the token is printed to stdout.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin init --data /var/lib/keepbest
  KEEPBEST_TOKEN=$(keepbest admin init --config FILE) keepbest admin create-team vision")]
pub(in crate::cli) struct Init {
    #[command(flatten)]
    pub(in crate::cli) settings: Settings,
    /// How long it holds, as `12h` or `30days`; at most 366 days
    #[arg(long, value_name = "TIME", default_value = "90days", value_parser = lifetime)]
    pub(in crate::cli) lifetime: Duration,
}

/// Make a team
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest admin create-team vision")]
pub(in crate::cli) struct CreateTeam {
    #[arg(value_name = "TEAM")]
    pub(in crate::cli) team: String,
}

/// List the teams
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest admin teams --all")]
pub(in crate::cli) struct Teams {
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// Make an API token
///
/// Only the token is printed to stdout, once: the server keeps its digest alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin create-token vision --role trainer --description 'the cluster'
  keepbest admin create-token vision/mnist --role reader --lifetime 7days
  keepbest admin create-token --service --role service-admin

Roles: reader, trainer (starts runs and saves), maintainer (also moves aliases and deletes), team-admin (also makes tokens and \
reads the audit log); service-admin makes teams and tokens, and sees no models.")]
pub(in crate::cli) struct CreateToken {
    /// Where it holds: a team, or one project of it
    #[arg(value_name = "TEAM[/PROJECT]", required_unless_present = "service")]
    pub(in crate::cli) scope: Option<String>,
    /// It is one of the service itself
    #[arg(long, conflicts_with = "scope")]
    pub(in crate::cli) service: bool,
    /// What its holder may do
    #[arg(long, value_name = "ROLE")]
    pub(in crate::cli) role: String,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(in crate::cli) description: String,
    /// How long it holds, as `12h` or `30days`; at most 366 days
    #[arg(long, value_name = "TIME", default_value = "90days", value_parser = lifetime)]
    pub(in crate::cli) lifetime: Duration,
}

/// List the API tokens of a team, or of the service
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin tokens vision
  keepbest admin tokens --service")]
pub(in crate::cli) struct Tokens {
    /// Team [default: that of --project]
    #[arg(value_name = "TEAM")]
    pub(in crate::cli) team: Option<String>,
    /// Those of the service itself
    #[arg(long, conflicts_with = "team")]
    pub(in crate::cli) service: bool,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// End an API token
///
/// It ends on this server at once, and on its replicas and on open streams within 20 seconds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin revoke-token vision 0Dq2u7MBn1xc
  keepbest admin revoke-token --service 0Dq2u7MBn1xc")]
pub(in crate::cli) struct RevokeToken {
    /// Team, unless it is one of the service
    #[arg(value_name = "TEAM", required_unless_present = "service")]
    pub(in crate::cli) team: Option<String>,
    /// The token's id, as `keepbest admin tokens` lists it
    #[arg(value_name = "TOKEN", required_unless_present = "service")]
    pub(in crate::cli) token: Option<String>,
    /// A token of the service itself, by its id
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["team", "token"])]
    pub(in crate::cli) service: Option<String>,
}

/// Give the holder of a certificate a role in a team, or in one project of it
///
/// The certificate must be of an authority that the server's setting `tls.client_ca` names, and name the holder among its subject
/// alternative names.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin set-member vision uri:spiffe://example/trainer --role trainer
  keepbest admin set-member vision/mnist dns:dashboard.example --role reader")]
pub(in crate::cli) struct SetMember {
    #[arg(value_name = "TEAM[/PROJECT]")]
    pub(in crate::cli) scope: String,
    /// uri:URI, dns:NAME or email:ADDRESS, as the certificate has it
    #[arg(value_name = "IDENTITY")]
    pub(in crate::cli) identity: String,
    /// What its holder may do: reader, trainer, maintainer or team-admin
    #[arg(long, value_name = "ROLE")]
    pub(in crate::cli) role: String,
}

/// List the holders of certificates that have a role in a team
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest admin members vision")]
pub(in crate::cli) struct Members {
    /// Team [default: that of --project]
    #[arg(value_name = "TEAM")]
    pub(in crate::cli) team: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

/// Take a role away from the holder of a certificate
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  keepbest admin remove-member vision uri:spiffe://example/trainer")]
pub(in crate::cli) struct RemoveMember {
    #[arg(value_name = "TEAM[/PROJECT]")]
    pub(in crate::cli) scope: String,
    /// uri:URI, dns:NAME or email:ADDRESS
    #[arg(value_name = "IDENTITY")]
    pub(in crate::cli) identity: String,
}

/// List what was done in a team, or to the service, the newest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest admin audit vision --limit 20
  keepbest admin audit --service")]
pub(in crate::cli) struct Audit {
    /// Team [default: that of --project]
    #[arg(value_name = "TEAM")]
    pub(in crate::cli) team: Option<String>,
    /// What was done to the service itself
    #[arg(long, conflicts_with = "team")]
    pub(in crate::cli) service: bool,
    #[command(flatten)]
    pub(in crate::cli) list: Listing,
}

fn lifetime(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; `12h` or `30days` would be right"))
}
