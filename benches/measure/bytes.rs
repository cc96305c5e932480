//! Bytes up and down: how fast, at what CPU time, and with how much memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::ensure;
use bytes::Bytes;
use bytes::BytesMut;
use futures::Stream;
use futures::future::try_join_all;
use keepbest_client::Client;
use keepbest_client::FileDigest;
use keepbest_client::Run;
use keepbest_client::UploadOptions;
use keepbest_client::v1;

use crate::Bench;
use crate::peers;
use crate::peers::Process;

/// A chunk of the server.
pub(crate) const BLOCK_BYTES: usize = 8 << 20;
/// As the Rust client sends them.
pub(crate) const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes that are made once; what is sent is made of them.
const BASE_BYTES: usize = 64 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

/// Bytes that no compression or deduplication can shorten, at the price of a copy of 1 MiB in 8.
pub(crate) struct Source {
    pub(crate) base: Bytes,
    checksums: Arc<[u32]>,
    next: AtomicU64,
}

impl Source {
    pub(crate) fn new() -> Source {
        let mut base = vec![0; BASE_BYTES];
        blake3::Hasher::new().finalize_xof().fill(&mut base);
        let checksums = base.chunks(MESSAGE_BYTES).map(crc_fast::crc32_iscsi).collect();
        Source { base: base.into(), checksums, next: AtomicU64::new(1) }
    }

    /// A block like no other: the server's, bytes of the base with a number in front.
    pub(crate) fn fill(&self, number: usize, block: &mut [u8]) {
        let start = number * BLOCK_BYTES % BASE_BYTES;
        block.copy_from_slice(&self.base[start..start + block.len()]);
        block[..8].copy_from_slice(&self.next.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    }

    /// Numbers for so many bytes; the same numbers make the same bytes.
    fn reserve(&self, size_bytes: usize) -> u64 {
        self.next.fetch_add(size_bytes.div_ceil(BLOCK_BYTES) as u64, Ordering::Relaxed)
    }

    /// The messages of an upload.
    fn messages(
        &self,
        first: u64,
        head: v1::WriteFileRequest,
        size_bytes: usize,
    ) -> impl Stream<Item = v1::WriteFileRequest> + Send + 'static {
        let (base, checksums) = (self.base.clone(), Arc::clone(&self.checksums));
        let count = size_bytes / MESSAGE_BYTES;
        let mut head = Some(head);
        futures::stream::iter((0..count).map(move |number| {
            let place = number % (BASE_BYTES / MESSAGE_BYTES);
            let mut data = base.slice(place * MESSAGE_BYTES..(place + 1) * MESSAGE_BYTES);
            let mut crc32c = checksums[place];
            if number % (BLOCK_BYTES / MESSAGE_BYTES) == 0 {
                let mut own = BytesMut::from(&data[..]);
                let block = first + (number / (BLOCK_BYTES / MESSAGE_BYTES)) as u64;
                own[..8].copy_from_slice(&block.to_le_bytes());
                data = own.freeze();
                crc32c = crc_fast::crc32_iscsi(&data);
            }
            let finish = number + 1 == count;
            v1::WriteFileRequest { data, crc32c: Some(crc32c), finish, ..head.take().unwrap_or_default() }
        }))
    }
}

/// A run that saves at every epoch, and one connection for each stream.
struct Uploader {
    clients: Vec<Client>,
    run: Run,
    epoch: i64,
}

impl Uploader {
    async fn start(server: &Process, streams: usize, run: &str) -> Result<Uploader> {
        let clients = (0..streams).map(|_| Client::connect_lazy(server.address.as_str()));
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let strategy = v1::Strategy { filepath: "model-{epoch}.bin".to_owned(), ..Default::default() };
        let request = v1::StartRunRequest {
            parent: "teams/bench/projects/bytes".to_owned(),
            run_id: run.to_owned(),
            strategy: Some(strategy),
            ..Default::default()
        };
        let run = Run::start(&clients[0], request).await?;
        Ok(Uploader { clients, run, epoch: 0 })
    }

    async fn checkpoint(&mut self) -> Result<String> {
        let event = v1::Event {
            kind: v1::EventKind::EpochEnd.into(),
            epoch: self.epoch,
            metrics: [("val_loss".to_owned(), 1.0)].into(),
            ..Default::default()
        };
        self.epoch += 1;
        let decision = self.run.report(vec![event]).await?.pop().context("a save is due")?;
        Ok(decision.checkpoint)
    }

