//! `keepbest open`: the page of a thing, in the browser.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::show::{looked_in, settle};

/// What opens an address: on most desktops of Linux, and on macOS.
const OPENERS: [&str; 2] = ["xdg-open", "open"];

/// Prints the address and has it opened, if something here can.
pub(super) async fn open(context: &mut Context, arguments: args::Open) -> Result<(), Failure> {
    let place = looked_in(context, arguments.name.as_deref(), None)?;
    let client = context.connect().await?;
    let name = settle(&client, place).await?;
    let address = format!("{}/{name}", client.address().trim_end_matches('/'));
    let is_opened = !arguments.print && !context.output.is_json() && start(&address).await;
    if context.output.is_json() {
        return Ok(context.output.document(&json!({ "address": address }))?);
    }
    context.output.line(&address)?;
    if !arguments.print && !is_opened {
        context.output.note("no browser could be started here: open this address in one");
    }
    Ok(())
}

/// Whether a program took the address.
async fn start(address: &str) -> bool {
    for opener in OPENERS {
        let mut command = Command::new(opener);
        command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().await.is_ok_and(|it| it.success()) {
            return true;
        }
    }
    false
}
