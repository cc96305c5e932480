//! `keepbest serve` and `keepbest check-config`: the settings and the server.

use std::io;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::{Column, Output};
#[cfg(debug_assertions)]
use crate::config;
use crate::config::{Config, Flags, LogFormat};
#[cfg(debug_assertions)]
use crate::failpoint;
use crate::maintenance;
use crate::maintenance::causes;
use crate::server;
use crate::telemetry;

/// Serves until a signal comes.
pub(super) async fn serve(context: &mut Context, arguments: args::Serve) -> Result<(), Failure> {
    let config = load_with(&arguments.settings, arguments.listen, arguments.migrate)?;
    let format = match config.log.format {
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format, &config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    #[cfg(debug_assertions)]
    let script = failpoint::parse(&config::failpoints().unwrap_or_default()).map_err(Failure::usage)?;
    let (database, objects) = (config.database(), config.objects());
    let json = context.output.is_json();
    server::serve(config, move |address| {
        // Whoever started the server may have closed its output: it serves all the same.
        let _ = announce(address, &database, &objects, json);
        // From here on it takes calls: no step happens before the address is told.
        #[cfg(debug_assertions)]
        failpoint::arm(script);
    })
    .await?;
    Ok(())
}

/// Prints what the settings come to.
pub(super) fn check_config(context: &mut Context, arguments: &args::CheckConfig) -> Result<(), Failure> {
    let config = load(&arguments.settings)?;
    maintenance::check_places(&config).map_err(|error| Failure::usage(causes(error.as_ref())))?;
    telemetry::check_filter(&config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    let settings = config.settings();
    if context.output.is_json() {
        let settings: Map<String, Value> =
            settings.into_iter().map(|(key, value)| (key, json!(value))).collect();
        context.output.document(&json!({ "settings": settings }))?;
        return Ok(());
    }
    let columns = [Column::Text("KEY".into()), Column::Text("VALUE".into())];
    let rows = settings.into_iter().map(|(key, value)| vec![key, value.to_string()]).collect();
    context.output.table(&columns, rows)?;
    context.output.line("the settings are right")?;
    Ok(())
}

/// Brings the schema of the database up to date.
pub(super) async fn migrate(context: &mut Context, arguments: args::Migrate) -> Result<(), Failure> {
    let config = load(&arguments.settings)?;
    let version = maintenance::migrate(&config).await?;
    let database = config.database();
    if context.output.is_json() {
        context.output.document(&json!({ "database": database, "schema_version": version }))?;
    } else {
        context.output.line(&format!("the database ({database}) has schema {version}"))?;
    }
    Ok(())
}

/// The settings for a command that opens the database and the object store themselves.
pub(super) fn load(arguments: &args::Settings) -> Result<Config, Failure> {
    load_with(arguments, None, false)
}

fn load_with(arguments: &args::Settings, listen: Option<String>, migrate: bool) -> Result<Config, Failure> {
    let flags = Flags { config: arguments.config.clone(), data_dir: arguments.data.clone(), listen, migrate };
    Ok(Config::load(&flags)?)
}

/// The first line is for programs, too: with port 0 it is the only place that tells the port.
fn announce(address: SocketAddr, database: &str, objects: &str, json: bool) -> io::Result<()> {
    let mut output = Output::new(json);
    if json {
        return output.document_line(
            &json!({ "address": address.to_string(), "database": database, "objects": objects }),
        );
    }
    output.line(&format!("keepbest listens on {address}"))?;
    output.line(&format!("database: {database}; objects: {objects}"))?;
    output.line(&format!("next: `keepbest push FILE NAME --server http://{address}`, or `keepbest --help`"))
}
