//! Service `Projects`.

use keepbest_proto::v1;
use keepbest_proto::v1::projects_server::Projects;

use crate::app::Error;
use crate::app::deletions::How;
use crate::domain::ids::ProjectName;
use crate::domain::ids::TeamName;
use crate::grpc::Face;
use crate::grpc::convert::deletion_to;
use crate::grpc::pages::Found;
use crate::grpc::pages::Query;
use crate::grpc::pages::SMALL_ROWS_AT_ONCE;
use crate::grpc::pages::fill;
use crate::grpc::pages::page_size;
use crate::grpc::record;

impl Face {
    async fn list_projects(
        &self,
        request: v1::ListProjectsRequest,
    ) -> Result<v1::ListProjectsResponse, Error> {
        record(&request.parent);
        let team = TeamName::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["projects", &request.parent]);
        let after = query.position(&request.page_token)?.unwrap_or_default().to_owned();
        let team = &team;
        let look = |after: String, rows| async move {
            let projects = self.app.list_projects(team, &after, rows).await?;
            let items = projects.into_iter().map(|project| {
                let project = ProjectName { team: team.team.clone(), project };
                (v1::Project { name: project.to_string() }, project.project.to_string())
            });
            Ok(Found::of(items.collect(), rows))
        };
        let (projects, next) = fill(SMALL_ROWS_AT_ONCE, limit, after, look).await?;
        let next_page_token = next.map(|it| query.token(&it)).unwrap_or_default();
        Ok(v1::ListProjectsResponse { projects, next_page_token })
    }

    async fn delete_project(&self, request: v1::DeleteProjectRequest) -> Result<v1::Deletion, Error> {
        record(&request.name);
        let name = ProjectName::parse(&request.name)?;
        let how = How { validate_only: request.validate_only, force: request.force };
        let deleted = self.app.delete_project(&name, how).await;
        deletion_to(request.name, deleted, request.allow_missing)
    }
}

service! {
    Projects {
        list_projects: v1::ListProjectsRequest => v1::ListProjectsResponse,
        delete_project: v1::DeleteProjectRequest => v1::Deletion,
    }
}
