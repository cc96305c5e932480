//! Service `Checkpoints`.

use futures::Stream;
use keepbest_proto::v1;
use keepbest_proto::v1::checkpoints_server::Checkpoints;
use tonic::Status;
use tonic::Streaming;

use crate::app::Checkpoint;
use crate::app::Error;
use crate::app::parts::NewPart;
use crate::app::uploads::Known;
use crate::app::uploads::Piece;
use crate::app::uploads::SmallFile;
use crate::app::uploads::Target;
use crate::app::uploads::idle_timeout;
use crate::domain::cells::CELL_BYTES;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::parts::Part;
use crate::domain::refusal::Refusal;
use crate::grpc::Face;
use crate::grpc::convert::checkpoint_to;
use crate::grpc::convert::duration_of;
use crate::grpc::convert::file_to;
use crate::grpc::convert::json_of;
use crate::grpc::convert::sha256_of;
use crate::grpc::convert::version_to;
use crate::grpc::pages::FIRST_PAGE;
use crate::grpc::record;
use crate::grpc::status::unreadable;

fn target_of(checkpoint: &str, attempt: i64, path: String) -> Result<Target, Refusal> {
    Ok(Target { checkpoint: CheckpointName::parse(checkpoint)?, attempt, path })
}

fn piece_of(message: v1::WriteFileRequest) -> Result<Piece, Refusal> {
    let known = message.known.iter().map(known_of).collect::<Result<_, _>>()?;
    let v1::WriteFileRequest { data, crc32c, finish, cut, .. } = message;
    Ok(Piece { data, crc32c, finish, cut, known })
}

fn known_of(chunk: &v1::KnownChunk) -> Result<Known, Refusal> {
    let size_bytes = i64::from(chunk.size_bytes);
    if !(1..=CELL_BYTES).contains(&size_bytes) {
        let text = format!("size_bytes {size_bytes} of a known chunk is not between 1 and {CELL_BYTES}");
        return Err(Refusal::invalid("BAD_CHUNK", text));
    }
    Ok(Known { size_bytes, digest: chunk_digest_of(&chunk.digest)? })
}

fn chunk_digest_of(bytes: &[u8]) -> Result<Digest, Refusal> {
    Digest::from_slice(bytes).ok_or_else(|| {
        let text = format!("digest of a chunk has {} bytes: 32 raw bytes are right", bytes.len());
        Refusal::invalid("BAD_DIGEST", text)
    })
}

/// The messages of an upload as pieces, the first one included. A transport that breaks ends it with an error; a client's
/// cancel looks like an end, which is why `finish` is explicit.
fn pieces(
    first: v1::WriteFileRequest,
    messages: Streaming<v1::WriteFileRequest>,
) -> impl Stream<Item = Result<Piece, Error>> + Send {
    futures::stream::unfold((Some(first), messages), |(first, mut messages)| async move {
        let message = match first {
            Some(first) => Ok(first),
            None => match messages.message().await {
                Ok(Some(message)) => check_later(&message).map(|()| message),
                Ok(None) => return None,
                Err(status) => Err(broken(&status)),
            },
        };
        let piece = match message {
            Ok(last) if last.finish => check_end(&mut messages).await.map(|()| last),
            message => message,
        };
        let piece = piece.and_then(|message| Ok(piece_of(message)?));
        Some((piece, (None, messages)))
    })
}

/// One stream writes one file: what says which, and where it begins, must not come again and be ignored.
fn check_later(message: &v1::WriteFileRequest) -> Result<(), Error> {
    let v1::WriteFileRequest { checkpoint, attempt, path, offset_bytes, .. } = message;
    if checkpoint.is_empty() && *attempt == 0 && path.is_empty() && *offset_bytes == 0 {
        return Ok(());
    }
    let text = "checkpoint, attempt, path and offset_bytes stand in the first message of a stream only: open another stream";
    Err(Refusal::invalid("BAD_MESSAGE", text).into())
}

/// Nothing may come after `finish`: it would not be stored, and the answer would say that it was.
async fn check_end(messages: &mut Streaming<v1::WriteFileRequest>) -> Result<(), Error> {
    match messages.message().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            let text = "a message came after the one with `finish`: that one is the last of its stream";
            Err(Refusal::invalid("BAD_MESSAGE", text).into())
        }
        Err(status) => Err(broken(&status)),
    }
}

fn broken(status: &Status) -> Error {
    if let Some(refusal) = unreadable(status) {
        return refusal.into();
    }
    let text = format!("the upload broke off ({}): ask PrepareFile where to go on", status.code());
    Refusal::aborted("UPLOAD_BROKEN", text).into()
}

impl Face {
    /// A checkpoint with its parts and the first page of its files.
    async fn checkpoint(
        &self,
        name: &CheckpointName,
        checkpoint: &Checkpoint,
    ) -> Result<v1::Checkpoint, Error> {
        let version = match checkpoint.version {
            Some(number) => {
                let run = self.app.run(&name.run).await?;
                format!("{}/artifacts/{}/versions/v{number}", name.run.project, run.artifact)
            }
            None => String::new(),
        };
        let parts = self.app.parts(&checkpoint.uid).await?;
        let (files, files_next_page_token) = self.files(&name.checkpoint, FIRST_PAGE, "").await?;
        let answer = checkpoint_to(name.to_string(), checkpoint, &parts, version);
        Ok(v1::Checkpoint { files, files_next_page_token, ..answer })
    }

