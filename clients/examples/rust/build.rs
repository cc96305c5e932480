//! Makes the stubs, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["artifacts", "checkpoints", "runs"].map(|it| format!("keepbest/v1/{it}.proto"));
    println!("cargo:rerun-if-changed=../../../proto/keepbest");
    let set = protox::compile(files, ["../../../proto"])?;
    tonic_prost_build::configure().build_server(false).compile_fds(set)?;
    Ok(())
}
