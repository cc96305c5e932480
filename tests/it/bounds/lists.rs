//! Lists that grow with what is stored: files of a version or a checkpoint, aliases of an artifact. Every client takes each answer,
//! and the pages are the whole list.

use std::collections::BTreeSet;

use futures::StreamExt;
use keepbest_proto::v1;
use prost::Message;
use tonic::Code;
use tonic_types::StatusExt;

use crate::bounds::ARTIFACT;
use crate::support::requests::Trainer;
use crate::support::requests::detail;
use crate::support::requests::every_epoch;
use crate::support::requests::reason;
use crate::support::server;
use crate::support::server::TestServer;

/// What a client takes by default.
const MESSAGE_BYTES: usize = 4 << 20;
/// Files that do not fit one answer, by their paths alone.
const FILES: usize = 4_300;

/// A path of 1,000 bytes.
fn path(number: usize) -> String {
    let folders = ["x".repeat(240), "y".repeat(240), "z".repeat(240), "w".repeat(240)].join("/");
    format!("{folders}/{number:036}")
}

async fn write_files(server: &TestServer, trainer: &Trainer, checkpoint: &str) {
    let paths: Vec<String> = (0..FILES).map(path).collect();
    for paths in paths.chunks(1_000) {
        let small = |path: &String| v1::SmallFile { path: path.clone(), ..v1::SmallFile::default() };
        let files = paths.iter().map(small).collect();
        let request =
            v1::WriteSmallFilesRequest { checkpoint: checkpoint.to_owned(), attempt: trainer.attempt, files };
        server.checkpoints().write_small_files(request).await.unwrap();
    }
}

/// The files behind a token, page by page, and the number of pages.
async fn files_from(server: &TestServer, parent: &str, token: &str) -> (Vec<v1::File>, usize) {
    let (mut files, mut pages) = (Vec::new(), 0);
    let (parent, page_token) = (parent.to_owned(), token.to_owned());
    let mut request = v1::ListFilesRequest { parent, page_size: i32::MAX, page_token };
    loop {
        let page = server.artifacts().list_files(request.clone()).await.unwrap().into_inner();
        assert!(page.encoded_len() <= MESSAGE_BYTES && page.files.len() <= 1_000);
        files.extend(page.files);
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return (files, pages);
        }
    }
}

fn paths(files: &[v1::File]) -> BTreeSet<&str> {
    files.iter().map(|it| it.path.as_str()).collect()
}

#[tokio::test]
async fn files_come_in_pages_that_every_client_takes() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    write_files(&server, &trainer, &checkpoint).await;
    let (pending, pages) = files_from(&server, &checkpoint, "").await;
    assert_eq!((pending.len(), paths(&pending).len(), pages), (FILES, FILES, 5));
    let version = trainer.commit(&checkpoint).await.unwrap();
    assert!(version.files.is_empty() && version.files_next_page_token.is_empty());

    let get = v1::GetVersionRequest { name: format!("{ARTIFACT}/versions/best"), include_files: true };
    let told = server.artifacts().get_version(get).await.unwrap().into_inner();
    let best =
        v1::GetBestVersionRequest { parent: ARTIFACT.to_owned(), include_files: true, ..Default::default() };
    assert_eq!(server.artifacts().get_best_version(best).await.unwrap().into_inner(), told);
    let get = v1::GetCheckpointRequest { name: checkpoint.clone() };
    let stored = server.checkpoints().get_checkpoint(get).await.unwrap().into_inner();
    assert_eq!((stored.files.len(), &stored.files), (1_000, &told.files));

    // Each goes on where the first page ends, by either name.
    for parent in [&told.name, &checkpoint] {
        for token in [&told.files_next_page_token, &stored.files_next_page_token] {
            let (rest, _) = files_from(&server, parent, token).await;
            let whole = [told.files.clone(), rest].concat();
            assert_eq!((&whole, whole.len()), (&pending, FILES));
        }
    }
}

#[tokio::test]
async fn a_list_of_files_is_of_one_version() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    for epoch in 0..2 {
        let checkpoint = trainer.epoch(epoch, 0.5).await.checkpoint;
        for path in ["a", "b", "c"] {
            trainer.upload(&checkpoint, path, path.as_bytes()).await.unwrap();
        }
        trainer.commit(&checkpoint).await.unwrap();
        if epoch == 0 {
            let request = v1::ListFilesRequest {
                parent: format!("{ARTIFACT}/versions/latest"),
                page_size: 2,
                ..Default::default()
            };
            let page = server.artifacts().list_files(request.clone()).await.unwrap().into_inner();
            assert_eq!(paths(&page.files), ["a", "b"].into());
            let again = v1::ListFilesRequest { page_token: page.next_page_token, ..request };
            let page = server.artifacts().list_files(again.clone()).await.unwrap().into_inner();
            assert_eq!((paths(&page.files), page.next_page_token.as_str()), (["c"].into(), ""));
            // The alias moves on to another version.
            trainer.save(1, 0.4, b"model").await;
            let moved = server.artifacts().list_files(again).await.unwrap_err();
            assert_eq!(reason(&moved), "BAD_PAGE_TOKEN");
        }
    }
}

