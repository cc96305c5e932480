//! A model that is saved again and again while a part of it changes: what is sent and stored, and what it needs of the buffers.

use std::path::Path;

use bytes::Bytes;
use keepbest_client::Client;
use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_proto::v1;

use crate::support::proxy::Fate;
use crate::support::proxy::Proxy;
use crate::support::requests::Trainer;
use crate::support::requests::epoch_end;
use crate::support::requests::every_epoch;
use crate::support::requests::noise;
use crate::support::requests::read;
use crate::support::requests::start_request;
use crate::support::server;
use crate::support::transfers::CHUNK;
use crate::support::transfers::OpenUpload;
use crate::support::transfers::objects;
use crate::support::transfers::prepare;

/// What a save costs on the wire besides the bytes of the model: digests, cuts and the calls.
const CALLS_BYTES: usize = 64 << 10;

/// A file as the safetensors package writes it, of tensors of one dimension.
fn safetensors(tensors: &[(&str, &[u8])]) -> Vec<u8> {
    let mut begin = 0;
    let entry = |(name, data): &(&str, &[u8])| {
        let (from, to) = (begin, begin + data.len());
        begin = to;
        format!("\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{}],\"data_offsets\":[{from},{to}]}}", data.len())
    };
    let entries: Vec<String> = tensors.iter().map(entry).collect();
    let mut header = format!("{{{}}}", entries.join(","));
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    let data: Vec<&[u8]> = tensors.iter().map(|it| it.1).collect();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data.concat()].concat()
}

/// A trainer whose bytes are counted.
struct Counted {
    server: server::TestServer,
    proxy: Proxy,
    run: Run,
    epoch: i64,
}

impl Counted {
    async fn start() -> Counted {
        let server = server::start().await;
        let proxy = Proxy::start(&server.address(), Fate::Pass).await;
        let client = Client::connect_lazy(proxy.address()).unwrap();
        let run = Run::start(&client, start_request("tuned", every_epoch())).await.unwrap();
        Counted { server, proxy, run, epoch: 0 }
    }

    /// Saves a file as a version that reads back the same; answers the bytes that were sent for it and that it is stored with.
    async fn save(&mut self, path: &Path, data: &[u8]) -> (usize, usize) {
        std::fs::write(path, data).unwrap();
        let stored = |server| objects(server).iter().map(|it| it.1).sum::<u64>();
        let before = (self.proxy.passed_bytes(), stored(&self.server));
        let decision = self.run.report(vec![epoch_end(self.epoch, 0.5)]).await.unwrap().pop().unwrap();
        self.run.upload(&decision.checkpoint, path, &UploadOptions::default()).await.unwrap();
        let version = self.run.commit(&decision.checkpoint, 1).await.unwrap();
        self.epoch += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(read(&self.server, &version.name, name).await.unwrap() == data);
        let after = (self.proxy.passed_bytes(), stored(&self.server));
        ((after.0 - before.0) as usize, (after.1 - before.1) as usize)
    }
}

