//! `keepbest serve` and `keepbest check-config`: the settings and the server.

use std::io::{self, Write as _};
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::Column;
use crate::config::{Config, Flags, LogFormat};
use crate::server;
use crate::telemetry;

/// Serves until a signal comes.
pub(super) async fn serve(context: &mut Context, arguments: args::Serve) -> Result<(), Failure> {
    let config = load(&arguments.settings, arguments.listen)?;
    let format = match config.log.format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format, &config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    let data = config.data_dir.display().to_string();
    let json = context.output.is_json();
    server::serve(config, move |address| {
        // Whoever started the server may have closed its output: it serves all the same.
        let _ = announce(address, &data, json);
    })
    .await?;
    Ok(())
}

/// Prints what the settings come to.
pub(super) fn check_config(context: &mut Context, arguments: &args::CheckConfig) -> Result<(), Failure> {
    let config = load(&arguments.settings, None)?;
    telemetry::check_filter(&config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    let settings = config.settings();
    if context.output.is_json() {
        let settings: Map<String, Value> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect();
        context.output.document(&json!({ "settings": settings }))?;
        return Ok(());
    }
    let columns = [Column::Text("KEY".into()), Column::Text("VALUE".into())];
    let rows = settings.into_iter().map(|(key, value)| vec![key.to_owned(), value.to_string()]).collect();
    context.output.table(&columns, rows)?;
    context.output.line("the settings are right")?;
    Ok(())
}

/// The settings for a command that opens the data folder or serves it.
pub(super) fn load(arguments: &args::Settings, listen: Option<String>) -> Result<Config, Failure> {
    let flags = Flags { config: arguments.config.clone(), data_dir: arguments.data.clone(), listen };
    let config = Config::load(&flags)?;
    config.check_served()?;
    Ok(config)
}

/// The first line is for programs, too: with port 0 it is the only place that tells the port.
fn announce(address: SocketAddr, data: &str, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", json!({ "address": address.to_string(), "data_dir": data }))?;
    } else {
        writeln!(out, "keepbest listens on {address}")?;
        writeln!(out, "data folder: {data}")?;
        writeln!(out, "next: `keepbest push FILE NAME --server http://{address}`, or `keepbest --help`")?;
    }
    out.flush()
}
