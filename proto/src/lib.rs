//! The wire contract of Keepbest as Rust types: package `keepbest.v1`, generated from `proto/keepbest/v1`.
//!
//! The contract itself (life cycles, limits, error codes) is told in the comments of the `.proto` files.

/// Package `keepbest.v1`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations)]
#[allow(clippy::doc_markdown, clippy::too_many_lines, rustdoc::all, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("keepbest.v1");
}

/// The encoded `FileDescriptorSet` of all files and of what stands in the details of errors, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
