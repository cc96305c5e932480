//! `keepbest serve`, `check-config` and `migrate`: load the settings, and start the server or look at what they name.

use std::io;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use super::args;
use super::context::Context;
use super::failure::Failure;
use super::output::{Column, Output};
use crate::config;
use crate::config::{Config, Flags, LogFormat};
#[cfg(debug_assertions)]
use crate::failpoint;
use crate::maintenance;
use crate::maintenance::causes;
use crate::server;
use crate::telemetry;

/// `serve`: runs the server until a signal stops it.
pub(super) async fn serve(context: &mut Context, arguments: args::Serve) -> Result<(), Failure> {
    let config = load_with(&arguments.settings, arguments.listen, arguments.migrate)?;
    let format = match config.log.format {
        LogFormat::Text => telemetry::Format::Text { colours: !config::no_color() },
        LogFormat::Json => telemetry::Format::Json,
    };
    telemetry::init(format, &config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    #[cfg(debug_assertions)]
    let script = failpoint::parse(&config::failpoints().unwrap_or_default()).map_err(Failure::usage)?;
    maintenance::keep_private(&config)?;
    let (database, objects) = (config.database(), config.objects());
    let (json, scheme) =
        (context.output.is_json(), if config.tls.pair().is_some() { "https" } else { "http" });
    server::serve(config, move |address| {
        // If whoever started the server has closed its output, it serves all the same.
        let _ = announce(address, scheme, &database, &objects, json);
        // Only now, so that no failpoint is hit before the address is printed.
        #[cfg(debug_assertions)]
        failpoint::arm(script);
    })
    .await?;
    Ok(())
}

/// `check-config`: checks the settings and the files of TLS, and prints those in force, without opening a database or store.
pub(super) fn check_config(context: &mut Context, arguments: &args::CheckConfig) -> Result<(), Failure> {
    let config = load(&arguments.settings)?;
    maintenance::check_places(&config).map_err(|error| Failure::usage(causes(error.as_ref())))?;
    telemetry::check_filter(&config.log.filter).map_err(|error| Failure::usage(error.to_string()))?;
    let term = server::check_tls(&config.tls).map_err(|error| Failure::usage(causes(error.as_ref())))?;
    let until = term.map(|it| it.until());
    let settings = config.settings();
    if context.output.is_json() {
        let settings: Map<String, Value> =
            settings.into_iter().map(|(key, value)| (key, json!(value))).collect();
        context.output.document(&json!({ "settings": settings, "certificate_expire_time": until }))?;
        return Ok(());
    }
    let columns = [Column::Text("KEY".into()), Column::Text("VALUE".into())];
    let rows = settings.into_iter().map(|(key, value)| vec![key, value.to_string()]).collect();
    context.output.table(&columns, rows)?;
    if let Some(until) = until {
        context.output.line(&format!("the certificate is good until {until}"))?;
    }
    context.output.line("the settings are right")?;
    Ok(())
}

/// `migrate`: brings the schema of the database up to date and prints its version.
pub(super) async fn migrate(context: &mut Context, arguments: args::Migrate) -> Result<(), Failure> {
    let config = load(&arguments.settings)?;
    maintenance::keep_private(&config)?;
    let version = maintenance::migrate(&config).await?;
    let database = config.database();
    if context.output.is_json() {
        context.output.document(&json!({ "database": database, "schema_version": version }))?;
    } else {
        context.output.line(&format!("the database ({database}) has schema {version}"))?;
    }
    Ok(())
}

/// Loads the settings, for a command that opens the database and the object store itself.
pub(super) fn load(arguments: &args::Settings) -> Result<Config, Failure> {
    load_with(arguments, None, false)
}

fn load_with(arguments: &args::Settings, listen: Option<String>, migrate: bool) -> Result<Config, Failure> {
    let flags = Flags { config: arguments.config.clone(), data_dir: arguments.data.clone(), listen, migrate };
    Ok(Config::load(&flags)?)
}

/// Prints the address. Programs read the first line too: with port 0 nothing else tells the port.
fn announce(address: SocketAddr, scheme: &str, database: &str, objects: &str, json: bool) -> io::Result<()> {
    let mut output = Output::new(json);
    if json {
        return output.document_line(&json!({
            "address": address.to_string(),
            "url": format!("{scheme}://{address}"),
            "database": database,
            "objects": objects,
        }));
    }
    output.line(&format!("keepbest listens on {address}"))?;
    output.line(&format!("database: {database}; objects: {objects}"))?;
    output
        .line(&format!("next: `keepbest push FILE NAME --server {scheme}://{address}`, or `keepbest --help`"))
}
