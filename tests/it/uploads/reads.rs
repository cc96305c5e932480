//! Reads: ranges across chunks, and bytes that were damaged on the disk never leave.

use keepbest_proto::v1;
use tonic::Code;
use tonic::Status;

use crate::support::refusals::refusal;
use crate::support::requests::Trainer;
use crate::support::requests::best_only;
use crate::support::requests::noise;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::server::TestServer;
use crate::support::transfers::CHUNK;
use crate::support::transfers::damage;
use crate::support::transfers::object;
use crate::support::transfers::objects;

const MODEL: &str = "model.keras";

/// The bytes of a range, and how the stream ended.
async fn range(
    server: &TestServer,
    version: &str,
    offset: usize,
    length: usize,
) -> (Vec<u8>, Result<(), Status>) {
    let request = v1::ReadFileRequest {
        version: version.to_owned(),
        path: MODEL.to_owned(),
        offset_bytes: i64::try_from(offset).unwrap(),
        length_bytes: i64::try_from(length).unwrap(),
    };
    let mut messages = match server.artifacts().read_file(request).await {
        Ok(messages) => messages.into_inner(),
        Err(status) => return (Vec::new(), Err(status)),
    };
    let mut data = Vec::new();
    let mut is_first = true;
    loop {
        match messages.message().await {
            Ok(Some(message)) => {
                assert_eq!(message.file.is_some(), is_first, "the first message tells the file");
                assert_eq!(usize::try_from(message.offset_bytes).unwrap(), offset + data.len());
                assert!(message.data.len() <= 1 << 20);
                data.extend_from_slice(&message.data);
                is_first = false;
            }
            Ok(None) => return (data, Ok(())),
            Err(status) => return (data, Err(status)),
        }
    }
}

#[tokio::test]
async fn any_range_is_the_bytes_that_were_sent() {
    let server = server::start().await;
    let data = noise(1, 2 * CHUNK + 100);
    let mut trainer = Trainer::start(&server, "ranges", best_only()).await;
    let version = trainer.save(0, 0.5, &data).await;
    let size = data.len();
    let ranges = [
        (0, 0),
        (0, 1),
        (0, size),
        (1, 0),
        (size, 0),
        (size - 1, 0),
        (size - 1, 1),
        (CHUNK - 1, 1),
        (CHUNK - 1, 2),
        (CHUNK, 1),
        (CHUNK, CHUNK),
        (CHUNK + 1, CHUNK),
        (1, 2 * CHUNK),
        (CHUNK - 1, CHUNK + 2),
        (2 * CHUNK - 1, 3),
        (2 * CHUNK, 100),
        (2 * CHUNK + 99, 1),
        (3, (1 << 20) + 1),
    ];
    for (offset, length) in ranges {
        let until = if length == 0 { size } else { offset + length };
        let (bytes, end) = range(&server, &version.name, offset, length).await;
        end.unwrap();
        assert!(bytes == data[offset..until], "{length} bytes from {offset}: {} came", bytes.len());
    }
}

#[tokio::test]
async fn a_damaged_chunk_is_data_loss_and_none_of_it_leaves() {
    let server = server::start().await;
    let data = noise(2, 3 * CHUNK);
    let mut trainer = Trainer::start(&server, "damaged", best_only()).await;
    let version = trainer.save(0, 0.5, &data).await.name;
    let second = objects(&server)
        .into_iter()
        .find(|(path, _)| object(&server, path) == data[CHUNK..2 * CHUNK])
        .map(|(path, _)| path)
        .unwrap();
    let whole = object(&server, &second);
    let mut flipped = whole.clone();
    flipped[CHUNK - 1] ^= 0x10;
    let damages: [(&str, Option<Vec<u8>>); 4] = [
        ("a flipped bit", Some(flipped)),
        ("a short object", Some(whole[..CHUNK - 1].to_vec())),
        ("a long object", Some([whole.clone(), vec![0]].concat())),
        ("no object", None),
    ];
    for (what, bytes) in damages {
        damage(&server, &second, bytes);
        let (bytes, end) = range(&server, &version, 0, 0).await;
        let status = refusal(what, end, Code::DataLoss, "DATA_LOSS");
        assert!(status.message().contains(MODEL), "{what}: {}", status.message());
        assert!(data.starts_with(&bytes) && bytes.len() <= CHUNK, "{what}: {} bytes left", bytes.len());
        // Not a byte of it, even where it may be whole; what lies outside can be read.
        let (bytes, end) = range(&server, &version, CHUNK, 1).await;
        assert_eq!((bytes.len(), reason(&end.unwrap_err()).as_str()), (0, "DATA_LOSS"), "{what}");
        let (bytes, end) = range(&server, &version, 2 * CHUNK, 0).await;
        end.unwrap();
        assert!(bytes == data[2 * CHUNK..], "{what}");
    }
    damage(&server, &second, Some(whole));
    assert!(range(&server, &version, 0, 0).await.0 == data);
}
