//! A team that asks for too much is told to come back, and another one does not notice.

use keepbest_client::Client;
use keepbest_proto::v1;
use tonic::Code;

use crate::support::requests::reason;
use crate::support::teams;

#[tokio::test]
async fn a_team_that_asks_too_often_waits_and_another_does_not() {
    // So few that a slow machine asks for more, too.
    let guarded = teams::start_with(|config| config.rates.team_requests_per_second = 1).await;
    let tokens = [guarded.token("a", "reader").await, guarded.token("b", "reader").await];
    let ask = async |team: usize| {
        let parent = format!("teams/{}/projects/p", ["a", "b"][team]);
        let request = v1::ListRunsRequest { parent, ..Default::default() };
        guarded.ask(Some(&tokens[team]), "Runs/ListRuns", request).await
    };
    let mut refused = 0;
    for _ in 0..50 {
        if let Err(status) = ask(0).await {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "RATE_EXCEEDED"));
            refused += 1;
        }
    }
    assert!(refused > 0);
    ask(1).await.unwrap();
    // A client waits, as it is told, and gets its answer.
    let client = Client::builder(guarded.server.address()).token(&tokens[0]).unwrap().connect_lazy().unwrap();
    for _ in 0..3 {
        let parent = "teams/a/projects/p".to_owned();
        client.list_runs(v1::ListRunsRequest { parent, ..Default::default() }).await.unwrap();
    }
}
