//! Calls that are made until they work, fail for good, or took longer than our patience.

use std::error::Error;
use std::time::Duration;
use std::time::Instant;

use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic_types::StatusExt;

/// Of a call that is one question and one answer.
const DEADLINE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Repeats a call: every call of the API may be repeated.
pub(crate) async fn retry<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Result<T, Status> {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) if !may_pass(&status) || Instant::now() > end => return Err(status),
            Err(status) => status,
        };
        let told = status.get_details_retry_info().and_then(|it| it.retry_delay);
        // A part of the pause is by chance, so that many trainers do not come back at once.
        let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0;
        tokio::time::sleep(pause.mul_f64(0.5 + chance / 2.0).max(told.unwrap_or_default())).await;
        pause = LONGEST_PAUSE.min(2 * pause);
    }
}

/// Makes a call with a deadline, and repeats it.
pub(crate) async fn unary<Q: Clone, A, F>(request: Q, call: impl Fn(Request<Q>) -> F) -> Result<A, Status>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    retry(async || {
        let mut request = Request::new(request.clone());
        request.set_timeout(DEADLINE);
        // tonic's own timer does not run while it connects.
        match tokio::time::timeout(DEADLINE, call(request)).await {
            Ok(answered) => answered.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded("no answer in time")),
        }
    })
    .await
}

/// An error without `ErrorInfo` is the transport's; the server says with its code or `RetryInfo` whether trying again may help.
fn may_pass(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Aborted | Code::DeadlineExceeded)
        || status.get_details_error_info().is_none()
        || status.get_details_retry_info().is_some()
}

/// What the server refused, its reason first.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let Some(status) = error.downcast_ref::<Status>() else { return error.to_string() };
    match status.get_details_error_info() {
        Some(info) => format!("{}: {} {:?}", info.reason, status.message(), info.metadata),
        None => status.to_string(),
    }
}
