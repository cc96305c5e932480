//! The form that makes, moves or removes a name of a version.

use axum::extract::Path;
use axum::extract::Request;
use axum::extract::State;
use axum::response::Redirect;
use keepbest_proto::v1;

use crate::page::Site;
use crate::page::session;
use crate::page::trouble::Trouble;
use crate::page::visit::Visit;

/// Compare-and-set: a name moves only from where it stood on the page that was looked at; `none`, if it is new.
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
    if form.first("do") == "remove" {
        let request = v1::DeleteAliasRequest { artifact, alias: text("alias"), allow_missing: false };
        visit.artifacts().delete_alias(visit.ask(request)).await?;
        return Ok(back);
    }
    let request = v1::SetAliasRequest {
        artifact,
        alias: text("alias"),
        version: text("version"),
        expected_version: text("expected"),
    };
    // Without it the call would move the name from wherever it is.
    if request.expected_version.is_empty() {
        return Err(Trouble::bad("the form does not say where the name pointed: open the page again"));
    }
    visit.artifacts().set_alias(visit.ask(request)).await?;
    Ok(back)
}