#[tokio::test]
async fn of_a_safetensors_file_the_tensors_that_changed_are_sent() {
    let mut trainer = Counted::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let (base, bias) = (noise(1, 2 * CHUNK + 4_321), noise(2, 3_000));
    let layers: Vec<Vec<u8>> = (0..8).map(|it| noise(100 + it, 400_000)).collect();
    let model = |adapters: [u64; 8], order: &[usize]| {
        let adapters = adapters.map(|seed| noise(seed, 16_384));
        let names: Vec<[String; 2]> =
            order.iter().map(|it| [format!("l{it}"), format!("lora{it}")]).collect();
        let mut tensors = vec![("base", &base[..])];
        for (name, index) in names.iter().zip(order) {
            tensors.extend([(&*name[0], &layers[*index][..]), (&*name[1], &adapters[*index][..])]);
        }
        tensors.push(("bias", &bias));
        safetensors(&tensors)
    };
    let first = model([10, 11, 12, 13, 14, 15, 16, 17], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let (sent, stored) = trainer.save(&path, &first).await;
    assert!(sent < first.len() + CALLS_BYTES && stored == first.len(), "{sent} {stored} of {}", first.len());
    // All adapters change, none, and then the layers' order.
    let tuned = model([20, 21, 22, 23, 24, 25, 26, 27], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let moved = model([20, 21, 22, 23, 24, 25, 26, 27], &[7, 6, 5, 4, 3, 2, 1, 0]);
    for (data, changed) in [(&tuned, 8 * 16_384), (&tuned, 0), (&moved, 0)] {
        let (sent, stored) = trainer.save(&path, data).await;
        assert!(sent < changed + CALLS_BYTES, "{sent} bytes were sent for {changed}");
        assert!(stored < changed + 4_096, "{stored} bytes were stored for {changed}");
    }
}

#[tokio::test]
async fn of_any_other_file_the_pieces_of_8_mib_that_changed_are_sent() {
    let mut trainer = Counted::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.bin");
    let mut data = noise(1, 4 * CHUNK + 5);
    trainer.save(&path, &data).await;
    data[2 * CHUNK] ^= 1;
    let (sent, stored) = trainer.save(&path, &data).await;
    assert!((CHUNK..CHUNK + CALLS_BYTES).contains(&sent) && stored == CHUNK, "{sent} {stored}");
}

#[tokio::test]
async fn many_small_chunks_between_known_ones_need_no_more_room_than_large_ones() {
    // The least that uploads go on with.
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 16 << 20).await;
    let mut trainer = Trainer::start(&server, "small", every_epoch()).await;
    let frozen = noise(1, 100_000);
    for (epoch, size) in (0..).zip([5_000, 16_384, 200_000]) {
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        let tuned: Vec<Vec<u8>> = (0..200).map(|it| noise(1_000 * epoch as u64 + it, size)).collect();
        let data: Vec<u8> = tuned.iter().flat_map(|it| [&frozen[..], it]).flatten().copied().collect();
        prepare(&trainer, &checkpoint, "model", data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, "model", 0).await;
        let digest = Bytes::copy_from_slice(blake3::hash(&frozen).as_bytes());
        let known = v1::KnownChunk { size_bytes: 100_000, digest };
        for (index, chunk) in tuned.iter().enumerate() {
            // Bytes that were sent once are known from then on, also on the same stream.
            let frozen = match (epoch, index) {
                (0, 0) => {
                    v1::WriteFileRequest { data: frozen.clone().into(), cut: true, ..Default::default() }
                }
                _ => v1::WriteFileRequest { known: vec![known.clone()], ..Default::default() },
            };
            upload.send_message(frozen).await;
            let data = chunk.clone().into();
            upload.send_message(v1::WriteFileRequest { data, cut: true, ..Default::default() }).await;
        }
        upload.finish().await.unwrap();
        let version = trainer.commit(&checkpoint).await.unwrap();
        assert!(read(&server, &version.name, "model").await.unwrap() == data, "chunks of {size} bytes");
    }
}

#[tokio::test]
async fn chunks_of_any_size_come_in_messages_of_any_size() {
    let server = server::start_with(|config| config.limits.upload_buffers_bytes = 16 << 20).await;
    let mut trainer = Trainer::start(&server, "sizes", every_epoch()).await;
    let sizes = [900_000, 300_000, 1, 1_048_575, 1_048_577, 5_000_000, 10, CHUNK, 700_000, 2_000_000];
    for (epoch, message_bytes) in (0..).zip([60_000, 262_144, 1_000_000, 4_000_000]) {
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        let chunks: Vec<Vec<u8>> =
            (0..).zip(sizes).map(|(index, size)| noise(100 * epoch as u64 + index, size)).collect();
        let data = chunks.concat();
        prepare(&trainer, &checkpoint, "model", data.len()).await.unwrap();
        let upload = OpenUpload::begin(server.channel(), &trainer, &checkpoint, "model", 0).await;
        for chunk in &chunks {
            for part in chunk.chunks(message_bytes) {
                let data = part.to_vec().into();
                upload.send_message(v1::WriteFileRequest { data, ..Default::default() }).await;
            }
            upload.send_message(v1::WriteFileRequest { cut: true, ..Default::default() }).await;
        }
        upload.finish().await.unwrap();
        let version = trainer.commit(&checkpoint).await.unwrap();
        assert!(read(&server, &version.name, "model").await.unwrap() == data, "{message_bytes} a message");
    }
}
