//! Service `Artifacts`.

use std::pin::Pin;

use futures::Stream;
use futures::StreamExt;
use keepbest_proto::v1;
use keepbest_proto::v1::artifacts_server::Artifacts;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use crate::app::reads::ReadPiece;
use crate::domain::filter::Place;
use crate::domain::ids::ArtifactName;
use crate::domain::ids::BestParent;
use crate::domain::ids::FilesParent;
use crate::domain::ids::ListParent;
use crate::domain::ids::VersionName;
use crate::domain::refusal::Refusal;
use crate::grpc::Face;
use crate::grpc::convert::artifact_to;
use crate::grpc::convert::file_to;
use crate::grpc::convert::mode_of;
use crate::grpc::convert::version_to;
use crate::grpc::pages::Page;
use crate::grpc::pages::Query;
use crate::grpc::pages::bad_token;
use crate::grpc::pages::page_size;
use crate::grpc::record;
use crate::grpc::status::OrStatus;

/// Data of one message; larger ones are slower (memory for each is allocated anew).
const READ_MESSAGE_BYTES: usize = 1 << 20;
/// Versions that a page of a list looks at, whether or not its filter matches them: a tenth of a second.
const MOST_LOOKS: i64 = 10_000;

#[tonic::async_trait]
impl Artifacts for Face {
    type ReadFileStream = Pin<Box<dyn Stream<Item = Result<v1::ReadFileResponse, Status>> + Send>>;

