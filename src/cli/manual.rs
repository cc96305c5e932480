//! `keepbest completions` and `keepbest man`: what shells and `man` know of this program, made from its arguments.

use std::fs;
use std::io::Write as _;

use clap::CommandFactory as _;
use serde_json::json;

use super::args;
use super::context::Context;
use super::failure::Failure;

const NAME: &str = "keepbest";

/// Prints the completions for a shell: as they are, with `--json` too, for a shell reads them.
pub(super) fn completions(context: &mut Context, arguments: &args::Completions) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut args::Arguments::command(), NAME, &mut text);
    Ok(context.output.raw(&text)?)
}

/// Writes the pages.
pub(super) fn pages(context: &mut Context, arguments: &args::Man) -> Result<(), Failure> {
    let directory = &arguments.directory;
    let failed = |error| Failure::failed(format!("{} cannot be written: {error}", directory.display()));
    fs::create_dir_all(directory).map_err(failed)?;
    let mut written = Vec::new();
    let mut command = args::Arguments::command();
    command.build();
    let mut left = vec![(NAME.to_owned(), command)];
    while let Some((name, command)) = left.pop() {
        let below = command.get_subcommands().filter(|it| it.get_name() != "help");
        left.extend(below.map(|it| (format!("{name}-{}", it.get_name()), it.clone())));
        let mut page = Vec::new();
        clap_mangen::Man::new(command).title(name.clone()).render(&mut page).map_err(failed)?;
        let file = format!("{name}.1");
        fs::File::create(directory.join(&file)).and_then(|mut it| it.write_all(&page)).map_err(failed)?;
        written.push(file);
    }
    written.sort_unstable();
    if context.output.is_json() {
        return Ok(context.output.document(&json!({ "directory": directory, "pages": written }))?);
    }
    Ok(context.output.line(&format!("wrote {} pages to {}", written.len(), directory.display()))?)
}
