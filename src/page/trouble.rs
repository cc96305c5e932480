//! What goes wrong: the login for who is not known, one page for what is not there and what is another team's, and a page that
//! says code, reason and message for the rest.

use axum::response::IntoResponse;
use axum::response::Response;
use http::StatusCode;
use maud::Markup;
use maud::html;
use tonic::Code;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::page::layout::Frame;

/// Why a page could not be made.
#[derive(Debug)]
pub(super) enum Trouble {
    /// What the API said.
    Refused(Box<Status>),
    /// The page itself refuses a request.
    Page { status: StatusCode, title: &'static str, text: String },
}

/// Stands beside an answer: who looks at the page is to log in first.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoginFirst;

impl Trouble {
    /// The request is malformed.
    pub(super) fn bad(text: impl Into<String>) -> Trouble {
        Trouble::Page { status: StatusCode::BAD_REQUEST, title: "This does not work", text: text.into() }
    }

    pub(super) fn forbidden(text: impl Into<String>) -> Trouble {
        Trouble::Page { status: StatusCode::FORBIDDEN, title: "Not allowed", text: text.into() }
    }

    /// Whether the API said that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Trouble::Refused(status) if status.code() == Code::NotFound)
    }
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Trouble {
        Trouble::Refused(Box::new(status))
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        match self {
            Trouble::Page { status, title, text } => {
                let body = html! { p { (text) } };
                (status, page(title, &body)).into_response()
            }
            Trouble::Refused(status) => match status.code() {
                Code::NotFound => not_found(),
                Code::Unauthenticated => {
                    let mut response = told(&status).into_response();
                    response.extensions_mut().insert(LoginFirst);
                    response
                }
                _ => told(&status).into_response(),
            },
        }
    }
}

/// An address that no page has.
pub(super) async fn nothing_here() -> Response {
    not_found()
}

/// The same bytes whether there is no such thing or it is another team's: nothing of the address or of the API's answer is in it.
fn not_found() -> Response {
    let body = html! {
        p { "There is nothing here, or it belongs to a team of which you are no member." }
    };
    (StatusCode::NOT_FOUND, page("Not found", &body)).into_response()
}

fn page(title: &str, body: &Markup) -> Markup {
    Frame { title, ..Frame::default() }.page(&html! {
        section.narrow.trouble {
            h1 { (title) }
            (body)
            p { a href="/" { "To the start" } }
        }
    })
}

/// What the API said, for people.
fn told(status: &Status) -> (StatusCode, Markup) {
    let reason = status.get_details_error_info().map(|it| it.reason).unwrap_or_default();
    let wait = status.get_details_retry_info().and_then(|it| it.retry_delay);
    let title = match status.code() {
        Code::PermissionDenied => "Not allowed",
        Code::Unavailable | Code::ResourceExhausted => "Not now",
        Code::FailedPrecondition | Code::Aborted => "Not as things stand",
        Code::InvalidArgument | Code::OutOfRange => "This does not work",
        _ => "Something went wrong",
    };
    let body = html! {
        p.message { (status.message()) }
        dl.facts {
            div { dt { "Code" } dd { code { (name(status.code())) } } }
            @if !reason.is_empty() { div { dt { "Reason" } dd { code { (reason) } } } }
            @if let Some(wait) = wait { div { dt { "Try again in" } dd { (wait.as_secs_f64().ceil()) " s" } } }
        }
    };
    (http_status(status.code()), page(title, &body))
}

/// The name of a code in the contract's spelling.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
