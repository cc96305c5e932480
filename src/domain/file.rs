//! A file of a checkpoint: what is declared of it, how much of it is durable, where a stream may go on, and when it is complete.

use std::collections::BTreeMap;

use crate::domain::cells::Assembled;
use crate::domain::cells::CELL_BYTES;
use crate::domain::cells::digest_of_chunks;
use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Most files of a checkpoint; each is a row, and the largest sharded saves known have some ten thousand.
pub const MAX_FILES: i64 = 100_000;

/// How many chunks more than of 8 MiB each a file may be cut into: each is a row, of which a stream's first and last step read all,
/// and 190 bytes of a manifest. The largest models known have some thousand tensors a file.
pub const MORE_CHUNKS: i64 = 1 << 13;

/// A file to declare.
#[derive(Clone, Debug)]
pub struct NewFile {
    /// Relative path within the checkpoint, checked.
    pub path: String,
    pub size_bytes: i64,
    /// SHA-256 of the whole file, if the client knows it.
    pub sha256: Option<Digest>,
}

/// A file as it is stored.
#[derive(Clone, Debug)]
pub struct StoredFile {
    /// Unique for ever.
    pub uid: String,
    /// Relative path within the checkpoint.
    pub path: String,
    /// Its length, as declared.
    pub size_bytes: i64,
    /// Bytes from the start that are durable.
    pub durable_bytes: i64,
    /// Over its cells' digests; only of a complete file.
    pub digest: Option<Digest>,
    /// SHA-256 of the whole file, as declared.
    pub sha256: Option<Digest>,
}

/// The chunks of a file by their offsets: size and digest.
pub type Places = BTreeMap<i64, (i64, Digest)>;

/// How many bytes from the start the chunks hold without a gap. Those of one upload may land out of order, and a cut can
/// leave a gap.
pub fn durable_bytes(places: &Places) -> i64 {
    let mut end = 0;
    for (offset, (size, _)) in places {
        if *offset != end {
            break;
        }
        end += size;
    }
    end
}

impl StoredFile {
    /// A file that was just declared.
    pub fn declared(uid: String, new: &NewFile) -> StoredFile {
        StoredFile {
            uid,
            path: new.path.clone(),
            size_bytes: new.size_bytes,
            durable_bytes: 0,
            digest: None,
            sha256: new.sha256,
        }
    }

    /// Refuses another declaration of the same path.
    pub fn check_declared(&self, name: &CheckpointName, new: &NewFile) -> Result<(), Refusal> {
        if self.size_bytes == new.size_bytes && (new.sha256.is_none() || self.sha256 == new.sha256) {
            return Ok(());
        }
        let message = format!(
            "file `{}` of checkpoint `{name}` stands with {} bytes, but now {} bytes or another SHA-256 are declared: \
             a file that changed needs a new save",
            shown(&new.path),
            self.size_bytes,
            new.size_bytes
        );
        Err(Refusal::already_exists("FILE_EXISTS", message))
    }

    /// Refuses other bytes than those of a complete file.
    pub fn check_bytes(&self, name: &CheckpointName, digest: Digest) -> Result<(), Refusal> {
        if self.digest.is_none_or(|it| it == digest) {
            return Ok(());
        }
        let message = format!(
            "file `{}` of checkpoint `{name}` is complete with other bytes: a file that changed needs a new save",
            shown(&self.path)
        );
        Err(Refusal::already_exists("FILE_EXISTS", message))
    }

    /// Refuses a stream that begins where nothing can go on: it may at the start, at the end of what is durable, or where an
    /// earlier chunk begins. The last is for a client that was told less a moment ago, while a chunk of its cut stream landed.
    pub fn check_offset(&self, offset_bytes: i64, places: &Places) -> Result<(), Refusal> {
        let durable_bytes = durable_bytes(places);
        let begins = offset_bytes < durable_bytes && places.contains_key(&offset_bytes);
        if offset_bytes == 0 || offset_bytes == durable_bytes || begins {
            return Ok(());
        }
        let message = format!(
            "file `{}` goes on at byte {durable_bytes} or at a chunk before, not at {offset_bytes}: ask PrepareFile",
            shown(&self.path)
        );
        Err(Refusal::precondition("OFFSET_MISMATCH", message).with("durable_bytes", durable_bytes))
    }

    /// Refuses a chunk of a file that is cut into too many.
    pub fn check_chunk_count(&self, count: i64) -> Result<(), Refusal> {
        let most = self.size_bytes / CELL_BYTES + MORE_CHUNKS;
        if count <= most {
            return Ok(());
        }
        let message = format!(
            "file `{}` of {} bytes is cut into more than {most} chunks: let small neighbours be one chunk",
            shown(&self.path),
            self.size_bytes
        );
        Err(Refusal::exhausted("LIMIT_EXCEEDED", message))
    }

