//! What a filter reads that matches little.

use keepbest_proto::v1;

use super::copies;
use super::insert_at;
use crate::support::requests;
use crate::support::server;

#[tokio::test]
async fn a_filter_without_a_match_answers_empty_pages_until_the_list_ends() {
    let server = server::start().await;
    let mut trainer = requests::Trainer::start(&server, "r", requests::every_epoch()).await;
    trainer.save(0, 0.5, b"model").await;
    let file = format!("sqlite:{}", server.data_dir().join("keepbest.db").display());
    let url = server.config().database_url.as_ref().map_or(file, |it| it.expose().to_owned());
    insert_at(&url, 25_000, &copies("'COMMITTED'")).await;
    let parent = format!("{}/artifacts/run-r-model", requests::PROJECT);
    let mut request =
        v1::ListVersionsRequest { parent, filter: "step = 24999".to_owned(), ..Default::default() };
    let mut found = Vec::new();
    for (order_by, expected) in [("number", [0, 0, 1]), ("", [1, 0, 0])] {
        request.order_by = order_by.to_owned();
        for (page, expected) in expected.into_iter().enumerate() {
            let answer = server.artifacts().list_versions(request.clone()).await.unwrap().into_inner();
            assert_eq!(answer.versions.len(), expected, "page {page} by `{order_by}`");
            assert_eq!(answer.next_page_token.is_empty(), page == 2, "page {page} by `{order_by}`");
            found.extend(answer.versions.iter().map(|it| it.number));
            request.page_token = answer.next_page_token;
        }
    }
    assert_eq!(found, [25_000, 25_000]);
}