    /// One file on each connection, then the commit.
    async fn upload(&mut self, source: &Source, first: u64, size_bytes: usize) -> Result<v1::Version> {
        let checkpoint = self.checkpoint().await?;
        let attempt = self.run.attempt();
        let files = self.clients.iter().enumerate().map(|(number, client)| {
            let path = format!("part-{number}.bin");
            let first = first + (number * size_bytes / BLOCK_BYTES) as u64;
            let checkpoint = checkpoint.clone();
            async move {
                let prepare = v1::PrepareFileRequest {
                    checkpoint: checkpoint.clone(),
                    attempt,
                    path: path.clone(),
                    size_bytes: i64::try_from(size_bytes)?,
                    ..Default::default()
                };
                client.prepare_file(prepare).await?;
                let head = v1::WriteFileRequest { checkpoint, attempt, path, ..Default::default() };
                loop {
                    match client.write_file(source.messages(first, head.clone(), size_bytes)).await {
                        // Many uploads take turns: the server tells those that find no buffers to come back.
                        Err(error) if error.reason() == "OVERLOADED" => {
                            tokio::time::sleep(error.retry_after().unwrap_or(Duration::from_secs(1))).await;
                        }
                        result => return anyhow::Ok(result.map(drop)?),
                    }
                }
            }
        });
        try_join_all(files).await?;
        Ok(self.run.commit(&checkpoint, self.clients.len() as u64).await?)
    }
}

/// Reads one file on each connection.
async fn download(clients: &[Client], version: &str, size_bytes: usize) -> Result<()> {
    let reads = clients.iter().enumerate().map(|(number, client)| async move {
        let request = v1::ReadFileRequest {
            version: version.to_owned(),
            path: format!("part-{number}.bin"),
            length_bytes: i64::try_from(size_bytes)?,
            ..Default::default()
        };
        let mut messages = client.read_file(request).await?;
        let mut received = 0;
        while let Some(message) = messages.message().await? {
            received += message.data.len();
        }
        ensure!(received == size_bytes, "{received} of {size_bytes} bytes came");
        Ok(())
    });
    try_join_all(reads).await.map(drop)
}

impl Bench {
    /// Adds the rate of what was done since, and the process' CPU time for each GiB.
    fn note(
        &mut self,
        name: &str,
        size_bytes: usize,
        begin: Instant,
        cpu: Option<(bool, f64)>,
    ) -> Result<()> {
        let took = begin.elapsed().as_secs_f64();
        self.book.add(name, size_bytes as f64 / 1e9 / took);
        if let Some((server, before)) = cpu {
            let process = if server { &self.server } else { &self.sink };
            let spent = process.cpu_seconds()? - before;
            self.book.add(&format!("{name}, cpu"), spent / (size_bytes as f64 / GIB));
        }
        Ok(())
    }
}

/// Uploads and downloads on one and four connections, in turn with the sink and the disk.
pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let one_bytes = if bench.quick { 256 << 20 } else { 512 << 20 };
    for streams in [1, 4] {
        let mut uploader = Uploader::start(&bench.server, streams, &format!("streams-{streams}")).await?;
        let sinks = (0..streams).map(|_| Client::connect_lazy(bench.sink.address.as_str()));
        let sinks = sinks.collect::<Result<Vec<_>, _>>()?;
        let size_bytes = if streams == 1 { one_bytes } else { one_bytes / 2 };
        // The first round warms up: connections, heap and page cache.
        for round in 0..=bench.rounds {
            if round == 1 {
                bench.book.values.retain(|name, _| !name.starts_with(&format!("{streams} ")));
                bench.server.clear_peak()?;
            }
            transfer(bench, &mut uploader, &sinks, size_bytes).await?;
            write_disk(bench, streams, size_bytes)?;
        }
        let peak = bench.server.memory_mib("VmHWM:")?;
        bench.book.add(&format!("{streams} peak"), peak);
    }
    with_client(bench, one_bytes).await?;
    lines(&mut bench.book);
    Ok(())
}

