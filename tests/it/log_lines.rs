//! The log line of a call: what whoever runs the service finds when something was asked too often, too slowly or by the wrong
//! program.

use keepbest_proto::v1;
use tonic::Request;

use crate::support::logs::Logs;
use crate::support::requests::PROJECT;
use crate::support::requests::best_only;
use crate::support::requests::start_request;
use crate::support::server;

/// The trace of a caller.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_line_tells_the_caller_the_bytes_and_the_whole_name() {
    let logs = Logs::begin();
    let server = server::start().await;
    let run = "r".repeat(128);
    server.runs().start_run(start_request(&run, best_only())).await.unwrap();
    let name = format!("{PROJECT}/runs/{run}");
    let mut request = Request::new(v1::GetRunRequest { name: name.clone() });
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    server.runs().get_run(request).await.unwrap();
    // Each line is written when its answer has ended, which its caller may hear before.
    let lines = loop {
        let lines: Vec<_> = logs.with("Answered").into_iter().filter(|it| it.contains("/GetRun")).collect();
        if !lines.is_empty() {
            break lines;
        }
        tokio::task::yield_now().await;
    };
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let (resource, trace) = (format!("resource={name}"), format!("trace.id=\"{TRACE}\""));
    for part in ["peer.address=127.0.0.1:", "peer.program=\"tonic/", &resource, &trace] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let number = |field: &str| -> u64 {
        let (_, rest) = line.split_once(&format!("{field}=")).unwrap();
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    // Five bytes of framing, a tag and a length of two bytes before the name.
    assert_eq!(number("received_bytes"), 5 + 3 + name.len() as u64);
    assert!(number("sent_bytes") > name.len() as u64, "{line}");
    let listening = logs.with("Listening");
    assert!(listening[0].contains(&format!("version=\"{}\"", env!("CARGO_PKG_VERSION"))), "{listening:?}");
}