    /// Completes the file, if its chunks hold all its bytes. Where they were cut in other places than every 8 MiB, its digest must
    /// have been found out of just these chunks.
    pub fn complete(&mut self, places: &Places, assembled: Option<&Assembled>) -> Result<(), Refusal> {
        let durable = durable_bytes(places);
        if durable != self.size_bytes {
            let message = format!(
                "file `{}` has {durable} bytes, but {} were declared",
                shown(&self.path),
                self.size_bytes
            );
            return Err(Refusal::invalid("SIZE_MISMATCH", message).with("durable_bytes", durable));
        }
        let by_chunks = digest_of_chunks(places.values().copied());
        let by_bytes = || assembled.and_then(|it| it.digest_of(places));
        self.digest = Some(by_chunks.or_else(by_bytes).ok_or_else(superseded)?);
        self.durable_bytes = durable;
        Ok(())
    }
}

/// Refuses one more file of a checkpoint that has the most already.
pub fn check_room(name: &CheckpointName, file_count: i64) -> Result<(), Refusal> {
    if file_count < MAX_FILES {
        return Ok(());
    }
    let message =
        format!("checkpoint `{name}` has {MAX_FILES} files, which is the most: pack small ones together");
    Err(Refusal::exhausted("LIMIT_EXCEEDED", message))
}

/// The refusal of a stream that another one took the file from.
pub fn superseded() -> Refusal {
    let message = "another stream writes this file now, or its checkpoint was given up: ask PrepareFile where it stands";
    Refusal::aborted("UPLOAD_SUPERSEDED", message)
}

/// The refusal of an upload whose stored bytes are gone before they were referred to.
pub fn lost_race() -> Refusal {
    Refusal::aborted("RACE", "the upload took so long that its bytes were collected: send them again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> StoredFile {
        let new = NewFile { path: "a".to_owned(), size_bytes: 7, sha256: Some(Digest([1; 32])) };
        StoredFile::declared("uid".to_owned(), &new)
    }

    fn places(places: &[(i64, i64)]) -> Places {
        places.iter().map(|(offset, size)| (*offset, (*size, Digest([7; 32])))).collect()
    }

    #[test]
    fn only_what_has_no_gap_before_it_is_durable() {
        let table: [(&[(i64, i64)], i64); 5] =
            [(&[], 0), (&[(0, 3)], 3), (&[(0, 3), (3, 4)], 7), (&[(3, 4)], 0), (&[(0, 3), (4, 3)], 3)];
        for (chunks, durable) in table {
            assert_eq!(durable_bytes(&places(chunks)), durable, "{chunks:?}");
        }
    }

    #[test]
    fn a_stream_goes_on_where_chunks_begin_or_end() {
        let places = places(&[(0, 2), (2, 2), (5, 2)]);
        let refused: Vec<i64> = (0..8).filter(|it| file().check_offset(*it, &places).is_err()).collect();
        assert_eq!(refused, [1, 3, 5, 6, 7]);
    }

    #[test]
    fn a_path_is_declared_once() {
        let name = CheckpointName::parse("teams/t/projects/p/runs/r/checkpoints/c").unwrap();
        let declare = |size_bytes, sha256| {
            let new = NewFile { path: "a".to_owned(), size_bytes, sha256 };
            file().check_declared(&name, &new).map_err(|it| it.reason)
        };
        assert_eq!(declare(7, Some(Digest([1; 32]))), Ok(()));
        assert_eq!(declare(7, None), Ok(()));
        assert_eq!(declare(8, None), Err("FILE_EXISTS"));
        assert_eq!(declare(7, Some(Digest([2; 32]))), Err("FILE_EXISTS"));
    }

    #[test]
    fn a_file_is_complete_with_all_its_bytes() {
        let mut file = file();
        assert_eq!(file.complete(&places(&[(0, 3)]), None).unwrap_err().reason, "SIZE_MISMATCH");
        file.complete(&places(&[(0, 7)]), None).unwrap();
        assert_eq!((file.durable_bytes, file.digest), (7, Some(Digest::of_file([Digest([7; 32])]))));
        let name = CheckpointName::parse("teams/t/projects/p/runs/r/checkpoints/c").unwrap();
        assert_eq!(file.check_bytes(&name, file.digest.unwrap()), Ok(()));
        assert_eq!(file.check_bytes(&name, Digest([0; 32])).unwrap_err().reason, "FILE_EXISTS");
    }

    #[test]
    fn a_file_that_was_cut_elsewhere_is_complete_with_the_digest_of_its_bytes() {
        let (cut, found) = (places(&[(0, 3), (3, 4)]), Digest([9; 32]));
        assert_eq!(file().complete(&cut, None).unwrap_err().reason, "UPLOAD_SUPERSEDED");
        let of_others = Assembled::new(&places(&[(0, 4), (4, 3)]), [found]);
        assert_eq!(file().complete(&cut, Some(&of_others)).unwrap_err().reason, "UPLOAD_SUPERSEDED");
        let mut file = file();
        file.complete(&cut, Some(&Assembled::new(&cut, [found]))).unwrap();
        assert_eq!(file.digest, Some(Digest::of_file([found])));
    }

    #[test]
    fn a_file_has_so_many_chunks_more_than_of_8_mib() {
        assert_eq!(file().check_chunk_count(MORE_CHUNKS), Ok(()));
        assert_eq!(file().check_chunk_count(MORE_CHUNKS + 1).unwrap_err().reason, "LIMIT_EXCEEDED");
    }
}
