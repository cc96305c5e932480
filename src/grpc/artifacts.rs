//! Service `Artifacts`.

use futures::StreamExt;
use keepbest_proto::v1;
use keepbest_proto::v1::artifacts_server::Artifacts;
use tonic::Status;

use crate::app::Error;
use crate::app::deletions::How;
use crate::app::deletions::Selection;
use crate::app::feed::Begin;
use crate::app::feed::Seen;
use crate::app::reads::ReadPiece;
use crate::domain::filter::Place;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::BestParent;
use crate::domain::ids::FilesParent;
use crate::domain::ids::ListParent;
use crate::domain::ids::VersionName;
use crate::domain::refusal::Kind;
use crate::domain::refusal::Refusal;
use crate::grpc::Answers;
use crate::grpc::Face;
use crate::grpc::convert::artifact_to;
use crate::grpc::convert::deletion_to;
use crate::grpc::convert::file_to;
use crate::grpc::convert::mode_of;
use crate::grpc::convert::timestamp_to;
use crate::grpc::convert::version_to;
use crate::grpc::pages::Found;
use crate::grpc::pages::Next;
use crate::grpc::pages::Query;
use crate::grpc::pages::ROWS_AT_ONCE;
use crate::grpc::pages::bad_token;
use crate::grpc::pages::fill;
use crate::grpc::pages::page_size;
use crate::grpc::record;
use crate::grpc::status::status;

/// Data of one message; larger ones are slower (memory for each is allocated anew).
const READ_MESSAGE_BYTES: usize = 1 << 20;

impl Face {
    async fn get_best_version(&self, request: v1::GetBestVersionRequest) -> Result<v1::Version, Error> {
        record(&request.parent);
        let parent = BestParent::parse(&request.parent)?;
        let metric = Some(request.metric).filter(|it| !it.is_empty());
        let unknown = |refusal| Refusal { reason: "BAD_MODE", metadata: Vec::new(), ..refusal };
        let direction = mode_of(request.mode).map_err(unknown)?;
        let version = self.app.best_version(&parent, metric, direction).await?;
        self.version_with_files(&version, request.include_files).await
    }

    async fn get_version(&self, request: v1::GetVersionRequest) -> Result<v1::Version, Error> {
        record(&request.name);
        let name = VersionName::parse(&request.name)?;
        let version = self.app.version(&name).await?;
        self.version_with_files(&version, request.include_files).await
    }