/// One upload and one download, of ours and of the sink.
async fn transfer(
    bench: &mut Bench,
    uploader: &mut Uploader,
    sinks: &[Client],
    size_bytes: usize,
) -> Result<()> {
    let streams = sinks.len();
    let all_bytes = streams * size_bytes;
    let first = bench.source.reserve(all_bytes);
    let (begin, cpu) = (Instant::now(), bench.server.cpu_seconds()?);
    let version = uploader.upload(&bench.source, first, size_bytes).await?;
    bench.note(&format!("{streams} up"), all_bytes, begin, Some((true, cpu)))?;

    let (begin, cpu) = (Instant::now(), bench.sink.cpu_seconds()?);
    let uploads = sinks.iter().map(|client| {
        client.write_file(bench.source.messages(first, v1::WriteFileRequest::default(), size_bytes))
    });
    try_join_all(uploads).await?;
    bench.note(&format!("{streams} sink up"), all_bytes, begin, Some((false, cpu)))?;

    let (begin, cpu) = (Instant::now(), bench.server.cpu_seconds()?);
    download(&uploader.clients, &version.name, size_bytes).await?;
    bench.note(&format!("{streams} down"), all_bytes, begin, Some((true, cpu)))?;
    // The second reading fills the page cache.
    download(&uploader.clients, &version.name, size_bytes).await?;
    let begin = Instant::now();
    download(&uploader.clients, &version.name, size_bytes).await?;
    bench.note(&format!("{streams} down again"), all_bytes, begin, None)?;

    let (begin, cpu) = (Instant::now(), bench.sink.cpu_seconds()?);
    download(sinks, "", size_bytes).await?;
    bench.note(&format!("{streams} sink down"), all_bytes, begin, Some((false, cpu)))?;

    let begin = Instant::now();
    let again = uploader.upload(&bench.source, first, size_bytes).await?;
    bench.note(&format!("{streams} dedup"), all_bytes, begin, None)?;
    for name in [version.name, again.name] {
        uploader.clients[0]
            .delete_version(v1::DeleteVersionRequest { name, delete_aliases: true, ..Default::default() })
            .await?;
    }
    collect(&bench.folder.path().join("data"))
}

/// Frees what was deleted, so that neither side's page cache grows from round to round.
fn collect(data: &Path) -> Result<()> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_keepbest"));
    let done = command.args(["gc", "--now", "--data"]).arg(data).output()?;
    ensure!(done.status.success(), "gc: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// The same bytes straight to the same disk.
fn write_disk(bench: &mut Bench, streams: usize, size_bytes: usize) -> Result<()> {
    let folder = bench.folder.path().join("disk");
    std::fs::create_dir_all(&folder)?;
    type Write = fn(&Source, &Path, usize) -> Result<()>;
    let ways: [(&str, Write); 2] = [("direct", peers::write_direct), ("blocks", peers::write_blocks)];
    for (name, write) in ways {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let source = &bench.source;
            let paths = (0..streams).map(|number| folder.join(format!("{name}-{number}")));
            let writing: Vec<_> =
                paths.map(|path| scope.spawn(move || write(source, &path, size_bytes))).collect();
            writing
                .into_iter()
                .try_for_each(|it| it.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?)
        })?;
        bench.note(&format!("{streams} disk {name}"), streams * size_bytes, begin, None)?;
    }
    Ok(std::fs::remove_dir_all(folder)?)
}

/// The whole way of the Rust client: from a file, read, hashed and sent, to the commit; beside `cp` and `sync`.
async fn with_client(bench: &mut Bench, size_bytes: usize) -> Result<()> {
    let file = bench.folder.path().join("model.bin");
    let copy = bench.folder.path().join("copy.bin");
    let mut uploader = Uploader::start(&bench.server, 1, "client").await?;
    for round in 0..=bench.rounds {
        peers::write_direct(&bench.source, &file, size_bytes)?;
        std::io::copy(&mut std::fs::File::open(&file)?, &mut std::io::sink())?;
        let checkpoint = uploader.checkpoint().await?;
        let (begin, cpu) = (Instant::now(), bench.server.cpu_seconds()?);
        let uploaded = uploader.run.upload(&checkpoint, &file, &UploadOptions::default()).await?;
        let version = uploader.run.commit(&checkpoint, uploaded.file_count).await?;
        if round > 0 {
            bench.note("client up", size_bytes, begin, Some((true, cpu)))?;
        }
        let begin = Instant::now();
        peers::copy_and_sync(&file, &copy)?;
        if round > 0 {
            bench.note("cp", size_bytes, begin, None)?;
        }
        std::fs::remove_file(&copy)?;
        let deleted =
            v1::DeleteVersionRequest { name: version.name, delete_aliases: true, ..Default::default() };
        uploader.clients[0].delete_version(deleted).await?;
        collect(&bench.folder.path().join("data"))?;
    }
    Ok(std::fs::remove_file(&file)?)
}

