//! `keepbest alias` and `keepbest rm`: name versions and delete them.

use keepbest_client::{Error, short_name, v1};
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::{human, json, names};

/// `alias set`: creates an alias, or moves it.
pub(super) async fn set(context: &mut Context, arguments: args::AliasSet) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let request = v1::SetAliasRequest {
        artifact: artifact.project.artifact(&artifact.id),
        alias: arguments.alias.clone(),
        version: arguments.version,
        expected_version: arguments.expect.unwrap_or_default(),
    };
    let version = context.connect().await?.set_alias(request).await?;
    if context.output.is_json() {
        context.output.document(&json::version(&version))?;
    } else {
        let line = format!("alias `{}` points at {}", arguments.alias, short_name(&version.name));
        context.output.line(&line)?;
    }
    Ok(())
}

/// `alias rm`: removes an alias.
pub(super) async fn remove(context: &mut Context, arguments: args::AliasRm) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let name = artifact.project.artifact(&artifact.id);
    let request = v1::DeleteAliasRequest { artifact: name.clone(), alias: arguments.alias.clone() };
    context.connect().await?.delete_alias(request).await?;
    if context.output.is_json() {
        context.output.document(&json!({ "artifact": name, "alias": arguments.alias }))?;
    } else {
        context.output.line(&format!("alias `{}` of {} is removed", arguments.alias, short_name(&name)))?;
    }
    Ok(())
}

/// `rm`: deletes a version, by its number only.
pub(super) async fn remove_version(context: &mut Context, arguments: args::Rm) -> Result<(), Failure> {
    let version = names::version(&arguments.version, &context.project)?;
    let number = version.version.strip_prefix('v').and_then(|number| number.parse::<u64>().ok());
    if number.is_none() {
        return Err(Failure::usage(format!(
            "`{version}` names an alias, which may move: give the number of the version to delete, as `v3` (`keepbest show \
             {version}` tells it)"
        )));
    }
    let request = v1::DeleteVersionRequest { name: version.name(), delete_aliases: arguments.force };
    let deleted = context.connect().await?.delete_version(request).await.map_err(refused)?;
    if context.output.is_json() {
        context.output.document(&json!({ "name": version.name(), "size_bytes": deleted.size_bytes }))?;
    } else {
        context.output.line(&format!("{version} is deleted ({})", human::size(deleted.size_bytes)))?;
    }
    Ok(())
}

fn refused(error: Error) -> Failure {
    let has_aliases = error.reason() == "VERSION_HAS_ALIASES";
    let failure = Failure::from(error);
    if has_aliases { failure.with_hint(": `--force` deletes them too") } else { failure }
}