    async fn get_best_version(
        &self,
        request: Request<v1::GetBestVersionRequest>,
    ) -> Result<Response<v1::Version>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = BestParent::parse(&request.parent).or_status()?;
        let metric = Some(request.metric).filter(|it| !it.is_empty());
        let unknown = |refusal| Refusal { reason: "BAD_MODE", metadata: Vec::new(), ..refusal };
        let direction = mode_of(request.mode).map_err(unknown).or_status()?;
        let version = self.app.best_version(&parent, metric, direction).await.or_status()?;
        self.version_with_files(&version, request.include_files).await.map(Response::new).or_status()
    }

    async fn get_version(
        &self,
        request: Request<v1::GetVersionRequest>,
    ) -> Result<Response<v1::Version>, Status> {
        let request = request.into_inner();
        record(&request.name);
        let name = VersionName::parse(&request.name).or_status()?;
        let version = self.app.version(&name).await.or_status()?;
        self.version_with_files(&version, request.include_files).await.map(Response::new).or_status()
    }

    async fn list_versions(
        &self,
        request: Request<v1::ListVersionsRequest>,
    ) -> Result<Response<v1::ListVersionsResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = ArtifactName::parse(&request.parent).or_status()?;
        let mut page = Page::of(page_size(request.page_size).or_status()?);
        let query = Query::of(&["versions", &request.parent, &request.filter, &request.order_by]);
        let position = query.position(&request.page_token).or_status()?;
        let mut after = position.map(|it| Place::parse(it).ok_or_else(bad_token)).transpose().or_status()?;
        let mut looks = 0;
        while let Some(rows) = page.wants().filter(|_| looks < MOST_LOOKS) {
            let listed = self.app.list_versions(&parent, &request.filter, &request.order_by, after, rows);
            let listed = listed.await.or_status()?;
            for (version, place) in listed.versions {
                if page.take(version_to(&version)) {
                    after = Some(place);
                }
            }
            if page.is_full {
                break;
            }
            after = listed.next;
            if after.is_none() {
                break;
            }
            looks += listed.looks;
        }
        Ok(Response::new(v1::ListVersionsResponse {
            versions: page.items,
            next_page_token: after.map(|it| query.token(&it.to_text())).unwrap_or_default(),
        }))
    }

    async fn get_artifact(
        &self,
        request: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let request = request.into_inner();
        record(&request.name);
        let name = ArtifactName::parse(&request.name).or_status()?;
        let artifact = self.app.artifact(&name).await.or_status()?;
        self.artifact_with_aliases(&artifact).await.map(Response::new).or_status()
    }

    async fn list_artifacts(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = ListParent::parse(&request.parent).or_status()?;
        let mut page = Page::of(page_size(request.page_size).or_status()?);
        let query = Query::of(&["artifacts", &request.parent]);
        let position = query.position(&request.page_token).or_status()?;
        let mut after = match position.map(|it| it.split_once('/').ok_or_else(bad_token)) {
            Some(after) => {
                after.map(|(project, id)| Some((project.to_owned(), id.to_owned()))).or_status()?
            }
            None => None,
        };
        while let Some(rows) = page.wants() {
            let artifacts = self.app.list_artifacts(&parent, after.clone(), rows).await.or_status()?;
            let last = i64::try_from(artifacts.len()) != Ok(rows);
            for artifact in artifacts {
                if page.take(artifact_to(&artifact)) {
                    let name = &artifact.name;
                    after = Some((name.project.project.to_string(), name.artifact.to_string()));
                }
            }
            if last {
                break;
            }
        }
        let next = after.filter(|_| page.is_full);
        Ok(Response::new(v1::ListArtifactsResponse {
            artifacts: page.items,
            next_page_token: next
                .map(|(project, id)| query.token(&format!("{project}/{id}")))
                .unwrap_or_default(),
        }))
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = FilesParent::parse(&request.parent).or_status()?;
        let limit = page_size(request.page_size).or_status()?;
        let checkpoint = self.app.checkpoint_of(&parent).await.or_status()?;
        let (files, next_page_token) =
            self.files(&checkpoint, limit, &request.page_token).await.or_status()?;
        Ok(Response::new(v1::ListFilesResponse { files, next_page_token }))
    }

    async fn list_aliases(
        &self,
        request: Request<v1::ListAliasesRequest>,
    ) -> Result<Response<v1::ListAliasesResponse>, Status> {
        let request = request.into_inner();
        record(&request.parent);
        let parent = ArtifactName::parse(&request.parent).or_status()?;
        let limit = page_size(request.page_size).or_status()?;
        let artifact = self.app.artifact(&parent).await.or_status()?;
        let (aliases, next_page_token) =
            self.aliases(&artifact, limit, &request.page_token).await.or_status()?;
        Ok(Response::new(v1::ListAliasesResponse { aliases, next_page_token }))
    }

    async fn read_file(
        &self,
        request: Request<v1::ReadFileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let request = request.into_inner();
        record(&request.version);
        let name = VersionName::parse(&request.version).or_status()?;
        let read = self.app.read_file(&name, &request.path, request.offset_bytes, request.length_bytes);
        let (file, pieces) = read.await.or_status()?;
        let first = v1::ReadFileResponse {
            file: Some(file_to(&file)),
            offset_bytes: request.offset_bytes,
            ..Default::default()
        };
        let messages = pieces.flat_map(|piece| match piece.or_status() {
            Ok(piece) => futures::stream::iter(messages(piece)).left_stream(),
            Err(status) => futures::stream::iter([Err(status)]).right_stream(),
        });
        Ok(Response::new(futures::stream::iter([Ok(first)]).chain(messages).boxed()))
    }

    async fn set_alias(
        &self,
        request: Request<v1::SetAliasRequest>,
    ) -> Result<Response<v1::Version>, Status> {
        let request = request.into_inner();
        record(&request.artifact);
        let artifact = ArtifactName::parse(&request.artifact).or_status()?;
        let set = self.app.set_alias(&artifact, &request.alias, &request.version, &request.expected_version);
        Ok(Response::new(version_to(&set.await.or_status()?)))
    }

    async fn delete_alias(
        &self,
        request: Request<v1::DeleteAliasRequest>,
    ) -> Result<Response<v1::DeleteAliasResponse>, Status> {
        let request = request.into_inner();
        record(&request.artifact);
        let artifact = ArtifactName::parse(&request.artifact).or_status()?;
        self.app.delete_alias(&artifact, &request.alias).await.or_status()?;
        Ok(Response::new(v1::DeleteAliasResponse {}))
    }

    async fn delete_version(
        &self,
        request: Request<v1::DeleteVersionRequest>,
    ) -> Result<Response<v1::DeleteVersionResponse>, Status> {
        let request = request.into_inner();
        record(&request.name);
        let name = VersionName::parse(&request.name).or_status()?;
        let size_bytes = self.app.delete_version(&name, request.delete_aliases).await.or_status()?;
        Ok(Response::new(v1::DeleteVersionResponse { size_bytes }))
    }
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
