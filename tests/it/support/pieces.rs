//! The messages of uploads, as the application gets them.

use bytes::Bytes;
use futures::StreamExt;
use keepbest::app::Error;
use keepbest::app::StoredFile;
use keepbest::app::uploads::Piece;
use keepbest::domain::ids::CheckpointName;

use crate::support::apps::Trainer;

/// The messages of an upload.
pub(crate) fn pieces(data: &[u8]) -> Vec<Piece> {
    let piece =
        |data: &[u8], finish| Piece { data: Bytes::copy_from_slice(data), finish, ..Piece::default() };
    let mut pieces: Vec<Piece> = data.chunks(1 << 20).map(|part| piece(part, false)).collect();
    pieces.push(piece(&[], true));
    pieces
}

/// Declares a file and writes it in chunks of so many bytes.
pub(crate) async fn stream_cut(
    trainer: &Trainer,
    checkpoint: &CheckpointName,
    path: &str,
    data: &[u8],
    chunk_bytes: usize,
) -> Result<StoredFile, Error> {
    let target = trainer.target(checkpoint, path);
    trainer.app.prepare_file(target.clone(), i64::try_from(data.len()).unwrap(), None).await?;
    let mut pieces: Vec<Piece> = Vec::new();
    for chunk in data.chunks(chunk_bytes) {
        let parts = chunk.chunks(1 << 20);
        pieces.extend(parts.map(|it| Piece { data: Bytes::copy_from_slice(it), ..Piece::default() }));
        pieces.push(Piece { cut: true, ..Piece::default() });
    }
    pieces.push(Piece { finish: true, ..Piece::default() });
    trainer.app.write_file(target, 0, futures::stream::iter(pieces).map(Ok)).await
}