fn lines(book: &mut crate::Book) {
    for (streams, label) in [("1", "1 stream"), ("4", "4 streams, 4 connections")] {
        let name = |what: &str| format!("{streams} {what}");
        let up = format!("durable upload, {label}");
        book.line(&up, "GB/s", &name("up"), Some(("gRPC sink that discards", &name("sink up"))));
        book.line(&up, "GB/s", &name("up"), Some(("8 MiB files, fdatasync each", &name("disk blocks"))));
        book.line(&up, "GB/s", &name("up"), Some(("O_DIRECT file, one fdatasync", &name("disk direct"))));
        let sink = name("sink down");
        let source = Some(("gRPC source of one buffer", sink.as_str()));
        book.line(&format!("first download, {label}"), "GB/s", &name("down"), source);
        book.line(&format!("third download, {label}"), "GB/s", &name("down again"), source);
        book.line(&format!("upload of known bytes, {label}"), "GB/s", &name("dedup"), None);
        let cpu = "s/GiB";
        book.line(
            &format!("server CPU of {up}"),
            cpu,
            &name("up, cpu"),
            Some(("sink", &name("sink up, cpu"))),
        );
        let down = format!("server CPU of the first download, {label}");
        book.line(&down, cpu, &name("down, cpu"), Some(("source", &name("sink down, cpu"))));
        book.line(&format!("server's peak RSS, {label}"), "MiB", &name("peak"), None);
    }
    let client = "Rust client: file to committed version";
    book.line(client, "GB/s", "client up", Some(("cp FILE COPY && sync COPY", "cp")));
}

/// Samples the server's memory while large files go up and come down, and compares the digests.
pub(crate) async fn measure_memory(bench: &mut Bench) -> Result<()> {
    let large = if bench.quick { 1 << 30 } else { 4 << 30 };
    let idle = bench.server.memory_mib("VmRSS:")?;
    bench.book.add("idle", idle);
    bench.book.line("server's RSS when it is idle", "MiB", "idle", None);
    for (streams, size_bytes) in [(1, 256 << 20), (1, large), (16, 256 << 20)] {
        let label = format!("{streams} x {} MiB", size_bytes >> 20);
        let mut uploader =
            Uploader::start(&bench.server, streams, &format!("memory-{streams}-{size_bytes}")).await?;
        uploader.checkpoint().await?;
        let first = bench.source.reserve(streams * size_bytes);
        bench.server.clear_peak()?;
        let version = uploader.upload(&bench.source, first, size_bytes).await?;
        bench.book.add(&format!("{label} up"), bench.server.memory_mib("VmHWM:")? - idle);
        bench.server.clear_peak()?;
        download(&uploader.clients, &version.name, size_bytes).await?;
        bench.book.add(&format!("{label} down"), bench.server.memory_mib("VmHWM:")? - idle);
        verify(bench, &uploader, &version.name, first, size_bytes).await?;
        let deleted =
            v1::DeleteVersionRequest { name: version.name, delete_aliases: true, ..Default::default() };
        uploader.clients[0].delete_version(deleted).await?;
        collect(&bench.folder.path().join("data"))?;
        for way in ["up", "down"] {
            let what = format!("server's peak RSS above idle, {label} {way}");
            bench.book.line(&what, "MiB", &format!("{label} {way}"), None);
        }
    }
    Ok(())
}

/// The bytes of the first file, as they come, have the digest of those that were sent.
async fn verify(
    bench: &Bench,
    uploader: &Uploader,
    version: &str,
    first: u64,
    size_bytes: usize,
) -> Result<()> {
    use futures::StreamExt;
    let mut sent = FileDigest::default();
    let mut messages = bench.source.messages(first, v1::WriteFileRequest::default(), size_bytes);
    while let Some(message) = messages.next().await {
        sent.update(&message.data);
    }
    let request = v1::ReadFileRequest {
        version: version.to_owned(),
        path: "part-0.bin".to_owned(),
        ..Default::default()
    };
    let mut came = FileDigest::default();
    let mut messages = uploader.clients[0].read_file(request).await?;
    while let Some(message) = messages.message().await? {
        came.update(&message.data);
    }
    ensure!(sent.finish() == came.finish(), "the bytes that came are not those that were sent");
    Ok(())
}
