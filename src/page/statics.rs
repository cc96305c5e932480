//! Files that pages refer to. They are in the program, and their address changes with them, so that a browser keeps them for ever.

use axum::extract::Path;
use axum::response::IntoResponse;
use axum::response::Response;
use http::header;

use crate::page::trouble;

const FILES: [(&str, &str, &str); 3] = [
    ("page.css", "text/css; charset=utf-8", include_str!("static/page.css")),
    ("page.js", "text/javascript; charset=utf-8", include_str!("static/page.js")),
    ("icon.svg", "image/svg+xml", include_str!("static/icon.svg")),
];

/// Of all of them, so that those which belong together come together.
const VERSION: u64 = {
    let (mut hash, mut file) = (0xcbf2_9ce4_8422_2325_u64, 0);
    while file < FILES.len() {
        let bytes = FILES[file].2.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0100_0000_01b3);
            at += 1;
        }
        file += 1;
    }
    hash
};

pub(super) fn address(file: &str) -> String {
    format!("/-/static/{VERSION:016x}/{file}")
}

/// A file, also under the version of an earlier or a later server: replicas are not replaced at one moment.
pub(super) async fn file(Path((version, name)): Path<(String, String)>) -> Response {
    let Some((_, media_type, text)) = FILES.iter().find(|(its, _, _)| *its == name) else {
        return trouble::nothing_here().await;
    };
    let is_this = version == format!("{VERSION:016x}");
    let cache = if is_this { "public, max-age=31536000, immutable" } else { "no-store" };
    ([(header::CONTENT_TYPE, *media_type), (header::CACHE_CONTROL, cache)], *text).into_response()
}