#[tokio::test]
async fn files_that_are_open_are_listed_with_what_is_durable() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let checkpoint = trainer.epoch(0, 0.5).await.checkpoint;
    let (size_bytes, data) = (9 << 20, vec![7; 9 << 20]);
    for path in ["a", "b", "c"] {
        let prepare = v1::PrepareFileRequest {
            checkpoint: checkpoint.clone(),
            attempt: trainer.attempt,
            path: path.to_owned(),
            size_bytes,
            ..Default::default()
        };
        server.checkpoints().prepare_file(prepare).await.unwrap();
    }
    // Cut before its end: a chunk is durable.
    let mut messages = trainer.messages(&checkpoint, "b", &data, 0);
    messages.last_mut().unwrap().finish = false;
    server.checkpoints().write_file(futures::stream::iter(messages)).await.unwrap_err();
    trainer.upload(&checkpoint, "c", &data).await.unwrap();
    let (files, _) = files_from(&server, &checkpoint, "").await;
    let durable: Vec<i64> = files.iter().map(|it| it.durable_bytes).collect();
    assert_eq!(durable, [0, 8 << 20, size_bytes]);
}

#[tokio::test]
async fn only_a_version_and_a_checkpoint_have_files() {
    let server = server::start().await;
    let trainer = Trainer::start(&server, "r", every_epoch()).await;
    let missing = [
        format!("{ARTIFACT}/versions/v0"),
        format!("{ARTIFACT}/versions/best"),
        format!("{}/checkpoints/none", trainer.run),
    ];
    let parents = missing.iter().map(|it| (it.as_str(), Code::NotFound));
    for (parent, code) in parents.chain([(ARTIFACT, Code::InvalidArgument), ("", Code::InvalidArgument)]) {
        let request = v1::ListFilesRequest { parent: parent.to_owned(), ..Default::default() };
        assert_eq!(server.artifacts().list_files(request).await.unwrap_err().code(), code, "{parent}");
    }
    for parent in ["teams/default/projects/digits/artifacts/none", ARTIFACT] {
        let request = v1::ListAliasesRequest { parent: parent.to_owned(), ..Default::default() };
        let listed = server.artifacts().list_aliases(request).await;
        assert_eq!(listed.is_ok(), parent == ARTIFACT, "{parent}");
    }
}

/// Aliases of the longest names, more than one page has.
async fn set_aliases(server: &TestServer, count: usize) -> BTreeSet<String> {
    let names = (0..count).map(|number| format!("{}-{number:06}", "a".repeat(121)));
    let set = |alias: String| {
        let request = v1::SetAliasRequest {
            artifact: ARTIFACT.to_owned(),
            alias: alias.clone(),
            version: "v0".to_owned(),
            ..Default::default()
        };
        let mut artifacts = server.artifacts();
        async move {
            // Sixteen wait for the row of one artifact: on a slow disk one is told to come again, as a client does.
            loop {
                match artifacts.set_alias(request.clone()).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    answer => return answer.map(|_| alias),
                }
            }
        }
    };
    futures::stream::iter(names).map(set).buffer_unordered(16).map(Result::unwrap).collect().await
}

#[tokio::test]
async fn aliases_come_in_pages_and_an_error_names_only_some() {
    let server = server::start().await;
    let mut trainer = Trainer::start(&server, "r", every_epoch()).await;
    let version = trainer.save(0, 0.5, b"model").await;
    assert_eq!((version.aliases.len(), version.alias_count), (3, 3));
    let mut expected = set_aliases(&server, 1_100).await;
    expected.extend(["best", "epoch_0", "latest"].map(str::to_owned));

    let get = v1::GetArtifactRequest { name: ARTIFACT.to_owned() };
    let artifact = server.artifacts().get_artifact(get).await.unwrap().into_inner();
    assert_eq!(artifact.aliases.len(), 1_000);
    let mut listed = artifact.aliases;
    let page_token = artifact.aliases_next_page_token;
    let rest = v1::ListAliasesRequest { parent: ARTIFACT.to_owned(), page_size: i32::MAX, page_token };
    let rest = server.artifacts().list_aliases(rest).await.unwrap().into_inner();
    assert_eq!(rest.next_page_token, "");
    listed.extend(rest.aliases);
    assert_eq!(listed.len(), expected.len());
    assert!(listed.iter().all(|it| it.version == version.name));
    assert_eq!(listed.into_iter().map(|it| it.alias).collect::<BTreeSet<_>>(), expected);

    let list = v1::ListVersionsRequest { parent: ARTIFACT.to_owned(), ..Default::default() };
    let versions = server.artifacts().list_versions(list).await.unwrap().into_inner().versions;
    assert_eq!((versions[0].aliases.len(), versions[0].alias_count), (100, 1_103));
    let servers = versions[0].aliases.iter().filter(|it| !it.starts_with("aaa"));
    assert_eq!(servers.collect::<Vec<_>>(), ["best", "epoch_0", "latest"], "they are not left out");

    let delete = v1::DeleteVersionRequest { name: version.name.clone(), ..Default::default() };
    let refused = server.artifacts().delete_version(delete).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "VERSION_HAS_ALIASES")
    );
    let named = detail(&refused, "aliases");
    assert!(named.split(", ").all(|it| expected.contains(it)), "{named}");
    assert_eq!((named.split(", ").count(), detail(&refused, "alias_count").as_str()), (10, "1100"));
    assert!(refused.get_error_details().error_info().is_some() && refused.message().contains("1100 in all"));
    let delete = v1::DeleteVersionRequest { name: version.name, delete_aliases: true, ..Default::default() };
    server.artifacts().delete_version(delete).await.unwrap();
}
