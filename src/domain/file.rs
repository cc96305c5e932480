//! A file of a checkpoint: what is declared of it, how much of it is durable, where a stream may go on, and when it is complete.

use std::collections::BTreeMap;

use crate::domain::digest::Digest;
use crate::domain::ids::CheckpointName;
use crate::domain::ids::shown;
use crate::domain::refusal::Refusal;

/// Most files of a checkpoint; each is a row, and the largest sharded saves known have some ten thousand.
pub const MAX_FILES: i64 = 100_000;

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
    /// Over its chunks' digests; only of a complete file.
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

    /// Completes the file, if its chunks hold all its bytes.
    pub fn complete(&mut self, places: &Places) -> Result<(), Refusal> {
        let durable = durable_bytes(places);
        if durable != self.size_bytes {
            let message = format!(
                "file `{}` has {durable} bytes, but {} were declared",
                shown(&self.path),
                self.size_bytes
            );
            return Err(Refusal::invalid("SIZE_MISMATCH", message).with("durable_bytes", durable));
        }
        self.digest = Some(Digest::of_file(places.values().map(|(_, digest)| *digest)));
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
        assert_eq!(file.complete(&places(&[(0, 3)])).unwrap_err().reason, "SIZE_MISMATCH");
        file.complete(&places(&[(0, 3), (3, 4)])).unwrap();
        assert_eq!((file.durable_bytes, file.digest.is_some()), (7, true));
        let name = CheckpointName::parse("teams/t/projects/p/runs/r/checkpoints/c").unwrap();
        assert_eq!(file.check_bytes(&name, file.digest.unwrap()), Ok(()));
        assert_eq!(file.check_bytes(&name, Digest([0; 32])).unwrap_err().reason, "FILE_EXISTS");
    }
}
