//! `keepbest alias`: names versions.

use keepbest_client::{Error, Target, v1};
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::{epochs, json, meant, names, words};

/// `alias set`: creates an alias, or moves it.
pub(super) async fn set(context: &mut Context, arguments: args::AliasSet) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let target = Target {
        project: artifact.project.clone(),
        artifact: artifact.id.clone(),
        version: epochs::typed_alias(&arguments.version)?.into_owned(),
    };
    let request = v1::SetAliasRequest {
        artifact: artifact.artifact(),
        alias: arguments.alias.clone(),
        version: target.version.clone(),
        expected_version: arguments.expect.unwrap_or_default(),
    };
    let client = context.connect().await?;
    let version = match client.set_alias(request).await {
        Ok(version) => version,
        Err(error) => return Err(meant::version(&client, &target, error.into()).await),
    };
    if context.output.is_json() {
        context.output.document(&json::version(&version))?;
    } else {
        let line = format!("alias `{}` points at {}", arguments.alias, words::short(&version.name));
        context.output.line(&line)?;
    }
    Ok(())
}

/// `alias rm`: removes an alias, which must exist.
pub(super) async fn remove(context: &mut Context, arguments: args::AliasRm) -> Result<(), Failure> {
    let artifact = names::artifact(&arguments.artifact, &context.project)?;
    let (name, alias) = (artifact.artifact(), &arguments.alias);
    let client = context.connect().await?;
    // The server removes what is gone already without a word, so that the call can be repeated. A person has made a slip.
    let target = Target {
        project: artifact.project.clone(),
        artifact: artifact.id.clone(),
        version: epochs::typed_alias(alias)?.into_owned(),
    };
    if names::is_id(&target.version)
        && let Err(error) = client.get_version(&target.name(), false).await
    {
        return Err(meant::version(&client, &target, no_alias(error, alias, &name)).await);
    }
    let request = v1::DeleteAliasRequest {
        artifact: name.clone(),
        alias: target.version,
        allow_missing: true,
        ..Default::default()
    };
    client.delete_alias(request).await?;
    if context.output.is_json() {
        context.output.document(&json!({ "artifact": name, "alias": alias }))?;
    } else {
        context.output.line(&format!("alias `{alias}` of {} is removed", words::short(&name)))?;
    }
    Ok(())
}

fn no_alias(error: Error, alias: &str, artifact: &str) -> Failure {
    if error.is_not_found() {
        return Failure::not_found(format!("there is no alias `{alias}` of {}", words::short(artifact)));
    }
    error.into()
}
