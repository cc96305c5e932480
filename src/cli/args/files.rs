//! The arguments of the commands that move files.

use std::path::PathBuf;

use clap::Args;

use super::Mode;

/// Download a version and verify every byte of it
///
/// A file appears only when all its bytes match their digest. Started again after an interruption, the download goes on where it
/// was. Files that are there already are left alone if they are equal and replaced if they differ. Files that an earlier pull put there
/// and this version has not are removed; all others stay, and a note names them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest pull cnn:best
  keepbest pull vision/mnist/cnn:v3 ./model")]
pub(in crate::cli) struct Pull {
    /// Version by its alias or number; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT:ALIAS")]
    pub(in crate::cli) version: String,
    /// Folder to write to [default: ARTIFACT-vN in the current one]
    #[arg(value_name = "DIR")]
    pub(in crate::cli) directory: Option<PathBuf>,
}

/// Store a file or a directory as the next version of an artifact
///
/// It is stored whatever its metrics are, and becomes `best` if they are better. The artifact is created if it does not exist.
/// Only files and their bytes are kept: no folders without files, no rights to execute.
///
/// A push that fails or is interrupted leaves nothing. If it was killed, or lost the server, the same push again (the same
/// files, unchanged, to the same artifact with the same metrics) goes on where it broke off.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  keepbest push model.h5 cnn --metric val_loss=0.21 --metric val_accuracy=0.93
  keepbest push saved_model/ vision/mnist/cnn --metric f1=0.8 --monitor f1 --mode max --epoch 12
  keepbest push model.h5 cnn --metric val_loss=0.21 --alias production --metadata data=mnist-2")]
pub(in crate::cli) struct Push {
    /// File or directory
    pub(in crate::cli) path: PathBuf,
    /// Artifact; without TEAM/PROJECT/ it is in --project
    #[arg(value_name = "TEAM/PROJECT/ARTIFACT")]
    pub(in crate::cli) artifact: String,
    /// A metric of this model; give the option once for each
    #[arg(long = "metric", value_name = "NAME=VALUE", value_parser = parse_metric)]
    pub(in crate::cli) metrics: Vec<(String, f64)>,
    /// Metric that decides which version is `best`, if the artifact is new [default: the first --metric]
    #[arg(long)]
    pub(in crate::cli) monitor: Option<String>,
    /// Which of its values are better, if the artifact is new [default: judged by its name]
    #[arg(long)]
    pub(in crate::cli) mode: Option<Mode>,
    /// Alias for the version, as `production`; give the option once for each
    #[arg(long = "alias", value_name = "ALIAS")]
    pub(in crate::cli) aliases: Vec<String>,
    /// Anything to keep with the version: a value that is JSON is kept as that, any other one as text; give the option once for each
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(in crate::cli) metadata: Vec<(String, String)>,
    /// Store what the links in the directory lead to, as if it stood there; otherwise a link is refused
    #[arg(long)]
    pub(in crate::cli) follow_links: bool,
    /// Also declare the SHA-256 of each file, which the server checks and tells whoever downloads without BLAKE3; for this each file
    /// is read twice. Bytes are checked all the way with BLAKE3 in any case
    #[arg(long)]
    pub(in crate::cli) sha256: bool,
    /// Epoch of this model, counted from 1
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
    pub(in crate::cli) epoch: i64,
}

fn parse_metric(text: &str) -> Result<(String, f64), String> {
    let (name, value) = parse_pair(text)?;
    let value = value.parse().map_err(|_| format!("`{value}` is not a number"))?;
    Ok((name, value))
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it must be NAME=VALUE, as `val_loss=0.21`")?;
    if name.is_empty() {
        return Err("the name before `=` is empty".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse_metric;

    #[test]
    fn a_metric_is_a_name_and_a_number() {
        assert_eq!(parse_metric("val_loss=0.21"), Ok(("val_loss".to_owned(), 0.21)));
        assert!(parse_metric("a=NaN").unwrap().1.is_nan());
        for text in ["val_loss", "=1", "a=b", "a="] {
            assert!(parse_metric(text).is_err(), "{text}");
        }
    }
}