    async fn list_versions(
        &self,
        request: v1::ListVersionsRequest,
    ) -> Result<v1::ListVersionsResponse, Error> {
        record(&request.parent);
        let parent = ArtifactName::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["versions", &request.parent, &request.filter, &request.order_by]);
        let position = query.position(&request.page_token)?;
        let after = position.map(|it| Place::parse(it).ok_or_else(bad_token)).transpose()?;
        let (parent, filter, order_by) = (&parent, &request.filter, &request.order_by);
        let look = |(after, looks), rows| async move {
            let found = self.app.list_versions(parent, filter, order_by, after, rows).await?;
            let looks = looks + found.looks;
            let items =
                found.versions.iter().map(|(version, place)| (version_to(version), (Some(*place), looks)));
            Ok(Found { items: items.collect(), next: Next::behind(found.next, looks) })
        };
        let (versions, next) = fill(ROWS_AT_ONCE, limit, (after, 0), look).await?;
        let next = next.and_then(|(place, _)| place);
        let hints = match versions.is_empty() && position.is_none() {
            true => self.app.hints(parent, filter, order_by).await?,
            false => Vec::new(),
        };
        let next_page_token = next.map(|it| query.token(&it.to_text())).unwrap_or_default();
        Ok(v1::ListVersionsResponse { versions, next_page_token, hints })
    }

    async fn get_artifact(&self, request: v1::GetArtifactRequest) -> Result<v1::Artifact, Error> {
        record(&request.name);
        let name = ArtifactName::parse(&request.name)?;
        let artifact = self.app.artifact(&name).await?;
        self.artifact_with_aliases(&artifact).await
    }

    async fn list_artifacts(
        &self,
        request: v1::ListArtifactsRequest,
    ) -> Result<v1::ListArtifactsResponse, Error> {
        record(&request.parent);
        let parent = ListParent::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let query = Query::of(&["artifacts", &request.parent]);
        let after = query.position(&request.page_token)?.map(artifact_position).transpose()?;
        let parent = &parent;
        let look = |after, rows| async move {
            let artifacts = self.app.list_artifacts(parent, after, rows).await?;
            let place = |it: &ArtifactName| (it.project.project.to_string(), it.artifact.to_string());
            let items = artifacts.iter().map(|it| (artifact_to(it), Some(place(&it.name))));
            Ok(Found::of(items.collect(), rows))
        };
        let (artifacts, next) = fill(ROWS_AT_ONCE, limit, after, look).await?;
        let token = |(project, id)| query.token(&format!("{project}/{id}"));
        let next_page_token = next.flatten().map(token).unwrap_or_default();
        Ok(v1::ListArtifactsResponse { artifacts, next_page_token })
    }

    async fn list_files(&self, request: v1::ListFilesRequest) -> Result<v1::ListFilesResponse, Error> {
        record(&request.parent);
        let parent = FilesParent::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let checkpoint = self.app.checkpoint_of(&parent).await?;
        let (files, next_page_token) = self.files(&checkpoint, limit, &request.page_token).await?;
        Ok(v1::ListFilesResponse { files, next_page_token })
    }

    async fn list_aliases(&self, request: v1::ListAliasesRequest) -> Result<v1::ListAliasesResponse, Error> {
        record(&request.parent);
        let parent = ArtifactName::parse(&request.parent)?;
        let limit = page_size(request.page_size)?;
        let artifact = self.app.artifact(&parent).await?;
        let (aliases, next_page_token) = self.aliases(&artifact, limit, &request.page_token).await?;
        Ok(v1::ListAliasesResponse { aliases, next_page_token })
    }

    async fn set_alias(&self, request: v1::SetAliasRequest) -> Result<v1::Version, Error> {
        record(&request.artifact);
        let artifact = ArtifactName::parse(&request.artifact)?;
        let set = self.app.set_alias(&artifact, &request.alias, &request.version, &request.expected_version);
        Ok(version_to(&set.await?))
    }

    async fn delete_alias(&self, request: v1::DeleteAliasRequest) -> Result<v1::DeleteAliasResponse, Error> {
        record(&request.artifact);
        let artifact = ArtifactName::parse(&request.artifact)?;
        match self.app.delete_alias(&artifact, &request.alias, &request.expected_version).await {
            Err(Error::Refused(refusal)) if request.allow_missing && refusal.kind == Kind::NotFound => {}
            deleted => deleted?,
        }
        Ok(v1::DeleteAliasResponse {})
    }

    async fn delete_version(
        &self,
        request: v1::DeleteVersionRequest,
    ) -> Result<v1::DeleteVersionResponse, Error> {
        record(&request.name);
        let name = VersionName::parse(&request.name)?;
        let how = How { validate_only: request.validate_only, force: request.delete_aliases };
        let deleted = self.app.delete_one_version(&name, how).await?;
        Ok(v1::DeleteVersionResponse {
            size_bytes: deleted.size_bytes,
            freed_bytes: deleted.freed_bytes,
            purge_time: Some(timestamp_to(deleted.purge_time_us)),
        })
    }

    async fn delete_versions(&self, request: v1::DeleteVersionsRequest) -> Result<v1::Deletion, Error> {
        record(&request.parent);
        let name = ArtifactName::parse(&request.parent)?;
        let which = Selection {
            filter: request.filter,
            keep_newest: request.keep_newest,
            delete_aliases: request.delete_aliases,
            delete_best: request.delete_best,
            validate_only: request.validate_only,
        };
        let deleted = self.app.delete_versions(&name, &which).await;
        deletion_to(request.parent, deleted, false)
    }

    async fn delete_artifact(&self, request: v1::DeleteArtifactRequest) -> Result<v1::Deletion, Error> {
        record(&request.name);
        let name = ArtifactName::parse(&request.name)?;
        let how = How { validate_only: request.validate_only, force: request.force };
        let deleted = self.app.delete_artifact(&name, how).await;
        deletion_to(request.name, deleted, request.allow_missing)
    }

    async fn watch_versions(
        &self,
        request: v1::WatchVersionsRequest,
    ) -> Result<Answers<v1::WatchVersionsResponse>, Error> {
        record(&request.parent);
        let parent = BestParent::parse(&request.parent)?;
        let begin = match (request.cursor, request.from_start) {
            (cursor, _) if !cursor.is_empty() => Begin::Behind(cursor),
            (_, true) => Begin::First,
            (_, false) => Begin::Now,
        };
        let seen = self.app.watch_versions(&parent, &begin, request.best_only).await?;
        let message = |seen: Seen| v1::WatchVersionsResponse {
            version: seen.version.as_ref().map(version_to),
            is_best: seen.is_best,
            cursor: seen.cursor,
        };
        Ok(seen.map(move |it| it.map(message).map_err(status)).boxed())
    }

    async fn read_file(&self, request: v1::ReadFileRequest) -> Result<Answers<v1::ReadFileResponse>, Error> {
        record(&request.version);
        let name = VersionName::parse(&request.version)?;
        let read = self.app.read_file(&name, &request.path, request.offset_bytes, request.length_bytes);
        let (file, pieces) = read.await?;
        self.note_read(&request);
        let first = v1::ReadFileResponse {
            file: Some(file_to(&file)),
            offset_bytes: request.offset_bytes,
            ..Default::default()
        };
        let messages = pieces.flat_map(|piece| match piece.map_err(status) {
            Ok(piece) => futures::stream::iter(messages(piece)).left_stream(),
            Err(status) => futures::stream::iter([Err(status)]).right_stream(),
        });
        Ok(futures::stream::iter([Ok(first)]).chain(messages).boxed())
    }
}

