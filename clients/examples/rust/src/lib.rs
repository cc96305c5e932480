//! The stubs that `build.rs` makes.

#[allow(clippy::all, missing_debug_implementations, unreachable_pub, reason = "generated")]
#[allow(clippy::doc_markdown, clippy::too_many_lines, rustdoc::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("keepbest.v1");
}
