//! Files, to the server and back.

use std::error::Error;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use keepbest_trainer::v1;
use keepbest_trainer::v1::artifacts_client::ArtifactsClient;
use keepbest_trainer::v1::checkpoints_client::CheckpointsClient;
use sha2::Digest;
use sha2::Sha256;
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncSeekExt;
use tokio::io::AsyncWriteExt;
use tokio::io::SeekFrom;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::retry::retry;
use crate::retry::unary;

/// Bytes of a file in one message. The whole message has at most 4 MiB.
const PIECE_BYTES: u64 = 1 << 20;

async fn digest_of(path: &Path) -> io::Result<Vec<u8>> {
    let mut source = File::open(path).await?;
    let mut sha256 = Sha256::new();
    loop {
        let piece = read(&mut source).await?;
        if piece.is_empty() {
            return Ok(sha256.finalize().to_vec());
        }
        sha256.update(&piece);
    }
}

async fn read(source: &mut File) -> io::Result<Vec<u8>> {
    let mut piece = Vec::new();
    source.take(PIECE_BYTES).read_to_end(&mut piece).await?;
    Ok(piece)
}

/// Writes a file of the checkpoint. Where it broke off, it asks how many bytes are durable and sends the rest.
pub(crate) async fn upload(
    client: &CheckpointsClient<Channel>,
    checkpoint: &str,
    attempt: i64,
    path: &Path,
) -> Result<(), Box<dyn Error>> {
    let prepare = v1::PrepareFileRequest {
        checkpoint: checkpoint.to_owned(),
        attempt,
        path: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        size_bytes: i64::try_from(tokio::fs::metadata(path).await?.len())?,
        sha256: digest_of(path).await?,
    };
    retry(async || {
        let file = unary(prepare.clone(), |it| {
            let mut client = client.clone();
            async move { client.prepare_file(it).await }
        })
        .await?;
        if file.state() == v1::FileState::Complete {
            return Ok(Ok(()));
        }
        // One stream without a deadline.
        let (pieces, stream) = mpsc::channel(1);
        let reading = tokio::spawn(send(prepare.clone(), path.to_owned(), file.durable_bytes, pieces));
        let written = client.clone().write_file(ReceiverStream::new(stream)).await;
        // Ends by itself: nobody takes more pieces.
        match reading.await {
            Ok(Err(error)) => Ok(Err(error)),
            _ => written.map(|_| Ok(())),
        }
    })
    .await??;
    Ok(())
}

/// Sends a file's bytes from an offset on, as long as they are taken.
async fn send(
    prepare: v1::PrepareFileRequest,
    path: PathBuf,
    mut offset: i64,
    pieces: mpsc::Sender<v1::WriteFileRequest>,
) -> io::Result<()> {
    let mut source = File::open(path).await?;
    source.seek(SeekFrom::Start(offset.unsigned_abs())).await?;
    let v1::PrepareFileRequest { checkpoint, attempt, path, size_bytes, .. } = prepare;
    let mut message =
        v1::WriteFileRequest { checkpoint, attempt, path, offset_bytes: offset, ..Default::default() };
    loop {
        message.data = read(&mut source).await?;
        offset += message.data.len() as i64;
        message.finish = offset >= size_bytes;
        let is_last = message.finish;
        if pieces.send(message).await.is_err() || is_last {
            return Ok(());
        }
        message = v1::WriteFileRequest::default();
    }
}

/// Writes a version's first file to a path, and answers its digest, which is the one that was declared.
pub(crate) async fn download(
    client: &ArtifactsClient<Channel>,
    version: &v1::Version,
    path: &Path,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let file = version.files.first().ok_or("the version has no file")?;
    let mut target = File::create(path).await?;
    let mut offset = 0;
    retry(async || {
        while offset < file.size_bytes {
            // An alias may move in between: the version's own name stands for these bytes only.
            let request = v1::ReadFileRequest {
                version: version.name.clone(),
                path: file.path.clone(),
                offset_bytes: offset,
                ..Default::default()
            };
            let mut answers = client.clone().read_file(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if let Err(error) = target.write_all(&answer.data).await {
                    return Ok(Err(error));
                }
                offset = answer.offset_bytes + answer.data.len() as i64;
            }
        }
        Ok(Ok(()))
    })
    .await??;
    target.flush().await?;
    let digest = digest_of(path).await?;
    if digest != file.sha256 {
        let (found, saved) = (hex(&digest), hex(&file.sha256));
        return Err(format!("{} has SHA-256 {found}, but {saved} was saved", path.display()).into());
    }
    Ok(digest)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