    async fn prepare_file(&self, request: v1::PrepareFileRequest) -> Result<v1::File, Error> {
        record(&request.checkpoint);
        let target = target_of(&request.checkpoint, request.attempt, request.path)?;
        let sha256 = sha256_of(&request.sha256)?;
        let file = self.app.prepare_file(target, request.size_bytes, sha256).await?;
        Ok(file_to(&file))
    }

    async fn find_missing_chunks(
        &self,
        request: v1::FindMissingChunksRequest,
    ) -> Result<v1::FindMissingChunksResponse, Error> {
        record(&request.checkpoint);
        let checkpoint = CheckpointName::parse(&request.checkpoint)?;
        let digests: Vec<Digest> =
            request.digests.iter().map(|it| chunk_digest_of(it)).collect::<Result<_, _>>()?;
        let missing = self.app.find_missing_chunks(&checkpoint, &digests).await?;
        let missing = missing.into_iter().filter_map(|it| i32::try_from(it).ok()).collect();
        Ok(v1::FindMissingChunksResponse { missing })
    }

    async fn write_small_files(
        &self,
        request: v1::WriteSmallFilesRequest,
    ) -> Result<v1::WriteSmallFilesResponse, Error> {
        record(&request.checkpoint);
        let checkpoint = CheckpointName::parse(&request.checkpoint)?;
        let mut files = Vec::with_capacity(request.files.len());
        for file in request.files {
            let sha256 = sha256_of(&file.sha256)?;
            files.push(SmallFile { path: file.path, data: file.data, sha256 });
        }
        let files = self.app.write_small_files(checkpoint, request.attempt, files).await?;
        Ok(v1::WriteSmallFilesResponse { files: files.iter().map(file_to).collect() })
    }

    async fn commit_checkpoint(&self, request: v1::CommitCheckpointRequest) -> Result<v1::Version, Error> {
        record(&request.checkpoint);
        let name = CheckpointName::parse(&request.checkpoint)?;
        let metadata = json_of("metadata", request.metadata)?;
        let file_count = match request.file_count {
            0 => None,
            1.. => Some(request.file_count),
            _ => return Err(Refusal::invalid("BAD_FILE_COUNT", "file_count is negative").into()),
        };
        let version = match Part::parse(request.part, request.part_count)? {
            None => self.app.commit(name, request.attempt, file_count, metadata).await,
            Some(part) => {
                let wait = request.wait.as_ref().map(duration_of).transpose()?;
                let (attempt, file_count) = (request.attempt, file_count.unwrap_or(0));
                let new = NewPart { checkpoint: name, attempt, part, file_count, metadata, wait };
                self.app.commit_part(new).await
            }
        };
        Ok(version_to(&version?))
    }

    async fn abandon_checkpoint(
        &self,
        request: v1::AbandonCheckpointRequest,
    ) -> Result<v1::Checkpoint, Error> {
        record(&request.checkpoint);
        let name = CheckpointName::parse(&request.checkpoint)?;
        let checkpoint = self.app.abandon(name.clone(), request.attempt).await?;
        self.checkpoint(&name, &checkpoint).await
    }

    async fn get_checkpoint(&self, request: v1::GetCheckpointRequest) -> Result<v1::Checkpoint, Error> {
        record(&request.name);
        let name = CheckpointName::parse(&request.name)?;
        let checkpoint = self.app.checkpoint(&name).await?;
        self.checkpoint(&name, &checkpoint).await
    }

    async fn write_file(&self, mut messages: Streaming<v1::WriteFileRequest>) -> Result<v1::File, Error> {
        let first = tokio::time::timeout(self.app.upload_idle(), messages.message()).await;
        let first = first.map_err(|_| idle_timeout(self.app.upload_idle()))?;
        let Some(mut first) = first.map_err(|status| broken(&status))? else {
            let text = "the stream has no message: the first one names checkpoint, attempt and path";
            return Err(Refusal::invalid("FINISH_MISSING", text).into());
        };
        record(&first.checkpoint);
        let admitted = self.admit(&first)?;
        let app = &admitted.as_ref().unwrap_or(self).app;
        let path = std::mem::take(&mut first.path);
        let target = target_of(&first.checkpoint, first.attempt, path)?;
        let offset_bytes = first.offset_bytes;
        if offset_bytes < 0 {
            let text = format!("offset_bytes {offset_bytes} is negative");
            return Err(Refusal::invalid("BAD_RANGE", text).into());
        }
        let file = app.write_file(target, offset_bytes, pieces(first, messages)).await?;
        Ok(file_to(&file))
    }
}

service! {
    Checkpoints {
        prepare_file: v1::PrepareFileRequest => v1::File,
        write_file: Streaming<v1::WriteFileRequest> => v1::File,
        find_missing_chunks: v1::FindMissingChunksRequest => v1::FindMissingChunksResponse,
        write_small_files: v1::WriteSmallFilesRequest => v1::WriteSmallFilesResponse,
        commit_checkpoint: v1::CommitCheckpointRequest => v1::Version,
        abandon_checkpoint: v1::AbandonCheckpointRequest => v1::Checkpoint,
        get_checkpoint: v1::GetCheckpointRequest => v1::Checkpoint,
    }
}