service! {
    Artifacts {
        get_best_version: v1::GetBestVersionRequest => v1::Version,
        get_version: v1::GetVersionRequest => v1::Version,
        list_versions: v1::ListVersionsRequest => v1::ListVersionsResponse,
        get_artifact: v1::GetArtifactRequest => v1::Artifact,
        list_artifacts: v1::ListArtifactsRequest => v1::ListArtifactsResponse,
        list_files: v1::ListFilesRequest => v1::ListFilesResponse,
        list_aliases: v1::ListAliasesRequest => v1::ListAliasesResponse,
        set_alias: v1::SetAliasRequest => v1::Version,
        delete_alias: v1::DeleteAliasRequest => v1::DeleteAliasResponse,
        delete_version: v1::DeleteVersionRequest => v1::DeleteVersionResponse,
        delete_versions: v1::DeleteVersionsRequest => v1::Deletion,
        delete_artifact: v1::DeleteArtifactRequest => v1::Deletion,
        read_file: v1::ReadFileRequest => Answers<v1::ReadFileResponse>,
        watch_versions: v1::WatchVersionsRequest => Answers<v1::WatchVersionsResponse>,
    }

    type ReadFileStream = Answers<v1::ReadFileResponse>;
    type WatchVersionsStream = Answers<v1::WatchVersionsResponse>;
}

fn artifact_position(position: &str) -> Result<(String, String), Refusal> {
    let (project, id) = position.split_once('/').ok_or_else(bad_token)?;
    Ok((project.to_owned(), id.to_owned()))
}

/// A verified piece as messages of at most 1 MiB; slices, not copies.
fn messages(piece: ReadPiece) -> Vec<Result<v1::ReadFileResponse, Status>> {
    let mut data = piece.data;
    let mut offset_bytes = piece.offset_bytes;
    let mut messages = Vec::with_capacity(data.len() / READ_MESSAGE_BYTES + 1);
    while !data.is_empty() {
        let part = data.split_to(READ_MESSAGE_BYTES.min(data.len()));
        let length = i64::try_from(part.len()).unwrap_or(0);
        messages.push(Ok(v1::ReadFileResponse { file: None, offset_bytes, data: part }));
        offset_bytes += length;
    }
    messages
}
