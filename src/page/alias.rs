//! The form that makes, moves or removes a name of a version.

use axum::extract::Path;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Redirect;
use keepbest_proto::v1;
use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::page::Site;
use crate::page::session;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// Compare-and-set: a name moves, or goes, only from where it stood on the page that was looked at; `none`, if it is new.
pub(super) async fn set(
    State(site): State<Site>,
    Path((team, project, artifact)): Path<(String, String, String)>,
    request: Request,
) -> Result<Redirect, Trouble> {
    let artifact = format!("teams/{team}/projects/{project}/artifacts/{artifact}");
    let (parts, body) = request.into_parts();
    let visit = Visit::of(&parts, &site);
    let form = session::fields(Request::from_parts(parts, body)).await?;
    let text = |name: &str| form.first(name).trim().to_owned();
    let back = Redirect::to(&format!("/{artifact}"));
    let (alias, expected_version) = (text("alias"), text("expected"));
    // Without it the call would take the name from wherever it is.
    if expected_version.is_empty() {
        return Err(Trouble::bad("the form does not say where the name pointed: open the page again"));
    }
    if form.first("do") == "remove" {
        let request = v1::DeleteAliasRequest { artifact, alias, allow_missing: true, expected_version };
        visit.artifacts().delete_alias(visit.ask(request)).await?;
        return Ok(back);
    }
    let version = text("version");
    if version.is_empty() {
        return Err(Trouble::bad(
            "say to which version the name moves: its number as v3, or a name that it has",
        ));
    }
    let request = v1::SetAliasRequest { artifact, alias, version: version.clone(), expected_version };
    match visit.artifacts().set_alias(visit.ask(request)).await {
        Ok(_) => Ok(back),
        // Sent twice.
        Err(status) if stands_at(&status).is_some_and(|it| it == version) => Ok(back),
        Err(status) if status.code() == Code::NotFound => {
            let text =
                format!("there is no version `{version}` here: give its number as v3, or a name that it has");
            Err(Trouble::bad(text))
        }
        Err(status) => Err(status.into()),
    }
}

/// Where a name stands that was expected elsewhere.
fn stands_at(status: &Status) -> Option<String> {
    let info = status.get_details_error_info().filter(|it| it.reason == "ALIAS_MOVED")?;
    info.metadata.get("version").cloned()
}
