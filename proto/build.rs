//! Compiles the protos without `protoc`: protox parses them, tonic writes the code.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

const FILES: [&str; 6] = [
    "keepbest/v1/resources.proto",
    "keepbest/v1/runs.proto",
    "keepbest/v1/checkpoints.proto",
    "keepbest/v1/artifacts.proto",
    "keepbest/v1/projects.proto",
    "keepbest/v1/admin.proto",
];

/// What stands in the details of an error, for those who read them by reflection. Their Rust types are `tonic-types`'.
const DETAILS: [&str; 2] = ["google/rpc/status.proto", "google/rpc/error_details.proto"];

#[expect(clippy::disallowed_methods, reason = "how cargo tells a build script where to write")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=keepbest");
    println!("cargo:rerun-if-changed=google");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_source_info(true).include_imports(true).open_files(FILES)?;
    // `bytes(".")`: data fields are slices of the received frame, not copies.
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(compiler.file_descriptor_set())?;
    compiler.open_files(DETAILS)?;
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    Ok(())
}
