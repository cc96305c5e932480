//! Lists within a resource: their first page stands in it, and a token that asks for the rest.

use keepbest_proto::v1;

use crate::app::ArtifactRow;
use crate::app::Error;
use crate::app::VersionRow;
use crate::domain::ids::Id;
use crate::grpc::Face;
use crate::grpc::convert::alias_to;
use crate::grpc::convert::artifact_to;
use crate::grpc::convert::file_to;
use crate::grpc::convert::version_to;
use crate::grpc::pages::FIRST_PAGE;
use crate::grpc::pages::Found;
use crate::grpc::pages::Query;
use crate::grpc::pages::SMALL_ROWS_AT_ONCE;
use crate::grpc::pages::fill;

impl Face {
    /// A page of a checkpoint's files. Its token is the checkpoint's, by whatever name it was asked for.
    pub(super) async fn files(
        &self,
        checkpoint: &Id,
        limit: i64,
        token: &str,
    ) -> Result<(Vec<v1::File>, String), Error> {
        let query = Query::of(&["files", checkpoint.as_str()]);
        let after = query.position(token)?.unwrap_or_default().to_owned();
        let look = |after: String, rows| async move {
            let files = self.app.list_files(checkpoint, &after, rows).await?;
            Ok(Found::of(files.into_iter().map(|file| (file_to(&file), file.path)).collect(), rows))
        };
        let (files, next) = fill(SMALL_ROWS_AT_ONCE, limit, after, look).await?;
        Ok((files, next.map(|path| query.token(&path)).unwrap_or_default()))
    }

    /// A page of an artifact's aliases.
    pub(super) async fn aliases(
        &self,
        artifact: &ArtifactRow,
        limit: i64,
        token: &str,
    ) -> Result<(Vec<v1::Alias>, String), Error> {
        let query = Query::of(&["aliases", &artifact.uid]);
        let after = query.position(token)?.unwrap_or_default().to_owned();
        let look = |after: String, rows| async move {
            let aliases = self.app.list_aliases(artifact, &after, rows).await?;
            let items = aliases.into_iter().map(|alias| (alias_to(&artifact.name, &alias), alias.alias));
            Ok(Found::of(items.collect(), rows))
        };
        let (aliases, next) = fill(SMALL_ROWS_AT_ONCE, limit, after, look).await?;
        Ok((aliases, next.map(|alias| query.token(&alias)).unwrap_or_default()))
    }

    /// A version, with the first page of its files if they are asked for.
    pub(super) async fn version_with_files(
        &self,
        version: &VersionRow,
        include_files: bool,
    ) -> Result<v1::Version, Error> {
        let mut answer = version_to(version);
        if include_files {
            let checkpoint = &version.checkpoint.checkpoint;
            (answer.files, answer.files_next_page_token) = self.files(checkpoint, FIRST_PAGE, "").await?;
        }
        Ok(answer)
    }

    /// An artifact with the first page of its aliases.
    pub(super) async fn artifact_with_aliases(&self, artifact: &ArtifactRow) -> Result<v1::Artifact, Error> {
        let (aliases, aliases_next_page_token) = self.aliases(artifact, FIRST_PAGE, "").await?;
        Ok(v1::Artifact { aliases, aliases_next_page_token, ..artifact_to(artifact) })
    }
}
